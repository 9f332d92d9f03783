"""Object detection: boxes around the things in a picture, and what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.images.detection import BoxedExample
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import DetectionScores, MeanLoss
from lm.processors.pictures import Picture
from lm.tasks.image.dense import DenseBoxes
from lm.tasks.image.drawing import WHITE, colours, with_boxes
from lm.tasks.image.placed import Drawn, Pictures, PlacedCollate, classes_of, photo, write_picture
from lm.tasks.image.queried import QueriedTask
from lm.tasks.image.queries import QueryBoxes

_SHOWN = 0.3  # score of a box that is shown


@dataclass(frozen=True)
class BoxCollate(PlacedCollate):
    """A `PlacedCollate` with `boxes` (B, N, 4) in pixels of the input and their `classes` (B, N), -1 behind
    the last; of pictures that are measured `true`, of each what `DetectionScores` wants, in its pixels."""

    def annotate(self, picture: Picture, features: Features) -> Picture:
        picture.boxes = np.reshape(features["boxes"], (-1, 4)).astype(np.float32)
        picture.labels = np.array(features["labels"], np.int64)
        return picture

    def added(self, features: Sequence[Features], opened: Pictures, fitted: Pictures) -> dict[str, Any]:
        boxes = [torch.from_numpy(each.boxes) for each in fitted]
        made: dict[str, Any] = {"boxes": pad_sequence(boxes, batch_first=True), "classes": classes_of(fitted)}
        if "aside" in features[0]:
            made["true"] = [
                {
                    "boxes": torch.from_numpy(picture.boxes),
                    "labels": torch.from_numpy(picture.labels),
                    "aside": torch.tensor(each["aside"], dtype=torch.float32),
                }
                for picture, each in zip(opened, features, strict=True)
            ]
        return made


class ObjectDetection(QueriedTask):
    """Find things in a picture: a box around each, and what it is.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        head: who says it: each position of the input, what it sees and how far that reaches (`dense`; see
            `lm.tasks.image.dense`), or learned vectors, a thing each (`queries`; see
            `lm.tasks.image.queries`), which takes far more pictures or steps to learn.
        queries: how many there are, of the head that has some: more than things on a picture.
    """

    reads = BoxedExample
    data_class = "lm.data.DetectionData"
    usage = "detect {} photo.jpg"
    best_by = ("map_50", "max")
    beside = QueriedTask.beside | {"threshold", "draw"}

    def __init__(
        self,
        backbone: BackboneConfig,
        head: Literal["dense", "queries"] = "dense",
        queries: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, head=head, queries=queries, **kwargs)
        self.threshold, self.draw = _SHOWN, None

    @property
    def reader(self) -> DenseBoxes | QueryBoxes:
        """What the outputs mean."""
        if self.queries:
            return QueryBoxes(len(self.labels), self.queries, self.processor.size)
        return DenseBoxes(len(self.labels), self.grid, self.step)

    def outputs(self) -> int:
        return self.reader.outputs

    def labels_of(self, example: BoxedExample) -> tuple[str, ...]:
        return example.labels

    def check_labels(self, data: ExampleData, split: str) -> None:
        self.check_learned(data, split, "boxes of classes")

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        if "train" in parts:
            features = data.features("train")
            self.count_things([len(each["labels"]) for each in features])

    def make_figures(self) -> None:
        self.loss, self.scores = MeanLoss(), DetectionScores(self.labels)

    @property
    def collate(self) -> BoxCollate:
        return BoxCollate(self.processor)

    def encode(self, example: BoxedExample, training: bool) -> list[Features]:
        """`place`, `boxes` and `labels` by number; while training without what nobody has to find, else with
        `aside`, which says what that is. Things of classes that were never learned are left out."""
        things = [
            (box, self.labels.index(label), aside)
            for box, label, aside in zip(example.boxes, example.labels, example.aside, strict=True)
            if label in self.labels and not (training and aside)
        ]
        boxes, labels, aside = ([thing[n] for thing in things] for n in range(3))
        features = {"place": list(example.place), "boxes": boxes, "labels": labels}
        return [features if training else {**features, "aside": aside}]

    def losses(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        return self.reader.losses(logits, batch["boxes"], batch["classes"])

    def targets(self, batch: dict[str, Any]) -> Tensor:
        return (batch["classes"] >= 0).sum(1)

    @property
    def expected(self) -> float:
        return self.things

    def look(self, batch: dict[str, Any], logits: Tensor) -> list[dict[str, Tensor]]:
        return self.placed_back(batch, self.reader.found(logits))

    def placed_back(self, batch: dict[str, Any], found: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """What was found in the input, in pixels of the pictures, without what lies beyond them."""
        results = []
        for each, size in zip(found, batch["sizes"], strict=True):
            boxes = torch.from_numpy(self.processor.place_back(each["boxes"].cpu().numpy(), size))
            placed = {name: values.cpu() for name, values in {**each, "boxes": boxes}.items()}
            within = (boxes[:, 2:] > boxes[:, :2]).all(1)
            results.append({name: values[within] for name, values in placed.items()})
        return results

    def measure(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        found, count = self.reader.found(logits), len(losses)
        self.scores.update(self.placed_back(batch, found)[:count], batch["true"][:count])

        def draw(number: int, pixels: np.ndarray) -> np.ndarray:
            there = batch["classes"][number] >= 0
            return self.drawn(pixels, found[number], batch["boxes"][number][there].tolist())

        self.show_worst({"pixels": Drawn(self, batch["pixels"], draw)}, losses, lambda n: f"{losses[n]:.3g}")

    def drawn(
        self, pixels: np.ndarray, found: dict[str, Tensor], true: Sequence[Sequence[float]] | None = None
    ) -> np.ndarray:
        """A picture with what was found on it, a colour each class: with names, or over what is there, in
        white."""
        sure, palette, there = found["scores"] >= self.threshold, colours(len(self.labels)), true or []
        labels = found["labels"][sure].tolist()
        names = [self.labels[label] for label in labels] if true is None else []
        shades = [*[WHITE] * len(there), *(palette[label] for label in labels)]
        return with_boxes(pixels, [*there, *found["boxes"][sure].tolist()], shades, names)

    def row(self, found: dict[str, Tensor]) -> dict[str, Any]:
        """`boxes`, the surest first: of each `label`, `score` and `box`, x0 y0 x1 y1 in pixels."""
        values = (found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
        return {
            "boxes": [
                {"label": self.labels[label], "score": round(score, 4), "box": [round(x, 1) for x in box]}
                for label, score, box in zip(*values, strict=True)
                if score >= self.threshold
            ]
        }

    # Of a line that a person gives; see `lm.tasks.applying`.

    def decode_with(self, threshold: float | None = None, draw: str | Path | None = None) -> None:
        """What is said of a picture from now on.

        Args:
            threshold: score of a box that is shown; None: as before.
            draw: folder for copies of pictures with their boxes on them; see `file_for`.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"--threshold {threshold}: it lies in 0 to 1", status=2)
        self.threshold = self.threshold if threshold is None else threshold
        self.draw = draw

    def result(self, line: Line, example: BoxedExample, found: list[dict[str, Tensor]]) -> dict[str, Any]:
        row = self.row(found[0])
        if self.draw is not None:
            path = self.file_for(self.draw, example.place.name)
            row["drawn"] = write_picture(path, self.drawn(photo(example.place), found[0]))
        return row

    def show(self, row: dict[str, Any]) -> str:
        lines = [
            f"  {each['score']:6.1%}  {each['label']}  {' '.join(f'{x:.0f}' for x in each['box'])}"
            for each in row["boxes"]
        ]
        return "\n".join(lines) or "  nothing"
