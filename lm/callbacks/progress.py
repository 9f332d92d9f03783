"""A person sees how the run goes: one line that moves in a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks.monitor import Monitor, figures_of
from lm.engine.lightning import within_step


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 75 s is `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantity(number: float) -> str:
    """A number with three digits and a unit: 12,345 is `12.3k`."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


class Progress(Callback):
    """Step, loss, speed and time left, on stderr."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def _print(self, text: str, moving: bool = False) -> None:
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + ("" if moving else "\n"))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step: ten times a second at most in a terminal, 20 times in all in a log."""
        step, total = trainer.global_step, trainer.max_steps
        if not trainer.is_global_zero or within_step(trainer):
            return
        now = time.monotonic()
        due = now - self._shown > 0.1 if self._terminal else step % max(1, total // 20) == 0
        if not due and step != total:
            return
        self._shown = now
        recent = self.monitor.history
        batches_left = (total - step) * trainer.accumulate_grad_batches
        left = sum(seconds for seconds, _ in recent) / len(recent) * batches_left
        speed = f"{quantity(self.monitor.speed)} {self.monitor.unit}/s"
        width = len(str(total))
        self._print(
            f"step {step:{width}}/{total}  loss {self.monitor.loss:.3f}  {speed}  {duration(left)} left",
            moving=True,
        )

    def _batch(self, trainer: Trainer, stage: str, number: int, batches: list[int | float]) -> None:
        """Show which batch has been looked at, in a terminal."""
        if trainer.is_global_zero and self._terminal and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            self._print(f"{stage}: batch {number + 1}/{sum(batches)}", moving=True)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        self._batch(trainer, "validation", batch[2], trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        self._batch(trainer, "test", batch[2], trainer.num_test_batches)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        self._batch(trainer, "prediction", batch[2], trainer.num_predict_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._print(
                f"step {trainer.global_step}/{trainer.max_steps}  validation: {figures_line(trainer)}"
            )
        else:
            self._clear(trainer, pl_module)

    def _clear(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._terminal:
            sys.stderr.write("\r\x1b[K")  # the moving line goes

    on_train_end = on_test_end = on_predict_end = _clear

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero and self._terminal:
            sys.stderr.write("\n")  # the moving line stays


def figures_line(trainer: Trainer) -> str:
    """The figures of the last validation or test in one line."""
    validated = figures_of(trainer)
    testing = trainer.state.fn == "test" and not validated
    return in_words(figures_of(trainer, "test") if testing else validated)


def in_words(figures: Mapping[str, float]) -> str:
    """Figures by their names for a person; those of single classes are for TensorBoard."""
    formats = {
        "loss": "loss {:.4f}",
        "perplexity": "perplexity {:.2f}",
        "bits_per_byte": "{:.4f} bits per byte",
        "accuracy": "accuracy {:.1%}",
    }
    named = ((name, value) for name, value in figures.items() if not name.startswith("f1_"))
    return ", ".join(
        # Counts, and what is as large, without decimals.
        formats.get(name, name + (" {:,.0f}" if value % 1 == 0 or value > 1000 else " {:.4g}")).format(value)
        for name, value in named
    )
