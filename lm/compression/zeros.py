"""Training on without filling the zeros of a pruned model."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from lm.backbone.linear import Linear
from lm.errors import UserError
from lm.processes import say

_FEW = 0.01  # zeros that rounding makes are nobody's


class KeepZeros(Callback):
    """Weights of the blocks' linear layers that are zero when training begins are zero after every step. A
    run that goes on finds them in its checkpoint; where there are none nothing happens."""

    changes_training = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        task: Any = pl_module
        if stage == "fit" and task.init_from is None:
            raise UserError("which model is trained on? Give `model.init_from` MODEL, a pruned one", status=2)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        if task.adapter is not None:
            raise UserError("KeepZeros: an adapter fills zeros: leave one of the two out", status=2)
        layers = {n: m for n, m in task.net.backbone.blocks.named_modules() if isinstance(m, Linear)}
        kept = [(layer.weight, layer.weight.detach() != 0) for layer in layers.values()]
        left = {name: _count(mask) for name, (_, mask) in zip(layers, kept, strict=True)}
        for name, count in left.items():
            if count == 0:
                raise UserError(f"KeepZeros: blocks.{name} has nothing but zeros: begin from a pruned model")
        share = 1 - sum(left.values()) / sum(mask.numel() for _, mask in kept)
        if share < _FEW:
            return
        say(f"{share:.1%} of the blocks' weights are zero, and stay so")

        @torch.no_grad()
        def after_step(*_: Any) -> None:
            for weight, mask in kept:
                weight.mul_(mask)

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(after_step)


def _count(mask: Tensor) -> int:
    """How many are True, in all shards together."""
    found = mask.sum()
    return int(found.full_tensor() if isinstance(found, DTensor) else found)
