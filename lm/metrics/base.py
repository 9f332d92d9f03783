"""What the metrics share: sums that stay exact, and lists of references."""

from collections.abc import Sequence
from itertools import zip_longest
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

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        """Add a state of zeros that is summed over processes."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def increase(self, name: str, value: Tensor) -> None:
        """Add `value`, of the state's shape, to the state `name`."""
        state = getattr(self, name)
        wide = exact(state.device) if state.is_floating_point() else state.dtype
        setattr(self, name, state.to(wide) + value.detach().to(wide).to(state.device))

    def scalar(self, value: float) -> Tensor:
        """A figure as a tensor where the states are."""
        return torch.tensor(value, dtype=exact(self.device), device=self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """torchmetrics' own, after which all processes' states are summed.

        A process that saw no example has not widened its states yet, and processes can only exchange tensors
        of one type.
        """
        for name, state in self.metric_state.items():
            if isinstance(state, Tensor) and state.is_floating_point():
                setattr(self, name, state.to(exact(state.device)))
        super().sync(*args, **kwargs)


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """`above / below`, as exact as the device can; not a number for 0 / 0."""
    wide = exact(above.device)
    return above.to(wide) / below.to(wide)


def f1_from_counts(hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """The harmonic mean of hits/predicted and hits/true, which is 2·hits / (predicted + true).

    Args:
        hits: true positives, of any shape.
        predicted: true and false positives.
        true: true positives and false negatives.

    Returns:
        Values in 0 to 1, 0 where there is nothing to find and nothing was found.
    """
    return ratio(2 * hits, predicted + true).nan_to_num(0.0)


def reference_lists(
    predictions: Sequence[str], references: Sequence[Sequence[str]], needed: bool = True
) -> list[list[str]]:
    """The references of each prediction as lists; a plain string is one reference.

    Args:
        needed: whether each has to have one.

    Raises:
        ValueError: not as many lists of references as predictions.
        UserError: a prediction has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but references for {len(references)}")
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    for number, texts in enumerate(lists):
        if needed and not texts:
            raise UserError(f"example {number} of the batch has no reference to compare the prediction with")
    return lists


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """First references, second references, … as sacrebleu wants them; None where an example has fewer."""
    return [list(stream) for stream in zip_longest(*references)]
