"""Tasks that read a long example in several windows and say what they found once all of them have come."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from lm.tasks.sharing import Found, share
from lm.tasks.text.finetuning import FineTuning


class WindowedTask(FineTuning):
    """A task on windows of examples. A subclass says what it finds in a batch, and what that is worth."""

    beside = FineTuning.beside | {"_found"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._found: dict[int, Found] = {}  # by example

    @abstractmethod
    def found(self, batch: dict[str, Any], logits: Tensor) -> Iterable[Found]:
        """What is found in each window of a batch."""

    @abstractmethod
    def score(self, example: Any, found: Found) -> None:
        """Count what was found in all windows of an example."""

    @abstractmethod
    def row(self, example: Any, found: Found) -> dict[str, Any]:
        """What is predicted of an example."""

    def whole(self, example: Any, found: Found) -> bool:
        """Whether all of the example's windows have come: a limit on the batches may leave some out."""
        return True

    def collect(self, batch: dict[str, Any], logits: Tensor) -> None:
        """Keep what is found in a batch until all windows have come."""
        for index, found in zip(batch["index"].tolist(), self.found(batch, logits), strict=True):
            if index >= 0:
                self._found.setdefault(index, {}).update(found)

    def figures(self) -> dict[str, Tensor]:
        """The loss, and the scores of the examples that came whole."""
        examples = self.data.examples("test" if self.trainer.state.fn == "test" else "val")
        for index, found in self._taken().items():
            if self.whole(examples[index], found):
                self.score(examples[index], found)
        return super().figures()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Nothing yet: rows are made when all windows have come."""
        self.collect(batch, self.logits(batch))
        return []

    def last_rows(self) -> list[dict[str, Any]]:
        """A row for each example that came whole, in the file's order."""
        examples = self.data.examples("test")
        taken = sorted(self._taken().items())
        return [
            {"index": i, **self.row(examples[i], found)}
            for i, found in taken
            if self.whole(examples[i], found)
        ]

    def _taken(self) -> dict[int, Found]:
        parts, self._found = share(self.trainer, self._found), {}
        return parts
