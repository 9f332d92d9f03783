"""What a person is told of a run: when it begins, when it stops, and at its end."""

import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from lm.callbacks.progress import in_words
from lm.inference.generate import Sample
from lm.processes import is_rank_zero, say
from lm.run.folder import RUNS, Finished, write_configuration
from lm.run.resume import Resumed
from lm.tasks import Pretraining, Task


class Opening(Callback):
    """Says what begins, and writes down its configuration, once data and model are ready: nothing before
    that belongs to a run.

    Args:
        folder: of the run.
        configuration: the run's, in plain values.
        resumed: what it goes on from.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any], resumed: Resumed | None) -> None:
        self.folder, self.configuration, self.resumed = folder, configuration, resumed

    def on_fit_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Parameters and steps are known; the step that a run goes on from is the checkpoint's."""
        steps, warmup = trainer.max_steps, pl_module.schedule.warmup
        verb = "starts"
        if self.resumed is not None:
            self.resumed.check_steps(self.folder / "last.ckpt", steps)
            verb = f"goes on from step {self.resumed.step}"
        say(
            f"run {self.folder} {verb}: {pl_module.net.num_parameters():,} parameters, {steps} steps, "
            f"on {trainer.accelerator.__class__.__name__.removesuffix('Accelerator')}"
            f" ({trainer.world_size} process{'es' if trainer.world_size > 1 else ''}, {trainer.precision})"
        )
        if warmup >= steps > 1:
            say(
                f"warning: the learning rate rises for {warmup} steps, and {steps} are all there are: train "
                "for longer (`trainer.max_epochs` or `trainer.max_steps`), or with less `schedule.warmup`"
            )
        if is_rank_zero():
            write_configuration(self.folder, self.configuration, anew=self.resumed is None)


def say_finished(run: Finished) -> None:
    """That there is nothing to do, and what can be done."""
    loss = run.summary.get("val_loss")
    quoted = shlex.quote(str(run.folder))
    loss = "" if loss is None else f" (validation loss {loss:.4f})"
    print(
        f"{run.folder} is finished{loss}: nothing to do.\n"
        "To train anew choose another --name, or delete the folder. To train longer: "
        f"lm fit {quoted}/config.yaml --ckpt_path {quoted}/last.ckpt "
        "--name NAME --trainer.max_steps N"
    )


def _of_pretraining(summary: dict[str, Any], opening: str, causal: bool) -> tuple[str, str, str]:
    """The heading of the sample, the figures, and the command that uses the model."""
    heading, use = "a sample, [token→guess] or [token]", 'fill {} "for i in range(<mask>(x)):"'
    if causal:
        heading = f"a sample, going on from {opening!r}"
        start = (opening.strip().splitlines() or [""])[0][:24]
        start = start.rsplit(" ", 1)[0]  # whole words, where there are any
        use = f"generate {{}} {shlex.quote(start).replace('{', '{{').replace('}', '}}')}"
    if summary["val_loss"] is None:
        return heading, "it was not validated: trainer.limit_val_batches is 0", use
    figures = (
        f"validation loss {summary['val_loss']:.4f}, perplexity {summary['perplexity']:.2f}, "
        f"{summary['bits_per_byte']:.4f} bits per byte, accuracy {summary['val_accuracy']:.1%}"
    )
    return heading, figures, use


def _of_a_task(summary: dict[str, Any], best: str) -> str:
    """The best figure, and those of the test part."""
    lines = ["no validation gave a figure to go by"]
    if summary[best] is not None:
        figure = best.removeprefix("best_val_")
        lines = [f"best validation {figure} {summary[best]:.4f} at step {summary['best_step']}"]
    test = {k.removeprefix("test_"): v for k, v in summary.items() if k.startswith("test_")}
    if test:
        lines.append("on the test part    " + in_words(test))
    return "\n".join(lines)


def report(folder: Path, summary: dict[str, Any], sample: Sample, unit: str, model: Task) -> str:
    """What a person sees at the end: a sample, the figures, where everything is, what to type next.

    Args:
        unit: of the work.
    """
    best = next(name for name in summary if name.startswith("best_val_"))
    pretrained = isinstance(model, Pretraining)
    kept = "best.ckpt" if pretrained or summary[best] is not None else "last.ckpt"
    heading, figures, use = "a sample", _of_a_task(summary, best), model.usage
    if pretrained:
        heading, figures, use = _of_pretraining(summary, sample.opening, model.config.causal)
    shown = ""
    if sample.text or pretrained:
        shown = f"\n--- {heading} ---\n{sample.text}\n--- end of sample ---\n"
    own = ""
    if isinstance(model, Pretraining):  # one that began as another model does so on one's own text, too
        nano = f"{'gpt' if model.config.causal else 'bert'}-nano"
        started = model.init_from and shlex.quote(str(folder / "config.yaml"))
        own = f"lm fit {started or nano} --data.corpus PATH --name NAME"
    files = ", ".join(dict.fromkeys((kept, "last.ckpt", "config.yaml", "summary.json")))
    rows = [
        ("run folder", f"{folder}/  ({files})"),
        ("use it", f"lm {use.format(shlex.quote(str(folder / kept)))}" if use else ""),
        ("see how it went", f"tensorboard --logdir {RUNS}"),
        ("what it is", f"lm info {shlex.quote(str(folder))}"),
        ("your own text", own),
    ]
    return f"""{shown}
{figures}
{summary[f"{unit}_seen"]:,} {unit} at {summary[f"{unit}_per_second"]:,.0f} a second; \
{summary["wall_seconds"]:.0f} s in all; {summary["parameters"]:,} parameters

""" + "\n".join(f"{name:18}{what}" for name, what in rows if what)
