"""Rows on disk: written once, one after another, then read by number by every process, and never all in
memory."""

import base64
import hashlib
import inspect
import json
import mmap
import sys
import uuid
from abc import abstractmethod
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

import lm
from lm.errors import UserError
from lm.files import atomic, make_once, synced, write_atomically

T = TypeVar("T")
_ROWS, _FACTS, _OFFSETS = "rows.json", "facts.json", "offsets"


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for; equal to any with the same items."""

    @abstractmethod
    def item(self, number: int) -> T:
        """The item with a number from 0."""

    def __getitem__(self, index: Any) -> Any:
        numbers = range(len(self))[index]
        return self.item(numbers) if isinstance(numbers, int) else [self.item(i) for i in numbers]

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None


class Rows(Lazy[T]):
    """The rows of a folder that `kept` made. Processes that read ahead are handed its name alone.

    Args:
        folder: where they lie.
        make: what a row's plain values become; None: they stay.
        order: the numbers of the rows that are meant, int64 (rows,); None for all.
    """

    def __init__(
        self, folder: Path, make: Callable[[Any], T] | None = None, order: np.ndarray | None = None
    ) -> None:
        self.folder, self.make, self.order = folder, make, order
        self.facts: dict[str, Any] = json.loads((folder / _FACTS).read_bytes())
        # A plain view: indexing an np.memmap costs more than the rest.
        self._offsets = np.asarray(np.load(folder / f"{_OFFSETS}.npy", mmap_mode="r"))
        with (folder / _ROWS).open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._offsets[-1] else b""

    def __reduce__(self) -> tuple:
        return Rows, (self.folder, self.make, self.order)

    def __len__(self) -> int:
        return len(self._offsets) - 1 if self.order is None else len(self.order)

    def item(self, number: int) -> T:
        if self.order is not None:
            number = self.order[number]
        values = _DECODE(self._data[self._offsets[number] : self._offsets[number + 1]].decode())
        return values if self.make is None else self.make(values)

    def taken(self, order: np.ndarray) -> "Rows[T]":
        """Those rows of all that the folder holds, in this order."""
        return Rows(self.folder, self.make, order)

    def column(self, name: str, compute: Callable[["Rows[T]"], np.ndarray] | None = None) -> np.ndarray:
        """What stands beside the rows under a name, (rows, …).

        Args:
            compute: makes it for all rows of the folder, where it is not there yet.
        """
        path = self.folder / f"{name}.npy"
        if compute is not None and not path.exists():
            with FileLock(f"{self.folder}.lock"):
                if not path.exists():
                    with atomic(path) as file:
                        np.save(file, compute(Rows(self.folder, self.make)))
        found = np.asarray(np.load(path, mmap_mode="r"))
        return found if self.order is None else found[self.order]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which rows these are, in which order, and of what is known of them."""
        order = b"" if self.order is None else np.ascontiguousarray(self.order, dtype="<i8").tobytes()
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode() + order).hexdigest()


class RowWriter:
    """Writes the files of `Rows` into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets, self._numbers = array("q", [0]), defaultdict(lambda: array("q"))
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, values: Any, /, **numbers: int) -> None:
        """Appends a row of plain values and arrays, and integers for the columns beside it."""
        data = encode_row(values)
        self._file.write(data)
        self._digest.update(data)
        self._offsets.append(self._offsets[-1] + len(data))
        for name, number in numbers.items():
            self._numbers[name].append(number)

    def write(self, fill: Callable[["RowWriter"], dict[str, Any]]) -> None:
        """The rows that `fill` adds, and what stands beside them."""
        with synced(self._folder / _ROWS) as self._file:
            facts = fill(self)
        for name, numbers in {_OFFSETS: self._offsets, **self._numbers}.items():
            with synced(self._folder / f"{name}.npy") as file:
                np.save(file, np.frombuffer(numbers, dtype=np.int64))
        facts = {**facts, "digest": self._digest.hexdigest()}
        write_atomically(self._folder / _FACTS, json.dumps(facts))


def kept(folder: Path, fill: Callable[[RowWriter], dict[str, Any]]) -> Path:
    """The folder with the rows that `fill` writes; it returns facts about them, plain values. Where the
    folder is there already, or another process is making it, nothing is done a second time.

    Raises:
        UserError: it can't be written. Nothing is left behind then, nor if `fill` raises.
    """
    try:
        make_once(folder, lambda partial: RowWriter(partial).write(fill), _FACTS, renew=True)
    except OSError as error:
        hint = "make room, or give `data.data_dir` a folder that can be written"
        raise UserError(f"cannot write {folder}: {error.strerror or error}: {hint}") from error
    return folder


def encode_row(row: Any) -> bytes:
    """A row as JSON."""
    return _ENCODE(row).encode()


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers, which JSON doesn't know."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": data, "dtype": value.dtype.str, "shape": value.shape}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value: an example's features are lists and numbers")


def _restored(found: dict[str, Any]) -> Any:
    if "__array__" not in found:
        return found
    data = np.frombuffer(base64.b64decode(found["__array__"]), dtype=found["dtype"])
    return data.reshape(found["shape"]).copy()


_ENCODE = json.JSONEncoder(default=_plain, separators=(",", ":")).encode
_DECODE = json.JSONDecoder(object_hook=_restored).decode


def _told(value: Any) -> Any:
    """What JSON doesn't know as it does, equal for equal values in whichever process."""
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(each, sort_keys=True, default=_told) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value)
    if isinstance(value, PurePath):
        return str(value)
    return uuid.uuid4().hex  # whether it is equal nobody can tell


def key_of(*parts: Any) -> str:
    """12 hexadecimal digits that change with any of these values; always, where one is neither plain nor a
    set, a dataclass, an array or a path of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_told).encode()).hexdigest()[:12]


@cache
def code_of(*classes: type) -> str:
    """A hash of all code that rows depend on: of lm, and of the modules of these classes and their bases,
    torch's and Lightning's left out. Changed code never finds the rows of the old."""
    files = set(Path(lm.__file__).parent.rglob("*.py"))
    for base in (base for one in classes for base in one.__mro__):
        if base.__module__.partition(".")[0] in {"torch", "lightning", *sys.stdlib_module_names}:
            continue
        path = None
        with suppress(TypeError):
            path = inspect.getsourcefile(base)
        if path is None:  # as in a notebook: nobody can tell whether it has changed
            return uuid.uuid4().hex
        files.add(Path(path))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
