"""The articles of a wiki from the XML dump of MediaWiki: Wikipedia and its sisters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import open_binary
from lm.data.corpus.formats import mended
from lm.data.corpus.readers.wikitext import plain
from lm.errors import UserError

_CHUNK = 1 << 18
_TEXTS = {"title", "ns", "id", "text", "namespace"}  # the elements whose content is kept
_HIDDEN = {"file", "image", "media", "category"}
_HIDDEN_KEYS = {"-2", "6", "14"}  # of the same namespaces in the wiki's own language


class _DumpSuffixes(frozenset):
    """Parts of a dump end in `.xml-p10p30302`, too."""

    def __contains__(self, suffix: object) -> bool:
        return isinstance(suffix, str) and (suffix == ".xml" or suffix.startswith(".xml-p"))


class MediaWiki(Source):
    """Dumps such as `enwiki-latest-pages-articles.xml.bz2`, read as a stream. A page is a document, a
    redirect is none. Title and id go into meta. Of several revisions the last one counts.

    Args:
        path: a file, a folder, a glob, or a list of these.
        name: of the source; by default that of the path.
        licence: of its texts.
        namespaces: whose pages are read; 0 is the articles.
    """

    suffixes = _DumpSuffixes({".xml"})

    def __init__(
        self, path: str | list[str], name: str = "", licence: str = "", namespaces: list[int] | None = None
    ) -> None:
        super().__init__(path, name, licence)
        self._namespaces = {str(number) for number in ([0] if namespaces is None else namespaces)}

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        hidden = set(_HIDDEN)
        for page in _pages(path, hidden):
            title = mended(page.get("title", ""))
            if page.get("ns", "0") not in self._namespaces or "redirect" in page:
                continue
            try:
                text = mended(plain(page.get("text", ""), hidden))
            except (ValueError, RecursionError) as error:
                warn(f"skipped the page {title!r} in {path}: {error}")
                continue
            if text:
                yield text, {"title": title, "id": page.get("id", "")}


def _pages(path: Path, hidden: set[str]) -> Iterator[dict[str, str]]:
    """What the elements in `_TEXTS` hold, page by page.

    Args:
        hidden: gets the names of the namespaces of files and categories that the dump's head says.

    Raises:
        UserError: it is not XML, breaks off, or declares entities.
    """
    reader = _Reader(path, hidden)
    with open_binary(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                reader.parser.Parse(chunk, False)
                yield from reader.done
                reader.done.clear()
            reader.parser.Parse(b"", True)
        except expat.ExpatError as error:
            yield from reader.done
            what = f"{expat.ErrorString(error.code)}, line {error.lineno}"
            raise UserError(f"{path} is no XML or breaks off ({what}): get it again") from error
        except UserError:
            yield from reader.done
            raise
        if not reader.wiki:
            raise UserError(f"{path} is no dump of MediaWiki: its first element is not <mediawiki>")


class _Reader:
    """Collects pages while expat goes through a dump. No tree, so that a dump of any size fits; no document
    type, so that no entity can be declared that grows to gigabytes."""

    def __init__(self, path: Path, hidden: set[str]) -> None:
        self.done: list[dict[str, str]] = []
        self.wiki = False
        self._path = path
        self._hidden = hidden
        self._page: dict[str, str] = {}
        self._open: list[str] = []
        self._content: list[str] | None = None
        self._key = ""
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.buffer_size = 1 << 16
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: object) -> None:
        raise UserError(f"{self._path} has a document type (<!DOCTYPE …>), which no dump of MediaWiki has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open:
            self.wiki = name == "mediawiki"
        self._open.append(name)
        if name == "page":
            self._page = {}
        elif name == "redirect":
            self._page["redirect"] = attributes.get("title", "")
        # A revision and who wrote it have ids of their own.
        if name in _TEXTS and (name != "id" or self._open[-2:-1] == ["page"]):
            self._content = []
            self._key = attributes.get("key", "")

    def _text(self, data: str) -> None:
        if self._content is not None:
            self._content.append(data)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._content is not None:
            content, self._content = "".join(self._content), None
            if name == "namespace" and self._key in _HIDDEN_KEYS:
                self._hidden.add(content.lower())
            elif name != "namespace":
                self._page[name] = content
        if name == "page":
            self.done.append(self._page)
