"""Real examples that need nothing but Python: its own standard library.

Two tasks. A function's code and what it does, which the first sentence of its docstring says: `stdlib_chats`.
And a piece of code and the package it is from: `stdlib_texts`. A module never falls into two parts, so that a
function and its near-copy a few lines below don't either.
"""

import ast
import hashlib
import re
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple

from lm.data.corpus.files import decode
from lm.data.corpus.formats import mended
from lm.data.corpus.sources import STDLIB, resolve
from lm.data.examples.files import Skipped
from lm.data.examples.records import ChatExample, Message, TextExample
from lm.errors import UserError

SPLITS = ("train", "val", "test")
# Those of three modules and more that every Python from 3.11 on has; some systems leave a few out.
PACKAGES = (
    *("asyncio", "concurrent", "ctypes", "curses", "email", "http", "idlelib", "importlib", "json"),
    *("logging", "multiprocessing", "re", "tkinter", "turtledemo", "unittest", "urllib", "wsgiref", "xml"),
    "zoneinfo",
)
_MOST_CHARACTERS = 2000  # of code in a chat
_MOST_LINES = 40  # of a piece
_LEAST_LINES = 3
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(\[<])")
_ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|cf|vs|resp|[A-Z])\.$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Code(NamedTuple):
    """A function or method."""

    module: str  # its file below the standard library's folder: `email/header.py`
    source: str  # its lines, decorators and docstring included, not indented
    bare: str  # the same without the docstring; empty where nothing but it is there
    sentence: str  # the docstring's first; empty without one


def stdlib_chats(split: str) -> Iterator[ChatExample | Skipped]:
    """Functions of the standard library with what they do: the user shows the code without its docstring, the
    assistant says the docstring's first sentence. In the order of modules and lines; code of more than 2,000
    characters is skipped.

    Args:
        split: `train`, `val` or `test`: 80, 10 and 10% of the modules, by a hash of their names.

    Raises:
        UserError: there is no such split, or this Python has no sources of its library.
    """
    _check(split)
    seen: set[str] = set()
    for code in _functions():
        # A copy in a second module counts for the first one, whose split it may not share.
        if not code.bare or not code.sentence or code.bare in seen:
            continue
        seen.add(code.bare)
        number = _hash(code.module)
        if split != ("test" if number < 0.1 else "val" if number < 0.2 else "train"):
            continue
        if len(code.bare) > _MOST_CHARACTERS:
            yield Skipped(f"code longer than {_MOST_CHARACTERS:,} characters")
        else:
            yield ChatExample((Message("user", code.bare), Message("assistant", code.sentence)))


def stdlib_texts(split: str) -> Iterator[TextExample]:
    """Pieces of code with the package that they are from, such as `email` or `asyncio`: by package, in the
    order of modules and lines.

    A piece is a function or method, or, of a long one, 40 lines.

    Args:
        split: `train`, `val` or `test`. Of each package modules with about a tenth of the pieces, chosen by a
            hash, are for `val`, as many for `test`, at least one each.

    Raises:
        UserError: there is no such split, or this Python has no sources of its library.
    """
    _check(split)
    pieces: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    seen: set[str] = set()
    for code in _functions():
        package = PurePosixPath(code.module).parts[0]
        if package not in PACKAGES:
            continue
        for piece in _pieces(code.source):
            if piece not in seen:
                seen.add(piece)
                pieces[package][code.module].append(piece)
    for package, modules in pieces.items():
        splits = _split_package({module: len(found) for module, found in modules.items()})
        for module, found in modules.items():
            if splits.get(module) == split:
                yield from (TextExample(piece, None, package) for piece in found)


def _check(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}: choose from {', '.join(SPLITS)}", status=2)


def _hash(module: str) -> float:
    """A number from 0 to 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(module.encode()).digest()[:8]) / 2**64


def _split_package(modules: dict[str, int]) -> dict[str, str]:
    """The split of each of a package's modules, whose numbers of pieces are given; of fewer modules than
    splits, none."""
    if len(modules) < len(SPLITS):
        return {}
    splits = dict.fromkeys(modules, "train")
    order = sorted(sorted(modules, key=_hash), key=modules.__getitem__)[:-1]  # the largest is for training
    total = sum(modules.values())
    for split in ("val", "test"):
        free = [module for module in order if splits[module] == "train"]
        taken = 0
        for module in sorted(free, key=_hash):
            if taken < 0.1 * total and taken + modules[module] <= 0.15 * total:
                splits[module] = split
                taken += modules[module]
        if not taken:  # a few large modules
            splits[free[0]] = split
    return splits


def _pieces(source: str) -> Iterator[str]:
    lines = source.split("\n")
    for start in range(0, len(lines), _MOST_LINES):
        piece = lines[start : start + _MOST_LINES]
        if sum(bool(line.strip()) for line in piece) >= _LEAST_LINES:
            yield textwrap.dedent("\n".join(piece)).strip("\n")


@cache
def _functions() -> tuple[_Code, ...]:
    """All functions and methods of the standard library, but those inside functions. Takes some seconds."""
    (source,) = resolve(STDLIB)
    root = next(path for path in source.files[0].parents if (path / "os.py").is_file())
    found: list[_Code] = []
    for path in source.files:
        module = path.relative_to(root).as_posix()
        decoded = decode(path.read_bytes())
        if decoded is None:
            continue
        text = decoded[0].replace("\r\n", "\n")
        try:
            with warnings.catch_warnings(action="ignore"):  # old escapes in strings
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):  # examples of broken code
            continue
        lines = text.split("\n")
        found += (_code(function, lines, module) for function in _walk(tree))
    return tuple(found)


def _walk(node: ast.AST) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        elif not isinstance(child, ast.expr):
            yield from _walk(child)


def _code(function: Function, lines: list[str], module: str) -> _Code:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
    own = lines[first : function.end_lineno]
    docstring = ast.get_docstring(function)
    bare = ""
    if docstring is not None and len(function.body) > 1:
        text = function.body[0]
        # Cut by lines: what stands beside a docstring on its lines goes too, which hardly ever happens.
        kept = own[: text.lineno - first - 1] + own[text.end_lineno - first :]
        bare = textwrap.dedent("\n".join(kept)).strip("\n")
    source = textwrap.dedent("\n".join(own)).strip("\n")
    return _Code(module, source, bare, _first_sentence(docstring) if docstring else "")


def _first_sentence(docstring: str) -> str:
    """The first sentence of a docstring's first paragraph, on one line."""
    paragraph = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    sentence = ""
    for part in _SENTENCE_END.split(paragraph):
        sentence = f"{sentence} {part}".lstrip()
        if not _ABBREVIATION.search(sentence):
            break
    return str(mended(sentence))
