"""What the tasks of a stage leave in the work folder, and what they count.

A file has its name when it is whole: whoever is killed has left nothing that is taken for done.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from lm.data.corpus.documents import Document
from lm.data.corpus.files import open_binary, zstd_for

MOST_WARNED = 50  # messages that are kept
_ENDINGS = {"documents": "jsonl.zst", "removed": "jsonl.zst", "tally": "json", "drops": "json"}


@dataclass
class Tally:
    """What went through a stage: all that the report says of it, added up over its tasks.

    Attributes:
        entered: documents and bytes of each source before the first step.
        left: the same behind each step, by the step's number.
        reasons: documents that a step left out, by reason.
        counts: what else the steps counted.
        lengths: documents that stay of 2^n to 2^(n + 1) characters, by n.
        skipped: files that could not be read (any further), and why.
        warnings: how many more things were passed over within files; `warned` are the first ones.
        seconds: of work behind each step, reading first; not in the report, since it never is the same.
    """

    entered: dict[str, list[int]] = field(default_factory=dict)
    left: list[dict[str, list[int]]] = field(default_factory=list)
    reasons: list[dict[str, int]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    skipped: list[list[str]] = field(default_factory=list)
    warnings: int = 0
    warned: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, steps: int) -> "Tally":
        """An empty one."""
        return cls(
            left=[{} for _ in range(steps)],
            reasons=[{} for _ in range(steps)],
            counts=[{} for _ in range(steps)],
            seconds=[0.0] * steps,
        )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(  # of every field the sum
            _sum(self.entered, other.entered),
            [_sum(a, b) for a, b in zip(self.left, other.left, strict=True)],
            [_sum(a, b) for a, b in zip(self.reasons, other.reasons, strict=True)],
            [_sum(a, b) for a, b in zip(self.counts, other.counts, strict=True)],
            _sum(self.lengths, other.lengths),
            self.skipped + other.skipped,
            self.warnings + other.warnings,
            (self.warned + other.warned)[:MOST_WARNED],
            [a + b for a, b in zip(self.seconds, other.seconds, strict=True)],
        )


def _sum(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Of counts, or of lists of counts, by key."""
    total = dict(a)
    for key, value in b.items():
        if key in total and isinstance(value, list):
            total[key] = [x + y for x, y in zip(total[key], value, strict=True)]
        else:
            total[key] = total[key] + value if key in total else value
    return total


def count(into: dict[str, list[int]], key: str, size: int) -> None:
    """One more document, and its bytes, under a key."""
    held = into.setdefault(key, [0, 0])
    held[0] += 1
    held[1] += size


@contextmanager
def lines(path: Path) -> Iterator[IO[bytes]]:
    """A compressed file to write lines into, which gets its name when it is whole."""
    zstd = zstd_for("preparing a corpus by a recipe", "corpus")
    # Two processes may write the same at once: one that was orphaned by a kill, and its successor.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zstd.open(partial, "wb", level=1) as file:
            yield file
        if not partial.stat().st_size:
            partial.write_bytes(zstd.compress(b""))  # a whole file of no lines
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as a whole file."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    np.save(partial, array)
    partial.replace(path)


@contextmanager
def together(path: Path, parts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The notes of all tasks one after the other, in a file while they are looked at and not in memory."""
    filled = [part for part in parts if len(part)] or [np.empty(0)]
    shape = (sum(map(len, filled)), *filled[0].shape[1:])
    if not shape[0]:
        yield filled[0]
        return
    whole = np.lib.format.open_memmap(path, "w+", filled[0].dtype, shape)
    try:
        first = 0
        for part in filled:
            whole[first : first + len(part)] = part
            first += len(part)
        yield whole
    finally:
        path.unlink()


def encoded(row: dict[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class StageFiles:
    """The files of a stage in the work folder.

    Args:
        folder: of the work.
        number: of the stage, from 0.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder / f"stage-{number}"

    def part(self, kind: str, rank: int) -> Path:
        """A task's: documents, removed, tally; of a reduction notes, lengths, gone, drops."""
        ending = _ENDINGS.get(kind, "npy")
        return self.folder / f"{kind}-{rank:05}.{ending}"

    def rows(self, kind: str, rank: int) -> Iterator[dict[str, Any]]:
        """The lines of a task's file."""
        with open_binary(self.part(kind, rank)) as file:
            for line in file:
                yield json.loads(line)

    def documents(self, rank: int) -> Iterator[Document]:
        """Those that a task has kept."""
        for row in self.rows("documents", rank):
            yield Document(**row)

    def tally(self, rank: int) -> Tally:
        """A task's counts."""
        return Tally(**json.loads(self.part("tally", rank).read_text(encoding="utf-8")))
