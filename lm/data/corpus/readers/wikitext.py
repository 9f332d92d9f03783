"""MediaWiki's markup to plain text, in one pass over its brackets.

What a template, a table or a file says is gone, the words of links and headings stay. A parser that knows
all of the language (mwparserfromhell) is seven times slower and leaves the same words of an article.
"""

import html
import re
from collections import Counter
from collections.abc import Collection
from functools import cache

# Of what stands in these nothing is markup; of the first ones nothing is text either.
_SILENT = {"timeline", "score", "graph", "mapframe", "maplink", "templatedata", "imagemap", "inputbox"}
_LITERAL = {"nowiki", "pre", "math", "chem", "ce", "source", "syntaxhighlight"}
_DROPPED = {"ref", "references", "gallery"}  # these may hold markup
_TAGS = "|".join(sorted(_SILENT | _LITERAL | _DROPPED))
_TOKEN = re.compile(
    rf"<!--|</?(?:{_TAGS})\b[^<>]{{0,2000}}>"
    r"|\{\{|\}\}|^[ \t:]*\{\||^[ \t]*\|\}(?!\}(?!\}))|\[\[|\]\]",
    re.I | re.M,
)
_DEEPEST = 20  # links within links: what a link holds is copied once a level
_TAG_NAME = re.compile(r"</?([a-z]+)", re.I)
_OPENING = {"{{": "template", "{|": "table", "[[": "link"}
_CLOSING = {"}}": "template", "|}": "table", "]]": "link"}
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]{1,2000}(?: {1,20}([^\[\]\n]{0,2000}))?\]")
_BREAK = re.compile(r"<br\s*/?>|</?(?:p|div|li|tr|blockquote)\b[^<>]{0,2000}>", re.I)
_TAG = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]{0,2000}>", re.I)
_QUOTES = re.compile("'{2,5}")
_SWITCH = re.compile(r"__[A-Z]{3,30}__")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+){0,2}|simple")
_HEADING = re.compile(r"(={1,6})([^\n]+?)\1\s*$")
_MARK = re.compile("\ue000([0-9]{1,9})\ue001")
_LIST = re.compile(r"[*#:;]+[ \t]*")
# What is left where a template stood: brackets of nothing, white space, also before a comma.
_HOLLOW = re.compile(r"[ \t]?[(（][ \t,;:，；]{0,20}[)）]")
_SPACES = re.compile(r"[ \t\u00a0]+(?=[ \t\u00a0])")
_BEFORE_COMMA = re.compile(r"[ \t](?=[,.;:]\s)")
_AFTER_BRACKET = re.compile(r"([(（])[ ,;]{1,20}")


def plain(markup: str, hidden: Collection[str] = ("file", "image", "category")) -> str:
    """The text of a page, headings and paragraphs on lines of their own; a section without text is left out.

    Args:
        hidden: the namespaces in lower case whose links show no words: files and categories.
    """
    kept: list[str] = []  # verbatim texts, which marks in the private area stand for
    text = _unbracketed(markup, hidden, kept)
    text = _EXTERNAL.sub(lambda match: match[1] or "", text)
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = html.unescape(_SWITCH.sub("", _QUOTES.sub("", text)))
    text = _HOLLOW.sub("", _AFTER_BRACKET.sub(r"\1", _SPACES.sub("", text)))
    text = "\n".join(_lines(_BEFORE_COMMA.sub("", text)))
    # After all else, as nothing in them is markup.
    texts = dict(enumerate(kept))  # an entity can spell a mark that stands for none
    return _MARK.sub(lambda match: html.unescape(texts.get(int(match[1]), "")), text).strip()


def _unbracketed(markup: str, hidden: Collection[str], kept: list[str]) -> str:
    """Without comments, templates, tables, references; links as their words. What is opened and never closed
    stays as text without its bracket, as what is closed and never opened does."""
    out: list[str] = []
    opened: list[tuple[str, int]] = []  # kind, and how long `out` was
    many: Counter[str] = Counter()  # of each kind that is open, so that nothing is looked for in vain
    unclosed: set[str] = set()
    markup = markup.replace("\ue000", "").replace("\ue001", "")
    at = 0
    while match := _TOKEN.search(markup, at):
        out.append(markup[at : match.start()])
        at = match.end()
        token = match[0].strip(" \t:")
        tag = _TAG_NAME.match(token)
        name = "!" if token == "<!--" else tag[1].lower() if tag else ""
        opens = name and token[1] != "/" and token[-2] != "/"
        if opens and name not in _DROPPED:
            end = None if name in unclosed else _end_of(name).search(markup, at)
            if end is None:
                unclosed.add(name)
                continue
            if name in _LITERAL:
                out.append(f"\ue000{len(kept)}\ue001")
                kept.append(markup[at : end.start()])
            at = end.end()
        elif kind := _OPENING.get(token) or (name if opens else ""):
            if kind != "link" or many[kind] < _DEEPEST:
                opened.append((kind, len(out)))
                many[kind] += 1
        elif many[kind := _CLOSING.get(token) or name]:
            while True:
                found, begin = opened.pop()
                many[found] -= 1
                if found == kind:
                    break
            words = _words("".join(out[begin:]), hidden) if kind == "link" else ""
            out[begin:] = [words]
    out.append(markup[at:])
    return "".join(out)


@cache
def _end_of(name: str) -> re.Pattern[str]:
    return re.compile("-->" if name == "!" else rf"</{name}\s*>", re.I)


def _words(link: str, hidden: Collection[str]) -> str:
    """What a link shows."""
    target, bar, words = link.partition("|")
    space, colon, _ = target.partition(":")
    space = space.strip()
    if colon and space and (space.lower() in hidden or (not bar and _LANGUAGE.fullmatch(space))):
        return ""
    return words if words.strip() else target.strip().lstrip(":")


def _lines(text: str) -> list[str]:
    """Without the marks of headings and lists; without headings that nothing follows, and with one empty line
    at most between two."""
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # that wait for text
    for line in text.splitlines():
        found = _HEADING.match(line) if line.startswith("=") and len(line) <= 1000 else None
        if found:
            level = len(found[1])
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, found[2].strip()))
            continue
        words = _LIST.sub("", line, count=1) if line[:1] in ("*", "#", ":", ";") else line
        words = words.strip()
        if words and headings:
            for _, title in headings:
                lines += ["", title, ""] if lines and lines[-1] else [title, ""]
            headings = []
        if words or (lines and lines[-1]):
            lines.append(words)
    return lines
