"""Locks that the kernel gives back when the processes that hold them are no more, be it by SIGKILL.

A lock is the descriptor of an open file: a process that is given it holds the lock, too, until it ends, which
`filelock` has no words for. `os.close` gives it back.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock


def take(path: Path, wait: bool = True) -> int | None:
    """A lock by its file; None where another holds it and this one doesn't wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock, waiting for it."""
    lock = take(path)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)


class JournalLock(JournalFileOpenLock):
    """For Optuna's journal, whose own locks a killed process leaves behind. Half a line, where a disk
    was full, is cut off: the journal would be unreadable from there on.

    Args:
        path: of the lock's file.
        journal: the journal's.
    """

    def __init__(self, path: Path, journal: Path) -> None:
        super().__init__(str(path))
        self.path, self.journal = path, journal
        self._lock: int | None = None

    def acquire(self) -> bool:
        self._lock = take(self.path)
        try:
            self._mend()
        except BaseException:
            self.release()
            raise
        return True

    def _mend(self) -> None:
        with self.journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
