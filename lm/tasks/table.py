"""The tasks of lm, one line each: all that commands, `lm info`, export and checkpoints know of a task without
importing it. A task of one's own needs no line here: it is named by its class path."""

from typing import Any, NamedTuple

from lm.errors import UserError


class Entry(NamedTuple):
    """A task.

    Args:
        module: where its class is, below `lm.tasks`.
        what: what its models are.
        command: the command that uses them.
    """

    module: str
    what: str
    command: str


TASKS = {
    "CausalPretraining": Entry("causal", "a pretrained GPT", "generate"),
    "MaskedPretraining": Entry("masked", "a pretrained BERT", "fill"),
    "SequenceClassification": Entry("sequence_classification", "a classifier of texts", "classify"),
    "TokenClassification": Entry("token_classification", "a tagger of words", "tag"),
    "QuestionAnswering": Entry("question_answering", "a finder of answers in texts", "answer"),
    "InstructionTuning": Entry("instruction", "a chat model", "chat"),
    "PreferenceTuning": Entry("preference", "a chat model", "chat"),
}
BASES = {"ExampleTask": "examples", "FineTuning": "finetuning", "Pretraining": "pretraining", "Task": "base"}


def entry_of(record: dict[str, Any]) -> Entry | None:
    """The line of the task that trained a checkpoint; None where it is none of lm's.

    A class path that does not stand here is never imported: a checkpoint must not decide which code runs.
    """
    path = str(record.get("task"))
    name = path.rpartition(".")[2]
    entry = TASKS.get(name)
    return entry if entry and path == f"lm.tasks.{entry.module}.{name}" else None


def writes_text(record: dict[str, Any]) -> bool:
    """Whether a checkpoint's network has a language-model head, and not a classifier's."""
    return (record.get("head") or {"kind": "language"})["kind"] == "language"


def refuse(path: object, record: dict[str, Any], command: str) -> UserError:
    """The error that says what a checkpoint is, to a command that can't use it."""
    entry = entry_of(record)
    if not record.get("task"):
        return UserError(f"{path} is a pretrained model: `lm {command}` needs one that was fine-tuned for it")
    if entry is None:
        return UserError(
            f"{path} was trained by {record.get('task')}, which is no task of lm: `lm {command}` can't tell "
            "how to use it"
        )
    return UserError(f"{path} is {entry.what}: use `lm {entry.command}`")
