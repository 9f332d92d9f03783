"""Weights, gradients and optimizer states sharded over processes (FSDP2)."""

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from lm.backbone import LanguageModel


class Sharded(ModelParallelStrategy):
    """Lightning's strategy over every process there is, with checkpoints gathered into one file, so that they
    can be used anywhere. Lightning itself wants the number of processes in the configuration."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Count the processes once they are known."""
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()


def shard(net: LanguageModel, mesh: DeviceMesh) -> nn.Module:
    """Shard each block, then the rest, in place: a block's weights are whole only while it computes."""
    for block in net.backbone.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)
