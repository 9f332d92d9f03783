"""Semantic segmentation: what each pixel of a picture shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.images.segmentation import MaskedExample, class_map
from lm.data.media.places import Place
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import MeanLoss, SegmentationScores
from lm.processors.pictures import VOID, Picture
from lm.tasks.image.drawing import colours, with_labels
from lm.tasks.image.mask_queries import QueryMasks
from lm.tasks.image.placed import Drawn, PlacedCollate, photo, write_picture
from lm.tasks.image.queried import QueriedTask
from lm.tasks.image.squares import SquareLabels, Squares


@dataclass(frozen=True)
class MaskCollate(PlacedCollate):
    """A `PlacedCollate` with the class of each pixel of the input, `mask` (B, H, W); of pictures that are
    measured `true`, likewise of each in its own size.

    Args:
        numbers: of the classes; see `lm.data.images.segmentation.class_map`.
    """

    numbers: dict[int | str, int] = field(default_factory=dict)

    def annotate(self, picture: Picture, features: Features) -> Picture:
        if "mask" in features:
            mask = None if features["mask"] is None else Place(*features["mask"])
            picture.mask = class_map(mask, features["outlines"], self.numbers, picture.size)
        return picture

    def add(
        self,
        batch: dict[str, Any],
        features: Sequence[Features],
        opened: Sequence[Picture],
        fitted: Sequence[Picture],
    ) -> None:
        if "mask" in features[0]:
            batch["mask"] = torch.from_numpy(np.stack([each.mask for each in fitted]))
            if "index" in features[0]:
                batch["true"] = [torch.from_numpy(each.mask) for each in opened]


class Segmentation(QueriedTask):
    """Say of every pixel of a picture what it shows.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        head: who says it: each position, of its small squares (`linear`; see `lm.tasks.image.squares`), or
            learned vectors, each of a class and where it is (`queries`; see `lm.tasks.image.mask_queries`).
        queries: how many there are, of the head that has some: more than classes on a picture.
        squares: of them each position has as many by as many.
        dice: weight of the dice loss, of the linear head; see `lm.tasks.image.squares`.
    """

    reads = MaskedExample
    data_class = "lm.data.SegmentationData"
    usage = "segment {} photo.jpg --out masks"
    best_by = ("mean_iou", "max")
    beside = QueriedTask.beside | {"out", "draw", "squares", "dice"}
    kept = (*QueriedTask.kept, "squares")

    def __init__(
        self,
        backbone: BackboneConfig,
        head: Literal["linear", "queries"] = "linear",
        queries: int = 50,
        squares: int = 2,
        dice: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, head=head, queries=queries, **kwargs)
        if squares < 1:
            raise UserError(f"squares is {squares}: it must be at least 1", status=2)
        if dice < 0:
            raise UserError(f"dice is {dice}: it must be at least 0", status=2)
        self.squares, self.dice = squares, dice
        self.out: str | Path | None = None
        self.draw: str | Path | None = None

    @property
    def reader(self) -> SquareLabels | QueryMasks:
        """What the outputs mean."""
        squares = Squares(self.squares, self.grid, self.step, self.processor.size)
        if self.queries:
            return QueryMasks(len(self.labels), self.queries, squares)
        return SquareLabels(len(self.labels), squares, self.dice)

    def outputs(self) -> int:
        return self.reader.outputs

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        if "train" in parts:
            self.count_things([len(example.there) for example in data.examples("train")])

    def find_labels(self, data: Any) -> list[str]:
        found = super().find_labels(data)
        if not 2 <= len(found) <= VOID:
            raise UserError(f"{len(found)} classes: there can be from 2 to {VOID}")
        return found

    def make_figures(self) -> None:
        self.loss, self.scores = MeanLoss(), SegmentationScores(self.labels, VOID)

    @property
    def collate(self) -> MaskCollate:
        return MaskCollate(self.processor, numbers=self.data.numbers(self.labels) if self.data else {})

    def encode(self, example: MaskedExample, training: bool) -> list[Features]:
        """`place`, and where they are known `mask` and `outlines`."""
        features = {"place": list(example.place)}
        if example.mask is not None or example.outlines is not None:
            mask = None if example.mask is None else list(example.mask)
            features |= {"mask": mask, "outlines": example.outlines}
        return [features]

    def upsampled(self, outputs: Tensor) -> Tensor:
        """How much each pixel of the input is of each class, (B, classes, H, W), of outputs (B, T, n)."""
        return self.reader.scores(outputs)

    def losses(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        return self.reader.losses(logits, batch["mask"])

    def targets(self, batch: dict[str, Any]) -> Tensor:
        return self.reader.targets(batch["mask"])

    @property
    def expected(self) -> float:
        if self.queries:
            return self.things
        height, width = self.processor.size
        return height * width

    def look(self, batch: dict[str, Any], logits: Tensor) -> list[np.ndarray]:
        found = self.upsampled(logits).argmax(1).to(torch.uint8).cpu().numpy()
        return [
            self.processor.place_labels_back(each, size)
            for each, size in zip(found, batch["sizes"], strict=True)
        ]

    def measure(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        found, count = self.look(batch, logits), len(losses)
        for labels, true in zip(found[:count], batch["true"][:count], strict=True):
            self.scores.update(torch.from_numpy(labels).to(true.device), true)

        def draw(number: int, pixels: np.ndarray) -> np.ndarray:
            guess, right = (self.upsampled(logits[number, None]).argmax(1)[0], batch["mask"][number])
            return np.concatenate([self.drawn(pixels, each.cpu().numpy()) for each in (right, guess)], axis=1)

        self.show_worst({"pixels": Drawn(self, batch["pixels"], draw)}, losses, lambda n: f"{losses[n]:.3g}")

    def drawn(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """A picture with the classes' colours over it."""
        return with_labels(pixels, labels, colours(len(self.labels)))

    def row(self, found: np.ndarray) -> dict[str, Any]:
        """`shares`: of each class that occurs the share of the picture, the largest first."""
        numbers, counts = np.unique(found, return_counts=True)
        shares = sorted(zip((counts / found.size).tolist(), numbers.tolist(), strict=True), reverse=True)
        return {"shares": {self.labels[number]: round(share, 4) for share, number in shares}}

    # Of a line that a person gives; see `lm.tasks.applying`.

    def decode_with(self, out: str | Path | None = None, draw: str | Path | None = None) -> None:
        """What is made of a picture from now on.

        Args:
            out: folder for masks, each as large as its picture, see `file_for`; None: they are returned.
            draw: folder for copies of pictures with the classes' colours over them.
        """
        self.out, self.draw = out, draw

    def result(self, line: Line, example: MaskedExample, found: list[np.ndarray]) -> dict[str, Any]:
        labels, row, name = found[0], self.row(found[0]), example.place.name
        row["mask"] = labels
        if self.out is not None:
            row["mask"] = write_picture(self.file_for(self.out, name), labels, colours(len(self.labels)))
        if self.draw is not None:
            path = self.file_for(self.draw, name)
            row["drawn"] = write_picture(path, self.drawn(photo(example.place), labels))
        return row

    def show(self, row: dict[str, Any]) -> str:
        return "\n".join(f"  {share:6.1%}  {label}" for label, share in row["shares"].items())
