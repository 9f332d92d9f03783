"""What the metrics share: sums that stay exact, and texts beside their references."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lm.errors import UserError


def exact(device: torch.device) -> torch.dtype:
    """The type to add up in: fp64, but on Apple's GPUs, which have none, fp32."""
    return torch.float32 if device.type == "mps" else torch.float64


class Sums(Metric):
    """A metric whose states are sums over examples: counts in int64, the rest as exact as the device can.

    States of floating point are made in fp32 and widened when first added to: Apple's GPUs refuse fp64, and a
    model that is converted to bf16 takes its metrics' states along.
    """

    full_state_update = False

    def add_sums(self, *names: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.int64) -> None:
        """Add states of zeros that are summed over processes."""
        for name in names:
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def increase(self, **values: Any) -> None:
        """Add to the state of each name a value of its shape: a tensor, numbers or lists of numbers."""
        for name, value in values.items():
            state = getattr(self, name)
            wide = exact(state.device) if state.is_floating_point() else state.dtype
            more = torch.as_tensor(value, dtype=wide).detach().to(state.device)
            setattr(self, name, state.to(wide) + more)

    def scalar(self, value: float) -> Tensor:
        """A figure as a tensor where the states are."""
        return torch.tensor(value, dtype=exact(self.device), device=self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """A process that saw no example has not widened its states yet, and processes can only exchange
        tensors of one type."""
        for name, state in self.metric_state.items():
            if isinstance(state, Tensor) and state.is_floating_point():
                setattr(self, name, state.to(exact(state.device)))
        super().sync(*args, **kwargs)


class TextScores(Sums):
    """Scores of predicted texts beside one or more references of each."""

    needs_references = True

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add examples.

        Args:
            predictions: a text each.
            references: the right texts of each, of which the closest counts; a plain string is one.

        Raises:
            ValueError: not as many lists of references as predictions.
            UserError: a prediction without a reference, where one is needed.
        """
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions, but references for {len(references)}")
        lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
        if self.needs_references and [] in lists:
            number = lists.index([])
            raise UserError(f"example {number} of the batch has no reference to compare the prediction with")
        if lists:
            self.add(predictions, lists)

    @abstractmethod
    def add(self, predictions: Sequence[str], references: list[list[str]]) -> None:
        """Add at least one example to the sums."""


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """`above / below`, as exact as the device can; not a number for 0 / 0."""
    wide = exact(above.device)
    return above.to(wide) / below.to(wide)


def f1_from_counts(hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """The harmonic mean of hits/predicted and hits/true, element by element; 0 where all three are 0."""
    return ratio(2 * hits, predicted + true).nan_to_num(0.0)
