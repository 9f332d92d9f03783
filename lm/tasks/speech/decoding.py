"""From what a network says of each position to words, perhaps with the help of a language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lm.convert import open_model
from lm.data.corpus.files import decode
from lm.data.examples.tables import is_table, read_rows
from lm.data.examples.texts import text_in
from lm.errors import UserError
from lm.inference.ctc import Gpt, Label, Likeliest, align, beam_search, greedy, rescore
from lm.inference.ngrams import NGram, NGramScorer
from lm.tasks.table import writes_text

_WIDTH = 32  # of a beam where a language model is to choose
_ORDER = 3  # words that an n-gram looks at
_LONG = 3000  # positions that are searched together: a minute, where each is 20 ms


class Decoder:
    """The labels that were said, of log-probabilities of classes at each position.

    Args:
        texts: what each class stands for; the blank, 0, for nothing.
        text_of: what some classes spell.
        beam_width: how many beginnings are followed; None: 32 with a language model, else none: the likeliest
            class of each position is taken.
        model: a GPT, which chooses among whole sentences, or sentences to count words in.
        alpha, beta: see `lm.inference.ctc.beam_search`.
    """

    def __init__(
        self,
        texts: Sequence[str],
        text_of: Callable[[Sequence[int]], str],
        beam_width: int | None = None,
        model: Gpt | Iterable[str] | None = None,
        alpha: float = 0.5,
        beta: float = 0.0,
    ) -> None:
        self.text_of, self.alpha, self.beta = text_of, alpha, beta
        self.width = beam_width or (_WIDTH if model is not None else None)
        self.gpt = model if isinstance(model, Gpt) else None
        self.scorer = None
        if model is not None and self.gpt is None:
            self.scorer = NGramScorer(NGram(model, _ORDER), texts)

    def __call__(self, log_probs: Likeliest) -> list[Label]:
        """The labels with the positions where they were said."""
        if self.width is None:
            return greedy(log_probs)
        return [
            Label(token, start + first, start + last)
            for start, stretch in stretches(log_probs)
            for token, first, last in self._searched(stretch)
        ]

    def _searched(self, log_probs: Likeliest) -> list[Label]:
        found = beam_search(log_probs, 0, self.width, self.scorer, self.alpha, self.beta)
        if self.gpt is not None:
            found = rescore(found, self.text_of, self.gpt, self.alpha, self.beta)
        return align(log_probs, found[0].tokens)


def stretches(log_probs: Likeliest, most: int = _LONG) -> Iterator[tuple[int, Likeliest]]:
    """Log-probabilities in parts of at most `most` positions, with where each starts:
    time and memory of a search grow faster than a sound. Cut is in the middle of the longest pause of the
    second half of what is possible: where the blank, 0, is likeliest."""
    start, half = 0, most // 2
    while len(log_probs) - start > most:
        heard = greedy(log_probs[start + half : start + most])
        edges = [Label(0, -1, -1), *heard, Label(0, most - half, most - half)]
        before, after = max(pairwise(edges), key=lambda pair: pair[1].first - pair[0].last)
        end = start + half + (before.last + after.first + 1) // 2
        yield start, log_probs[start:end]
        start = end
    yield start, log_probs[start:]


def open_language_model(path: str, device: Any) -> Gpt | list[str]:
    """What a name means: a text file with a sentence a line, a table with a column `text`, or a GPT, wherever
    it lies.

    Raises:
        UserError: it is none of these.
    """
    place = Path(path).expanduser()
    if is_table(path):
        return [text_in(row, "text", where) for where, row in read_rows(path)]
    if place.suffix == ".txt" and not place.is_dir():
        try:
            found = decode(place.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if found is None:
            raise UserError(f"{path} is not text: it looks like a binary file")
        return found[0].splitlines()
    model = open_model(path, device, check=False)
    if not writes_text(model.record) or not model.config.causal:
        raise UserError(f"{path} is no language model that writes from left to right", status=2)
    return Gpt(model.checked().network, model.tokenizer)
