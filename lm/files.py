"""Files and folders that stand under their name when they are whole and on the disk, and not before."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from lm.errors import UserError


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, which is on the disk afterwards."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that gets its name when it is whole; until then, and where writing fails, what lay
    there before is untouched."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with synced(partial) as file:
            yield file
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes a whole file; text as UTF-8. See `atomic`."""
    with atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that gets its name when it is whole: yields another one beside it, which is renamed;
    nothing is left where filling it fails. What a killed process left is removed first."""
    partial = folder.with_name(folder.name + ".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        yield partial
        _sync_names(partial)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_names(folder.parent)


def read_text(path: str | Path) -> str:
    """A file's text.

    Raises:
        UserError: it can't be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: give one file of text") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error


def make_once(folder: Path, fill: Callable[[Path], object], last: str, renew: bool = False) -> bool:
    """Makes a folder where it is not there already, however many processes ask for it at once.

    Args:
        last: the file that `fill` writes at the end: where it is, the folder is whole.
        renew: take away what is left of a folder that is not.

    Returns:
        whether this one has made it.
    """
    if (folder / last).exists():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / last).exists():
            return False
        if renew and folder.exists():
            shutil.rmtree(folder)
        with atomic_folder(folder) as partial:
            fill(partial)
    return True


def _sync_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_target(path: Path, what: str, ending: str, force: bool) -> None:
    """See that a file may be written there, before anything is made for it.

    Raises:
        UserError: its name ends otherwise, its folder is not there, or it is, and not to be replaced.
    """
    if path.suffix != ending:
        raise UserError(f"{path}: the name of {what} ends in {ending}", status=2)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: No such file or directory")
    if path.exists() and not force:
        raise UserError(f"{path} is there already: name another file, or `force` to replace it")


def beside(model: str | Path, what: str) -> Path:
    """The folder for what is said of a model and is no part of it, `eval` or `audit`: in its run, for each of
    its checkpoints one; of a model from elsewhere, here."""
    path = Path(model)
    if path.is_dir():
        return Path(what) / path.resolve().name
    return path.parent / (what if path.name == "best.ckpt" else f"{what}-{path.stem}")
