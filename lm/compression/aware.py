"""Quantisation-aware training: layers multiply with what `quantise` would make of their weights
(arXiv:1712.05877). What is trained, and what checkpoints hold, are plain floats all the same."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lm.backbone.linear import Linear, linear
from lm.backbone.quantised import restored
from lm.compression.rounding import to_int4, to_int8
from lm.errors import UserError
from lm.processes import say

PIECE = 1 << 12  # groups that a CPU rounds at once: they stay in its cache


class RoundedLinear(Linear):
    """A linear layer that multiplies with `rounded` (out, in), and whose gradient is the weight's own
    (straight-through: arXiv:1308.3432)."""

    rounded: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if not torch.is_grad_enabled():
            return linear(x, self.rounded, self.bias)
        return linear(x, self.rounded + (self.weight - self.weight.detach()), self.bias)  # that is 0, exactly


class QuantisationAware(Callback):
    """Trains and measures a model with the blocks' linear layers as they will be in integers, so that `lm
    compress` of its checkpoint costs nothing more:

        lm fit gpt-nano --trainer.callbacks+=lm.compression.QuantisationAware --trainer.callbacks.bits 4

    Args:
        bits: 8 or 4.
        group: weights that share a scale; None: a whole row with 8 bits, 32 with 4.

    Raises:
        UserError: bits or group can't be; when work begins: no layer fits, or the layers are not trained
            themselves, or not on one device.
    """

    changes_training = True

    def __init__(self, bits: int = 4, group: int | None = None) -> None:
        self.bits, self.group = bits, (0 if bits == 8 else 32) if group is None else group
        if (bits, self.group) not in {(8, 0), *((4, size) for size in (32, 64, 128, 256))}:
            wanted = "4 bits have groups of 32, 64, 128 or 256, 8 bits none"
            raise UserError(f"QuantisationAware: bits {bits}, group {self.group}: {wanted}", status=2)
        self._parts: list[list[Any]] = []  # the layers, by block
        self._step = -1  # whose weights were rounded

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(pl_module)
        say(f"layers multiply with weights rounded to {self.bits} bits; those that are trained stay floats")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:
            self._round(trainer, pl_module)

    def _round(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Round the weights as they are now."""
        self._step = trainer.global_step
        with torch.inference_mode(False), torch.no_grad():  # training goes on with them after a validation
            self._begin(pl_module)
            for part in self._parts:
                self._round_block(part)

    on_validation_start = on_test_start = on_predict_start = _round

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for part in self._parts:
            for layer in part:
                layer.__class__ = Linear
                del layer.rounded
        self._parts, self._step = [], -1

    def _begin(self, task: Any) -> None:
        """Make the layers those that round; their weights keep their names."""
        if self._parts:
            return
        if task.adapter is not None:
            hint = "leave `model.adapter` out; an adapter beside integers needs no callback"
            raise UserError(f"QuantisationAware trains the layers themselves: {hint}", status=2)
        if task.device_mesh is not None:
            raise UserError("QuantisationAware rounds no layers that are sharded over processes", status=2)
        if (task.checkpoint_record() or {}).get("quantised"):
            return  # what is measured was rounded already
        backbone = task.net.backbone
        parts = [[*part.modules()] for part in (backbone.embeddings, *backbone.blocks)]
        fits = [
            [m for m in part if type(m) is Linear and m.in_features % (self.group or 1) == 0]
            for part in parts
        ]
        self._parts = [part for part in fits if part]
        if not self._parts:
            raise UserError(
                f"QuantisationAware: no linear layer's inputs are groups of {self.group}", status=2
            )
        for part in self._parts:
            for layer in part:
                layer.__class__ = RoundedLinear
                layer.rounded = torch.empty_like(layer.weight, requires_grad=False)

    def _round_block(self, layers: list[Any]) -> None:
        if self.bits == 8:
            for layer in layers:
                layer.rounded.copy_(restored(to_int8(layer.weight)))
            return
        # All groups of the block one below the other: many small calls would take twice the time.
        groups = torch.cat([layer.weight.view(-1, self.group) for layer in layers])
        pieces = groups.split(PIECE if groups.device.type == "cpu" else len(groups))
        rounded = torch.cat([restored(to_int4(piece, self.group)) for piece in pieces]).flatten()
        sizes = [layer.weight.numel() for layer in layers]
        for layer, values in zip(layers, rounded.split(sizes), strict=True):
            layer.rounded.copy_(values.view_as(layer.weight))
