"""Files of examples, wherever they lie: named, in a folder, under a glob, or inside a zip or tar archive."""

import codecs
import fnmatch
import glob
import io
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, TextIO

from lm.data.corpus.files import decode, files_at, open_binary, plain_suffix
from lm.errors import UserError

_TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_JUNK = {"__MACOSX", "__pycache__"}  # what other systems leave in archives
_IN_MEMORY = 1 << 24  # bytes of an archive's member; larger ones lie in a temporary file while they are read


@dataclass(frozen=True)
class Skipped:
    """A row that a reader can't use, in its place among the examples."""

    reason: str


class Mended(Skipped):
    """Something that a reader can't use as it is, and has put right."""


class Known(dict[str, Any]):
    """What a reader knows of its examples only when it has seen all of them, at its end; see
    `lm.data.examples.records.Example.known`."""


class Read:
    """What a reader finds, one example after another with the number of its row, from 0, skipped ones counted
    too; an error where there was none.

    Attributes:
        skipped: how many rows could not be used, by reason; when all have been read.
        mended: how much was put right, likewise.
        known: see `Known`; likewise.
    """

    def __init__(self, found: Iterable[Any], path: str) -> None:
        self._found, self._path = found, path
        self.skipped: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.known = Known()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        used = False
        for number, found in enumerate(self._found):
            if isinstance(found, Skipped):
                (self.mended if isinstance(found, Mended) else self.skipped)[found.reason] += 1
            elif isinstance(found, Known):
                self.known = found
            else:
                used = True
                yield number, found
        if not used:
            reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.skipped.items())
            raise UserError(f"nothing can be used in {self._path}: {reasons or 'it has no examples'}")

    @cached_property
    def examples(self) -> list:
        """All of them, in memory."""
        found = [example for _, example in self]
        return [example.known(**self.known) for example in found]


@dataclass
class File:
    """A file that can be read, more than once, decompressed.

    Args:
        where: how errors name it: its path, or `ARCHIVE!MEMBER`.
        name: its path inside the folder or archive that was asked for, with `/`; the file's name where it
            was named itself.
        content: its path, or what it holds, as an open file that can go back to its start.
        warn: is told, once, where its text is not UTF-8.
    """

    where: str
    name: str
    content: Path | BinaryIO
    warn: Callable[[str], object] = lambda line: print(f"warning: {line}", file=sys.stderr)

    @property
    def suffix(self) -> str:
        """The ending that says what it holds: ".jsonl" for "a.JSONL.gz"."""
        return plain_suffix(Path(self.name))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its bytes, from the start."""
        if isinstance(self.content, Path):
            with open_binary(self.content) as file:
                yield file
        else:
            self.content.seek(0)
            yield self.content

    @property
    def data(self) -> bytes:
        """All of its bytes."""
        with self.open() as file:
            return file.read()

    @contextmanager
    def opened(self, newline: str = "\n") -> Iterator[TextIO]:
        """Its text, whatever the encoding, as a stream of lines. Only what is not UTF-8 is read whole.

        Args:
            newline: what ends a line; "" for any of the usual ends. They stay as they are.

        Raises:
            UserError: it is empty, or no text.
        """
        if self._foreign is not None:
            yield io.StringIO(self._foreign, newline=newline)
            return
        with self.open() as file:
            stream = io.TextIOWrapper(file, "utf-8-sig", newline=newline)
            try:
                yield stream
            finally:
                with suppress(ValueError):  # where nobody has read on, it is closed already
                    stream.detach()  # else it would close the file

    @cached_property
    def _foreign(self) -> str | None:
        """The text of what is not UTF-8; None of what is, which is looked at piece by piece."""
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        blank, text = True, None
        try:
            with self.open() as file:
                while piece := file.read(1 << 20):
                    blank = not decoder.decode(piece).strip() and blank
            decoder.decode(b"", final=True)  # it may be cut inside a character
        except UnicodeDecodeError:
            decoded = decode(self.data)
            if decoded is None:
                raise UserError(f"{self.where} is not text: it looks like a binary file") from None
            text, encoding = decoded
            blank = not text.strip()
        if blank:
            raise UserError(f"{self.where} is empty")
        if text is not None:
            hint = "convert it to UTF-8 if that is wrong"
            self.warn(f"{self.where} is not UTF-8; it was read as {encoding}: {hint}")
        return text

    def text(self) -> str:
        """All of its text; see `opened`."""
        with self.opened() as file:
            return file.read()


def split_member(path: str) -> tuple[Path, str] | None:
    """The archive and the member (empty for all of it) that a path names; None where it names no archive."""
    place = Path(path).expanduser()
    if place.exists():
        return (place, "") if _is_archive(place) else None
    archive, mark, member = path.partition("!")
    while mark:
        place = Path(archive).expanduser()
        if _is_archive(place) and place.is_file():
            return place, member.strip("/")
        more, mark, member = member.partition("!")
        archive += f"!{more}"
    return None


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or bool(_TAR.search(path.name))


def read_files(path: str, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[File]:
    """The files that a path means, one at a time, sorted by name (in a tar archive: as they stand in it).

    Args:
        path: a file, a folder (and all below it; nothing hidden), a glob, or `ARCHIVE!MEMBER`, where the
            member is a file, a folder or a glob and may leave out the folders it lies in. An archive that
            holds one file needs no member.
        wanted: which files of a folder or archive are read, by their name.

    Raises:
        UserError: there is no such file, it cannot be read, it is damaged, or nothing in it is wanted.
    """
    place = Path(path).expanduser()
    inside = split_member(path)
    if inside is not None:
        found = _archived(*inside, wanted)
    elif place.is_dir():
        found = _in_folder(place, wanted)
    elif place.exists() or glob.has_magic(str(place)):
        found = (File(str(match), match.name, match) for match in files_at(place))
    elif "!" in path and Path(path.partition("!")[0]).expanduser().is_file():
        raise UserError(f"{path}: {path.partition('!')[0]} is not a zip or tar archive")
    else:
        raise UserError(f"no such file or folder: {path.partition('!')[0]}")
    first = next(found, None)
    if first is None:
        raise UserError(f"there is nothing to read in {path}")
    yield first
    yield from found


def read_alike(path: str, wanted: Callable[[str], bool]) -> Iterator[File]:
    """The files that together are one set of examples; as `read_files`, but a file or member that is named is
    read whatever its ending, and of an archive one file is read, or the member that is named.

    Raises:
        UserError: what `read_files` raises, or the archive holds several such files.
    """
    place, member = split_member(path) or (None, "")
    if place is None or (glob.has_magic(member) and PurePosixPath(member).suffix):
        yield from read_files(path, wanted if Path(path).expanduser().is_dir() else lambda name: True)
        return
    itself = PurePosixPath(member).name  # what a member that is a file is called; a folder's have other names
    names: list[str] = []
    for file in read_files(path, lambda name: wanted(name) or name == itself):
        names.append(file.where)
        if len(names) > 1 and not member:
            raise UserError(f"{place} holds several files: name one, such as {names[0]} or {names[1]}")
        yield file


def source_files(path: str) -> list[Path]:
    """The files on disk that a path means, sorted: whatever changes in them changes the examples."""
    inside = split_member(path)
    return [inside[0]] if inside is not None else files_at(Path(path).expanduser())


def _in_folder(folder: Path, wanted: Callable[[str], bool]) -> Iterator[File]:
    for path in files_at(folder):
        name = path.relative_to(folder).as_posix()
        if not hidden(name) and wanted(name):
            yield File(str(path), name, path)


def hidden(name: str) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in PurePosixPath(name).parts)


def _archived(archive: Path, member: str, wanted: Callable[[str], bool]) -> Iterator[File]:
    roots: set[str] = set()
    seen: list[str] = []
    kind, members = ("zip", _zipped) if archive.suffix.lower() == ".zip" else ("tar", _tarred)
    try:
        with open_binary(archive) as data:
            for path, open_member in members(data):
                if hidden(path):
                    continue
                seen.append(path)
                root, name = below(path, member) or (None, "")
                if root is None or not wanted(name):
                    continue
                roots.add(root)
                if len(roots) > 1:
                    choice = " or ".join(sorted(roots))
                    raise UserError(f"{archive}!{member} may mean {choice}: write one of them after the !")
                content = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - as long as somebody reads it
                with open_member() as stream:
                    shutil.copyfileobj(stream, content)
                yield File(f"{archive}!{path}", name, content)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is not a {kind} file, or it is cut short or damaged: {error}") from error
    except RuntimeError as error:  # a zip's password, or a compression that Python can't undo
        raise UserError(f"cannot read {archive}: {error}") from error
    if not roots:
        there = f"it holds {_outline(seen)}" if seen else "it is empty"
        what = f"there is no {member} in {archive}" if member else f"there is nothing to read in {archive}"
        raise UserError(f"{what}: {there}")


def below(path: str, member: str) -> tuple[str, str] | None:
    """Which folder or file of the archive the member means for this path, and the name below it."""
    whole = f"/{path}"
    if not member:
        return "", path
    if glob.has_magic(member):
        return ("", path) if fnmatch.fnmatch(whole, f"*/{member}") else None
    if whole.endswith(f"/{member}"):
        return path, PurePosixPath(path).name
    head, found, tail = whole.partition(f"/{member}/")
    return (f"{head}/{member}".lstrip("/"), tail) if found else None


def _outline(names: list[str], most: int = 6) -> str:
    """A few names, or the folders where there are many files."""
    if len(names) > most:
        names = sorted({str(PurePosixPath(name).parent) for name in names})
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


class _Header(tarfile.TarInfo):
    """A member's header. Where a later one is cut short or missing, tarfile takes that for the end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """A block of zeros is the one proper end of an archive."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error


Member = tuple[str, Callable[[], BinaryIO]]  # the path in the archive, and what opens it


def _zipped(stream: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as file:
        for path in sorted(info.filename for info in file.infolist() if not info.is_dir()):
            yield path, partial(file.open, path)


def _tarred(stream: BinaryIO) -> Iterator[Member]:
    # As a stream: what is compressed can only be read from front to back.
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as file:
        for info in file:
            file.members = []  # else it keeps all it has seen
            if info.isfile():
                yield info.name.removeprefix("./"), partial(file.extractfile, info)
