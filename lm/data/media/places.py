"""Where the bytes of a picture or a sound lie: a file, or a part of an archive, which is never unpacked."""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lm.data.corpus.files import files_at, open_binary
from lm.data.examples.files import below, hidden, split_member
from lm.errors import UserError
from lm.files import atomic

_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # what decompressing says


class Place(NamedTuple):
    """Where something lies, in plain values.

    Args:
        path: of the file or the archive.
        name: inside the folder or archive that was asked for, with `/`; of a file that was named itself its
            name.
        start: the first byte in the file; −1: a member of a zip archive, by `name`.
        size: bytes; −1: all of the file.
        member: its name in a zip archive.
        data: the bytes themselves, where they lie in no file.
    """

    path: str
    name: str
    start: int = 0
    size: int = -1
    member: str = ""
    data: bytes | None = None

    @property
    def where(self) -> str:
        """How messages name it."""
        return self.path if self.size < 0 and not self.member else f"{self.path}!{self.member or self.name}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: it is not there any more, or can't be read.
        """
        if self.data is not None:
            return self.data
        try:
            if self.member:
                return _zip(self.path, Path(self.path).stat().st_mtime_ns, os.getpid()).read(self.member)
            with Path(self.path).open("rb") as file:
                file.seek(self.start)
                return file.read(self.size)
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, *_DAMAGED) as error:
            raise UserError(
                f"cannot read {self.where}: {getattr(error, 'strerror', None) or error}"
            ) from error


@lru_cache(4)
def _zip(path: str, changed: int, process: int) -> zipfile.ZipFile:
    """An archive that stays open, in each process its own."""
    return zipfile.ZipFile(path)


def places(path: str, wanted: Callable[[str], bool], plain: Path) -> Iterator[Place]:
    """Where the files lie that a path means, in the order of their names; in a tar archive in its own.

    Args:
        path: a file, a folder (and all below it; nothing hidden), a glob, or an archive, perhaps
            `ARCHIVE!FOLDER`.
        wanted: which files of a folder or archive are meant, by their name.
        plain: folder for a copy of a compressed tar archive, in which nothing can be found without reading
            all before it.

    Raises:
        UserError: nothing lies there, nothing in it is wanted, or an archive is damaged.
    """
    inside = split_member(path)
    found = _archived(*inside, wanted, plain) if inside is not None else _on_disk(path, wanted)
    first = next(found, None)
    if first is None:
        raise UserError(f"there is nothing to read in {path}")
    yield first
    yield from found


def _on_disk(path: str, wanted: Callable[[str], bool]) -> Iterator[Place]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        yield from (Place(str(file), file.name) for file in files_at(folder))
        return
    for file in files_at(folder):
        name = file.relative_to(folder).as_posix()
        if not hidden(name) and wanted(name):
            yield Place(str(file), name)


def _archived(archive: Path, member: str, wanted: Callable[[str], bool], plain: Path) -> Iterator[Place]:
    try:
        for place in _zipped(archive) if archive.suffix.lower() == ".zip" else _tarred(archive, plain):
            found = below(place.name, member)
            if found is not None and not hidden(place.name) and wanted(found[1]):
                yield place._replace(name=found[1])
    except (zipfile.BadZipFile, tarfile.TarError, OSError, *_DAMAGED) as error:
        raise UserError(f"{archive} can't be read: is it whole? {error}") from error


def _zipped(archive: Path) -> Iterator[Place]:
    with zipfile.ZipFile(archive) as file:
        for info in sorted(file.infolist(), key=lambda info: info.filename):
            if not info.is_dir():
                yield Place(str(archive), info.filename, member=info.filename)


def _tarred(archive: Path, plain: Path) -> Iterator[Place]:
    if not tarfile.is_tarfile(archive):
        raise UserError(f"{archive} is not a tar file, or it is cut short or damaged")
    with archive.open("rb") as file:
        compressed = not _is_plain(file.read(512))
    if compressed:
        archive = _decompressed(archive, plain)
    with tarfile.open(archive, "r:") as file:
        for info in file:
            file.members = []  # else it keeps all it has seen
            if info.isfile() and not info.issparse():
                yield Place(str(archive), info.name.removeprefix("./"), info.offset_data, info.size)


def _is_plain(block: bytes) -> bool:
    """Whether a file begins as a tar archive that is not compressed."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _decompressed(archive: Path, folder: Path) -> Path:
    """The same archive without its compression, which is made once."""
    state = archive.stat()
    copy = folder / f"{archive.name.partition('.')[0]}-{state.st_size}-{state.st_mtime_ns}.tar"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open_binary(archive) as source, atomic(copy) as target:
            while piece := source.read(1 << 20):
                target.write(piece)
    return copy
