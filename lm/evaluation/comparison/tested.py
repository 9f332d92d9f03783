"""Rows of predictions of a fine-tuned model on a test set, with what is right."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.errors import UserError

if TYPE_CHECKING:
    from lm.predictor import Predictor

Row = dict[str, Any]
# The class that reads a test file of a model whose run did not say how, by the model's command.
_READERS = {"classify": "TextData", "tag": "TagData", "answer": "QuestionData", "chat": "ChatData"}


def command_of(model: "Predictor") -> str:
    """The command that the model was fine-tuned for.

    Raises:
        UserError: none, or one whose test has no right and wrong.
    """
    from lm.tasks.table import entry_of

    entry = entry_of(model.model.record)
    if entry is None or not entry.on_texts or entry.command not in _READERS:
        what = entry.what if entry else "no task of lm's"
        how = "compare it by `text`" if entry is None or entry.on_texts else "compare what `lm test` finds"
        raise UserError(f"{model.model.source} is {what}, to which no test set belongs: {how}")
    return entry.command


def test_examples(path: str, command: str, file: str) -> tuple[list[Any], str]:
    """The examples of a test set, read as the run in whose folder the model lies read its own.

    Args:
        path: where the model was found.
        command: see `command_of`.
        file: of the test set; empty: that of the run.

    Returns:
        The examples, and the file's name for people.

    Raises:
        UserError: there is no such file, or it has no examples with labels.
    """
    import lm.data

    name, options = _READERS[command], _reading(path)
    if options:
        module, _, name = str(options["class_path"]).rpartition(".")
        if module.partition(".")[0] != "lm" or not hasattr(lm.data, name):
            raise UserError(f"{path}: its data were read by {options['class_path']}, which is not lm's")
    known = dict(options.get("init_args") or {})
    chosen = file or known.get("test")
    if not chosen:
        raise UserError(f"{path}: its run has no test part: give `test` a file", status=2)
    known |= {"train": chosen, "val": None, "test": chosen, "tokenizer": None, "limit": None}
    if not options:
        known = {"train": chosen, "test": chosen}
    data = getattr(lm.data, name)(**known)
    data.setup("test")
    return list(data.examples("test")), Path(str(chosen)).name


def _reading(path: str) -> Row:
    """How the run of a model read its data: `class_path` and `init_args`; empty where nobody knows."""
    import yaml

    from lm.convert.models import located

    found = located(path)
    config = (found if found.is_dir() else found.parent) / "config.yaml"
    if not config.is_file():
        return {}
    try:
        read = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config} is damaged: it is not YAML") from error
    data = read.get("data") if isinstance(read, dict) else None
    return data if isinstance(data, dict) and "class_path" in data else {}


def predicted(model: "Predictor", command: str, examples: list[Any]) -> Iterator[Row]:
    """What the model says of each example, and what is right; in their order.

    Raises:
        UserError: the model is for another command, or no example has a label.
    """
    from lm.inference.lines import Line

    asked = [(example, *_asked(command, example)) for example in examples if example.labelled]
    if not asked:
        raise UserError("the test set has no labels: there is nothing to compare the predictions with")
    if command == "chat":
        chats = [[dict(m._asdict()) for m in example.messages[:-1]] for example, *_ in asked]
        for (_, _, right), answer in zip(asked, model.chat(chats, temperature=0), strict=True):
            yield {**right, "answer": answer}
        return
    lines = (Line(f"example {number}", fields) for number, (_, fields, _) in enumerate(asked, start=1))
    found = (row for group in model.apply(command, lines) for row in group)
    for (_, _, right), row in zip(asked, found, strict=True):
        yield {**row, **right}


def _asked(command: str, example: Any) -> tuple[Row, Row]:
    """An example as a line for the model, and what is right."""
    if command == "classify":
        fields = {"text": example.text} | ({} if example.pair is None else {"pair": example.pair})
        return fields, {"label": example.label}
    if command == "tag":
        return {"words": list(example.words)}, {"right": list(example.tags)}
    if command == "answer":
        fields = {"id": example.id, "question": example.question, "context": example.context}
        return fields, {
            "right": [text for text, _ in example.answers],
            "document": example.document or example.context,
        }
    right = [example.messages[-1].content, *example.references]
    return {}, {"question": example.content[-1], "id": "\n".join(example.content), "right": right}
