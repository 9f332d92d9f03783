"""What all tasks share: the optimizer and its schedule, gradient clipping, compiling, sharding and the record
in the checkpoint. What a task learns from its batches it says itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchmetrics import Metric

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Network
from lm.backbone.quantised import dequantised
from lm.engine.sharding import shard
from lm.errors import UserError
from lm.inference.generate import Sample, Sampling
from lm.optim import Muon, Schedule, WarmupStableDecay, parameter_groups
from lm.processors import Processor
from lm.tasks.adapters import Adapter
from lm.tasks.table import path_of

IGNORED = -100  # a target that does not count


class Work(NamedTuple):
    """How much there is in a batch, for speed and progress.

    Args:
        amount: of this process's batch.
        unit: what is counted, in the plural: tokens, images, seconds.
    """

    amount: int
    unit: str


class Task(LightningModule, ABC):
    """A network, its loss and its figures.

    A subclass makes `net`, a backbone with a head, and says what a batch teaches.

    Args:
        backbone: the shape of the Transformer.
        optimizer: any torch optimizer.
        schedule: learning-rate factors over `trainer.max_steps`.
        compile: compile each block with torch.compile; auto: where the first steps say that the run is long
            enough to win the time back.
    """

    net: Network
    best_by = ("loss", "min")  # the validation figure that decides which weights are best, and which way
    # Attributes that decide nothing about how an example is encoded: features are found by all others.
    beside = frozenset(vars(LightningModule())) | {
        *("config", "optimizer", "schedule", "compiled", "compile_blocks", "processor", "best_by"),
        *("gradient_norm", "logs_figures", "additions", "_sharded"),
    }
    labels: Sequence[str] = ()  # that the data have
    init_from: str | None = None  # the model that it goes on from
    adapter: Adapter | None = None  # trained beside weights that stay as they are; None: these are trained
    usage = ""  # the command that uses its checkpoints, with {} where the path goes

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer: OptimizerCallable = Muon,
        schedule: Schedule | None = None,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        super().__init__()
        self.config = backbone
        self.optimizer = optimizer
        self.schedule = schedule or WarmupStableDecay()
        self.compiled, self.compile_blocks = compile, compile is True
        self.processor: Processor | None = None
        self.gradient_norm: Tensor | None = None  # of the last step, before clipping
        self.logs_figures = True  # by Lightning; a monitor does it itself, at the optimizer step
        # What callbacks say of the model, in plain values: in the record and the summary.
        self.additions: list[Callable[[], dict[str, Any]]] = []
        self._sharded = False

    # What a subclass says.

    @abstractmethod
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """What a batch teaches; see `outcome`."""

    @abstractmethod
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures."""

    def figures(self) -> dict[str, Tensor]:
        """The figures of the batches that were added, `loss` among them; then they are forgotten."""
        figures = {}
        for metric in self.metrics():
            figures |= metric.compute()
            metric.reset()
        return figures

    def metrics(self) -> list[Metric]:
        """What the figures come from: every metric that is an attribute of the task."""
        return [each for each in self.children() if isinstance(each, Metric)]

    @abstractmethod
    def work(self, batch: dict[str, Any]) -> Work:
        """How much a batch is, and in which unit."""

    @property
    def positions(self) -> int:
        """Of the longest sequence."""
        return self.config.max_seq_len

    def training_flops(self, batch: dict[str, Any]) -> int:
        """Floating-point operations to train on a batch whose units of work are positions of the network."""
        return self.work(batch).amount * self.net.training_flops_per_token(self.positions)

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        """What the model does with something held out; empty where there is nothing to show. Every process
        takes part: a sharded model needs them all. The arguments are for tasks that write.

        Args:
            prompt: to go on from; None: something held out.
            tokens: tokens to write.
        """
        return Sample()

    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures of the last figures by name, uint8 (H, W, 3)."""
        return {}

    def last_rows(self) -> list[dict[str, Any]]:
        """Rows of predictions that could only be made when all batches had come."""
        return []

    def save_beside(self, folder: Path) -> None:
        """Write what belongs beside `best.ckpt`, whenever that is written."""

    def record(self) -> dict[str, Any]:
        """What the checkpoint says of the model beyond its shape, in plain values."""
        return {}

    def added(self) -> dict[str, Any]:
        """What callbacks add to the record, as it is now."""
        return {name: value for say in self.additions for name, value in say().items()}

    def head(self) -> dict[str, Any]:
        """What stands on the backbone: `{"kind": "language"}`, or the arguments of a `Classifier` and `kind`
        (`pooled`, `tokens` or `span`)."""
        return {"kind": "language"}

    @classmethod
    def plain(cls) -> type["Task"]:
        """The class that its checkpoints name: its own, or that of a task which it trains in another way."""
        return cls

    @staticmethod
    def outcome(
        total: Tensor, divisor: float, count: Tensor | int, bytes_: Tensor | int = 0
    ) -> dict[str, Tensor]:
        """What `training_step` gives: `loss` to differentiate, with its `divisor`; to report, `total` (the
        loss summed), `count` (over how many it is) and `bytes`.

        Args:
            total: the summed loss of the batch, a scalar.
            divisor: of the loss: a constant for all batches, not this batch's count, so that every target
                weighs the same however a step is cut into micro-batches and processes.
            count: targets.
            bytes_: UTF-8 bytes of the text that the targets stand for; 0 where they stand for none.
        """
        return {
            "loss": total / divisor,
            "divisor": torch.as_tensor(divisor),
            "total": total.detach(),
            "count": torch.as_tensor(count),
            "bytes": torch.as_tensor(bytes_),
        }

    # What Lightning asks.

    def checkpoint_record(self) -> dict[str, Any] | None:
        """What the checkpoint says that the trainer is about to load; None where it loads none."""
        path = self.trainer.ckpt_path
        return None if path is None else checkpoints.read_record(checkpoints.read(path), path)

    def on_validation_epoch_end(self) -> None:
        self._log_figures("val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_figures("test")

    def _log_figures(self, part: str) -> None:
        figures = {f"{part}/{name}": value.float() for name, value in self.figures().items()}
        self.log_dict(figures, logger=self.logs_figures)

    def configure_model(self) -> None:
        """Shard the network where the strategy has a device mesh, then compile it. Called more than once."""
        if self.device_mesh is not None and not self._sharded:
            shard(self.net, self.trainer.strategy)
            self._sharded = True
        if self.compile_blocks:
            self.compile_blocks = False
            self.compile_now()

    def compile_now(self) -> None:
        """Compile each block, in place: the names of the weights stay as they are."""
        for block in self.net.backbone.blocks:
            block.compile()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is made with; a group's `lr_scale` multiplies its learning rate, and so does its
        `width_scale` where the update is Adam's."""
        return parameter_groups(self.net, width_scale=self.config.width_scale)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer on groups by kind of parameter, and its schedule by step.

        Raises:
            UserError: `trainer.max_steps` is not given.
        """
        total = self.trainer.max_steps
        if total < 1:
            raise UserError("give `trainer.max_steps`: the learning-rate schedule ends there", status=2)
        optimizer = self.optimizer(self.parameter_groups())
        if isinstance(optimizer, Muon):
            optimizer.bf16 = str(self.trainer.precision).startswith("bf16")
        for group in optimizer.param_groups:
            # An orthogonal update is as large as it should be at every width (arXiv:2310.17813).
            orthogonal = isinstance(optimizer, Muon) and group["kind"] == "matrix"
            group["lr"] *= group.get("lr_scale", 1.0) * (1.0 if orthogonal else group.get("width_scale", 1.0))
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
        by_value = gradient_clip_algorithm == "value"
        limit = gradient_clip_val if gradient_clip_val and not by_value else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), limit)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if gradient_clip_val and by_value:
            torch.nn.utils.clip_grad_value_(self.net.parameters(), gradient_clip_val)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained with another processor or other labels than `setup` has found:
        their figures would be nonsense. Lightning tells a task of `ckpt_path=` only when it has been set up.
        """
        record = checkpoint.get("lm") or {}
        if made := record.get("quantised"):
            ours = self.state_dict().keys()  # with integers, too, where an adapter is trained beside them
            layers = [f"{checkpoints.MODEL_PREFIX}{name}" for name in made["layers"]]
            layers = [name for name in layers if f"{name}.values" not in ours]
            checkpoint["state_dict"] = dequantised(checkpoint["state_dict"], layers)
        ours = {**self.record(), "processor": self.processor.fingerprint}
        theirs = {**record, "processor": self.kept_processor(record).fingerprint} if record else ours
        for name, what in (("processor", "processor (a tokenizer, say)"), ("labels", "labels")):
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f"the checkpoint was trained with another {what} than this task has made of its data. "
                    "Give its path as trainer.ckpt_path = PATH beforehand, and they are taken from it"
                )

    def kept_processor(self, record: dict[str, Any]) -> Processor:
        """The processor of the checkpoint that a run goes on from or that is measured. A subclass may let the
        data change it, to measure with."""
        return checkpoints.processor_of(record)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        figures = {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        made = checkpoints.make_record(path_of(self.plain()), self.config, self.processor, figures)
        checkpoint["lm"] = {**made, **self.record(), **self.added()}
