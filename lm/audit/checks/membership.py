"""Whether one can tell which texts a model was trained on."""

import math
import zlib
from typing import NamedTuple

import numpy as np

from lm.audit.check import Check
from lm.audit.findings import Chart, Figure, Findings, Point
from lm.audit.scores import ROWS, finite, token_statistics
from lm.audit.subject import Subject
from lm.data.corpus.shards import TokenStream
from lm.errors import UserError

ATTACKS = {
    "loss": "its loss",
    "zlib": "its loss over the bytes of its text when packed",
    "min_k": "Min-K%",
    "min_k_plus": "Min-K%++",
}
FALSE = 0.01  # of unseen windows that may be taken for seen ones
_ENOUGH = 100  # unseen windows: with fewer, 1% of them is less than one
_FEW = 20  # windows seen so often, below which they get no figure of their own
_RESAMPLED = 1000


class Membership(Check):
    """Can one tell the texts that it was trained on from others.

    Windows that were learned from are told from windows that were not by how likely the model takes them to
    be: by the loss (Yeom et al. 2018, arXiv:1709.01604); the loss by the bytes of the text when packed by
    zlib (Carlini et al. 2021, arXiv:2012.07805); the mean of the least likely tokens (Min-K%, Shi et al.
    2023, arXiv:2310.16789); the same of what each token's log p is in standard deviations from what was to
    be expected there (Min-K%++, Zhang et al. 2024, arXiv:2404.02936). An AUC of 0.5 is chance.

    Both kinds are windows of one cut of the training part, and lot has decided which of them were learned
    from (`History.cut`); most of what passes for memory elsewhere is that members and others are of
    different kinds (Duan et al. 2024, arXiv:2402.07841). After a whole epoch there are no unseen ones left,
    and those of the held-out part, which are of other documents, stand for them. Windows of a document are
    alike: the errors are those of documents, not of windows.

    Args:
        windows: unseen, and seen so often: of each, at most.
        k: the share of a window's tokens that Min-K% and Min-K%++ look at.
    """

    def __init__(self, windows: int = 1000, k: float = 0.2) -> None:
        if windows < 2 or not 0 < k <= 1:
            raise UserError("Membership: `windows` is 2 at least, `k` above 0 and at most 1", status=2)
        self.windows, self.k = windows, k

    def unfit(self, subject: Subject) -> str | None:
        return subject.unknown if subject.writes else "it does not write"

    def run(self, subject: Subject) -> Findings:
        history, rng, found = subject.history, subject.rng("membership"), Findings()
        train, starts, times = history.stream, *history.cut()
        unseen = [(train, 0, start) for start in self._drawn(starts[times == 0], rng)]
        held_out = subject.corpus.split("val")
        if len(unseen) < _ENOUGH:
            places = np.arange(0, len(held_out) - history.run.seq_len, history.run.seq_len)
            if len(places) > len(unseen):
                unseen = [(held_out, 0, start) for start in self._drawn(places, rng)]
                found.notes.append(
                    "it has seen all of its training part: the unseen windows are of held-out documents, "
                    "of which it has seen no other part either, so that an AUC is also of documents"
                )
        rows: list[tuple[TokenStream, int, int]] = unseen
        for often in np.unique(times[times > 0]).tolist():
            rows = rows + [(train, often, start) for start in self._drawn(starts[times == often], rng)]
        rows = [rows[row] for row in rng.permutation(len(rows))]  # with little time, some of each kind
        scores: list[dict[str, float]] = []
        for at in subject.while_time(range(0, len(rows), ROWS)):
            scores += self._scores(subject, rows[at : at + ROWS], history.run.seq_len)
        finite("log p", [score for each in scores for score in each.values()])
        told = np.array([often for _, often, _ in rows[: len(scores)]])
        documents = np.array([_document(stream, held_out, at) for stream, _, at in rows[: len(scores)]])
        if min((told > 0).sum(), (told == 0).sum()) < 2:
            raise UserError("there are not two windows that it has seen and two that it has not")
        self._figures(found, scores, told, documents, rng)
        return found

    def _drawn(self, starts: np.ndarray, rng: np.random.Generator) -> list[int]:
        return rng.permutation(starts)[: self.windows].tolist()

    def _scores(
        self, subject: Subject, rows: list[tuple[TokenStream, int, int]], seq_len: int
    ) -> list[dict[str, float]]:
        """Of each window, by each attack: more for what it rather takes to be seen."""
        windows = [stream.window(start, seq_len + 1) for stream, _, start in rows]
        tokens, documents = (np.stack(column) for column in zip(*windows, strict=True))
        documents -= documents[:, :1]
        log_p, centre, spread = (
            each.numpy() for each in token_statistics(subject.network, tokens, documents)
        )
        z = (log_p - centre) / np.maximum(spread, 1e-6)
        own = documents[:, 1:] == documents[:, :-1]  # a document's first token is never learned from
        own[:, 0] |= ~own.any(axis=1)
        decode = subject.model.tokenizer.decode
        texts = [decode(row.tolist()).encode("utf-8", "replace") for row in tokens]
        return [
            attacks(log_p[row][own[row]], z[row][own[row]], len(zlib.compress(text)), self.k)
            for row, text in enumerate(texts)
        ]

    def _figures(
        self,
        found: Findings,
        scores: list[dict[str, float]],
        told: np.ndarray,
        documents: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        times = [often for often in np.unique(told[told > 0]).tolist() if (told == often).sum() >= _FEW]
        roc: dict[str, list[Point]] = {}
        by_times: dict[str, list[Point]] = {}
        out = told == 0
        for name, words in ATTACKS.items():
            values = np.array([score[name] for score in scores])
            pair = Sample(values[~out], documents[~out]), Sample(values[out], documents[out])
            what = f"AUC of telling seen windows from unseen ones by {words}"
            found.figures[f"auc/{name}"] = auc(*pair, what)
            if out.sum() >= _ENOUGH:
                what = f"of the seen windows are told by {words}, with {FALSE:.0%} false alarms"
                found.figures[f"caught/{name}"] = caught(*pair, what, rng)
            roc[name] = [(x, y, None, None) for x, y in curve(*pair)]
            by_times[name] = []
            for often in times if len(times) > 1 else []:
                own = Sample(values[told == often], documents[told == often])
                figure = auc(own, pair[1], f"AUC by {words} of windows seen {often} times")
                found.figures[f"auc/{name}/seen_{often}"] = figure
                by_times[name].append((often, figure.value, figure.low, figure.high))
        roc["chance"] = [(x, x, None, None) for x in np.logspace(-3, 0, 25).tolist()]
        across = "unseen windows taken for seen, share"
        found.charts.append(Chart("Told to be seen", across, "seen windows told, share", roc, log=True))
        if len(times) > 1:
            across = "times that a window was seen"
            found.charts.append(Chart("By times seen", across, "AUC", by_times, log=True, line=0.5))


class Sample(NamedTuple):
    """Windows' scores (n,), and which document each is from (n,)."""

    scores: np.ndarray
    documents: np.ndarray


def _document(stream: TokenStream, held_out: TokenStream, start: int) -> int:
    """A number of the document in which a window begins; of held-out ones from −1 down."""
    number = stream.document_of(start)
    return -1 - number if stream is held_out else number


def attacks(log_p: np.ndarray, z: np.ndarray, packed: int, k: float) -> dict[str, float]:
    """The score of a text by each attack.

    Args:
        log_p: of its tokens (T,), nats.
        z: the same in standard deviations from the mean that the vocabulary has there, (T,).
        packed: bytes of the text as zlib packs it.
        k: the share of its tokens, the lowest, that count for Min-K%; at least one.
    """
    least = max(int(k * len(log_p)), 1)
    return {
        "loss": float(log_p.mean()),
        "zlib": float(log_p.sum() / packed),
        "min_k": float(np.sort(log_p)[:least].mean()),
        "min_k_plus": float(np.sort(z)[:least].mean()),
    }


def auc(seen: Sample, unseen: Sample, what: str) -> Figure:
    """How probable it is that a seen window has more than an unseen one, half for equals, with DeLong's error
    (DeLong et al. 1988) of scores that hang together by documents (Obuchowski 1997); its degrees of freedom
    are those of the kind that is from fewer documents. Without an interval where that is one."""
    from lm.evaluation import student_quantile

    m, n = len(seen.scores), len(unseen.scores)
    whole = _ranks(np.concatenate([seen.scores, unseen.scores]))
    above = (whole[:m] - _ranks(seen.scores)) / n  # of each seen one, the share of unseen ones below it
    below = 1 - (whole[m:] - _ranks(unseen.scores)) / m  # of each unseen one, that of seen ones above it
    value = float(above.mean())
    parts = np.concatenate([(above - value) / m, (below - value) / n])
    _, places = np.unique(np.concatenate([seen.documents, unseen.documents]), return_inverse=True)
    sums = np.bincount(places, parts)
    groups = min(len(np.unique(kind.documents)) for kind in (seen, unseen))
    if groups < 2:
        return Figure(value, what, n=m + n)
    half = student_quantile(0.975, groups - 1) * math.sqrt(groups / (groups - 1) * float(sums @ sums))
    return Figure(value, what, max(value - half, 0.0), min(value + half, 1.0), m + n)


def caught(seen: Sample, unseen: Sample, what: str, rng: np.random.Generator) -> Figure:
    """The share of seen windows above all unseen ones but `FALSE` of them; its interval by drawing documents
    anew, as the bound that the unseen ones set is not certain either. None and all are so however one draws:
    there each document counts as one thing."""
    from lm.evaluation import binomial_interval

    order = np.argsort(-unseen.scores)
    scores = unseen.scores[order]
    _, places = np.unique(np.concatenate([seen.documents, unseen.documents[order]]), return_inverse=True)
    count = int(places.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLED)
    shares = []
    for weights in [np.ones(count), *drawn]:
        ours, theirs = np.split(weights[places], [len(seen.scores)])
        if ours.sum() and theirs.sum():
            bound = scores[np.searchsorted(np.cumsum(theirs), FALSE * theirs.sum() + 1e-9)]
            shares.append(float(ours @ (seen.scores > bound) / ours.sum()))
    if count == 1:
        return Figure(shares[0], what, n=len(seen.scores), unit="%")
    low, high = np.quantile(shares[1:], [0.025, 0.975]).tolist()
    if shares[0] in (0, 1):
        own = len(np.unique(seen.documents))
        ends = binomial_interval(shares[0] * own, own, 0.1)  # one-sided, as `share` is
        low, high = min(low, ends[0]), max(high, ends[1])
    return Figure(shares[0], what, low, high, len(seen.scores), "%")


def curve(seen: Sample, unseen: Sample, points: int = 31) -> list[tuple[float, float]]:
    """Shares of unseen windows from 1e-3 to 1, those that there are, and of seen ones that are told there."""
    descending = np.sort(unseen.scores)[::-1]
    wrong = np.unique(np.round(np.geomspace(1e-3, 1, points) * len(descending)).astype(int))
    found = []
    for count in wrong[wrong > 0].tolist():
        bound = descending[count] if count < len(descending) else -math.inf
        found.append((count / len(descending), float((seen.scores > bound).mean())))
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 up, (n,); equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
