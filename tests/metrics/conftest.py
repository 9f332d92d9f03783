"""Metrics over processes, without processes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric


def _compute_together(*parts: Metric) -> dict[str, Tensor]:
    """What every process gets that computes with the others, through torchmetrics' own code.

    Only the exchange of tensors is played: what each part would send is noted down, in the order of sending.
    As between processes, all must send tensors of one type and number of dimensions.
    """
    sent: list[list[Tensor]] = []
    for part in parts:
        mine: list[Tensor] = []

        def note(tensor: Tensor, group: object = None, mine: list[Tensor] = mine) -> list[Tensor]:
            mine.append(tensor)
            return [tensor]

        part.sync(dist_sync_fn=note, distributed_available=lambda: True)
        part.unsync()
        sent.append(mine)
    calls = zip(*sent, strict=True)

    def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
        tensors = list(next(calls))
        assert torch.equal(tensor, tensors[0])
        assert len({(each.dtype, each.dim()) for each in tensors}) == 1
        return tensors

    parts[0].dist_sync_fn = gather
    parts[0].distributed_available_fn = lambda: True
    try:
        return parts[0].compute()
    finally:
        parts[0].distributed_available_fn = lambda: False


@pytest.fixture
def compute_together() -> Callable[..., dict[str, Tensor]]:
    """`compute_together(metric, metric, …)`: the figures over several processes' metrics."""
    return _compute_together
