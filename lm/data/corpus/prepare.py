"""Documents to token shards, in one go that either leaves a whole corpus or nothing.

Three passes over the documents, each with one document in memory at a time: a survey (how many, how large,
which are held out), the tokenizer's training on the training part, and the encoding.
"""

import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lm
from lm.data.corpus.encoding import encoded
from lm.data.corpus.files import plain_name
from lm.data.corpus.shards import FORMAT, MANIFEST, SPLITS, TOKENIZER, Corpus, token_dtype
from lm.data.corpus.sources import STDLIB, Source, resolve
from lm.data.corpus.stage import Stage
from lm.data.corpus.survey import Survey
from lm.data.corpus.writing import ShardWriter
from lm.errors import UserError
from lm.files import make_once, write_atomically
from lm.processes import say
from lm.tokenizer import Tokenizer, load_tokenizer, split_lines, train_tokenizer

_TRAINING_BYTES = 32_000_000  # how much text the tokenizer learns from; a sample where there is more
_SAMPLED_CHUNK = 16_000  # characters


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
            raise UserError(f"`vocab_size` {self.vocab_size} is not a number of pieces", status=2)


def prepare(settings: CorpusSettings) -> Path:
    """Makes the corpus, or finds it made; safe to call from several processes at once.

    Says on stderr what it does.

    Returns:
        the corpus's folder, `<data_dir>/<name>-<fingerprint>`.

    Raises:
        UserError: a source cannot be read, there is too little text, or the disk is full; nothing is left
            behind.
    """
    sources = resolve(settings.corpus)
    folder = _folder(settings, sources)
    try:
        how = "prepared" if make_once(folder, lambda partial: _make(partial, settings, sources)) else "found"
    except OSError as error:
        raise UserError(f"cannot write the corpus to {folder}: {error.strerror or error}") from error
    splits = Corpus.open(folder, verify=False).manifest["splits"].values()
    count, tokens, size = (sum(split[key] for split in splits) for key in ("documents", "tokens", "bytes"))
    ratio = f"{size / tokens:.2f} bytes per token"
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
    spelt = f"; {bytes_share:.1%} of the characters are spelt in bytes, fewer with more pieces"
    progress.finish(f"{tokenizer.vocab_size} pieces{spelt if bytes_share > 0.005 else ''}")
    return tokenizer
