"""Bits per byte of a text, by document, for models that write from left to right."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm.errors import UserError
from lm.evaluation.comparison.compare import Figure

if TYPE_CHECKING:
    from lm.predictor import Predictor

_ENOUGH = (
    20  # documents, counted by their weight, of which each stands for itself; of fewer, long ones are cut
)
_BLOCKS, _FEWEST = (
    30,
    10,
)  # of one long text (Schmeiser 1982, "Batch Size Effects in the Analysis of Simulation")
_LEAST = 64  # bytes of a block
_AT_ONCE = 256  # windows


@dataclass(frozen=True)
class Text:
    """Documents to be foreseen.

    Attributes:
        documents: their texts.
        sizes: UTF-8 bytes of each.
        notes: on files that are not UTF-8, or were skipped.
    """

    documents: list[str]
    sizes: list[int]
    notes: list[str]

    @property
    def total(self) -> int:
        """Bytes of all."""
        return sum(self.sizes)


def read_text(paths: Sequence[str], text_field: str = "text") -> Text:
    """The documents of files, folders and globs, of any format a corpus is made of.

    Raises:
        UserError: one is not there, empty or damaged; names file and line.
    """
    from lm.data.corpus.sources import Warnings, documents, resolve

    notes: list[str] = []
    warn = Warnings(notes.append)
    texts = [document.text for document in documents(resolve(list(paths)), text_field, warn)]
    warn.finish()
    return Text(texts, [len(text.encode()) for text in texts], notes)


def block_size(text: Text, window: float) -> int | None:
    """Bytes of the blocks into which few documents are cut, so that there is enough to tell an error from;
    None of 20 documents or more, which stand for themselves. They are counted by their weight: one that is
    longer than all others together leaves few (Kish's effective number, (Σ bytes)² / Σ bytes²).

    What stands close together is alike, and many small blocks would make the error look smaller than it is:
    one long text becomes 30 at most, of two windows or more; if it has less than 20 windows, 10.

    Args:
        window: bytes that a model sees, about; of several the longest.

    Raises:
        UserError: the text is too short.
    """
    if text.total**2 >= _ENOUGH * sum(size**2 for size in text.sizes):
        return None
    if text.total < _FEWEST * _LEAST:
        raise UserError(
            f"the text has {text.total:,} bytes: to say how sure a difference is takes {_FEWEST * _LEAST:,}"
        )
    return math.ceil(max(text.total / _BLOCKS, min(2 * window, text.total / _FEWEST)))


def text_figure(
    model: "Predictor", text: Text, size: int | None, done: Callable[[int], object] = lambda _: None
) -> tuple[Figure, list[str]]:
    """How well a model foresees each document or block.

    A document is read in windows one after the other, the first behind the token that begins a text. A block
    is a range of bytes of a document, the same for every tokenizer: a token belongs to the block in which it
    begins, so models with different tokenizers are measured on the same stretches of text. The figure is
    Σ bits / Σ bytes; see `lm.evaluation.comparison.statistics.paired` for the error of such a ratio.

    Args:
        size: bytes of a block; None: a document is one.
        done: is told how many bytes more are done, about.

    Returns:
        The figure, and notes.

    Raises:
        UserError: the model does not write from left to right.
    """
    from lm.inference.scoring import score, windows

    network, tokenizer = left_to_right(model), model.tokenizer
    lengths = tokenizer.byte_lengths()
    prefix = tokenizer.start_id
    nats: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    unknown = 0
    for document, whole in zip(text.documents, text.sizes, strict=True):
        ids = tokenizer.encode(document)
        unknown += ids.count(tokenizer.unk_id) if tokenizer.unk_id is not None else 0
        pieces = windows(ids, prefix, network.config.max_seq_len)
        each = [np.empty(0)]
        for start in range(0, len(pieces), _AT_ONCE):
            scored = score(network, pieces[start : start + _AT_ONCE])
            each += [-one.log_probabilities.numpy() for one in scored]
            done(whole * len(scored) // len(pieces))
        borders = _borders(whole, size)
        ends = np.cumsum(lengths[ids]) if ids else np.empty(0)
        # Where the bytes of the tokens are not those of the text, as behind a normaliser, in proportion.
        begins = (ends - lengths[ids]) * (whole / max(float(ends[-1]), 1.0)) if ids else ends
        block = np.searchsorted(borders[1:], begins, side="right").clip(max=len(borders) - 2)
        nats.append(np.bincount(block, weights=np.concatenate(each), minlength=len(borders) - 1))
        sizes.append(np.diff(borders))
    notes = []
    if unknown:
        notes.append(
            f"{model.model.source}: to its tokenizer {unknown:,} pieces of the text are unknown, which is "
            "easy to foresee: its figure is too good"
        )
    values, weights = np.concatenate(nats) / math.log(2), np.concatenate(sizes).astype(np.float64)
    source = str(model.model.source)
    ids_of = [str(number) for number in range(len(values))]
    return Figure(source, ids_of, values, weights, higher_is_better=False, unit="bits per byte"), notes


def left_to_right(model: "Predictor") -> Any:
    """The network of a model that writes.

    Raises:
        UserError: it is a BERT or a classifier.
    """
    from lm.tasks.table import writes_text

    source = model.model.source
    if not writes_text(model.model.record):
        raise UserError(f"{source} gives labels, no probability of a text: compare it by `test`")
    if not model.config.causal:
        raise UserError(
            f"{source} is a BERT: it sees both sides of a gap, so its probabilities don't multiply to that "
            "of a text, and it has no bits per byte; compare what was fine-tuned from it by `test`"
        )
    return model.writer()


def window_bytes(model: "Predictor", text: Text) -> float:
    """Bytes of the text that a model sees at once, about."""
    sample = text.documents[0][:10_000]
    tokens = max(len(model.tokenizer.encode(sample)), 1)
    return model.config.max_seq_len * len(sample.encode()) / tokens


def _borders(whole: int, size: int | None) -> np.ndarray:
    """Where the blocks of a document begin and end, in bytes; blocks of about `size`, equally long."""
    blocks = 1 if size is None else max(1, round(whole / size))
    return np.round(np.linspace(0, whole, blocks + 1)).astype(np.int64)
