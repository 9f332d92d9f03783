"""What a checkpoint is good for: which command uses it. Nothing heavy is imported."""

from typing import Any, NamedTuple

from lm.errors import UserError


class Use(NamedTuple):
    """What the models of a task are, and the command that uses them."""

    what: str
    command: str


# By the class path that stands in a checkpoint. A path that does not stand here is never imported: a
# checkpoint must not decide which code runs.
USES = {
    "lm.tasks.causal.CausalPretraining": Use("a pretrained GPT", "generate"),
    "lm.tasks.masked.MaskedPretraining": Use("a pretrained BERT", "fill"),
    "lm.tasks.sequence_classification.SequenceClassification": Use("a classifier of texts", "classify"),
    "lm.tasks.token_classification.TokenClassification": Use("a tagger of words", "tag"),
    "lm.tasks.question_answering.QuestionAnswering": Use("a finder of answers in texts", "answer"),
    "lm.tasks.instruction.InstructionTuning": Use("a chat model", "chat"),
    "lm.tasks.preference.PreferenceTuning": Use("a chat model", "chat"),
}


def refuse(path: object, record: dict[str, Any], command: str) -> UserError:
    """The error that says what a checkpoint is, to a command that can't use it."""
    task = str(record.get("task"))
    if task not in USES:
        return UserError(
            f"{path} was trained by {task}, which is no task of lm: `lm {command}` can't tell how to use it"
        )
    use = USES[task]
    return UserError(f"{path} is {use.what}: use `lm {use.command}`")


def expect(path: object, record: dict[str, Any], command: str) -> str:
    """The class path of a checkpoint's task, which is one of lm's.

    Args:
        path: of the checkpoint, for the message.
        record: what the checkpoint says of itself.
        command: the command that wants to use it.

    Raises:
        UserError: it is for another command, or its task is none of lm's.
    """
    task = str(record.get("task"))
    if task not in USES or USES[task].command != command:
        raise refuse(path, record, command)
    return task
