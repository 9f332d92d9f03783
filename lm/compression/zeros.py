"""Training on without filling the zeros of a pruned model."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lm.backbone.linear import Linear
from lm.errors import UserError
from lm.processes import say

_FEW = 0.01  # zeros that rounding makes are nobody's


class KeepZeros(Callback):
    """Weights of the blocks' linear layers that are zero when training begins are zero after every step. A
    run that goes on finds them in its checkpoint; where there are none nothing happens."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        layers = {n: m for n, m in task.net.backbone.blocks.named_modules() if isinstance(m, Linear)}
        if getattr(task, "adapter", None) is not None:
            raise UserError("KeepZeros: an adapter fills zeros: leave one of the two out", status=2)
        kept = [(layer.weight, layer.weight.detach() != 0) for layer in layers.values()]
        empty = [name for name, (_, mask) in zip(layers, kept, strict=True) if not bool(mask.any())]
        if empty:
            raise UserError(f"KeepZeros: blocks.{empty[0]} has nothing but zeros: begin from a pruned model")
        share = 1 - sum(int(mask.sum()) for _, mask in kept) / sum(mask.numel() for _, mask in kept)
        if share < _FEW:
            return
        say(f"{share:.1%} of the blocks' weights are zero, and stay so")

        @torch.no_grad()
        def after_step(*_: Any) -> None:
            for weight, mask in kept:
                weight.mul_(mask)

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(after_step)
