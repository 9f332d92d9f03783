"""Short recordings joined to strings, as digits are to numbers."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lm.data.examples.batches import Features
from lm.processors.speech import SoundProcessor

_PAUSE = (0.05, 0.4)  # seconds of silence before a recording


def pauses(count: int, rng: np.random.Generator) -> list[float]:
    """Seconds of silence before each recording of a string, to the millisecond."""
    return rng.uniform(*_PAUSE, count).round(3).tolist()


def strings(
    examples: Sequence[Any], joined: tuple[int, int], rng: np.random.Generator
) -> Iterator[tuple[list[Any], list[float]]]:
    """Examples of one group each time, of which none comes twice, with the pause before each.

    Args:
        joined: how many at least and at most.
    """
    groups = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    for pool in groups.values():
        left = [pool[i] for i in rng.permutation(len(pool))]
        while len(left) >= joined[0]:
            count = min(int(rng.integers(*joined, endpoint=True)), len(left))
            yield left[:count], pauses(count, rng)
            left = left[count:]


class Joiner:
    """Makes a string of one recording and others of its group, drawn at random.

    Args:
        features: of all recordings, with `group`, `place`, `targets` and `length`, in samples.
        joined: how many make a string, at least and at most; fewer where it would be longer than allowed.
        space: targets between two of them.
        processor: says how long a string may be.
    """

    def __init__(
        self,
        features: Sequence[Features],
        joined: tuple[int, int],
        space: list[int],
        processor: SoundProcessor,
    ) -> None:
        self.features, self.joined, self.space, self.rate = features, joined, space, processor.rate
        self.most = processor.seconds
        members = defaultdict(list)
        for number, each in enumerate(features):
            members[each.get("group")].append(number)
        self.members = {group: np.array(numbers) for group, numbers in members.items()}

    def __call__(self, first: Features, rng: np.random.Generator) -> Features:
        """The features of a string that begins with a recording: `parts` and `targets`."""
        count = int(rng.integers(*self.joined, endpoint=True))
        others = rng.choice(self.members[first.get("group")], count - 1)
        chosen = [first, *(self.features[i] for i in others.tolist())]
        silences = pauses(count, rng)
        ends = np.cumsum([s + f["length"] / self.rate for s, f in zip(silences, chosen, strict=True)])
        fitting = count if self.most is None else max(int((ends <= self.most).sum()), 1)
        parts = [[s, f["place"]] for s, f in zip(silences, chosen, strict=True)][:fitting]
        targets = [t for f in chosen[:fitting] for t in (*self.space, *f["targets"])][len(self.space) :]
        return {**first, "parts": parts, "targets": targets}
