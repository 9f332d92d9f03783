"""Web pages: the main text of HTML files and of a crawl's WARC archives."""

import codecs
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import decode, open_binary
from lm.data.corpus.formats import mended
from lm.errors import UserError, not_installed

_HTML = {"text/html", "application/xhtml+xml"}
_LARGEST = 20_000_000  # bytes of a page: what is more is a table or a trap, and takes gigabytes as a tree
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)\b[^<>]{0,500}?(?:charset|encoding)\s*=\s*["']?([\w:.-]{2,40})""", re.I
)
# What browsers take these names for.
_MEANT = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "ascii": "cp1252",
}
_MEANT |= {"us-ascii": "cp1252", "shift_jis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs"}


class Html(Source):
    """Pages saved as files (.html, .htm, .xhtml), a document each: the main text without menus and comments,
    as trafilatura finds it. The title goes into meta."""

    suffixes = frozenset({".html", ".htm", ".xhtml"})

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        extract = _extractor(path)
        with open_binary(path) as file:
            data = file.read(_LARGEST + 1)
        yield from _document(data, "", str(path), extract, warn)


class Warc(Source):
    """WARC files of a crawl, such as Common Crawl's, also compressed: the main text of each answer that is
    HTML and no error page. URL, date and title go into meta. A broken record is passed over."""

    suffixes = frozenset({".warc"})

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        extract = _extractor(path)
        try:
            from fastwarc.warc import ArchiveIterator, WarcRecordType
        except ImportError as error:
            raise not_installed(f"reading {path}", "fastwarc", "corpus") from error
        some = False
        with open_binary(path) as file:
            # In this mode what is no record is passed over, up to the next one.
            for record in ArchiveIterator(file, parse_http=False, quirks_mode=True):
                some = True
                if record.record_type != WarcRecordType.response:
                    continue
                url = record.headers.get("WARC-Target-URI", "").strip("<>")
                try:
                    record.parse_http(auto_decode="all", quirks_mode=True)
                    if record.http_headers is None or record.http_headers.status_code is None:
                        warn(f"skipped a record in {path} ({url}): it holds no answer of HTTP")
                        continue
                    if not _page(record):
                        continue
                    data = record.reader.read(_LARGEST + 1)
                except (OSError, ValueError) as error:
                    warn(f"skipped a record in {path} ({url}): {error}")
                    continue
                meta = {"url": url, "date": record.headers.get("WARC-Date", "")}
                where = f"{url} in {path}"
                for text, said in _document(data, record.http_charset or "", where, extract, warn):
                    yield text, {**meta, **said}
        if not some:
            raise UserError(f"{path} is no WARC file, or it is empty: it has no record")


def _page(record: Any) -> bool:
    return record.http_content_type in _HTML and 200 <= record.http_headers.status_code < 300


def _document(
    data: bytes, charset: str, where: str, extract: Callable, warn: Warn
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The text of a page and its title, if it has any text."""
    if len(data) > _LARGEST:
        warn(f"skipped {where}: a page of more than {_LARGEST // 10**6} MB")
        return
    markup = _decoded(data, charset).replace("\0", "")  # at which the parser would stop
    if not markup or markup.isspace():
        return
    try:
        text, title = extract(markup)
    # Pages are broken in ways that nobody has thought of, and so are the errors of what reads them.
    except Exception as error:
        warn(f"skipped {where}: {type(error).__name__}: {error}")
        return
    if text and not text.isspace():
        yield mended(text), {"title": mended(title)} if title else {}


def _decoded(data: bytes, charset: str) -> str:
    """A page's characters: as UTF-8 where it is that, else as the server or the page itself says, else as
    looks most like text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    declared = _DECLARED.search(data[:4096])
    for name in filter(None, (charset, declared[1].decode("ascii") if declared else "")):
        try:
            encoding = codecs.lookup(_MEANT.get(name.lower(), name)).name
            # A page that is UTF-16 has a mark at its beginning, which `decode` knows.
            if not encoding.startswith(("utf-16", "utf-32")):
                return data.decode(encoding, errors="replace")
        except (LookupError, ValueError):
            continue
    found = decode(data) or decode(data.replace(b"\0", b""))
    return found[0] if found else ""


def _extractor(path: Path) -> Callable[[str], tuple[str | None, str]]:
    """What gives a page's main text and its title."""
    try:
        import trafilatura
    except ImportError as error:
        # Its own requirement asks for an lxml without the part that it needs.
        raise not_installed(f"reading {path}", "trafilatura and lxml_html_clean", "corpus") from error
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it has something to say of every odd page

    def extract(markup: str) -> tuple[str | None, str]:
        tree = trafilatura.load_html(markup)
        if tree is None:
            return None, ""
        title = " ".join((tree.findtext(".//title") or "").split())
        return trafilatura.extract(tree, include_comments=False, fast=True), title

    return extract
