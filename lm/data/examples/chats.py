"""Chats to learn from: Alpaca, ShareGPT, messages, pairs of columns, parallel text files and DialogSum."""

from collections.abc import Iterator
from itertools import chain, cycle, zip_longest
from typing import Literal, get_args

from lm.data.examples.dialogues import Unusable, in_order, parse_messages, with_system
from lm.data.examples.files import Skipped, read_alike
from lm.data.examples.records import ChatExample, Message
from lm.data.examples.tables import Row, read_rows, value
from lm.data.examples.texts import text_in
from lm.errors import UserError

Format = Literal["auto", "messages", "sharegpt", "alpaca", "columns", "parallel", "dialogsum"]
_REFERENCES = ("summary1", "summary2", "summary3")  # DialogSum's test part
_COLUMNS = (  # what tells a format
    ("messages", {"messages"}),
    ("sharegpt", {"conversations"}),
    ("alpaca", {"instruction", "output"}),
    ("dialogsum", {"dialogue", "summary"}),
    ("dialogsum", {"dialogue", "summary1"}),
)
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("source", "target"), ("input", "output"))


def read_chats(
    path: str,
    format: str = "auto",
    instruction: str | None = None,
    source: str | None = None,
    target: str | list[str] | None = None,
    target_path: str | None = None,
    prompt: str | None = None,
    columns: list[str] | None = None,
) -> Iterator[ChatExample | Skipped]:
    """Chats whose last message is the assistant's, in the file's order.

    Args:
        path: a table (see `read_rows`), or the source side of parallel text files.
        format: `messages` (a list of role and content), `sharegpt` (`conversations`: a list of from and
            value), `alpaca` (instruction, input, output; perhaps system and history), `columns` (those named
            `source` and `target`), `parallel` (line by line, with `target_path`), `dialogsum` (dialogue and
            summary), or `auto`: by the columns.
        instruction, source, target, prompt: see `ChatData`.
        target_path: the other side of parallel text files.
        columns: the columns' names where a CSV or TSV file has no header.

    Raises:
        UserError: a column is missing, a row is not in the format, or parallel files differ in length; names
            file and line.
    """
    if format not in get_args(Format):
        raise UserError(f"there is no format {format!r}: choose from {', '.join(get_args(Format))}", status=2)
    if prompt is not None and "{source}" not in prompt:
        raise UserError("the prompt has no {source}: say where the source goes", status=2)
    targets = (target,) if isinstance(target, str) else tuple(target or ())
    if format == "parallel" or (format == "auto" and target_path is not None):
        if target_path is None:
            raise UserError("parallel text needs a second file: give target_path", status=2)
        rows = _parallel(path, target_path)
        format, source, targets = "columns", "source", ("target",)
    else:
        rows = read_rows(path, columns)
    for where, row in rows:
        if format == "auto":
            format, source, targets = _recognise(where, row, source, targets)
        if format == "columns" and not (source and targets):
            raise UserError("pairs need two columns: give `data.source` and `data.target`", status=2)
        try:
            messages, references = _parsed(where, row, format, source or "", targets, prompt)
            messages = in_order(with_system(messages, instruction), last="assistant")
            yield ChatExample(messages, references)
        except Unusable as error:
            yield Skipped(str(error))


def _recognise(
    where: str, row: Row, source: str | None, targets: tuple[str, ...]
) -> tuple[str, str | None, tuple[str, ...]]:
    """The format of a file by its first row, and for pairs their columns."""
    if source or targets:
        return "columns", source, targets
    for format, columns in _COLUMNS:
        if columns <= row.keys():
            return format, None, ()
    for one, other in _PAIRS:
        if one in row and other in row:
            return "columns", one, (other,)
    what = f"{where}: these columns are no known format: {', '.join(row)}"
    raise UserError(f"{what}: give `data.source` and `data.target`")


Parsed = tuple[tuple[Message, ...], tuple[str, ...]]  # the chat and its references


def _parsed(
    where: str, row: Row, format: str, source: str, targets: tuple[str, ...], prompt: str | None
) -> Parsed:
    if format in ("messages", "sharegpt"):
        column = "messages" if format == "messages" else "conversations"
        messages = parse_messages(value(row, column, where), where, column)
        return with_system(messages, row.get("system")), ()
    if format == "alpaca":
        answer = Message("assistant", text_in(row, "output", where))
        return (*alpaca_prompt(row, where), answer), ()
    if format == "dialogsum":
        source = "dialogue"
        targets = tuple(name for name in ("summary", *_REFERENCES) if name in row) or ("summary",)
    asked = text_in(row, source, where)
    answers = [answer for name in targets for answer in _answers(row, name, where)]
    if not asked.strip():
        raise Unusable("empty source")
    if not answers or not answers[0].strip():
        raise Unusable("empty target")
    if prompt is not None:
        asked = prompt.replace("{source}", asked)
    references = tuple(answer for answer in answers[1:] if answer.strip())
    return (Message("user", asked), Message("assistant", answers[0])), references


def alpaca_prompt(row: Row, where: str) -> tuple[Message, ...]:
    """What comes before the answer in a row of Alpaca's format: `instruction`, and on a line of its own
    `input`; perhaps `system` and earlier turns in `history`, a list of pairs."""
    history = row.get("history") or []
    pairs = history if isinstance(history, list) else [history]
    if not all(isinstance(turn, list) and len(turn) == 2 for turn in pairs):
        raise UserError(f"{where}: 'history' is not a list of pairs of texts")
    said = [text_in({"history": text}, "history", where) for text in chain.from_iterable(pairs)]
    turns = map(Message, cycle(("user", "assistant")), said)
    parts = (text_in(row, "instruction", where), text_in({"input": "", **row}, "input", where))
    asked = "\n".join(part for part in parts if part.strip())
    return with_system((*turns, Message("user", asked)), row.get("system"))


def _answers(row: Row, name: str, where: str) -> list[str]:
    found = row.get(name)
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return found
    return [text_in(row, name, where)]


def _parallel(path: str, target_path: str) -> Iterator[tuple[str, Row]]:
    """The lines of two files, side by side; an error where they differ in number."""
    counts = [0, 0]
    for number, sides in enumerate(zip_longest(_lines(path), _lines(target_path)), start=1):
        counts = [count + (line is not None) for line, count in zip(sides, counts, strict=True)]
        if None not in sides:
            yield f"{path}:{number}", dict(zip(("source", "target"), sides, strict=True))
    if counts[0] != counts[1]:
        raise UserError(
            f"{path} has {counts[0]:,} lines and {target_path} has {counts[1]:,}: "
            "each line must be the translation of the other's"
        )


def _lines(path: str) -> Iterator[str]:
    for file in read_alike(path, lambda _: True):
        with file.opened() as lines:
            yield from (line.removesuffix("\n").removesuffix("\r") for line in lines)
