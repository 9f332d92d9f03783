"""Which examples are held out, and which stand in two sets: by hashes of their content, 64 bits each."""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def _digest(parts: tuple[str, ...]) -> int:
    """A hash of texts, which takes no heed of case, blanks and the width of letters."""
    normal = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in parts)
    digest = hashlib.blake2b("\0".join(normal).encode("utf-8", "replace"), digest_size=16).digest()
    return int.from_bytes(digest[:8])


def content_hashes(
    examples: Sequence[Any], group: Callable[[Any], str | None] = lambda example: None
) -> np.ndarray:
    """Of each example a hash of its content and one of its group, uint64 (examples, 2).

    Args:
        group: what examples that stay together have in common; None for the content.
    """
    found = np.empty((len(examples), 2), dtype=np.uint64)
    for row, example in zip(found, examples, strict=True):
        name = group(example)
        row[:] = content = _digest(example.content)
        row[1] = content if name is None else _digest((name,))
    return found


def overlap(train: np.ndarray, other: np.ndarray) -> int:
    """How many of some hashes (n,) stand among others (m,) too."""
    known = np.sort(train)
    places = np.minimum(known.searchsorted(other), len(known) - 1)
    return int((known[places] == other).sum())


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which of some hashes, uint64 (n,), are held out, bool (n,), roughly this fraction: the same one always
    falls on the same side, whatever the others."""
    return hashes < np.uint64(math.ceil(fraction * 2**64))


def chosen_by_number(count: int, limit: int) -> np.ndarray:
    """`limit` of `count` numbers, in their order: by a hash, so that a smaller limit is a part of a larger
    one."""
    order = (int.from_bytes(hashlib.blake2b(str(i).encode()).digest()[:8]) for i in range(count))
    return np.sort(np.argsort(np.fromiter(order, np.uint64, count), kind="stable")[:limit])
