"""What a run's loggers show of it: loss, speed, learning rates, gradients, how well the device is used."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks.logs import log_figures, log_picture
from lm.engine.lightning import within_step
from lm.engine.replicas import data_shard
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
    """Peak operations per second of a GPU, or None where it is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def figures_of(trainer: Trainer, part: str = "val") -> dict[str, float]:
    """The last figures of a part (val, test) by their plain names."""
    found = trainer.callback_metrics.items()
    return {k.removeprefix(f"{part}/"): v.item() for k, v in found if k.startswith(f"{part}/")}


def validation_tags(trainer: Trainer) -> dict[str, float]:
    """The last validation's figures by their names on TensorBoard, where a figure of training and the same of
    validation stand side by side, and bits per byte and the loss first. So do those of a mixture's corpora:
    `loss_web` is `loss/val_web`."""
    figures = figures_of(trainer)
    tags = {"accuracy": "token_accuracy/val"} if "perplexity" in figures else {}
    for figure in ("loss", "bits_per_byte"):
        start = f"{figure}_"
        tags |= {n: f"{figure}/val_{n.removeprefix(start)}" for n in figures if n.startswith(start)}
    return {tags.get(name, f"{name}/val"): value for name, value in figures.items()}


class Monitor(Callback):
    """Counts work and time, and logs the figures of training every `trainer.log_every_n_steps`.

    Args:
        peak_flops: operations per second the device can do at best, for the utilisation; looked up by the
            GPU's name where it is None.
        window: batches that the speed is measured over, without validation and saving.
    """

    def __init__(self, peak_flops: float | None = None, window: int = 20) -> None:
        self.peak_flops, self.window = peak_flops, window
        self.seen = 0  # units of work, by all processes
        self.unit = "tokens"
        self.train_seconds = 0.0
        self.waiting_seconds = 0.0  # of these, for data
        self.history: list[tuple[float, int]] = []  # (seconds, units of work) at the last steps
        self.speed = 0.0  # in these, by all processes
        self._logged_loss = math.nan
        self.validated_step = -1
        self._step_started = 0.0
        self._learning_rates: dict[str, float] = {}
        self._restored: list[float] = []
        # Loss, targets and bytes of each batch since the last log, on the device.
        self._sums: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        sums = torch.stack(self._sums).sum(0).tolist() if self._sums else []
        seconds = {name: getattr(self, name) for name in ("train_seconds", "waiting_seconds")}
        return {"seen": self.seen, "unit": self.unit, **seconds, "sums": sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there. Before there were other units the first key was `tokens_seen`."""
        self.seen = state_dict["seen"] if "seen" in state_dict else state_dict["tokens_seen"]
        self.unit = state_dict.get("unit", self.unit)
        self.train_seconds, self._restored = state_dict["train_seconds"], state_dict["sums"]
        self.waiting_seconds = state_dict.get("waiting_seconds", 0.0)

    @property
    def loss(self) -> float:
        """Of a target since the last log, or of the last log: what this process has seen."""
        if not self._sums:
            return self._logged_loss
        total, count, _ = torch.stack(self._sums).sum(0).tolist()
        return total / max(count, 1)

    @property
    def per_second(self) -> float:
        """Mean speed of the whole run's training, all processes together, in units of work."""
        return self.seen / self.train_seconds if self.train_seconds else 0.0

    @property
    def waiting(self) -> float:
        """The share of the whole run's training in which this process waited for its data."""
        return self.waiting_seconds / self.train_seconds if self.train_seconds else 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.logs_figures = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Waiting for data is part of the time, but for the first batch.
        now = time.perf_counter()
        self._step_started = self._step_started or now
        self.waiting_seconds += now - self._step_started
        self._learning_rates = {}
        for group in trainer.optimizers[0].param_groups:  # of several layers' the highest
            kind, rate = group.get("kind", "all"), float(group["lr"])
            self._learning_rates[kind] = max(rate, self._learning_rates.get(kind, 0.0))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log at the end of every n-th optimizer step."""
        now = time.perf_counter()
        work = pl_module.work(batch)
        self.unit, done = work.unit, work.amount * data_shard(trainer).size
        seconds = now - self._step_started
        self._step_started = now
        self.seen += done
        self.train_seconds += seconds
        self.history = [*self.history[-self.window :], (seconds, done)]
        self.speed = sum(done for _, done in self.history) / sum(seconds for seconds, _ in self.history)
        device = outputs["total"].device  # counts may lie elsewhere
        sums = [outputs[name].to(device, exact(device)) for name in ("total", "count", "bytes")]
        self._sums.append(torch.stack(sums))
        if self._restored:
            self._sums[-1] = self._sums[-1] + self._sums[-1].new_tensor(self._restored)
            self._restored = []
        step, every = trainer.global_step, trainer.log_every_n_steps
        if every and step % every == 0 and not within_step(trainer):
            self._log(trainer, pl_module, batch, step)

    def _log(self, trainer: Trainer, pl_module: LightningModule, batch: Any, step: int) -> None:
        # The only place that waits for the device: losses stay there until they are logged.
        sums = trainer.strategy.reduce(torch.stack(self._sums).sum(0), reduce_op="sum")
        self._sums = []
        total, count, bytes_ = sums.tolist()
        self._logged_loss = total / max(count, 1)
        if not math.isfinite(self._logged_loss):
            raise UserError(
                f"the loss is {self._logged_loss} at step {step}: training has diverged. "
                "Lower the learning rate or lengthen the warm-up, and choose another `name`"
            )
        figures = {"loss/train": self._logged_loss}
        if bytes_:  # a loss on text
            figures["perplexity/train"] = math.exp(min(self._logged_loss, 700))
            figures["bits_per_byte/train"] = total / bytes_ / math.log(2)
        figures |= {
            f"progress/{self.unit}_seen": self.seen,
            "progress/epoch": trainer.current_epoch,
            f"speed/{self.unit}_per_second": self.speed,
            "speed/waiting_for_data": self.waiting,
        }
        if pl_module.gradient_norm is not None:
            figures["optimizer/gradient_norm"] = float(pl_module.gradient_norm)
        for kind, rate in self._learning_rates.items():
            figures[f"optimizer/learning_rate_{kind}"] = rate
        peak, amount = self.peak_flops or known_peak(pl_module.device), pl_module.work(batch).amount
        if peak and amount:
            flops = pl_module.training_flops(batch) / amount * self.speed
            figures["speed/model_flops_utilisation"] = flops / (peak * trainer.world_size)
        log_figures(trainer, figures)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        self._step_started = 0.0  # saving is not training time; nor is validation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_started = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the validation figures at the optimizer step, not at Lightning's count of batches."""
        self.validated_step = trainer.global_step
        if not trainer.sanity_checking:
            log_figures(trainer, validation_tags(trainer))
        if trainer.is_global_zero and trainer.loggers:
            for tag, picture in pl_module.pictures().items():
                log_picture(trainer, tag, picture)
