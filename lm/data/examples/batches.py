"""Encoded examples as batches: which come next is a pure function of (seed, epoch, sample), padded little,
because texts of like length stand together."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lm.data.examples.rows import Lazy, Rows, encode_row
from lm.data.windows import PADDING, Permutation, Samples, mix, stream_hash

Features = dict[str, Any]
Collate = Callable[[Sequence[Features]], dict[str, Any]]

_ORDER, _BATCHES, _DRAW = 16, 17, 18  # what a random number is for; `lm.data.windows` has the first few
_POOL = 64  # steps whose examples are sorted by length together


def length_of(features: Features) -> int:
    """What decides how much padding an example needs: its `length`, or how many tokens it has."""
    if "length" in features:
        return features["length"]
    return max((len(v) for name, v in features.items() if name.endswith("tokens")), default=0)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of unequal length as one int64 tensor (B, longest)."""
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], True, value)


def collate(features: Sequence[Features], padding: dict[str, int]) -> dict[str, Any]:
    """Features as a batch: lists are padded and stacked (B, T), numbers become (B,), vectors (B, n); the rest
    stays a list. What not all of them have, as a label in a file to predict, is left out. `documents` (B, T)
    are 0 where a token stands and -1 where padding does, unless the features say themselves which token is of
    which document. `seen` counts the tokens.

    Args:
        padding: what to pad each list with, by its name.
    """
    batch: dict[str, Any] = {}
    for name, first in features[0].items():
        if not all(name in f for f in features):
            continue
        values = [f[name] for f in features]
        if name in padding:
            batch[name] = pad(values, padding[name])
        elif isinstance(first, int | float):
            batch[name] = torch.tensor(values)
        elif isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        else:
            batch[name] = values
    if "tokens" in batch and "documents" not in batch:
        lengths = torch.tensor([len(f["tokens"]) for f in features])[:, None]
        index = torch.arange(batch["tokens"].shape[1])[None]
        batch["documents"] = torch.where(index < lengths, 0, PADDING)
    batch["seen"] = sum(len(v) for f in features for k, v in f.items() if k.endswith("tokens"))
    return batch


class Encoded(Lazy[Features]):
    """Features with what stands beside them.

    Args:
        lengths: the `length_of` each; computed where they are None.
    """

    def __init__(self, rows: Sequence[Features], lengths: np.ndarray | None = None) -> None:
        self.rows, self.columns = rows, {}
        self.lengths = np.array(list(map(length_of, rows))) if lengths is None else lengths

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, number: int) -> Features:
        more = {name: numbers[number].item() for name, numbers in self.columns.items()}
        return {**self.rows[number], **more}

    @cached_property
    def digest(self) -> str:
        """A hash of the features, equal for equal ones; what a model added to them is left out, which is
        rounded otherwise on another device."""
        if isinstance(self.rows, Rows) and self.rows.order is None:
            return self.rows.facts["digest"]
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            digest.update(encode_row(row))
        return digest.hexdigest()


class TrainingExamples(Samples):
    """Batches in an order of their own in each epoch. Indexed with `(epoch, first sample)`.

    An epoch goes through the examples in a random order; among 64 steps' worth of them those of like length
    share a step, and the steps come in a random order again. What does not fill a step comes last.

    Args:
        make: turns a batch's features into tensors.
        step: examples of an optimizer step, over all its batches and processes: the order goes by these, so
            that a step has the same examples however it is cut; None: a batch is a step.
        draws: `make` draws something: each example's features then have a random number, `draw`.
    """

    def __init__(
        self,
        features: Sequence[Features],
        batch_size: int,
        seed: int,
        make: Collate,
        step: int | None = None,
        draws: bool = False,
    ) -> None:
        self.features, self.batch_size, self.seed, self.make = features, batch_size, seed, make
        self.draws = draws
        self.step = step or batch_size
        self.windows = len(features)
        encoded = _with_lengths(features)
        self.lengths = encoded.lengths
        if isinstance(encoded.rows, Packed):
            self.bound = "a row of several chats hangs on all the others: leave `data.packing` out"
        self._epoch: tuple[int, np.ndarray] = (-1, np.array([]))

    def order(self, epoch: int) -> np.ndarray:
        """The examples' numbers in the order of an epoch, int64 (examples,)."""
        if self._epoch[0] != epoch:
            n, size = self.windows, self.step
            order = Permutation(n, int(stream_hash(self.seed, epoch, _ORDER)))(np.arange(n))
            whole = n // size
            # The rest, which the loader leaves out, is not sorted in: it would always be the longest.
            full = order[: whole * size]
            for start in range(0, len(full), _POOL * size):
                pool = full[start : start + _POOL * size]
                full[start : start + _POOL * size] = pool[np.argsort(self.lengths[pool], kind="stable")]
            if whole > 1:
                steps = Permutation(whole, int(stream_hash(self.seed, epoch, _BATCHES)))(np.arange(whole))
                full[:] = full.reshape(whole, size)[steps].ravel()
            self._epoch = epoch, order
        return self._epoch[1]

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, first = place
        samples = np.arange(first, first + self.batch_size) % self.windows
        return self.chosen(self.order(epoch)[samples], epoch)

    def chosen(self, numbers: np.ndarray, draw: int) -> dict[str, Any]:
        """A batch of any examples (n,). What `make` draws goes by the `draw` of each, a number that `seed`,
        `draw` and the example decide."""
        features = [self.features[i] for i in numbers.tolist()]
        if self.draws:
            drawn = mix(stream_hash(self.seed, draw, _DRAW) ^ numbers.astype(np.uint64)) >> np.uint64(1)
            features = [{**f, "draw": d} for f, d in zip(features, drawn.tolist(), strict=True)]
        return self.make(features)


def _with_lengths(features: Sequence[Features]) -> Encoded:
    return features if isinstance(features, Encoded) else Encoded(features)


class HeldOutExamples(Dataset):
    """Every example once, the longest first, so that memory runs out at once or never. Indexed with a batch's
    number; a batch beyond the last is the last again with `index` -1: such examples are not counted.

    Args:
        features: each with its `index`.
        make: turns a batch's features into tensors.
    """

    def __init__(self, features: Sequence[Features], batch_size: int, make: Collate) -> None:
        self.features, self.batch_size, self.make = features, batch_size, make
        self.windows = len(features)
        self.order = np.argsort(-_with_lengths(features).lengths, kind="stable")

    def __getitem__(self, number: int) -> dict[str, Any]:
        chosen = self.order[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        if chosen:
            return self.make([self.features[i] for i in chosen])
        return self.make([{**self.features[int(self.order[-1])], "index": -1}])


class Packed(Lazy[Features]):
    """Several chats in one row of at most `length` tokens, each a document that sees nothing of the others.

    They are taken in a random order, each into the first open row that has room, as is usual.

    Args:
        features: `tokens` and `targets` of each.
    """

    def __init__(self, features: Sequence[Features], length: int, seed: int) -> None:
        self.features = features
        self.groups: list[list[int]] = []  # the chats of each row
        lengths = _with_lengths(features).lengths
        room: list[int] = []
        first_open = 0
        for number in Permutation(max(len(features), 1), seed)(np.arange(len(features))).tolist():
            need = int(lengths[number])
            row = next((row for row in range(first_open, len(room)) if room[row] >= need), len(room))
            if row == len(room):
                self.groups.append([])
                room.append(length)
            self.groups[row].append(number)
            room[row] -= need
            first_open = max(0, len(room) - 200)  # older rows are nearly full: don't look at them again
        self.lengths = length - np.array(room, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.groups)

    def item(self, number: int) -> Features:
        chats = [self.features[i] for i in self.groups[number]]
        return {
            "tokens": [t for f in chats for t in f["tokens"]],
            "targets": [t for f in chats for t in f["targets"]],
            "documents": [d for d, f in enumerate(chats) for _ in f["tokens"]],
        }
