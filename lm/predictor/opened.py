"""A model that is open, and what it is."""

from typing import Any

from lm.backbone import BackboneConfig
from lm.checkpoint import Model
from lm.tasks.table import entry_of
from lm.tokenizer import Tokenizer

Row = dict[str, Any]


class Opened:
    """A model that is open, made by `load`.

    Attributes:
        model: its shape, weights, tokenizer and record.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._tasks: dict[str, Any] = {}

    def __repr__(self) -> str:
        what = entry.what if (entry := entry_of(self.model.record)) else "a model"
        return f"<{what}: {self.model.source}>"

    @property
    def config(self) -> BackboneConfig:
        """The shape of its Transformer."""
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def labels(self) -> list[str]:
        """Of a classifier or tagger; none of others."""
        return list(self.model.record.get("labels") or [])

    def task(self, command: str) -> Any:
        """The task that a command uses, in evaluation mode.

        Raises:
            UserError: the model is for another command, or damaged.
        """
        if command not in self._tasks:
            from lm.tasks.applying import task_of

            self._tasks[command] = task_of(self.model, command)
        return self._tasks[command]
