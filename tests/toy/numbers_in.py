"""A modality that lm knows nothing of: numbers in, class out. A task of one's own is a file such as this."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone import BackboneConfig, Input
from lm.data import Example, ExampleData, read_rows, value
from lm.metrics import ClassificationScores, MeanLoss
from lm.processors import Processor, register
from lm.tasks import ExampleTask
from lm.tasks.base import Work


@dataclass(frozen=True)
class Series(Example):
    """Numbers, and what they are of."""

    numbers: tuple[float, ...]
    label: str

    @property
    def content(self) -> tuple[str, ...]:
        return tuple(map(str, self.numbers))


class SeriesData(ExampleData):
    """Rows with `numbers`, with spaces between, and `label`."""

    record = Series

    def shape(self) -> dict[str, int]:
        return {"max_seq_len": 16}

    def read(self, path: str, split: str) -> Iterator[Series]:
        for where, row in read_rows(path):
            numbers, label = (value(row, name, where) for name in ("numbers", "label"))
            yield Series(tuple(map(float, numbers.split())), label)


class Scale(Processor):
    """Divides by what is usual."""

    kind = "toy-scale"

    def __init__(self, size: float) -> None:
        self.size = size

    def to_bytes(self) -> bytes:
        return json.dumps(self.size).encode()


register(Scale.kind, lambda data: Scale(json.loads(data)))


class SeriesInput(Input):
    """Each number by a line."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.line = nn.Linear(1, config.hidden_size)

    def forward(self, raw: Tensor, documents: Tensor | None = None, past: int = 0) -> Tensor:
        return self.line(raw[..., None])


def stack(features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch: `numbers` (B, T), the rest (B,)."""
    return {name: torch.tensor([f[name] for f in features]) for name in features[0]}


class SeriesClassification(ExampleTask):
    """Put a label on a series."""

    reads, data_class = Series, "numbers_in.SeriesData"
    best_by = ("accuracy", "max")
    collate = staticmethod(stack)

    def make_processor(self, data: ExampleData) -> Scale:
        return Scale(max(abs(v) for example in data.examples("train") for v in example.numbers))

    def make_input(self) -> SeriesInput:
        return SeriesInput(self.config)

    def find_labels(self, data: ExampleData) -> list[str]:
        return sorted({example.label for example in data.examples("train")})

    def head(self) -> dict[str, Any]:
        return {"kind": "pooled", "outputs": len(self.labels), "pooling": "mean"}

    def encode(self, example: Series, training: bool) -> list[dict[str, Any]]:
        numbers = [v / self.processor.size for v in example.numbers]
        return [{"numbers": numbers, "target": self.labels.index(example.label)}]

    def work(self, batch: dict[str, Tensor]) -> Work:
        return Work(batch["numbers"].numel(), "numbers")

    def make_figures(self) -> None:
        self.loss, self.scores = MeanLoss(), ClassificationScores(self.labels)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        losses = F.cross_entropy(self.net(batch["numbers"]), batch["target"], reduction="none")
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        real = batch["index"] >= 0
        logits, target = self.net(batch["numbers"])[real], batch["target"][real]
        self.loss.update(F.cross_entropy(logits, target, reduction="none"))
        self.scores.update(logits.softmax(-1), target)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:
        best = self.net(batch["numbers"]).argmax(-1).tolist()
        return [
            {"index": i, "prediction": self.labels[n]}
            for i, n in zip(batch["index"].tolist(), best, strict=True)
            if i >= 0
        ]
