"""What several models write after the same prompts, side by side."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm.errors import UserError
from lm.evaluation.comparison.compare import LETTERS

if TYPE_CHECKING:
    from lm.predictor import Predictor

_GAP = " │ "
_NARROWEST = 24  # columns of a terminal; narrower texts stand below each other


def read_prompts(given: Sequence[str]) -> list[str]:
    """Prompts: of a word that names a file each line, in JSON Lines the `prompt` or `text`; else the word.

    Raises:
        UserError: a file is empty or damaged, or a prompt is.
    """
    prompts = [prompt for word in given for prompt in (_lines(Path(word)) if _is_file(word) else [word])]
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty", status=2)
    return prompts


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        return False


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8") from error
    if not lines:
        raise UserError(f"{path} is empty: it holds no prompts")
    return [_prompt(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _prompt(line: str, where: str) -> str:
    if not line.lstrip().startswith("{"):
        return line
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return line  # a text that begins so, as code does
    found = row.get("prompt", row.get("text")) if isinstance(row, dict) else None
    if not isinstance(found, str):
        raise UserError(f'{where}: write a prompt as {{"prompt": "some text"}}')
    return found


def written(
    model: "Predictor", prompts: Sequence[str], tokens: int, temperature: float, seed: int
) -> list[str]:
    """What a model writes after each prompt, or answers if it is one that was tuned on chats; the first with
    `seed`, each further one with the next.

    Raises:
        UserError: the model does not write.
    """
    from lm.tasks.table import entry_of

    entry = entry_of(model.model.record)
    if entry is not None and entry.command == "chat":
        return model.chat(list(prompts), tokens=tokens, temperature=temperature, seed=seed)
    return model.generate(list(prompts), tokens, temperature=temperature, seed=seed)


def side_by_side(prompts: Sequence[str], texts: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lines for a terminal: each prompt, and below it the models' texts in columns, or one below the other
    where these would be narrow.

    Args:
        texts: of each model, one for each prompt.
        width: columns of the terminal.
    """
    letters = LETTERS[: len(texts)]
    column = (width - len(_GAP) * (len(texts) - 1)) // len(texts)
    for number, prompt in enumerate(prompts):
        yield f"--- {' '.join(prompt.split())}"
        each = [texts_of[number] for texts_of in texts]
        if column < _NARROWEST:
            for letter, text in zip(letters, each, strict=True):
                yield from (f"{letter} {line}" for line in wrapped(text, width - 2))
            yield ""
            continue
        columns = [wrapped(text, column) for text in each]
        yield _GAP.join(_padded(letter, column) for letter in letters).rstrip()
        for row in range(max(map(len, columns))):
            cells = (_padded(lines[row] if row < len(lines) else "", column) for lines in columns)
            yield _GAP.join(cells).rstrip()
        yield ""


def wrapped(text: str, width: int) -> list[str]:
    """A text's lines, broken at `width` columns: a Chinese character takes two."""
    found = []
    for line in text.expandtabs(4).splitlines() or [""]:
        part, used = "", 0
        for char in filter(str.isprintable, line):  # others would move the cursor
            size = columns_of(char)
            if used + size > width:
                found.append(part)
                part, used = "", 0
            part, used = part + char, used + size
        found.append(part)
    return found


def columns_of(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))
