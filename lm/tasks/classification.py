"""What all tasks share that put labels on whole examples: one label, several, or a number."""

import importlib.util
import re
from abc import abstractmethod
from collections import Counter
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.module import ExampleData
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import ClassificationScores, MeanLoss, RegressionScores
from lm.metrics.classification import holds
from lm.metrics.pictures import confusion_picture, reliability_picture
from lm.processors import Processor
from lm.tasks.transfer import Pooling, TransferTask

_NUMBER = re.compile(r"-?[0-9]+([.,][0-9]+)?")


class Classification(TransferTask):
    """Put a label on an example; several labels; or rate it. Which of the three the data say: a label, a list
    of labels, or a number.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        pooling: what of the sequence is classified: its `first` position, the `mean` of all, the `last`; auto
            takes the mean, of a causal backbone the last.
        label_smoothing: part of the target that is spread over all labels.
        class_weights: `balanced` makes every label count the same in the loss, however rare it is.
    """

    thing = "example"  # what is labelled, for messages
    best_by = ("accuracy", "max")
    kept = ("kind",)
    beside = TransferTask.beside | {
        *("pooling", "pooler", "also", "norm", "label_smoothing", "class_weights", "_drawn"),
    }

    def __init__(
        self,
        backbone: BackboneConfig,
        pooling: Pooling = "auto",
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing is {label_smoothing}: it must be from 0 to below 1", status=2)
        self.also: str | None = None  # it and a norm are what heads of others have; see `Classifier`
        self.norm = False
        self.pooling = ("last" if self.config.causal else "mean") if pooling == "auto" else pooling
        if self.config.causal and self.pooling == "first":
            raise UserError(
                f"pooling is first: a GPT's first position has seen nothing of the {self.thing}", status=2
            )
        self.pooler = bool(self.start and "pooler.dense.weight" in self.start.weights)
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.kind = "single"
        self.register_buffer("weights", None, persistent=False)

    def head(self) -> dict[str, Any]:
        more = {"also": self.also, "norm": self.norm}
        return {
            "kind": "pooled",
            "outputs": 1 if self.kind == "rating" else len(self.labels),
            "pooling": self.pooling,
            "pooler": self.pooler and self.pooling == "first",
            "dropout": self.config.dropout,
            **{name: value for name, value in more.items() if value},
        }

    def take_record(self, record: dict[str, Any], processor: Processor) -> None:
        super().take_record(record, processor)
        head = record["head"]
        self.pooling, self.pooler = head["pooling"], head["pooler"]
        self.also, self.norm = head.get("also"), head.get("norm", False)

    @abstractmethod
    def logits(self, batch: dict[str, Any]) -> Tensor:
        """The network's outputs (B, labels)."""

    @abstractmethod
    def named(self, example: Any) -> dict[str, Any]:
        """What a row of predictions says of an example, so that one knows which it is."""

    def find_labels(self, data: ExampleData) -> list[str]:
        """Every label of the training data, sorted; numbers among them by value."""
        examples = data.examples("train")
        kinds = {type(example.label) for example in examples}
        if (tuple in kinds or float in kinds) and (self.class_weights or self.label_smoothing):
            raise UserError(f"class_weights and label_smoothing are for one label a {self.thing}", status=2)
        if kinds <= {float, int}:
            self.kind = "rating"
            return []
        if tuple in kinds:
            self.kind = "multi"
        sets = {frozenset(self.labels_of(example)) for example in examples}
        if len(sets) < 2:
            names = sorted(*sets)
            what = "one label" if len(names) == 1 else "one set of labels"
            only = ", ".join(map(repr, names)) or "none"
            raise UserError(f"{data.called('train')} has {what} only ({only}): there is nothing to learn")
        found = frozenset.union(*sets)
        digits = all(re.fullmatch("-?[0-9]+", name) for name in found)
        return sorted(found, key=int if digits else None)

    def labels_of(self, example: Any) -> tuple[str, ...]:
        if isinstance(example.label, tuple):
            return example.label
        return (example.label,) if isinstance(example.label, str) else ()

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        """How often each label occurs, for `class_weights`."""
        if "train" in parts and self.class_weights and self.kind == "single":
            found = Counter(example.label for example in data.examples("train"))
            counts = torch.tensor([found[name] for name in self.labels], dtype=torch.float32)
            self.weights = counts.sum() / (len(counts) * counts)

    def check_labels(self, data: ExampleData, split: str) -> None:
        examples = data.examples(split)
        numbers = {isinstance(e.label, float) for e in examples if e.label is not None}
        if numbers - {self.kind == "rating"}:
            said = "ratings: give `data.rating` true" if self.kind == "rating" else "labels, not ratings"
            raise UserError(f"this model has learned {said}", status=2)
        if self.kind == "single" and any(isinstance(e.label, tuple) for e in examples):
            raise UserError(
                f"{data.called(split)} has several labels a {self.thing}; this model has learned one"
            )
        there = {name for example in examples for name in self.labels_of(example)}
        numbers = self.kind == "single" and all(map(_NUMBER.fullmatch, {*self.labels, *there}))
        hint = "; if it is a number to be predicted: `data.rating` true" if numbers else ""
        self.check_learned(data, split, "examples of labels", hint)
        unlabelled = sum(e.label is None for e in examples)
        if unlabelled:
            raise UserError(
                f"{unlabelled:,} of {len(examples):,} examples of {data.called(split)} have no label: "
                "`lm predict` labels them; there are no figures without"
            )

    def make_figures(self) -> None:
        self.loss = MeanLoss()
        if self.kind == "rating":
            self.scores: Any = RegressionScores()
            # Not by a correlation, which is no number where the held-out ratings don't vary.
            self.best_by = ("mean_squared_error", "min")
        else:
            self.scores = ClassificationScores(self.labels, multilabel=self.kind == "multi")
            if self.kind == "multi":
                self.best_by = ("micro_f1", "max")

    def target(self, label: Any) -> Any:
        """Null where there is none, or one that was never learned: it can be labelled all the same."""
        if label is None or isinstance(label, float) != (self.kind == "rating"):
            return None
        if self.kind == "rating":
            return label
        if self.kind == "multi":
            names = (label,) if isinstance(label, str) else label
            return np.array([float(name in names) for name in self.labels], dtype=np.float32)
        return self.labels.index(label) if label in self.labels else None

    def losses(self, logits: Tensor, target: Tensor, training: bool) -> Tensor:
        """The loss of each example (B,)."""
        if self.kind == "rating":
            return F.mse_loss(logits[:, 0], target.float(), reduction="none")
        if self.kind == "multi":
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
        return F.cross_entropy(
            logits,
            target,
            weight=self.weights if training else None,
            label_smoothing=self.label_smoothing if training else 0.0,
            reduction="none",
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = self.losses(self.logits(batch), batch["target"], training=True)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each label (B, labels); the number itself of a rating (B, 1)."""
        if self.kind == "rating":
            return logits
        return logits.sigmoid() if self.kind == "multi" else logits.softmax(-1)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        counted = batch["index"] >= 0
        logits = self.logits(batch).float()[counted]
        target = batch["target"][counted]
        losses = self.losses(logits, target, training=False)
        self.loss.update(losses)
        self.looked(batch, logits, target, losses)
        if self.kind == "rating":
            self.scores.update(logits[:, 0], target.float())
        else:
            self.scores.update(self.probabilities(logits), target.long())

    def looked(self, batch: dict[str, Any], logits: Tensor, target: Tensor, losses: Tensor) -> None:
        """Look at what was found while validating, for those that show it. Examples that don't count are left
        out of all but `batch`, where they come last."""

    def figures(self) -> dict[str, Tensor]:
        if self.kind == "single":
            self._drawn = self.scores.confusion.cpu(), self.scores.reliability
        return super().figures()

    def pictures(self) -> dict[str, np.ndarray]:
        """The confusion matrix and the reliability diagram of the last figures, (H, W, 3); none of several
        labels or ratings, nor without matplotlib."""
        if self.kind != "single" or importlib.util.find_spec("matplotlib") is None:
            return {}
        confusion, reliability = self._drawn
        return {
            "confusion": confusion_picture(confusion, self.labels),
            "reliability": reliability_picture(reliability),
        }

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        examples = self.data.examples("test")
        values = self.probabilities(self.logits(batch).float()).tolist()
        return [
            {"index": i, **self.named(examples[i]), **self.row(found), "label": examples[i].label}
            for i, found in zip(batch["index"].tolist(), values, strict=True)
            if i >= 0
        ]

    def row(self, values: list[float]) -> dict[str, Any]:
        """What is said of one example, from its probabilities, which are rounded for the eye alone."""
        if self.kind == "rating":
            return {"prediction": round(values[0], 6)}
        named = dict(zip(self.labels, values, strict=True))
        best: Any = max(named, key=named.get)
        if self.kind == "multi":
            best = [name for name, p in named.items() if holds(p)]
        return {"prediction": best, "probabilities": {name: round(p, 6) for name, p in named.items()}}

    # Of a line that a person gives; see `lm.tasks.applying`.

    def look(self, batch: dict[str, Any], logits: Tensor) -> list[list[float]]:
        return self.probabilities(logits).tolist()

    def result(self, line: Line, example: Any, found: list[list[float]]) -> dict[str, Any]:
        if example is None:
            return {"prediction": None} | ({} if self.kind == "rating" else {"probabilities": None})
        return self.row(found[0])

    def show(self, row: dict[str, Any], best: int = 5) -> str:
        """The `best` likeliest labels; where several may hold, those that do have a mark."""
        if self.kind == "rating":
            return f"  {row['prediction']:.4g}"
        ordered = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])[:best]
        holds = row["prediction"] if self.kind == "multi" else ()
        return "\n".join(f"  {p:6.1%}  {name}" + " *" * (name in holds) for name, p in ordered)
