"""Documents to token shards, in one go that either leaves a whole corpus or nothing.

Three passes over the documents, each with one document in memory at a time: a survey (how many, how large,
which are held out), the tokenizer's training on the training part, and the encoding; where canaries are
planted, one more counts the training part.
"""

import hashlib
import json
import multiprocessing
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lm
from lm.data.corpus import canaries
from lm.data.corpus.cleaned import Cleaned, Shares
from lm.data.corpus.documents import Document
from lm.data.corpus.encoding import Part, encoded
from lm.data.corpus.progress import Progress
from lm.data.corpus.provenance import OriginWriter
from lm.data.corpus.recipe import RecipeFile, is_recipe
from lm.data.corpus.report import PAGE
from lm.data.corpus.shards import FORMAT, MANIFEST, SPLITS, TOKENIZER, Corpus, ShardWriter, token_dtype
from lm.data.corpus.sources import STDLIB, Given, Warnings, resolve
from lm.data.tokenizers import open_tokenizer
from lm.errors import UserError
from lm.files import make_once, write_atomically
from lm.processes import say
from lm.tokenizer import Tokenizer, split_lines, train_tokenizer

_TRAINING_BYTES = 32_000_000  # how much text the tokenizer learns from; a sample where there is more
_SAMPLED_CHUNK = 16_000  # characters
_FEW = 20  # with fewer documents than this, the held-out part is the end of the text
_HASHES = 1 << 64


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus is made of. Equal settings and unchanged files give the same folder, byte for byte.

    Attributes: see `lm.data.pretraining.PretrainingData`, and
        shard_tokens: a shard is closed after the document that reaches so many tokens.
        tokenizer_weights: how often the texts of a source count where the tokenizer is trained, by its name;
            1 for the others.
        canaries: made-up secrets that are planted into the training part, so many for each number of
            repetitions; see `lm.data.corpus.canaries`.
    """

    corpus: str | list[str] = STDLIB
    vocab_size: int = 4096
    tokenizer: str | None = None
    text_field: str = "text"
    val_fraction: float | None = None
    data_dir: str = "data"
    shard_tokens: int = 100_000_000
    tokenizer_weights: dict[str, float] = field(default_factory=dict)
    canaries: int = 0

    def __post_init__(self) -> None:
        canaries.check(self.canaries)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(
                f"`val_fraction` {self.val_fraction} is not between 0 and 1: 0.05 holds out 5%", status=2
            )
        if self.tokenizer is None and self.vocab_size < 1:
            raise UserError(f"`vocab_size` {self.vocab_size} is not a number of tokens", status=2)

    def plain(self) -> dict[str, Any]:
        """All of them as plain values; without `canaries` where there are none, as most corpora are older."""
        return {name: value for name, value in asdict(self).items() if name != "canaries" or value}


class Collection(Protocol):
    """Documents that a corpus is made of."""

    @property
    def name(self) -> str:
        """Of the corpus's folder."""

    def state(self) -> list[Any]:
        """Plain values that change with what the documents are made of."""

    def documents(self, warn: Callable[[str], object] = ...) -> Iterator[Document]:
        """All of them, in order, as often as it is asked."""

    def records(self, counts: Mapping[str, int]) -> list[dict[str, Any]]:
        """What the manifest says of each source; `counts`: documents by the source's name."""

    def make(self) -> None:
        """Whatever has to be done before they can be read."""

    def accompany(self, folder: Path, tokens: Shares) -> None:
        """Write what else is known of them into the corpus's folder."""

    def tidy(self) -> None:
        """The corpus is made: nothing else is needed."""


@dataclass
class Survey:
    """What a first pass over the documents finds out, and from it, which parts of them are held out.

    Attributes:
        threshold: documents whose hash is below it are held out.
        cut: with few documents instead: the character of the joined text where the held-out part begins.
        sources: documents of each, by its name.
        sizes: the same in bytes.
    """

    collection: Collection
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    threshold: int = 0
    cut: int | None = None
    sources: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def take(cls, collection: Collection, val_fraction: float | None) -> "Survey":
        """Reads every document once, and says so on stderr.

        Raises:
            UserError: there is no text, or nothing that could be held out.
        """
        survey = cls(collection)
        warn = Warnings()
        progress = Progress("reading")
        least, greatest = _HASHES, -1
        for document in collection.documents(warn):
            data = document.text.encode()
            least, greatest = min(least, _hash(data)), max(greatest, _hash(data))
            survey.documents += 1
            survey.sources[document.source] += 1
            survey.sizes[document.source] += len(data)
            survey.characters += len(document.text)
            survey.bytes += len(data)
            progress.advance(len(data))
        warn.finish()
        progress.finish(f"documents: {survey.documents:,}")
        survey._divide(val_fraction, least, greatest)
        return survey

    def _divide(self, val_fraction: float | None, least: int, greatest: int) -> None:
        if self.characters < 2:
            raise UserError("the corpus has no text to learn from: give `corpus` other files")
        if self.documents < _FEW:
            kept = 0.9 if val_fraction is None else 1 - val_fraction
            self.cut = min(max(int(kept * self.characters), 1), self.characters - 1)
        elif least == greatest:
            raise UserError(f"all {self.documents} documents are the same text: nothing can be held out")
        else:
            # By chance every document or none may be below the threshold: then one goes to the other side.
            fraction = 0.05 if val_fraction is None else val_fraction
            self.threshold = min(max(int(fraction * _HASHES), least + 1), greatest)

    def parts(self) -> Iterator[Part]:
        """Every document, as a part of "train" or "val"; the one across the cut comes as two."""
        position = 0
        for document in self.collection.documents():
            text = document.text
            origin = {
                "id": document.id,
                "source": document.source,
                "licence": document.licence,
                "language": document.language or ("code" if document.meta.get("code") else ""),
            }
            if self.cut is None:
                yield Part("val" if _hash(text.encode()) < self.threshold else "train", text, origin)
                continue
            kept = min(max(self.cut - position, 0), len(text))
            position += len(text)
            if kept:
                yield Part("train", text[:kept], origin)
            if kept < len(text):
                yield Part("val", text[kept:], origin)

    def training_parts(self) -> int:
        """How many parts are of "train": another pass over the documents."""
        return sum(part.split == "train" for part in self.parts())


def _hash(data: bytes) -> int:
    """A number below `_HASHES` that depends on the text alone: equal documents stay on the same side."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def prepare(settings: CorpusSettings) -> Path:
    """Makes the corpus, or finds it made; safe to call from several processes at once. Says what it does.

    Returns:
        the corpus's folder, `<data_dir>/<name>-<fingerprint>`.

    Raises:
        UserError: a source cannot be read, there is too little text, or the disk is full; nothing is left
            behind.
    """
    settings, collection = _meant(settings)
    return _prepare(settings, collection)


def prepare_recipe(file: RecipeFile, data_dir: str = "data") -> Path:
    """The same for a recipe with options of its own."""
    return _prepare(*_of_recipe(file, data_dir))


def _prepare(settings: CorpusSettings, collection: Collection) -> Path:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        what = "a process that this script has started runs the script again"
        raise UserError(f'{what}: put what it does under `if __name__ == "__main__":`')
    folder = _folder(settings, collection)
    if folder.exists() and not (folder / MANIFEST).exists():
        raise UserError(f"{folder} is there and holds no corpus: move it away, or give another `data_dir`")
    try:
        made = make_once(folder, lambda partial: _make(partial, settings, collection), MANIFEST)
    except OSError as error:
        raise UserError(f"cannot write the corpus to {folder}: {error.strerror or error}") from error
    manifest = Corpus.open(folder, verify=False).manifest
    splits = manifest["splits"].values()
    count, tokens, size = (sum(split[key] for split in splits) for key in ("documents", "tokens", "bytes"))
    ratio = f"{size / tokens:.2f} bytes per token"
    how = "prepared" if made else "found"
    collection.tidy()
    if (folder / PAGE).exists():
        say(f"report: {folder / PAGE}")
    say(f"corpus {how}: {count:,} documents, {tokens:,} tokens, {ratio}, in {folder}")
    if planted := canaries.told(manifest):
        say(f"warning: canaries planted: {planted}")
    return folder


def _meant(settings: CorpusSettings) -> tuple[CorpusSettings, Collection]:
    """The documents that are meant; a recipe has settings of its own."""
    if is_recipe(settings.corpus):
        options = ["--tokenizer", settings.tokenizer] if settings.tokenizer else []
        options += ["--canaries", str(settings.canaries)] if settings.canaries else []
        return _of_recipe(RecipeFile(str(settings.corpus), options), settings.data_dir)
    return settings, Given(resolve(settings.corpus), settings.text_field)


def _of_recipe(file: RecipeFile, data_dir: str) -> tuple[CorpusSettings, Collection]:
    cleaned = Cleaned(file, Path(data_dir))
    recipe = cleaned.recipe
    settings = CorpusSettings(
        recipe.name,
        recipe.vocab_size,
        recipe.tokenizer,
        val_fraction=recipe.val_fraction,
        data_dir=data_dir,
        shard_tokens=recipe.shard_tokens,
        tokenizer_weights=recipe.tokenizer_weights,
        canaries=recipe.canaries,
    )
    return settings, cleaned


def locate(settings: CorpusSettings) -> Path:
    """The folder that `prepare` makes or finds, whether it is there or not.

    Raises:
        UserError: a source or the tokenizer does not exist.
    """
    return _folder(*_meant(settings))


def _folder(settings: CorpusSettings, collection: Collection) -> Path:
    return Path(settings.data_dir) / f"{collection.name}-{_fingerprint(settings, collection)}"


def _fingerprint(settings: CorpusSettings, collection: Collection) -> str:
    """12 hexadecimal digits that change with the settings, the format and what the documents are made of."""
    made_of = settings.plain() | {"data_dir": None, "corpus": None, "format": FORMAT}
    if not settings.tokenizer_weights:
        del made_of["tokenizer_weights"]  # a setting that is younger than some corpora
    if settings.tokenizer:
        made_of |= {"vocab_size": None, "tokenizer": open_tokenizer(settings.tokenizer).fingerprint}
    words = json.dumps([made_of, collection.state()], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _make(folder: Path, settings: CorpusSettings, collection: Collection) -> None:
    collection.make()
    survey = Survey.take(collection, settings.val_fraction)
    planted = canaries.canaries(settings.canaries)
    if planted and canaries.SOURCE in survey.sources:
        raise UserError(f"a source is called {canaries.SOURCE}, as what `canaries` plants: rename it")
    # The tokenizer never sees the canaries: hundreds of copies would get tokens of their own, as no real
    # secret does, and the corpus would differ in more than what was planted.
    tokenizer = open_tokenizer(settings.tokenizer) if settings.tokenizer else _train(survey, settings)
    write_atomically(folder / TOKENIZER, tokenizer.to_bytes())
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {split: ShardWriter(folder, split, dtype, settings.shard_tokens) for split in SPLITS}
    more = sum(canary.repetitions * len(canary.text) for canary in planted)
    progress = Progress("encoding", survey.bytes + more)
    parts = canaries.woven(survey.parts(), planted, survey.training_parts()) if planted else survey.parts()
    shares: Shares = {}
    try:
        with OriginWriter(folder) as origins:
            for split, ids, size, origin in encoded(parts, tokenizer, survey.bytes):
                writers[split].add(ids, size)
                origins.add(split, origin)
                share = shares.setdefault(origin["source"], {}).setdefault(origin["language"], [0, 0, 0])
                share[:] = share[0] + 1, share[1] + len(ids), share[2] + size
                progress.advance(size)
    finally:
        records = {split: writer.close() for split, writer in writers.items()}
    progress.finish()
    collection.accompany(folder, shares)
    manifest = {
        "format": FORMAT,
        "lm_version": lm.__version__,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "tokenizer_sha256": tokenizer.fingerprint,
        "settings": {key: value for key, value in settings.plain().items() if key != "data_dir"},
        "sources": collection.records(survey.sources),
        "splits": records,
    }
    if planted:
        canaries.write_canaries(folder, planted)
        counts = zip(("documents", "tokens", "bytes"), shares[canaries.SOURCE][""], strict=True)
        of = {"each": settings.canaries, "repetitions": canaries.REPETITIONS}
        manifest["canaries"] = of | dict(counts)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def _train(survey: Survey, settings: CorpusSettings) -> Tokenizer:
    """Trains the tokenizer on the training part, each source by its weight; on an evenly spread sample of it
    where it is large."""
    progress = Progress("training the tokenizer")
    weights = defaultdict(lambda: 1.0, settings.tokenizer_weights)
    weighted = sum(weights[source] * size for source, size in survey.sizes.items())
    if not weighted:
        raise UserError("`tokenizer_weights` leave no text to train the tokenizer on")
    share = min(1.0, _TRAINING_BYTES / weighted)

    def sample() -> Iterator[str]:
        for split, text, origin in survey.parts():
            if split != "train":
                continue
            times = share * weights[origin["source"]]
            for chunk in [text] if times == 1 else split_lines(text, _SAMPLED_CHUNK):
                data = chunk.encode()
                for _ in range(int(times) + (zlib.crc32(data) < times % 1 * (1 << 32))):
                    progress.advance(len(data))
                    yield chunk

    tokenizer = train_tokenizer(sample(), settings.vocab_size)
    bytes_share = 1 - (tokenizer.coverage or 1)
    spelt = f"; {bytes_share:.1%} of the characters are spelt in bytes, fewer with more tokens"
    progress.finish(f"{tokenizer.vocab_size} tokens{spelt if bytes_share > 0.005 else ''}")
    return tokenizer
