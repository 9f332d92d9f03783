"""What all tasks share: the optimizer and its schedule, gradient clipping, compiling, sharding, the record in
the checkpoint, and training and validation of a language model."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel
from lm.errors import UserError
from lm.optim import Muon, Schedule, WarmupStableDecay, parameter_groups
from lm.tasks.metrics import TokenLoss
from lm.tasks.sharding import shard

IGNORED = -100  # a target that does not count


class Example(NamedTuple):
    """A batch as a language model learns from it, B sequences of T tokens.

    Args:
        inputs: (B, T).
        targets: (B, T), `IGNORED` where nothing is to be predicted.
        documents: (B, T), or null where each sequence is one document.
        expected: targets of a full batch. The loss is divided by this constant, not by the count of a batch,
            so every token weighs the same however a step is cut into micro-batches and processes.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None
    expected: int


def several_documents(documents: Tensor) -> Tensor | None:
    """`documents` (B, T), or null where a look shows that no sequence has a border in it. On a GPU nobody
    looks: it would wait for the device."""
    if documents.device.type == "cpu" and bool((documents == documents[:, :1]).all()):
        return None
    return documents


class Task(LightningModule, ABC):
    """Pretraining of a language model. A subclass says what an example is.

    Args:
        backbone: the shape of the Transformer.
        optimizer: any torch optimizer.
        schedule: learning-rate factors over `trainer.max_steps`.
        compile: compile each block with torch.compile; worth it on a GPU.
    """

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
        self.net = LanguageModel(backbone)
        self.validation_loss = TokenLoss()
        self.register_buffer(
            "byte_lengths", torch.zeros(backbone.vocab_size, dtype=torch.int64), persistent=False
        )
        self.tokenizer: Any = None
        self._sharded = False

    @abstractmethod
    def example(self, batch: dict[str, Tensor], training: bool) -> Example:
        """Inputs and targets of a batch of windows (`tokens` and `documents` (B, T + 1), `key` (B,))."""

    def setup(self, stage: str) -> None:
        """Take the tokenizer from the data."""
        self.tokenizer = self.trainer.datamodule.tokenizer
        lengths = torch.from_numpy(self.tokenizer.byte_lengths())
        if len(lengths) > self.config.vocab_size:
            raise UserError(
                f"the data's tokenizer has {len(lengths)} pieces, the model room for {self.config.vocab_size}"
            )
        self.byte_lengths[: len(lengths)] = lengths

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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """`loss` to differentiate; `nats`, `tokens` and `bytes` of the targets to report."""
        example = self.example(batch, training=True)
        nats, _ = self.net(example.inputs, example.documents, example.targets)
        counted = example.targets >= 0
        bytes_ = (self.byte_lengths[example.targets.clamp(min=0)] * counted).sum()
        return {
            "loss": nats / example.expected,
            "nats": nats.detach(),
            "tokens": counted.sum(),
            "bytes": bytes_,
        }

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the figures."""
        example = self.example(batch, training=False)
        nats, hits = self.net(example.inputs, example.documents, example.targets)
        counted = example.targets >= 0
        bytes_ = self.byte_lengths[example.targets[counted]].sum()
        self.validation_loss.update(nats, counted.sum(), bytes_, hits)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the whole held-out split under `val/`."""
        figures = self.validation_loss.compute()
        self.validation_loss.reset()
        # Not to the logger: the monitor puts them at the optimizer step.
        self.log_dict({f"val/{name}": value.float() for name, value in figures.items()}, logger=False)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:
        """Rows for the file of predictions. Of a task that has none of its own, a batch's loss."""
        example = self.example(batch, training=False)
        nats, hits = self.net(example.inputs, example.documents, example.targets)
        tokens = int((example.targets >= 0).sum())
        return [{"loss": nats.item() / max(tokens, 1), "tokens": tokens, "hits": int(hits)}]

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer on groups by kind of parameter, and its schedule by step.

        Raises:
            UserError: `trainer.max_steps` is not given.
        """
        total = self.trainer.max_steps
        if total < 1:
            raise UserError("give trainer.max_steps: the learning-rate schedule ends there", status=2)
        optimizer = self.optimizer(parameter_groups(self.net))
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        figures = {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["lm"] = checkpoints.make_record(path, self.config, self.tokenizer, figures)
