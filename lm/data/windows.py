"""Which tokens come next: a pure function of (seed, epoch, sample index), the same on every rank and machine.

An epoch cuts the token stream into windows, beginning at a random offset, and goes through them in a random
order. Neither needs memory in proportion to the corpus: the order is a Feistel permutation, computed where it
is needed.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lm.data.corpus.shards import TokenStream

PADDING = -1  # the document id of positions that hold no token
_ROUNDS = 8
_ORDER, _OFFSET, _KEYS, _VALIDATION = range(4)  # what a random number is for
# SplitMix64's constants, as Java's SplittableRandom has them.
GAMMA = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def mix(values: np.ndarray | int) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): a bijection of uint64 that looks random."""
    z = np.asarray(values, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(GAMMA)
        for bits, factor in MIX:
            z = (z ^ (z >> np.uint64(bits))) * np.uint64(factor)
        return z ^ (z >> np.uint64(31))


def stream_hash(*words: int) -> np.uint64:
    """A random-looking uint64 for a tuple of integers."""
    state = np.uint64(0)
    for word in words:
        state = mix(state ^ mix(np.uint64(word % (1 << 64))))
    return np.uint64(state)


class Permutation:
    """A random order of 0 .. n-1 that costs no memory.

    A Feistel network with cycle walking (Black & Rogaway 2002).

    Args:
        n: how many, from 1 to 2^62.
        key: equal keys give equal orders.
    """

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        bits = max((n - 1).bit_length(), 2)
        self._low = np.uint64(bits // 2)  # the halves may differ by a bit: the domain stays below 2n
        self._high = np.uint64(bits - bits // 2)
        self._low_mask = np.uint64((1 << int(self._low)) - 1)
        self._high_mask = np.uint64((1 << int(self._high)) - 1)
        self._round_keys = mix(np.arange(_ROUNDS, dtype=np.uint64) ^ mix(np.uint64(key)))

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Where the indices (int64, any shape, each in [0, n)) go, int64 of the same shape."""
        values = self._network(np.asarray(indices).astype(np.uint64))
        # The network permutes a power of two; whoever lands outside goes on until inside, which is a
        # bijection still.
        while (outside := values >= self.n).any():
            values[outside] = self._network(values[outside])
        return values.astype(np.int64)

    def _network(self, values: np.ndarray) -> np.ndarray:
        high, low = values >> self._low, values & self._low_mask
        for number, key in enumerate(self._round_keys):
            if number % 2:
                low = low ^ (_scramble(high, key) & self._low_mask)
            else:
                high = high ^ (_scramble(low, key) & self._high_mask)
        return (high << self._low) | low


def _scramble(values: np.ndarray, key: np.uint64) -> np.ndarray:
    product = (values ^ key) * np.uint64(0xD6E8FEB86659FD93)  # array products wrap without a warning
    return product >> np.uint64(32)


class Samples(Dataset):
    """What is learned from. Indexed with `(epoch, first sample)`: a batch.

    Attributes:
        windows: samples of an epoch.
        batch_size: of a batch.
        unit: what a sample is, for people.
        bound: why its samples can't be chosen one by one; empty where they can.
    """

    windows: int
    batch_size: int
    unit = "example"
    bound = ""

    def chosen(self, numbers: np.ndarray, draw: int) -> dict[str, Any]:
        """A batch of any samples (n,), of which nothing is `bound`.

        Args:
            draw: decides what in it is drawn.
        """
        raise NotImplementedError(self.bound or f"{type(self).__name__} has no samples to choose")


class TrainingWindows(Samples):
    """Batches of windows of `seq_len + 1` tokens at stride `seq_len`, in an order of their own in each epoch.

    Indexed with `(epoch, first sample)`: the batch of that and the samples after it, a dict of
    - `tokens` int64 `(batch_size, seq_len + 1)`: a window's last token is the next window's first, so that
      every token but one is a target once an epoch;
    - `documents` int32 `(batch_size, seq_len + 1)`: which document of the window a token belongs to, from 0;
    - `key` int64 `(batch_size,)`: a random number for (seed, epoch, sample), below 2^63.

    Args:
        stream: the corpus's training part, at least `seq_len + 1` tokens.
        seed: decides the offsets, the order and the keys.
    """

    def __init__(self, stream: TokenStream, seq_len: int, batch_size: int, seed: int) -> None:
        self.stream, self.seq_len, self.batch_size, self.seed = stream, seq_len, batch_size, seed
        self.unit = f"window of {seq_len} tokens"
        tokens = len(stream)
        # One window less than would fit leaves room for any offset, so that borders fall elsewhere in each
        # epoch.
        self.windows = max((tokens - seq_len) // seq_len, 1)
        self._room = min(seq_len - 1, tokens - 1 - self.windows * seq_len)
        self._epoch: tuple[int, int, Permutation] | None = None

    def starts(self, epoch: int, samples: np.ndarray) -> np.ndarray:
        """The first token of each sample's window, int64; samples beyond an epoch's windows begin again."""
        if self._epoch is None or self._epoch[0] != epoch:
            offset = int(stream_hash(self.seed, epoch, _OFFSET)) % (self._room + 1)
            self._epoch = epoch, offset, Permutation(self.windows, int(stream_hash(self.seed, epoch, _ORDER)))
        _, offset, order = self._epoch
        return offset + order(samples % self.windows) * self.seq_len

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        epoch, first = place
        return self.batch(epoch, np.arange(first, first + self.batch_size))

    def batch(self, epoch: int, samples: np.ndarray, draw: int | None = None) -> dict[str, Tensor]:
        """A batch of any samples (n,) of an epoch; `draw` decides their keys instead of it."""
        tokens = np.empty((len(samples), self.seq_len + 1), dtype=np.int64)
        documents = np.empty_like(tokens)
        for row, start in enumerate(self.starts(epoch, samples).tolist()):
            self.stream.window_into(start, tokens[row], documents[row])
        keys = mix(stream_hash(self.seed, epoch if draw is None else draw, _KEYS) ^ samples.astype(np.uint64))
        return _batch(tokens, documents - documents[:, :1], keys)

    def chosen(self, numbers: np.ndarray, draw: int) -> dict[str, Tensor]:
        """A batch of any windows (n,) of a cut that is always the same, that of epoch 0."""
        return self.batch(0, numbers, draw)


class ValidationWindows(Dataset):
    """The held-out tokens in their order, each but the first a target exactly once.

    Indexed with a batch's number; the batches are like those of `TrainingWindows`, but always the same.
    Positions after the end have token 0 and document -1; whole windows of them fill the last batch.
    """

    def __init__(self, stream: TokenStream, seq_len: int, batch_size: int) -> None:
        self.stream, self.seq_len, self.batch_size = stream, seq_len, batch_size
        self.windows = max(-(-(len(stream) - 1) // seq_len), 1)

    def __getitem__(self, batch: int) -> dict[str, Tensor]:
        samples = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        tokens = np.zeros((self.batch_size, self.seq_len + 1), dtype=np.int64)
        documents = np.full((self.batch_size, self.seq_len + 1), PADDING, dtype=np.int64)
        for row, sample in enumerate(samples.tolist()):
            start = sample * self.seq_len
            size = min(self.seq_len + 1, len(self.stream) - start)
            if size > 0 and sample < self.windows:
                self.stream.window_into(start, tokens[row, :size], documents[row, :size])
                documents[row, :size] -= documents[row, 0]
        return _batch(tokens, documents, mix(stream_hash(_VALIDATION) ^ samples.astype(np.uint64)))


def _batch(tokens: np.ndarray, documents: np.ndarray, keys: np.ndarray) -> dict[str, Tensor]:
    return {
        "tokens": torch.from_numpy(tokens),
        "documents": torch.from_numpy(documents.astype(np.int32)),
        "key": torch.from_numpy((keys >> np.uint64(1)).astype(np.int64)),
    }
