"""Bytes on disk to text: compression and encodings, whatever the file turns out to hold."""

import bz2
import codecs
import glob
import gzip
import lzma
import re
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm.errors import UserError, not_installed

_CODE = """.py .pyi .pyx .ipynb .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m .java .kt .scala .go .rs .swift
.rb .php .pl .pm .lua .r .jl .hs .ml .ex .exs .erl .clj .lisp .el .scm .cs .fs .dart .zig .nim .sh .bash .zsh
.fish .ps1 .bat .sql .proto .cmake .gradle .js .mjs .ts .jsx .tsx .vue .css .scss .html .htm .xml .yaml .yml
.toml .ini .cfg .tex"""
CODE = frozenset(_CODE.split())  # endings of programs and of other formal languages, as they are
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"
_HAN = re.compile("[\u4e00-\u9fff]")
_CHINESE = re.compile("[\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e“”‘’—…·]")  # with its punctuation
_WORD = re.compile("([\u4e00-\u9fff])(?!\\1)[\u4e00-\u9fff]")
_BOMS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def plain_suffix(path: Path) -> str:
    """The ending that says what a file holds: ".jsonl" for "a.JSONL.gz"."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def plain_name(path: Path) -> str:
    """A file's or folder's name without endings, as a part of another name."""
    return re.sub(r"[^\w-]+", "-", path.name.split(".")[0]).strip("-")[:40]


def files_at(path: Path) -> list[Path]:
    """The file, all files below a folder (hidden ones too), or those that a glob matches; sorted by name."""
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file()]
        return sorted(found, key=lambda file: file.relative_to(path).as_posix())
    if path.exists():
        return [path]
    matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207 - absolute ones too
    return [match for match in matches if match.is_file()]


@contextmanager
def open_binary(path: Path):
    """Opens a file for reading, decompressed by its ending (.gz, .bz2, .xz, .zst).

    Yields:
        a binary file object.

    Raises:
        UserError: the file cannot be opened, or, while it is being read, the compressed data is cut short or
            damaged, or what undoes .zst is missing.
    """
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
    suffix = path.suffix.lower()
    try:
        with openers.get(suffix, open)(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        raise UserError(f"{path} is cut short or damaged ({error}): get it again") from error


def zstd_for(what: str, extra: str) -> Any:
    """The module for .zst, which Python has from 3.14 on.

    Args:
        what: is done with it, for the message where it is missing.
        extra: of the project, that brings it.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise not_installed(what, "backports.zstd", extra) from error
    return zstd


@contextmanager
def _open_zst(path: Path, mode: str):
    zstd = zstd_for(f"reading {path}", "zst")
    try:
        with zstd.open(path, mode) as file:
            yield file
    except zstd.ZstdError as error:
        raise EOFError(str(error)) from error


def decode(data: bytes) -> tuple[str, str] | None:
    """The text in some bytes of unknown encoding, with its line ends as they are.

    UTF-8 is believed where it is valid, UTF-16 and UTF-32 by their byte order mark. Else GB 18030 (the usual
    encoding of old Chinese files) where what it gives beyond ASCII is Chinese, else Windows-1252 or Latin-1.

    Returns:
        the text and the encoding's name; None where the bytes look like no text at all.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding), encoding
            except UnicodeDecodeError:
                return None
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    mended = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")
    # A few bad bytes, as where a file was cut inside a character, don't make it another encoding: in UTF-8
    # the bytes of a character vouch for each other.
    beyond_ascii = sum(char > "\x7f" for char in mended)
    if b"\0" not in data and 100 * mended.count("\ufffd") < beyond_ascii:
        return mended, "UTF-8 with its broken bytes replaced"
    control = len(data) - len(data.translate(None, _CONTROL))
    if b"\0" in data or control > len(data) / 20:
        return None
    for encoding, plausible in ("gb18030", _mostly_chinese), ("cp1252", bool):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if plausible(text):
            return text, encoding
    return data.decode("latin-1"), "latin-1"


def _mostly_chinese(text: str) -> bool:
    """Whether GB 18030 gave Chinese beyond ASCII, and not the nonsense it makes of other encodings."""
    if len(_CHINESE.findall(text)) < sum(char > "\x7f" for char in text) / 2:
        return False
    han = _HAN.findall(text)
    # Of two accented letters in a row nonsense makes one character, of a leader as "····" the same ones. In
    # Chinese different ones stand side by side, even where it is a few words in an English text.
    if len(han) < len(text) / 2 and not _WORD.search(text):
        return False
    # Nonsense hits rare characters; Chinese is mostly of GB 2312's first level, whose first byte is B0 to D7.
    leads = "".join(han[:10_000]).encode("gb2312", "ignore")[::2]
    return sum(0xB0 <= lead <= 0xD7 for lead in leads) > min(len(han), 10_000) / 2
