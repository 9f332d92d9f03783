"""Which replica of the model this process is, asked in one place."""

from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy


class Shard(NamedTuple):
    """A process's share of the data.

    Args:
        rank: which of the replicas this process belongs to, from 0.
        size: how many replicas there are: each batch of the run is shared out to so many.
    """

    rank: int
    size: int


def data_shard(trainer: Trainer) -> Shard:
    """This process's share of the data. Processes that hold parts of one replica have the same; where each
    holds a whole one, as in DDP and FSDP, every process has its own."""
    # Before the processes have begun there is no mesh yet, and every process is a replica.
    if isinstance(trainer.strategy, ModelParallelStrategy) and torch.distributed.is_initialized():
        mesh = trainer.strategy.device_mesh["data_parallel"]
        return Shard(mesh.get_local_rank(), mesh.size())
    return Shard(trainer.global_rank, trainer.world_size)
