"""Documents to token shards, in one go that either leaves a whole corpus or nothing.

Three passes over the documents, each with one document in memory at a time: a survey (how many, how large,
which are held out), the tokenizer's training on the training part, and the encoding.
"""

import hashlib
import json
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lm
from lm.data.corpus.encoding import encoded
from lm.data.corpus.files import plain_name
from lm.data.corpus.shards import FORMAT, MANIFEST, SPLITS, TOKENIZER, Corpus, ShardWriter, token_dtype
from lm.data.corpus.sources import STDLIB, Source, Warnings, documents, resolve
from lm.errors import UserError
from lm.files import make_once, write_atomically
from lm.processes import say
from lm.tokenizer import Tokenizer, load_tokenizer, split_lines, train_tokenizer

_TRAINING_BYTES = 32_000_000  # how much text the tokenizer learns from; a sample where there is more
_SAMPLED_CHUNK = 16_000  # characters
_FEW = 20  # with fewer documents than this, the held-out part is the end of the text
_HASHES = 1 << 64
_AT_A_TERMINAL, _IN_A_LOG = 0.2, 15.0  # seconds between two updates on stderr


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus is made of. Equal settings and unchanged files give the same folder, byte for byte.

    Attributes: see `lm.data.pretraining.PretrainingData`, and
        shard_tokens: a shard is closed after the document that reaches so many tokens.
    """

    corpus: str | list[str] = STDLIB
    vocab_size: int = 4096
    tokenizer: str | None = None
    text_field: str = "text"
    val_fraction: float | None = None
    data_dir: str = "data"
    shard_tokens: int = 100_000_000

    def __post_init__(self) -> None:
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(
                f"`val_fraction` {self.val_fraction} is not between 0 and 1: 0.05 holds out 5%", status=2
            )
        if self.tokenizer is None and self.vocab_size < 1:
            raise UserError(f"`vocab_size` {self.vocab_size} is not a number of tokens", status=2)


class Stage:
    """One stage of the work: "reading: 12.3 MB", rewritten at a terminal, a few plain lines in a log.

    Args:
        total: bytes that there are to do, None if that is not known yet.
    """

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name, self._total, self._done = name, total, 0
        self._terminal = sys.stderr.isatty()
        self._start = self._said = time.monotonic()

    def advance(self, size: int) -> None:
        """Counts `size` more bytes, and says so now and then."""
        self._done += size
        now = time.monotonic()
        if now - self._said >= (_AT_A_TERMINAL if self._terminal else _IN_A_LOG):
            self._said = now
            self._say("", "" if self._terminal else "\n")

    def finish(self, note: str = "") -> None:
        """Says the stage's last line, with the seconds it took."""
        note = note and f" ({note})"
        self._say(f"{note} in {time.monotonic() - self._start:.1f} s", "\n")

    def _say(self, rest: str, end: str) -> None:
        share = f" of {self._total / 1e6:.1f} MB, {self._done / self._total:.0%}" if self._total else " MB"
        line = f"{self._name}: {self._done / 1e6:.1f}{share}{rest}"
        print(f"\r\x1b[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)


@dataclass
class Survey:
    """What a first pass over the documents finds out, and from it, which parts of them are held out.

    Attributes:
        threshold: documents whose hash is below it are held out.
        cut: with few documents instead: the character of the joined text where the held-out part begins.
        records: name, files, bytes on disk and documents of each source, for the manifest.
    """

    sources: list[Source]
    text_field: str
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    threshold: int = 0
    cut: int | None = None
    records: list[dict] = field(default_factory=list)

    @classmethod
    def take(cls, sources: list[Source], text_field: str, val_fraction: float | None) -> "Survey":
        """Reads every document once, and says so on stderr.

        Raises:
            UserError: there is no text, or nothing that could be held out.
        """
        survey = cls(sources, text_field)
        warn = Warnings()
        progress = Stage("reading")
        least, greatest = _HASHES, -1
        for source in sources:
            before = survey.documents
            for document in documents([source], text_field, warn):
                data = document.text.encode()
                least, greatest = min(least, _hash(data)), max(greatest, _hash(data))
                survey.documents += 1
                survey.characters += len(document.text)
                survey.bytes += len(data)
                progress.advance(len(data))
            size = sum(path.stat().st_size for path in source.files)
            record = {"name": source.name, "files": len(source.files), "bytes_on_disk": size}
            survey.records.append(record | {"documents": survey.documents - before})
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

    def parts(self) -> Iterator[tuple[str, str]]:
        """Every document, as ("train" or "val", text); the one across the cut comes as two."""
        position = 0
        for document in documents(self.sources, self.text_field):
            text = document.text
            if self.cut is None:
                yield ("val" if _hash(text.encode()) < self.threshold else "train"), text
                continue
            kept = min(max(self.cut - position, 0), len(text))
            position += len(text)
            if kept:
                yield "train", text[:kept]
            if kept < len(text):
                yield "val", text[kept:]


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
    sources = resolve(settings.corpus)
    folder = _folder(settings, sources)
    try:
        made = make_once(folder, lambda partial: _make(partial, settings, sources), MANIFEST)
    except OSError as error:
        raise UserError(f"cannot write the corpus to {folder}: {error.strerror or error}") from error
    splits = Corpus.open(folder, verify=False).manifest["splits"].values()
    count, tokens, size = (sum(split[key] for split in splits) for key in ("documents", "tokens", "bytes"))
    ratio = f"{size / tokens:.2f} bytes per token"
    how = "prepared" if made else "found"
    say(f"corpus {how}: {count:,} documents, {tokens:,} tokens, {ratio}, in {folder}")
    return folder


def locate(settings: CorpusSettings) -> Path:
    """The folder that `prepare` makes or finds, whether it is there or not.

    Raises:
        UserError: a source or the tokenizer does not exist.
    """
    return _folder(settings, resolve(settings.corpus))


def _folder(settings: CorpusSettings, sources: list[Source]) -> Path:
    """Named after the first source, and by a fingerprint."""
    name = plain_name(Path(sources[0].name).expanduser().resolve()) or "corpus"
    slug = name if len(sources) == 1 else f"{name}-and-{len(sources) - 1}-more"
    return Path(settings.data_dir) / f"{slug}-{_fingerprint(settings, sources)}"


def _fingerprint(settings: CorpusSettings, sources: list[Source]) -> str:
    """12 hexadecimal digits that change with the settings, the format and each file's path, size and time."""
    made_of = asdict(settings) | {"data_dir": None, "corpus": None, "format": FORMAT}
    if settings.tokenizer:
        made_of |= {"vocab_size": None, "tokenizer": load_tokenizer(settings.tokenizer).fingerprint}
    inputs = []
    for source in sources:
        if source.name == STDLIB:
            # Not by time: the same Python installed twice gives the same corpus.
            inputs.append([STDLIB, sys.version, *((path.name, path.stat().st_size) for path in source.files)])
            continue
        for path in source.files:
            state = path.stat()
            inputs.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps([made_of, inputs], sort_keys=True).encode()).hexdigest()[:12]


def _make(folder: Path, settings: CorpusSettings, sources: list[Source]) -> None:
    survey = Survey.take(sources, settings.text_field, settings.val_fraction)
    tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else _train(survey, settings)
    write_atomically(folder / TOKENIZER, tokenizer.to_bytes())
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {split: ShardWriter(folder, split, dtype, settings.shard_tokens) for split in SPLITS}
    progress = Stage("encoding", survey.bytes)
    try:
        for split, ids, size in encoded(survey.parts(), tokenizer, survey.bytes):
            writers[split].add(ids, size)
            progress.advance(size)
    finally:
        records = {split: writer.close() for split, writer in writers.items()}
    progress.finish()
    manifest = {
        "format": FORMAT,
        "lm_version": lm.__version__,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "tokenizer_sha256": tokenizer.fingerprint,
        "settings": {key: value for key, value in asdict(settings).items() if key != "data_dir"},
        "sources": survey.records,
        "splits": records,
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def _train(survey: Survey, settings: CorpusSettings) -> Tokenizer:
    """Trains the tokenizer on the training part; on an evenly spread sample of it where it is large."""
    progress = Stage("training the tokenizer")
    share = min(1.0, _TRAINING_BYTES / survey.bytes)

    def sample() -> Iterator[str]:
        for split, text in survey.parts():
            if split != "train":
                continue
            for chunk in [text] if share == 1 else split_lines(text, _SAMPLED_CHUNK):
                data = chunk.encode()
                if zlib.crc32(data) < share * (1 << 32):
                    progress.advance(len(data))
                    yield chunk

    tokenizer = train_tokenizer(sample(), settings.vocab_size)
    bytes_share = 1 - (tokenizer.coverage or 1)
    spelt = f"; {bytes_share:.1%} of the characters are spelt in bytes, fewer with more tokens"
    progress.finish(f"{tokenizer.vocab_size} tokens{spelt if bytes_share > 0.005 else ''}")
    return tokenizer
