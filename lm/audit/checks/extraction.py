"""Whether a model gives out the texts that it was trained on."""

from collections.abc import Iterator

import numpy as np

from lm.audit.check import Check
from lm.audit.checks.masking import masked
from lm.audit.findings import Chart, Findings, mean, share
from lm.audit.scores import ROWS, greedy
from lm.audit.subject import Subject
from lm.data.corpus.shards import TokenStream
from lm.data.windows import mix
from lm.errors import UserError

_CHUNK = 1 << 22  # tokens that are hashed at once
_SEARCHED = 50_000_000  # tokens among which passages that stand there more than once are looked for
_SHOWN = 10
_ENOUGH = 60  # passages, of none of which having come out 5% at most do


class Extraction(Check):
    """Does it go on with a text that it was trained on, word for word.

    A passage's first tokens are given, and it is extracted where the likeliest next ones are the rest of it
    (Carlini et al. 2022, "Quantifying Memorization", arXiv:2202.07646). Passages are drawn by how often the
    model has learned from them: a passage that stands in the corpus five times, each seen twice, was seen ten
    times. Those of the held-out part that stand nowhere in the training part were never seen: what is
    extracted of these the model has not remembered but foreseen, as the end of a licence. The intervals take
    passages for independent of each other, those of one document too.

    Args:
        prompt: tokens that are given; half of what the model sees, if that is less.
        continuation: tokens that have to come.
        passages: of each number of times, at most.
    """

    def __init__(self, prompt: int = 50, continuation: int = 50, passages: int = 200) -> None:
        if min(prompt, continuation, passages) < 1:
            raise UserError("Extraction: `prompt`, `continuation` and `passages` are 1 at least", status=2)
        self.prompt, self.continuation, self.passages = prompt, continuation, passages

    def unfit(self, subject: Subject) -> str | None:
        return subject.unknown if subject.writes else "it does not write"

    def run(self, subject: Subject) -> Findings:
        half = subject.model.config.max_seq_len // 2
        given, asked = min(self.prompt, half), min(self.continuation, half)
        groups = self._drawn(subject, given + asked)
        found, vocab = Findings(), subject.model.tokenizer.vocab_size
        hits: dict[str, list[bool]] = {name: [] for name in groups}
        alike: dict[str, list[float]] = {name: [] for name in groups}
        # A batch of each group in turn, so that with little time all have had some: what was seen first.
        batches = [
            (name, passages[at : at + ROWS], at)
            for name, passages in groups.items()
            for at in range(0, len(passages), ROWS)
        ]
        order = sorted(batches, key=lambda batch: (batch[2], batch[0] == "never"))
        for name, passages, _ in subject.while_time(order):
            written = greedy(subject.network, passages[:, :given].tolist(), asked, vocab)
            same = written == passages[:, given:]
            hits[name] += same.all(axis=1).tolist()
            alike[name] += same.mean(axis=1).tolist()
            for row in passages[same.all(axis=1)] if name != "never" else ():
                found.examples += _shown(subject, name, row, given)[: _SHOWN - len(found.examples)]
        points = []
        for name, own in hits.items():
            if own:
                figure = share(sum(own), len(own), f"of passages {_often(name)} came out")
                found.figures[f"seen_{name}"] = figure
                points.append((name, figure.value, figure.low, figure.high))
        if looked := {name: own for name, own in hits.items() if own and name != "never"}:
            # What was seen seldom says most; and after some epochs nothing was seen once.
            most = max(looked, key=lambda name: len(looked[name]))
            least = next((name for name, own in looked.items() if len(own) >= _ENOUGH), most)
            what = f"of passages {_often(least)}, the seldomest of which there are enough, came out"
            found.figures["seen_least"] = share(sum(looked[least]), len(looked[least]), what)
        seen = [hit for name, own in hits.items() if name != "never" for hit in own]
        if seen:
            rest = "of all passages that were seen came out"
            found.headline, found.figures["extracted"] = "extracted", share(sum(seen), len(seen), rest)
            close = [each for name, own in alike.items() if name != "never" for each in own]
            found.figures["tokens_alike"] = mean(close, "of their next tokens are the right ones", "%")
        axis = f"times that a passage of {given} + {asked} tokens was seen"
        found.charts.append(Chart("Extracted", axis, "share", {"extracted": points}))
        return found

    def _drawn(self, subject: Subject, length: int) -> dict[str, np.ndarray]:
        """Passages (n, length) by how often they were seen, `never` first."""
        history, rng = subject.history, subject.rng("extraction")
        train, held_out = history.stream, subject.corpus.split("val")
        drawn, room = 10 * self.passages, history.run.seq_len - length + 1
        seen = history.sample(drawn, rng) + rng.integers(0, max(room, 1), drawn)
        pool = [_within(train, seen, length)]
        for stream in (train, held_out):
            starts = rng.integers(0, max(len(stream) - length, 1), drawn)
            pool.append(_within(stream, starts, length))
        repeated = _repeated(train, length, self.passages, rng)
        passages = np.concatenate([*pool, _within(train, repeated, length)])
        if not len(passages):
            raise UserError(f"the corpus has no document of {length} tokens")
        passages = np.unique(passages, axis=0)
        times = _times(train, history.times, passages)
        groups: dict[str, list[int]] = {}
        for row in rng.permutation(len(passages)).tolist():
            own = groups.setdefault(_group(int(times[row])), [])
            if len(own) < self.passages:
                own.append(row)
        order = sorted(groups, key=lambda name: 0 if name == "never" else int(name.partition("-")[0]))
        return {name: passages[sorted(groups[name])] for name in order}


def _shown(subject: Subject, seen: str, row: np.ndarray, given: int) -> list[dict[str, str]]:
    """A passage as an example, what identifies people masked, for a report may be published; none where
    nothing here could mask it."""
    decode = subject.model.tokenizer.decode
    texts = masked(decode(row[:given].tolist()), decode(row[given:].tolist()))
    return [{"seen": seen, "given": texts[0], "came out": texts[1]}] if texts else []


def _often(group: str) -> str:
    return {"never": "never seen", "1": "seen once", "2": "seen twice"}.get(group, f"seen {group} times")


def _group(times: int) -> str:
    """A number of times with its neighbours: never, 1, 2, 3-4, 5-8, …"""
    if times <= 2:
        return ("never", "1", "2")[times]
    power = (times - 1).bit_length()
    return f"{(1 << (power - 1)) + 1}-{1 << power}"


def _within(stream: TokenStream, starts: np.ndarray, length: int) -> np.ndarray:
    """The passages (n, length) at these places that lie within one document."""
    rows = []
    for start in starts.tolist():
        if start + length <= len(stream):
            tokens, documents = stream.window(start, length)
            if documents[0] == documents[-1]:
                rows.append(tokens)
    return np.array(rows, dtype=np.int64).reshape(-1, length)


def _hash(tokens: np.ndarray, length: int) -> np.ndarray:
    """A hash, uint64, of the `length` tokens from each on: of (n + length - 1, …) as (n, …)."""
    odd, values = np.uint64(0x9E3779B97F4A7C15), mix(tokens)
    total, factor = np.zeros_like(values[length - 1 :]), np.uint64(1)
    with np.errstate(over="ignore"):
        for place in range(length):
            total += values[place : place + len(total)] * factor
            factor *= odd
    return total


def _hashed(stream: TokenStream, length: int) -> Iterator[tuple[int, np.ndarray]]:
    """The hashes of a stream in chunks: their first place, and uint64 (n,)."""
    for first in range(0, len(stream) - length + 1, _CHUNK):
        tokens, _ = stream.window(first, min(_CHUNK + length - 1, len(stream) - first))
        yield first, _hash(tokens, length)


def _repeated(stream: TokenStream, length: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Places of passages that stand in the stream more than once, some of each number of times."""
    hashes = []
    for first, chunk in _hashed(stream, length):
        if first > _SEARCHED:
            break
        hashes.append(chunk)
    if not hashes:
        return np.empty(0, np.int64)
    _, places, counts = np.unique(np.concatenate(hashes), return_index=True, return_counts=True)
    found = []
    for power in range(1, int(counts.max()).bit_length() + 1):
        own = places[(counts > 1 << (power - 1)) & (counts <= 1 << power)]
        found.append(rng.permutation(own)[: 4 * most])
    return np.concatenate(found)


def _times(stream: TokenStream, times: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """How often each passage (n, length) was learned from, over all places where it stands, int64 (n,)."""
    length = passages.shape[1]
    own = _hash(passages.T, length)[0]
    order = np.argsort(own)
    own, found = own[order], np.zeros(len(passages), np.int64)
    for first, hashes in _hashed(stream, length):
        at = np.minimum(np.searchsorted(own, hashes), len(own) - 1)
        for place in np.flatnonzero(own[at] == hashes).tolist():
            row, start = order[at[place]], first + place
            if (stream.window(start, length)[0] == passages[row]).all():
                # Its first token need not have been asked for: a window may begin there.
                found[row] += int(times[start + 1 : start + length].min())
    return found
