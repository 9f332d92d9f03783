"""What TensorBoard shows of a run: loss, speed, learning rates, gradients, how well the device is used."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lm.errors import UserError
from lm.metrics.base import exact

# Dense bf16 operations per second without sparsity, from the makers' data sheets.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


def known_peak(device: torch.device) -> float | None:
    """Peak operations per second of a GPU, or null where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def validation_tags(trainer: Trainer) -> dict[str, float]:
    """The last validation's figures by their names on TensorBoard, where a figure of training and the same of
    validation stand side by side, and bits per byte and the loss first."""
    figures = {k.removeprefix("val/"): v.item() for k, v in trainer.callback_metrics.items() if "val/" in k}
    tags = {"accuracy": "piece_accuracy/val"} if "perplexity" in figures else {}
    return {tags.get(name, f"{name}/val"): value for name, value in figures.items()}


@dataclass
class Rates:
    """What the last few steps looked like.

    Args:
        loss: nats per token.
        tokens_per_second: over all processes.
        history: (seconds, tokens) at the last steps.
    """

    loss: float = float("nan")
    tokens_per_second: float = 0.0
    history: list[tuple[float, int]] = field(default_factory=list)


class Monitor(Callback):
    """Counts tokens and time, and logs the figures of training every `trainer.log_every_n_steps`.

    Args:
        peak_flops: operations per second the device can do at best, for the utilisation; looked up by the
            GPU's name where it is null.
        window: batches that the speed is measured over, without validation and saving.
    """

    def __init__(self, peak_flops: float | None = None, window: int = 20) -> None:
        self.peak_flops, self.window = peak_flops, window
        self.tokens_seen = 0
        self.train_seconds = 0.0
        self.rates = Rates()
        self.validated_step = -1
        self._step_started = 0.0
        self._learning_rates: dict[str, float] = {}
        self._restored: list[float] = []
        self._sums: list[
            torch.Tensor
        ] = []  # nats, tokens and bytes of each batch since the last log, on the device

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        sums = torch.stack(self._sums).sum(0).tolist() if self._sums else []
        return {"tokens_seen": self.tokens_seen, "train_seconds": self.train_seconds, "sums": sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self.tokens_seen, self.train_seconds = state_dict["tokens_seen"], state_dict["train_seconds"]
        self._restored = state_dict["sums"]

    @property
    def loss(self) -> float:
        """Nats per token since the last log, or of the last log: what this process has seen."""
        if not self._sums:
            return self.rates.loss
        nats, tokens, _ = torch.stack(self._sums).sum(0).tolist()
        return nats / max(tokens, 1)

    @property
    def tokens_per_second(self) -> float:
        """Mean speed of the whole run's training, all processes together."""
        return self.tokens_seen / self.train_seconds if self.train_seconds else 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock; waiting for data is part of the time. Note the learning rates of this step."""
        if not self._step_started:
            self._step_started = time.perf_counter()
        self._learning_rates = {}
        for group in trainer.optimizers[0].param_groups:  # of several layers' the highest
            kind, rate = group.get("kind", "all"), float(group["lr"])
            self._learning_rates[kind] = max(rate, self._learning_rates.get(kind, 0.0))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log at the end of every n-th optimizer step."""
        now = time.perf_counter()
        windows, length = batch["tokens"].shape
        # Examples say themselves how many tokens they have; a window's last token is only predicted.
        tokens = batch.get("seen", windows * (length - 1)) * trainer.world_size
        seconds = now - self._step_started
        self._step_started = now
        self.tokens_seen += tokens
        self.train_seconds += seconds
        self.rates.history = [*self.rates.history[-self.window :], (seconds, tokens)]
        spent = sum(s for s, _ in self.rates.history)
        self.rates.tokens_per_second = sum(t for _, t in self.rates.history) / spent
        device = outputs["nats"].device  # counts may lie elsewhere
        sums = [outputs[name].to(device, exact(device)) for name in ("nats", "tokens", "bytes")]
        self._sums.append(torch.stack(sums))
        if self._restored:
            self._sums[-1] = self._sums[-1] + self._sums[-1].new_tensor(self._restored)
            self._restored = []
        step, every = trainer.global_step, trainer.log_every_n_steps
        if every and step % every == 0 and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._log(trainer, pl_module, step, tokens // (windows * trainer.world_size))

    def _log(self, trainer: Trainer, pl_module: LightningModule, step: int, seq_len: int) -> None:
        # The only place that waits for the device: losses stay there until they are logged.
        sums = trainer.strategy.reduce(torch.stack(self._sums).sum(0), reduce_op="sum")
        self._sums = []
        nats, tokens, bytes_ = sums.tolist()
        self.rates.loss = nats / max(tokens, 1)
        if not math.isfinite(self.rates.loss):
            raise UserError(
                f"the loss is {self.rates.loss} at step {step}: training has diverged. "
                "Lower the learning rate or lengthen the warm-up, and choose another --name"
            )
        figures = {"loss/train": self.rates.loss}
        if bytes_:  # a loss on text
            figures["perplexity/train"] = math.exp(min(self.rates.loss, 700))
            figures["bits_per_byte/train"] = nats / bytes_ / math.log(2)
        figures |= {
            "progress/tokens_seen": self.tokens_seen,
            "progress/epoch": trainer.current_epoch,
            "speed/tokens_per_second": self.rates.tokens_per_second,
        }
        norm = getattr(pl_module, "gradient_norm", None)
        if norm is not None:
            figures["optimizer/gradient_norm"] = float(norm)
        for kind, rate in self._learning_rates.items():
            figures[f"optimizer/learning_rate_{kind}"] = rate
        peak = self.peak_flops or known_peak(pl_module.device)
        if peak:
            flops = pl_module.net.training_flops_per_token(seq_len) * self.rates.tokens_per_second
            figures["speed/model_flops_utilisation"] = flops / (peak * trainer.world_size)
        if trainer.logger is not None:
            trainer.logger.log_metrics(figures, step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Saving is not training time."""
        self._step_started = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        self._step_started = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the validation figures at the optimizer step, not at Lightning's count of batches."""
        self.validated_step = trainer.global_step
        if trainer.logger is not None and not trainer.sanity_checking:
            trainer.logger.log_metrics(validation_tags(trainer), trainer.global_step)
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            pictures = pl_module.pictures() if hasattr(pl_module, "pictures") else {}
            for tag, picture in pictures.items():
                trainer.logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")
