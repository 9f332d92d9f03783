"""Which replica a process is does not depend on how a replica is laid out."""

from types import SimpleNamespace

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lm.engine.replicas import data_shard


class Mesh(dict):
    """Six processes: three replicas of two."""

    def __init__(self, rank: int) -> None:
        share = SimpleNamespace(get_local_rank=lambda: rank // 2, size=lambda: 3)
        super().__init__(data_parallel=share)


def test_parts_of_one_replica_read_the_same(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    found = []
    for rank in range(6):
        strategy = ModelParallelStrategy()
        strategy._device_mesh = Mesh(rank)
        found.append(data_shard(SimpleNamespace(strategy=strategy, global_rank=rank, world_size=6)))
    assert found == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
    alone = SimpleNamespace(strategy=object(), global_rank=4, world_size=6)
    assert data_shard(alone) == (4, 6)
