"""Several corpora as one stream of samples: which corpus each is from, and which of its own samples it is.

Both are a pure function of the seed and the sample's number. The stream is cut into phases with constant
weights, and a phase into blocks. At every block's end each corpus has had its share of the phase so far,
rounded by largest remainders, so that no error adds up; in between the corpora come in a random order. Each
corpus goes through its own samples in its own epochs, however fast the mixture draws on it.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lm.data.windows import Permutation, Samples, TrainingWindows, ValidationWindows, stream_hash
from lm.errors import UserError

BLOCK = 1024  # samples, or more where a corpus would otherwise not come in each block
LEAST = 1e-6  # of the weights, so that a block stays small


@dataclass
class Share:
    """A corpus of a mixture.

    Args:
        corpus: a prepared folder, a recipe, or files, as for `PretrainingData`.
        weight: its part of the samples, relative to the other weights; 0: only where a stage gives it one.
        repeats: how often its tokens may be seen at most; the others then take its place. null: no limit.
    """

    corpus: str | list[str]
    weight: float
    repeats: float | None = None


@dataclass
class Stage:
    """Other weights from an optimizer step on.

    Args:
        step: how many steps are done when they begin.
        weights: by the corpora's names; one that is left out has 0.
    """

    step: int
    weights: dict[str, float] = field(default_factory=dict)


def check(mixture: Mapping[str, Share], stages: Sequence[Stage]) -> None:
    """Checks what was asked for, before anything is read.

    Raises:
        UserError: names the share or the stage that can't be.
    """
    if not mixture:
        raise UserError("`mixture` has no corpora: give each a name, `corpus` and `weight`", status=2)
    for name, share in mixture.items():
        if not name or not name.replace("-", "_").replace(".", "_").isidentifier():
            raise UserError(f"`mixture`: {name!r} names figures: use letters, digits, _, - and .", status=2)
        if share.repeats is not None and not share.repeats > 0:
            raise UserError(
                f"`mixture.{name}.repeats` {share.repeats} must be above 0, or null for no limit; "
                "`weight: 0` leaves a corpus out",
                status=2,
            )
    _check_weights("mixture", {name: share.weight for name, share in mixture.items()})
    before = 0
    for stage in stages:
        if unknown := sorted(stage.weights.keys() - mixture.keys()):
            raise UserError(
                f"the stage from step {stage.step} on has a weight for {unknown[0]!r}, which is not in the "
                f"mixture: {', '.join(mixture)}",
                status=2,
            )
        if stage.step <= before:
            raise UserError(
                f"`stages` begin at step {before}, then at {stage.step}: give them in order, from 1 on",
                status=2,
            )
        _check_weights(f"the stage from step {stage.step} on", stage.weights)
        before = stage.step


def _check_weights(where: str, weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise UserError(f"{where}: the weight of {name}, {weight}, must be 0 or more", status=2)
        if 0 < weight < sum(weights.values()) * LEAST:
            raise UserError(f"{where}: {name} has less than a millionth of the weights, give 0", status=2)
    if not any(weights.values()):
        raise UserError(f"{where}: all weights are 0, give at least one corpus more", status=2)


class _Phase(NamedTuple):
    """Samples with constant weights.

    Args:
        start, size: in samples of the stream; size None: without end.
        before: what each corpus has given when it begins.
        weights: of each corpus, 1 in sum.
    """

    start: int
    size: int | None
    before: tuple[int, ...]
    weights: tuple[Fraction, ...]

    def given(self, samples: int) -> list[int]:
        """How many of the first so many of the phase's samples each corpus gives: largest remainders."""
        exact = [weight * samples for weight in self.weights]
        counts = [floor(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda corpus: counts[corpus] - exact[corpus])
        for corpus in by_remainder[: samples - sum(counts)]:
            counts[corpus] += 1
        return counts

    def block(self, sample: int) -> tuple[int, int]:
        """The block that one of the phase's samples is in: its first sample and the one behind its last.

        A block is so long that the smallest weight makes a sample: then rounded counts never fall from one to
        the next. The last one takes in what is left of the phase.
        """
        least = ceil(1 / min(weight for weight in self.weights if weight))
        length = max(BLOCK, 1 << (least - 1).bit_length())
        number = sample // length
        if self.size is None:
            return number * length, (number + 1) * length
        last = max(self.size // length - 1, 0)
        return (last * length, self.size) if number >= last else (number * length, (number + 1) * length)


class Schedule:
    """Which corpus each sample is from.

    Args:
        stages: from which sample on which weights hold, one of each corpus; the first from 0.
        limits: samples that each corpus may give at most; None: no limit. A corpus without any left has
            weight 0, and up to one sample is left when it goes.
        seed: decides the order in the blocks.

    Attributes:
        end: samples until nothing is left to draw on; None: there always is.
    """

    def __init__(
        self, stages: Sequence[tuple[int, Sequence[float]]], limits: Sequence[int | None], seed: int
    ) -> None:
        self.seed = seed
        self.phases: list[_Phase] = []
        self.end: int | None = None
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None
        start, given, used_up = 0, [0] * len(limits), set[int]()
        stops = [*(first for first, _ in stages[1:]), None]
        for (_, weights), stop in zip(stages, stops, strict=True):
            asked = [Fraction(repr(float(weight))) for weight in weights]  # as it is written: 0.1 is a tenth
            while stop is None or start < stop:
                active = {c: weight for c, weight in enumerate(asked) if weight and c not in used_up}
                if not active:
                    self.end = start
                    return
                total = sum(active.values())
                parts = tuple(active.get(c, Fraction(0)) / total for c in range(len(asked)))
                # How long each can go on: even rounded up, its share is not more than it has left.
                lasts = {c: floor((limits[c] - given[c]) / parts[c]) for c in active if limits[c] is not None}
                size = min([*lasts.values(), *([] if stop is None else [stop - start])], default=None)
                used_up |= {c for c, samples in lasts.items() if samples == size}
                phase = _Phase(start, size, tuple(given), parts)
                if size != 0:
                    self.phases.append(phase)
                if size is None:
                    return
                given = [a + b for a, b in zip(given, phase.given(size), strict=True)]
                start += size

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which corpus each of the samples is from, and which of that corpus's samples it is.

        Args:
            samples: int64 (n,), each at least 0.

        Returns:
            both int64 (n,).

        Raises:
            UserError: the corpora are used up before.
        """
        if self.end is not None and samples.size and samples.max() >= self.end:
            raise UserError(f"the mixture is used up after {self.end} samples: give more `repeats`")
        corpora, own = np.empty_like(samples), np.empty_like(samples)
        left = np.arange(len(samples))
        while len(left):
            first, of_block, own_of_block = self._block_of(int(samples[left[0]]))
            places = samples[left] - first
            inside = (places >= 0) & (places < len(of_block))
            corpora[left[inside]] = of_block[places[inside]]
            own[left[inside]] = own_of_block[places[inside]]
            left = left[~inside]
        return corpora, own

    def _block_of(self, sample: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The first sample of a sample's block; of each in the block the corpus, and which of that's own."""
        if self._block is None or not 0 <= sample - self._block[0] < len(self._block[1]):
            phase = self.phases[bisect_right(self.phases, sample, key=lambda phase: phase.start) - 1]
            first, behind = phase.block(sample - phase.start)
            before, after = np.array(phase.given(first)), np.array(phase.given(behind))
            order = Permutation(behind - first, int(stream_hash(self.seed, phase.start + first)))
            one_by_one = np.repeat(np.arange(len(before)), after - before)
            corpora = one_by_one[order(np.arange(behind - first))]
            own = np.empty_like(corpora)
            for corpus, (given, count) in enumerate(zip(phase.before + before, after - before, strict=True)):
                own[corpora == corpus] = given + np.arange(count)
            self._block = phase.start + first, corpora, own
        return self._block


def mixed_windows(
    parts: Sequence[TrainingWindows],
    mixture: Mapping[str, Share],
    stages: Sequence[Stage],
    seed: int,
    step: int,
    steps: int,
) -> "MixedWindows":
    """The training windows of a mixture.

    Args:
        parts: those of its corpora.
        step: samples of an optimizer step.
        steps: of the whole training; -1: not known.

    Raises:
        UserError: the mixture is used up before training ends.
    """
    shares, sizes = mixture.values(), [part.windows for part in parts]
    begins: list[tuple[int, list[float]]] = [(0, [share.weight for share in shares])]
    begins += [(s.step * step, [s.weights.get(name, 0.0) for name in mixture]) for s in stages]
    limits = [
        None if share.repeats is None else int(share.repeats * size)
        for share, size in zip(shares, sizes, strict=True)
    ]
    schedule = Schedule(begins, limits, seed)
    if schedule.end is not None and schedule.end < steps * step:
        raise UserError(
            f"the mixture is used up after {schedule.end // step} steps, and `trainer.max_steps` is {steps}: "
            "give fewer steps, more `repeats`, or one corpus no limit"
        )
    # Whole steps, so that the stream has no gap between two epochs.
    return MixedWindows(parts, schedule, max(sum(sizes) // step, 1) * step)


def plain(mixture: Mapping[str, Share], stages: Sequence[Stage]) -> dict[str, Any]:
    """What was asked for beside the corpora, in plain values."""
    shares = {name: [share.weight, share.repeats] for name, share in mixture.items()}
    return {"shares": shares, "stages": [[stage.step, dict(stage.weights)] for stage in stages]}


def seed_of(name: str, seed: int) -> int:
    """A seed for the corpus of that name, so that two of equal size don't go in the same order."""
    digest = hashlib.sha256(name.encode()).digest()
    return int(stream_hash(seed, int.from_bytes(digest[:8])))


class MixedWindows(Samples):
    """Batches of windows from several corpora; they are like those of `TrainingWindows`.

    Args:
        parts: each corpus's windows.
        schedule: which of them comes when, its corpora in the same order.
        windows: samples of an epoch, which here is only a measure: each corpus has epochs of its own.
    """

    bound = "how much of each corpus comes is not left to chance: give one `data.corpus`"

    def __init__(self, parts: Sequence[TrainingWindows], schedule: Schedule, windows: int) -> None:
        self.parts, self.schedule, self.windows = list(parts), schedule, windows
        self.batch_size = self.parts[0].batch_size
        self._sizes = np.array([part.windows for part in self.parts])

    def places(self, epoch: int, first: int) -> np.ndarray:
        """Of a batch's samples int64 (batch_size, 3): the corpus, its own epoch, the sample in that."""
        samples = epoch * self.windows + np.arange(first, first + self.batch_size)
        corpora, own = self.schedule(samples)
        return np.stack([corpora, *np.divmod(own, self._sizes[corpora])], axis=1)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row, (corpus, epoch, sample) in enumerate(self.places(*place).tolist()):
            groups.setdefault((corpus, epoch), []).append((row, sample))
        batches = [
            self.parts[corpus].batch(epoch, np.array([sample for _, sample in group]))
            for (corpus, epoch), group in groups.items()
        ]
        order = torch.tensor([row for group in groups.values() for row, _ in group]).argsort()
        return {key: torch.cat([batch[key] for batch in batches])[order] for key in batches[0]}


class MixedValidation(Dataset):
    """The held-out parts of several corpora, each batch from one, and `corpus` int64 `()`, which.

    All of them are spread evenly, the first batch of each before any second: with
    `trainer.limit_val_batches` none is left out.
    """

    def __init__(self, parts: Sequence[ValidationWindows]) -> None:
        self.parts = list(parts)
        self.batch_size = self.parts[0].batch_size
        batches = [-(-part.windows // self.batch_size) for part in self.parts]
        self._places = sorted(
            ((batch / size, corpus, batch) for corpus, size in enumerate(batches) for batch in range(size)),
        )
        self.windows = len(self._places) * self.batch_size

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        # Behind the end, where the batches don't divide by the processes: one without a token.
        corpus, own = self._places[batch][1:] if batch < len(self._places) else (0, self.parts[0].windows)
        return {**self.parts[corpus][own], "corpus": torch.tensor(corpus)}
