"""Small models to start from, examples that stand in the test itself, and tasks that are ready to learn."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel
from lm.data.examples.batches import TrainingExamples
from lm.data.examples.kinds import TextExampleData
from lm.data.examples.module import ExampleData
from lm.tasks.text.finetuning import FineTuning

SHAPES = {
    "gpt": {},
    "bert": {
        **{"causal": False, "positions": "learned", "norm": "layer", "norm_position": "after"},
        **{"embedding_norm": True, "segments": 2, "bias": True, "mlp": "gelu"},
    },
}
TASKS = {"gpt": "lm.tasks.CausalPretraining", "bert": "lm.tasks.MaskedPretraining"}


class Made(TextExampleData):
    """Examples that stand in the test."""

    def __init__(
        self, train: list, val: list | None = None, test: list | None = None, **options: Any
    ) -> None:
        options = {"seq_len": 32, "batch_size": 4, **options}
        super().__init__("train.x", val="val.x", test="test.x" if test else None, **options)
        for split, examples in (("train", train), ("val", val or train[:4]), ("test", test or [])):
            self.put(split, examples)

    def read(self, path: str, split: str) -> list:
        raise AssertionError("everything is there already")

    def texts(self, example: Any) -> Iterable[str]:
        return [example.text]


@torch.no_grad()
def scramble(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights so large, and norms and biases so different from 1 and 0, that every mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        scale = p.shape[-1] ** -0.5 if p.ndim == 2 and "embeddings" not in name else 0.5
        p.copy_(torch.randn(p.shape, generator=generator) * scale + (p.ndim == 1 and "bias" not in name))
    return model.eval()


def write_start(path: Path, kind: str, tokenizer: Any, seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of a language model with random weights."""
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 32}
    config = BackboneConfig(**{**small, **SHAPES[kind], "vocab_size": tokenizer.vocab_size, **changes})
    net = scramble(LanguageModel(config), seed)
    made = checkpoints.make_record(TASKS[kind], config, tokenizer)
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoints.write({"lm": made, "state_dict": state, "global_step": 7}, path)
    return path


@pytest.fixture(scope="session")
def starts(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Checkpoints to start from: `gpt`, and `bert` with segments and 32 learned positions."""
    folder = tmp_path_factory.mktemp("starts")
    return {kind: write_start(folder / f"{kind}.ckpt", kind, tokenizer) for kind in SHAPES}


@pytest.fixture(scope="session")
def make_start() -> Callable[..., Path]:
    """`make_start(path, "gpt" or "bert", tokenizer, seed=0, **shape)`."""
    return write_start


@pytest.fixture(scope="session")
def made() -> type[Made]:
    """A datamodule: `made(train, val, test, **options)`."""
    return Made


@pytest.fixture(scope="session")
def ready() -> Callable[..., FineTuning]:
    """A task that has looked at its data: `ready(Task, data, init_from=…, **options)`."""

    def make(
        task: type[FineTuning], data: ExampleData, record: Any = None, verb: str = "fit", **options: Any
    ):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, **options.pop("shape", {})}
        config = BackboneConfig(**shape, max_seq_len=data.seq_len, vocab_size=data.vocab_size)
        if isinstance(options.get("init_from"), Path):
            options["init_from"] = str(options["init_from"])
        made = task(config, **options)
        made.prepare(data, record, verb)
        return made

    return make


@pytest.fixture(scope="session")
def batches() -> Callable[..., list[dict[str, Any]]]:
    """The first step's batches of a task, as the loader would cut them: `batches(task, step=8)`."""

    def cut(task: FineTuning, step: int) -> list[dict[str, Any]]:
        data = task.data
        source = TrainingExamples(data.features("train"), data.batch_size, data.seed, task.collate, step)
        return [source[0, first] for first in range(0, step, data.batch_size)]

    return cut


@pytest.fixture(scope="session")
def gradients() -> Callable[..., tuple[float, dict[str, Tensor]]]:
    """The loss and the gradients of some batches that make one step."""

    def of(task: FineTuning, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Tensor]]:
        task.net.train()
        task.net.zero_grad()
        losses = [task.training_step(batch, 0)["loss"] / len(batches) for batch in batches]
        sum(losses).backward()
        found = {n: p.grad.clone() for n, p in task.net.named_parameters() if p.grad is not None}
        return sum(losses).item(), found

    return of


@pytest.fixture(scope="session")
def learn() -> Callable[..., None]:
    """Some steps of plain gradient descent."""

    def steps(task: FineTuning, batches: list[dict[str, Any]], count: int = 3, lr: float = 0.1) -> None:
        task.net.train()
        parameters = [p for p in task.net.parameters() if p.requires_grad]
        for _ in range(count):
            for batch in batches:
                loss = task.training_step(batch, 0)["loss"]
                for p, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p.data.sub_(lr * grad)
        task.net.eval()

    return steps
