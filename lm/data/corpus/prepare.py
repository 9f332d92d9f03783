"""Documents to token shards, in one go that either leaves a whole corpus or nothing.

Three passes over the documents, each with one document in memory at a time: a survey (how many, how large, which are
held out), the tokenizer's training on the training part, and the encoding.
"""

import hashlib
import json
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

import lm
from lm.data.corpus.encoding import encoded
from lm.data.corpus.progress import Progress
from lm.data.corpus.shards import FORMAT, MANIFEST, SPLITS, TOKENIZER, Corpus, token_dtype
from lm.data.corpus.sources import STDLIB, Source, Warnings, documents, resolve
from lm.data.corpus.writing import ShardWriter, fsync_folder, write_synced
from lm.errors import UserError
from lm.tokenizer import Tokenizer, split_lines

_FEW = 20  # with fewer documents than this, the held-out part is the end of the text
_TRAINING_BYTES = 32_000_000  # how much text the tokenizer learns from; a sample where there is more
_SAMPLED_CHUNK = 16_000  # characters


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus is made of. Equal settings and unchanged files give the same folder, byte for byte.

    Attributes:
        corpus: "stdlib", a file, folder or glob, or several of them; see `lm.data.corpus.sources.resolve`.
        vocab_size: pieces of the tokenizer; without meaning where `tokenizer` is given.
        tokenizer: a SentencePiece model to use instead of training one.
        text_field: the field or column that holds the text, in JSON lines and Parquet.
        val_fraction: the share held out for validation, None for the usual: 5% of the documents, chosen by a hash of
            their text, or, of fewer than 20 documents, the last 10% of the text.
        data_dir: where prepared corpora lie.
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
                f"--data.val_fraction {self.val_fraction} is not between 0 and 1: 0.05 holds out 5%.", status=2
            )
        if self.tokenizer is None and self.vocab_size < 1:
            raise UserError(f"--data.vocab_size {self.vocab_size} is not a number of pieces.", status=2)


def prepare(settings: CorpusSettings) -> Path:
    """Makes the corpus, or finds it made; safe to call from several processes at once.

    Says on stderr what it does.

    Returns:
        the corpus's folder, `<data_dir>/<name>-<fingerprint>`.

    Raises:
        UserError: a source cannot be read, there is too little text, or the disk is full; nothing is left behind.
    """
    sources = resolve(settings.corpus)
    tokenizer = Tokenizer.load(settings.tokenizer) if settings.tokenizer else None
    folder = Path(settings.data_dir) / f"{_slug(sources)}-{fingerprint(settings, sources)}"
    if (folder / MANIFEST).is_file():
        return _found(folder)
    partial = folder.with_name(folder.name + ".partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if (folder / MANIFEST).is_file():  # another process made it while this one waited
                return _found(folder)
            if partial.exists():  # a run was killed
                shutil.rmtree(partial)
            partial.mkdir()
            try:
                _make(partial, settings, sources, tokenizer)
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            fsync_folder(folder.parent)
    except OSError as error:
        raise UserError(f"cannot write the corpus to {folder}: {error.strerror or error}.") from error
    _say(f"corpus prepared: {_summary(folder)}")
    return folder


def fingerprint(settings: CorpusSettings, sources: list[Source]) -> str:
    """12 hexadecimal digits that change with the settings, the files (path, size, time of change) and the format."""
    made_of = asdict(settings) | {"data_dir": None, "corpus": None, "format": FORMAT, "sources": []}
    if settings.tokenizer:
        made_of |= {"vocab_size": None, "tokenizer": Tokenizer.load(settings.tokenizer).fingerprint}
    for source in sources:
        if source.name == STDLIB:
            made_of["sources"].append([STDLIB, sys.version])
            continue
        for path in source.files:
            state = path.stat()
            made_of["sources"].append([str(path.resolve()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def _slug(sources: list[Source]) -> str:
    """A readable name for the folder: that of the first source."""
    name = Path(sources[0].name).expanduser().resolve().name.split(".")[0] if sources[0].name != STDLIB else STDLIB
    name = re.sub(r"[^\w-]+", "-", name).strip("-")[:40] or "corpus"
    return name if len(sources) == 1 else f"{name}-and-{len(sources) - 1}-more"


def _make(folder: Path, settings: CorpusSettings, sources: list[Source], tokenizer: Tokenizer | None) -> None:
    survey = Survey.take(sources, settings)
    if tokenizer is None:
        tokenizer = _train(survey, settings)
    write_synced(folder / TOKENIZER, tokenizer.to_bytes())
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {split: ShardWriter(folder, split, dtype, settings.shard_tokens) for split in SPLITS}
    progress = Progress("encoding", survey.bytes)
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
    write_synced(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    fsync_folder(folder)


def _train(survey: "Survey", settings: CorpusSettings) -> Tokenizer:
    """Trains the tokenizer on the training part; on an evenly spread sample of it where it is large."""
    progress = Progress("training the tokenizer")
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

    tokenizer = Tokenizer.train(sample(), settings.vocab_size)
    progress.finish(f"{tokenizer.vocab_size} pieces")
    return tokenizer


@dataclass
class Survey:
    """What a first pass over the documents finds out, and from it, which parts of them are held out.

    Attributes:
        sources, text_field: where the documents are.
        documents, characters, bytes: how much there is of them (bytes of UTF-8).
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
    def take(cls, sources: list[Source], settings: CorpusSettings) -> "Survey":
        """Reads every document once.

        Raises:
            UserError: there is no text, or nothing that could be held out.
        """
        survey = cls(sources, settings.text_field)
        warn = Warnings(_say)
        progress = Progress("reading")
        least, greatest = _HASHES, -1
        for source in sources:
            before = survey.documents
            for document in documents([source], settings.text_field, warn):
                data = document.text.encode()
                least, greatest = min(least, _hash(data)), max(greatest, _hash(data))
                survey.documents += 1
                survey.characters += len(document.text)
                survey.bytes += len(data)
                progress.advance(len(data))
            size = sum(path.stat().st_size for path in source.files)
            survey.records.append(
                {
                    "name": source.name,
                    "files": len(source.files),
                    "bytes_on_disk": size,
                    "documents": survey.documents - before,
                }
            )
        warn.finish()
        progress.finish(f"{survey.documents} documents")
        survey._divide(settings.val_fraction, least, greatest)
        return survey

    def _divide(self, val_fraction: float | None, least: int, greatest: int) -> None:
        if self.characters < 2:
            raise UserError("the corpus has no text to learn from: give --data.corpus other files.")
        if self.documents < _FEW:
            kept = 0.9 if val_fraction is None else 1 - val_fraction
            self.cut = min(max(int(kept * self.characters), 1), self.characters - 1)
        elif least == greatest:
            raise UserError(f"all {self.documents} documents are the same text: nothing can be held out.")
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


_HASHES = 1 << 64


def _hash(data: bytes) -> int:
    """A number below `_HASHES` that depends on the text alone: equal documents stay on the same side."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def _found(folder: Path) -> Path:
    _say(f"corpus found: {_summary(folder)}")
    return folder


def _summary(folder: Path) -> str:
    splits = Corpus.open(folder, verify=False).manifest["splits"]
    count, tokens, size = (sum(splits[split][key] for split in SPLITS) for key in ("documents", "tokens", "bytes"))
    return f"{count:,} documents, {tokens:,} tokens, {size / tokens:.2f} bytes per token, in {folder}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
