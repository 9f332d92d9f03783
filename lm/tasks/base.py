"""What all tasks share: the optimizer and its schedule, gradient clipping, compiling, sharding and the record
in the checkpoint. What a task learns from its batches it says itself."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig
from lm.engine.sharding import shard
from lm.errors import UserError
from lm.optim import Muon, Schedule, WarmupStableDecay, parameter_groups
from lm.tokenizer import Tokenizer

IGNORED = -100  # a target that does not count


class Task(LightningModule, ABC):
    """A network, its loss and its figures.

    A subclass makes `net`, a module with `backbone`, and says what a batch teaches.

    Args:
        backbone: the shape of the Transformer.
        optimizer: any torch optimizer.
        schedule: learning-rate factors over `trainer.max_steps`.
        compile: compile each block with torch.compile; worth it on a GPU.
    """

    net: nn.Module
    best_by = ("loss", "min")  # the validation figure that decides which weights are best, and which way
    usage = ""  # the command that uses it, with {} for the checkpoint

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer: OptimizerCallable = Muon,
        schedule: Schedule | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.config = backbone
        self.optimizer = optimizer
        self.schedule = schedule or WarmupStableDecay()
        self.compile_blocks = compile
        self.tokenizer: Tokenizer | None = None
        self._sharded = False

    @abstractmethod
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`loss` to differentiate; to report, `nats` (the loss summed), `tokens` (over how many it is) and
        `bytes` (of the text that they stand for; 0 where they stand for none)."""

    @abstractmethod
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures."""

    @abstractmethod
    def figures(self) -> dict[str, Tensor]:
        """The figures of the batches that were added, `loss` among them; then they are forgotten."""

    def prepare(self, data: Any, record: dict[str, Any] | None = None, verb: str = "fit") -> None:
        """Look at the data once they are read, before the trainer begins; see `FineTuning`.

        Args:
            data: the datamodule, after `setup`.
            record: of the checkpoint that a run goes on from or that is evaluated.
            verb: `fit`, `validate`, `test` or `predict`.
        """

    def last_rows(self) -> list[dict[str, Any]]:
        """Rows that are known only once all batches have been predicted."""
        return []

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the whole held-out split under `val/`."""
        # Not to the logger: the monitor puts them at the optimizer step.
        self.log_dict({f"val/{name}": value.float() for name, value in self.figures().items()}, logger=False)

    def configure_model(self) -> None:
        """Shard the network where the strategy has a device mesh, then compile it. Called more than once."""
        if self.device_mesh is not None and not self._sharded:
            shard(
                self.net, self.device_mesh["data_parallel"], getattr(self.trainer.strategy, "compute", "fp32")
            )
            self._sharded = True
        if self.compile_blocks:
            self.compile_blocks = False
            for block in self.net.backbone.blocks:
                block.compile()  # in place: the names of the weights stay as they are

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is made with; a group's `lr_scale` multiplies its learning rate."""
        return parameter_groups(self.net)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer on groups by kind of parameter, and its schedule by step.

        Raises:
            UserError: `trainer.max_steps` is not given.
        """
        total = self.trainer.max_steps
        if total < 1:
            raise UserError("give trainer.max_steps: the learning-rate schedule ends there", status=2)
        optimizer = self.optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group.get("lr_scale", 1.0)
        scheduler = self.schedule.scheduler(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all parameters, also with a fused optimizer in mixed precision, and keep the
        norm to be reported."""
        limit = (
            gradient_clip_val if gradient_clip_val and gradient_clip_algorithm != "value" else float("inf")
        )
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), limit)
        self.gradient_norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if gradient_clip_val and gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)

    def record(self) -> dict[str, Any]:
        """What the checkpoint says of the model beyond its shape, in plain values."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        figures = {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        made = checkpoints.make_record(path, self.config, self.tokenizer, figures)
        checkpoint["lm"] = {**made, **self.record()}
