"""Weights, gradients and optimizer states sharded over processes (FSDP2)."""

from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm

from lm.backbone import Network
from lm.engine.lightning import over_all_processes


class Sharded(ModelParallelStrategy):
    """Lightning's strategy over every process there is, with checkpoints gathered into one file, so that they
    can be used anywhere.

    Args:
        compute: what a block computes in. Weights, their gradients' sums and the optimizer stay in fp32.
    """

    def __init__(self, compute: Literal["bf16", "fp32"] = "bf16") -> None:
        self.compute = compute
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        over_all_processes(self)
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """A state to train on; or, after training, weights to use, which come without an optimizer's."""
        if not self.lightning_module.trainer.training:
            self.optimizers = []
        return super().load_checkpoint(checkpoint_path, weights_only)


def shard(net: Network, strategy: ModelParallelStrategy) -> nn.Module:
    """Shard each block, then the rest, in place: a block's weights are whole only while it computes."""
    mesh = strategy.device_mesh["data_parallel"]
    half = isinstance(strategy, Sharded) and strategy.compute == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    # Inputs stay as they are: the angles of rotary positions among them need fp32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    # Statistics of batch norms are kept in fp32, and their weights have to be as they are.
    full = MixedPrecisionPolicy(torch.float32, torch.float32, cast_forward_inputs=False)
    for norm in [each for each in net.modules() if isinstance(each, _BatchNorm)]:
        fully_shard(norm, mesh=mesh, mp_policy=full)
    for block in net.backbone.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(net, mesh=mesh, mp_policy=policy)
