"""Of two texts, which is the better one? A task on text of one's own is a file such as this."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.data import Example, Skipped, TextExampleData, read_rows, value
from lm.data.examples.batches import Collate, Features, collate
from lm.metrics import MeanLoss
from lm.tasks import FineTuning


@dataclass(frozen=True)
class Pair(Example):
    """Two starts with one end; which start is better, 0 or 1, or None where that is not known."""

    starts: tuple[str, str]
    end: str
    better: int | None

    @property
    def content(self) -> tuple[str, ...]:
        return tuple(f"{start} {self.end}" for start in self.starts)


class PairData(TextExampleData):
    """Rows with two `context_options`, a `continuation` of both, and `gold`, the number of the better."""

    record = Pair

    def read(self, path: str, split: str) -> Iterator[Pair | Skipped]:
        for where, row in read_rows(path):
            starts, end = (value(row, name, where) for name in ("context_options", "continuation"))
            known = row.get("gold") is not None or self.predicting
            yield Pair(tuple(starts), end, row.get("gold")) if known else Skipped("no gold")

    def group(self, example: Pair) -> str:
        return min(example.starts)  # the same starts come with another end, where the other one is better

    def texts(self, example: Pair) -> tuple[str, ...]:
        return example.content


def collate_pairs(features: Sequence[Features], padding: dict[str, int]) -> dict[str, Any]:
    """A batch: `tokens` (2B, T), the texts of a pair one below the other; the rest (B,)."""
    batch = collate([{"tokens": f[side]} for f in features for side in ("a_tokens", "b_tokens")], padding)
    rest = {"better", "index"}.intersection(*features)
    return batch | {name: torch.tensor([f[name] for f in features]) for name in rest}


class BetterOfTwo(FineTuning):
    """Give each text a score, and take the one with the higher."""

    reads, data_class = Pair, "better_of_two.PairData"

    def head(self) -> dict[str, Any]:
        return {"kind": "pooled", "outputs": 1, "pooling": "last" if self.config.causal else "mean"}

    def encode(self, example: Pair, training: bool) -> list[Features]:
        room = self.config.max_seq_len - self.tokenizer.frame_size(False)
        ids = [self.tokenizer.encode(text) for text in example.content]
        first, second = (self.tokenizer.frame(i[-room:])[0] for i in ids)
        known = {} if example.better is None else {"better": example.better}
        return [{"a_tokens": first, "b_tokens": second, "cut": max(map(len, ids)) > room, **known}]

    @property
    def collate(self) -> Collate:
        return partial(collate_pairs, padding=self.padding)

    def make_figures(self) -> None:
        self.loss, self.right = MeanLoss(), MeanLoss()

    def scores(self, batch: dict[str, Any]) -> Tensor:
        """Of both texts of each pair (B, 2)."""
        return self.net(batch["tokens"], batch["documents"]).view(-1, 2)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = F.cross_entropy(self.scores(batch), batch["better"], reduction="none")
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        real = batch["index"] >= 0
        scores, better = self.scores(batch)[real], batch["better"][real]
        self.loss.update(F.cross_entropy(scores, better, reduction="none"))
        self.right.update(scores.argmax(-1) == better)

    def figures(self) -> dict[str, Tensor]:
        figures = {**self.loss.compute(), "accuracy": self.right.compute()["loss"]}
        self.loss.reset()
        self.right.reset()
        return figures

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        rows = zip(batch["index"].tolist(), self.scores(batch).softmax(-1).tolist(), strict=True)
        return [{"index": i, "prediction": int(p[1] > p[0]), "probabilities": p} for i, p in rows if i >= 0]
