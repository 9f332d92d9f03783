"""A model to use: `lm.load(path)`, wherever it lies, and what it can do.

    import lm

    model = lm.load("checkpoints/gpt-nano")
    print(model.generate("def parse", tokens=50))
    for part in model.stream("def parse"):
        print(part, end="")

What takes a text takes several, too, and then gives a list: they share batches, and what comes of one does
not depend on the others, but for rounding. What a model can't do is an `lm.UserError` that says what it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from lm.checkpoint import Model
from lm.convert import open_model
from lm.errors import UserError
from lm.predictor.looking import Looking
from lm.predictor.writing import Messages, SamplingOptions, Writing, WritingOptions
from lm.tasks.table import entry_of, path_of

__all__ = ["Messages", "Predictor", "SamplingOptions", "WritingOptions", "load", "while_training"]


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    base: str | Path | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
) -> "Predictor":
    """Open a model.

    Args:
        path: a checkpoint, a run's folder (its best.ckpt), an adapter.ckpt, a Hugging Face folder, or an ONNX
            file of lm.
        device: where it works: cpu, cuda, cuda:1, mps.
        base: what an adapter was trained beside, where it is no longer where it was.
        dtype: of the weights. bf16 halves the memory, and writes faster on a GPU, and on a CPU that has
            instructions for it; it rounds to three digits.

    Raises:
        UserError: there is none, or more than one, it is damaged, or there is no such device or type.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"`device` {device}: there is none here", status=2) from error
    if dtype not in ("fp32", "bf16"):
        raise UserError(f"`dtype` {dtype}: it can be fp32, bf16", status=2)
    model = open_model(path, device, base, check=False, integers=True)
    if dtype == "bf16":
        model.to(torch.bfloat16)
    return Predictor(model)


class Predictor(Writing, Looking):
    """A model that is open, made by `load`; see `Opened`."""


@contextmanager
def while_training(task: Any) -> Iterator[Predictor]:
    """A model in the midst of its training, to be used within: in evaluation mode, uncompiled, as each length
    of text would be compiled anew. What is drawn within is nothing to the training.

    Args:
        task: that trains it; not sharded.
    """
    from lightning.pytorch.utilities.seed import isolate_rng

    record = {"task": path_of(task.plain()), **task.record()}
    model = Model(task.config, {}, task.processor, "the model", record)
    model.__dict__["network"] = task.net  # as it is
    predictor, training = Predictor(model), task.net.training
    if entry := entry_of(model.record):
        predictor._tasks[entry.command] = task
    task.net.eval()
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"):
            yield predictor
    finally:
        task.net.train(training)
