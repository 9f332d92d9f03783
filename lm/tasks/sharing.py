"""Windows of an example that have gone to several processes come together."""

from typing import Any

import torch
from lightning.pytorch import Trainer

from lm.engine.replicas import data_shard

Found = dict[Any, Any]  # what was found, by window or by word


def share(trainer: Trainer, parts: dict[int, Found]) -> dict[int, Found]:
    """What was found in each window, by example and window, as this process scores it: an example's windows
    may have gone to several processes, so all get all and each takes its share of examples."""
    rank, size = data_shard(trainer)
    if size == 1:
        return parts
    everyone: list[Any] = [None] * size
    torch.distributed.all_gather_object(everyone, parts)
    merged: dict[int, Found] = {}
    for theirs in everyone:
        for index, found in theirs.items():
            merged.setdefault(index, {}).update(found)
    return {index: found for index, found in merged.items() if index % size == rank}
