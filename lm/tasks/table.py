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

    @property
    def on_texts(self) -> bool:
        """Whether its models take texts, not pictures or sounds."""
        return self.module.startswith("text.")


TASKS = {
    "CausalPretraining": Entry("text.causal", "a pretrained GPT", "generate"),
    "MaskedPretraining": Entry("text.masked", "a pretrained BERT", "fill"),
    "SequenceClassification": Entry("text.sequence_classification", "a classifier of texts", "classify"),
    "TokenClassification": Entry("text.token_classification", "a tagger of words", "tag"),
    "QuestionAnswering": Entry("text.question_answering", "a finder of answers in texts", "answer"),
    "InstructionTuning": Entry("text.instruction", "a chat model", "chat"),
    "ImageClassification": Entry("image.classification", "a classifier of pictures", "classify"),
    "ObjectDetection": Entry("image.detection", "a finder of things in pictures", "detect"),
    "Segmentation": Entry("image.segmentation", "a model that labels every pixel", "segment"),
    "AudioClassification": Entry("speech.classification", "a classifier of sounds", "classify"),
    "SpeechRecognition": Entry("speech.recognition", "a recogniser of speech", "transcribe"),
    "MaskedImagePretraining": Entry(
        "image.pretraining", "a network pretrained on pictures", "fit --model.init_from"
    ),
    "MaskedAudioPretraining": Entry(
        "speech.pretraining", "a network pretrained on sounds", "fit --model.init_from"
    ),
    "PreferenceTuning": Entry("text.preference", "a chat model", "chat"),
}
BASES = {
    "Classification": "classification",
    "ExampleTask": "examples",
    "FineTuning": "text.finetuning",
    "ImageTask": "image.base",
    "PlacedTask": "image.placed",
    "Pretraining": "text.pretraining",
    "SpeechTask": "speech.base",
    "Task": "base",
    "TransferTask": "transfer",
}


def path_of(task: type) -> str:
    """The class path that checkpoints name a task by: `lm.tasks.NAME` of lm's own, wherever it stands."""
    module, name = task.__module__, task.__qualname__
    return f"lm.tasks.{name}" if module.startswith("lm.tasks.") else f"{module}.{name}"


def entry_of(record: dict[str, Any]) -> Entry | None:
    """The line of the task that trained a checkpoint; None where it is none of lm's.

    A class path that does not stand here is never imported: a checkpoint must not decide which code runs.
    """
    package, _, name = str(record.get("task")).rpartition(".")
    return TASKS.get(name) if package.split(".")[:2] == ["lm", "tasks"] else None


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
