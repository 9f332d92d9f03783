"""Files of examples, wherever they lie: named, in a folder, under a glob, or inside a zip or tar archive."""

import fnmatch
import glob
import re
import sys
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lm.data.corpus.files import decode, open_binary, plain_suffix
from lm.errors import UserError

_TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_JUNK = {"__MACOSX", "__pycache__"}  # what other systems leave in archives


@dataclass
class Read:
    """What a reader found.

    Args:
        examples: in the file's order.
        skipped: how many could not be used, by reason: `{"answer not in its context": 3}`.
    """

    examples: list
    skipped: dict[str, int] = field(default_factory=dict)
    _gaps: list[int] = field(default_factory=list)  # how many examples stand before each one skipped

    def skip(self, reason: str) -> None:
        """Count one that cannot be used, when its turn comes among the examples."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self._gaps.append(len(self.examples))

    def row_number(self, index: int) -> int:
        """Which row example `index` was read from, counted from 0, those that were skipped too."""
        return index + bisect_right(self._gaps, index)

    def or_error(self, path: str) -> "Read":
        """Itself.

        Raises:
            UserError: there are no examples in it.
        """
        if self.examples:
            return self
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.skipped.items())
        raise UserError(f"nothing can be used in {path}: {reasons or 'it has no examples'}")


@dataclass(frozen=True)
class File:
    """A file's bytes, decompressed.

    Args:
        where: how errors name it: its path, or `ARCHIVE!MEMBER`.
        name: its path inside the folder or archive that was asked for, with `/`; the file's name where it
            was named itself.
        data: the bytes.
    """

    where: str
    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        """The ending that says what it holds: ".jsonl" for "a.JSONL.gz"."""
        return plain_suffix(Path(self.name))

    def text(self, warn: Callable[[str], object] | None = None) -> str:
        """Its text, whatever the encoding, line ends as they are.

        Args:
            warn: is told where it is not UTF-8; null for a line on stderr.

        Raises:
            UserError: it is empty, or no text.
        """
        decoded = decode(self.data)
        if decoded is None:
            raise UserError(f"{self.where} is not text: it looks like a binary file")
        text, encoding = decoded
        if not text.strip():
            raise UserError(f"{self.where} is empty")
        if encoding != "utf-8":
            warn = warn or (lambda line: print(f"warning: {line}", file=sys.stderr))
            hint = "convert it to UTF-8 if that is wrong"
            warn(f"{self.where} is not UTF-8; it was read as {encoding}: {hint}")
        return text


def mended(value: object) -> object:
    """The same with halves of surrogate pairs, which no UTF-8 can hold, replaced by U+FFFD; looks into lists
    and objects."""
    if isinstance(value, str):
        if not _SURROGATE.search(value):
            return value
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [mended(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended(item) for key, item in value.items()}
    return value


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
    elif place.exists():
        found = iter([_load(place, place.name)])
    elif glob.has_magic(str(place)):
        matches = map(Path, sorted(glob.glob(str(place), recursive=True)))  # noqa: PTH207 - absolute ones too
        found = (_load(match, match.name) for match in matches if match.is_file())
    elif "!" in path and Path(path.partition("!")[0]).expanduser().is_file():
        raise UserError(f"{path}: {path.partition('!')[0]} is not a zip or tar archive")
    else:
        raise UserError(f"no such file or folder: {path.partition('!')[0]}")
    count = 0
    for file in found:
        count += 1
        yield file
    if not count:
        raise UserError(f"there is nothing to read in {path}")


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


def _load(path: Path, name: str) -> File:
    with open_binary(path) as file:
        return File(str(path), name, file.read())


def _in_folder(folder: Path, wanted: Callable[[str], bool]) -> Iterator[File]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in sorted(name for name in names if not _hidden(name) and wanted(name)):
        yield _load(folder / name, name)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in PurePosixPath(name).parts)


def _archived(archive: Path, member: str, wanted: Callable[[str], bool]) -> Iterator[File]:
    members = _zipped if archive.suffix.lower() == ".zip" else _tarred
    roots: set[str] = set()
    seen: list[str] = []

    def chosen(path: str) -> str | None:
        """The name below the member, null for a file that is not in it."""
        if _hidden(path):
            return None
        seen.append(path)
        found = _below(path, member)
        if found is None or not wanted(found[1]):
            return None
        roots.add(found[0])
        return found[1]

    for path, name, data in members(archive, chosen):
        if len(roots) > 1:
            first, second = sorted(roots)
            raise UserError(f"{archive}!{member} may mean {first} or {second}: write one of them after the !")
        yield File(f"{archive}!{path}", name, data)
    if not roots:
        there = f"it holds {_outline(seen)}" if seen else "it is empty"
        what = f"there is no {member} in {archive}" if member else f"there is nothing to read in {archive}"
        raise UserError(f"{what}: {there}")


def _below(path: str, member: str) -> tuple[str, str] | None:
    """Which folder or file of the archive the member means for this path, and the path's name below it."""
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
        """See `TarInfo.frombuf`; a block of zeros is the one proper end of an archive.

        Raises:
            tarfile.ReadError: it is no header.
        """
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from error


Member = tuple[str, str, bytes]  # the path in the archive, the name below what was asked for, the bytes


def _zipped(archive: Path, chosen: Callable[[str], str | None]) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(archive) as file:
            paths = sorted(info.filename for info in file.infolist() if not info.is_dir())
            for path, name in [(path, chosen(path)) for path in paths]:
                if name is not None:
                    yield path, name, file.read(path)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is not a zip file, or it is cut short or damaged: {error}") from error
    except (OSError, RuntimeError) as error:
        # zipfile's own: a RuntimeError where a password is wanted, its NotImplementedError for a compression
        # that Python can't undo.
        raise UserError(f"cannot read {archive}: {error}") from error


def _tarred(archive: Path, chosen: Callable[[str], str | None]) -> Iterator[Member]:
    # As a stream: what is compressed can only be read from front to back.
    with open_binary(archive) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as file:
                for info in file:
                    file.members = []  # else it keeps all it has seen
                    path = info.name.removeprefix("./")
                    name = chosen(path) if info.isfile() else None
                    if name is not None:
                        yield path, name, file.extractfile(info).read()
        except tarfile.TarError as error:
            raise UserError(f"{archive} is not a tar file, or it is cut short or damaged: {error}") from error
