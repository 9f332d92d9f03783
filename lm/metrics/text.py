"""Written text against references: BLEU and chrF of translations, ROUGE of summaries."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, zip_longest

import torch
from torch import Tensor

from lm.errors import not_installed
from lm.metrics.base import TextScores, ratio
from lm.metrics.chinese import HAN, script_counts

_ROUGES = ("rouge1", "rouge2", "rougeL")


class TranslationScores(TextScores):
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus, equal to sacrebleu's figures.

    Kept are the counts of n-grams that sacrebleu computes them from, summed over batches and processes.
    BLEU's tokens are characters and words where all references together have more Chinese characters than
    other words, else those of sacrebleu's standard, 13a. `signatures` are sacrebleu's words for how `bleu`
    and `chrf` of the last `compute` came about: print them along.

    Raises:
        UserError: sacrebleu is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from sacrebleu.metrics import BLEU, CHRF
        except ImportError as error:
            raise not_installed("counting BLEU and chrF", "sacrebleu", "finetune") from error
        # Under both tokenizers: a process cannot know what the text of the others is mostly written in.
        self._metrics = {
            "bleu_13a": BLEU(tokenize="13a", force=True),  # which silences advice about tokens
            "bleu_zh": BLEU(tokenize="zh", force=True),
            "chrf": CHRF(),
        }
        for name, metric in self._metrics.items():
            self.add_sums(name, shape=(len(metric._extract_corpus_statistics([""], [[""]])[0]),))
        self.add_sums("scripts", shape=(2,))  # Chinese characters, other words
        self.add_state("fewest", torch.tensor(2**62), dist_reduce_fx="min")  # references of an example
        self.add_state("most", torch.tensor(0), dist_reduce_fx="max")
        self.signatures: dict[str, str] = {}

    def add(self, predictions: Sequence[str], references: list[list[str]]) -> None:
        # First references, second ones, …; None where an example has fewer.
        columns = [list(column) for column in zip_longest(*references)]
        for name, metric in self._metrics.items():
            statistics = torch.tensor(metric._extract_corpus_statistics(predictions, columns))
            self.increase(**{name: statistics.sum(dim=0)})
        self.increase(scripts=script_counts(text for texts in references for text in texts))
        numbers = [len(texts) for texts in references]
        self.fewest = self.fewest.clamp(max=min(numbers))
        self.most = self.most.clamp(min=max(numbers))

    def compute(self) -> dict[str, Tensor]:
        """`bleu` and `chrf` in 0 to 100; not a number without translations."""
        if not self.most:
            return {"bleu": self.scalar(float("nan")), "chrf": self.scalar(float("nan"))}
        chinese, others = self.scripts.tolist()
        figures = {}
        for name, state in (("bleu", "bleu_zh" if chinese > others else "bleu_13a"), ("chrf", "chrf")):
            metric, counts = self._metrics[state], getattr(self, state)
            figures[name] = self.scalar(metric._compute_score_from_stats(counts.tolist()).score)
            metric.num_refs = int(self.most) if self.fewest == self.most else -1  # sacrebleu's -1: various
            self.signatures[name] = metric.get_signature().format()
        return figures


class SummaryScores(TextScores):
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as the package rouge_score has them, without stemming; each
    takes the reference that is best for it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("examples")
        self.add_sums("totals", shape=(len(_ROUGES),), dtype=torch.float32)

    def add(self, predictions: Sequence[str], references: list[list[str]]) -> None:
        best = []
        for prediction, texts in zip(predictions, references, strict=True):
            tokens = summary_tokens(prediction)
            scores = [rouge(tokens, summary_tokens(text)) for text in texts]
            best.append([max(column) for column in zip(*scores, strict=True)])
        self.increase(totals=torch.tensor(best, dtype=torch.float64).sum(dim=0), examples=len(best))

    def compute(self) -> dict[str, Tensor]:
        """`rouge1`, `rouge2`, `rougeL`: mean F-measures in 0 to 100; not a number without summaries."""
        return dict(zip(_ROUGES, 100 * ratio(self.totals, self.examples), strict=True))


_SUMMARY_TOKEN = re.compile(f"[a-z0-9]+|[{HAN}]")


def summary_tokens(text: str) -> list[str]:
    """What ROUGE compares: words of a-z and 0-9 in lower case, and Chinese characters."""
    return _SUMMARY_TOKEN.findall(text.lower())


def rouge(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, ...]:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L of two lists of tokens, in 0 to 1."""
    bags = (
        [Counter(prediction), Counter(reference)],
        [Counter(pairwise(prediction)), Counter(pairwise(reference))],
    )
    found = [((predicted & true).total(), predicted.total() + true.total()) for predicted, true in bags]
    found.append((common_length(prediction, reference), len(prediction) + len(reference)))
    return tuple(2 * hits / max(both, 1) for hits, both in found)


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel (Crochemore et al. 2001): a row of the usual table is one number whose zero bits are the
    places where the length grows, so a step takes a whole row.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << place
    full = row = (1 << len(a)) - 1
    for token in b:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()
