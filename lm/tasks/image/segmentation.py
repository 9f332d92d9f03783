"""Segmentation: what each pixel of a picture shows, or which are those of each thing."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.images.segmentation import BACKGROUND, MaskedExample
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import InstanceScores, MeanLoss, SegmentationScores
from lm.processors.pictures import VOID
from lm.tasks.image.mask_queries import QueryMasks
from lm.tasks.image.pixels import MaskCollate, PixelClasses
from lm.tasks.image.placed import Drawn, photo, write_picture
from lm.tasks.image.queried import QueriedTask
from lm.tasks.image.squares import SquareLabels, Squares
from lm.tasks.image.things import ThingCollate, Things

_SHOWN = 0.3  # score of a thing that is shown


class Segmentation(QueriedTask):
    """Say of every pixel of a picture what it shows; or find its things, each with a mask of its own.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        head: who says it: each position, of its small squares (`linear`; see `lm.tasks.image.squares`), or
            learned vectors, each of a class and where it is (`queries`; see `lm.tasks.image.mask_queries`).
        queries: how many there are, of the head that has some: more than classes or things on a picture.
        squares: of them each position has as many by as many.
        dice: weight of the dice loss, of the linear head; see `lm.tasks.image.squares`.
        instances: things are told apart, two of a class too, by queries and from COCO's outlines; where these
            cover each other, the smallest is learned. There is no background, and crowds count nowhere.
    """

    reads = MaskedExample
    data_class = "lm.data.SegmentationData"
    usage = "segment {} photo.jpg --out masks"
    best_by = ("mean_iou", "max")
    beside = QueriedTask.beside | {"threshold", "out", "draw", "squares", "dice", "instances"}
    kept = (*QueriedTask.kept, "squares", "instances")

    def __init__(
        self,
        backbone: BackboneConfig,
        head: Literal["linear", "queries"] = "linear",
        queries: int = 50,
        squares: int = 2,
        dice: float = 0.0,
        instances: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, head=head, queries=queries, **kwargs)
        if squares < 1:
            raise UserError(f"squares is {squares}: it must be at least 1", status=2)
        if dice < 0:
            raise UserError(f"dice is {dice}: it must be at least 0", status=2)
        if instances and not self.queries:
            raise UserError("things are told apart by queries: give `model.head` queries", status=2)
        self.squares, self.dice, self.instances = squares, dice, instances
        if instances:
            self.best_by = ("map_50", "max")
        self.threshold = _SHOWN
        self.out: str | Path | None = None
        self.draw: str | Path | None = None

    @property
    def reader(self) -> SquareLabels | QueryMasks:
        """What the outputs mean."""
        squares = Squares(self.squares, self.grid, self.step, self.processor.size)
        if self.queries:
            return QueryMasks(len(self.labels), self.queries, squares)
        return SquareLabels(len(self.labels), squares, self.dice)

    @property
    def said(self) -> PixelClasses | Things:
        """What is made of what they mean."""
        return Things(self.labels, self.threshold) if self.instances else PixelClasses(self.labels)

    def outputs(self) -> int:
        return self.reader.outputs

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        if "train" in parts:
            examples = data.examples("train")
            self.count_things([e.aside.count(False) if self.instances else len(e.there) for e in examples])

    def labels_of(self, example: MaskedExample) -> tuple[str, ...]:
        return tuple(label for label in example.there if isinstance(label, str))

    def check_labels(self, data: ExampleData, split: str) -> None:
        self.check_learned(data, split, "pictures with classes")

    def find_labels(self, data: Any) -> list[str]:
        found = super().find_labels(data)
        if self.instances:
            found = [label for label in found if label != BACKGROUND]
        least = 1 if self.instances else 2
        if not least <= len(found) <= VOID:
            raise UserError(f"{len(found)} classes: there can be from {least} to {VOID}")
        return found

    def make_figures(self) -> None:
        self.loss = MeanLoss()
        self.scores = InstanceScores(self.labels) if self.instances else SegmentationScores(self.labels, VOID)

    @property
    def collate(self) -> MaskCollate:
        kind = ThingCollate if self.instances else MaskCollate
        return kind(self.processor, numbers=self.data.numbers(self.labels) if self.data else {})

    def encode(self, example: MaskedExample, training: bool) -> list[Features]:
        """`place`, and where they are known `mask`, `outlines` and which of these are `aside`."""
        features = {"place": list(example.place)}
        if self.instances and example.mask is not None:
            raise UserError("masks of classes do not tell things apart: give COCO's JSON")
        if example.mask is not None or example.outlines is not None:
            mask = None if example.mask is None else list(example.mask)
            features |= {"mask": mask, "outlines": example.outlines, "aside": list(example.aside)}
        return [features]

    def upsampled(self, outputs: Tensor) -> Tensor:
        """How much each pixel of the input is of each class, (B, classes, H, W), of outputs (B, T, n)."""
        return self.reader.scores(outputs)

    def losses(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        return self.reader.losses(logits, *self._there(batch))

    def targets(self, batch: dict[str, Any]) -> Tensor:
        return self.reader.targets(*self._there(batch))

    def _there(self, batch: dict[str, Any]) -> list[Tensor]:
        return [batch[name] for name in ("mask", "classes") if name in batch]

    @property
    def expected(self) -> float:
        if self.queries:
            return self.things
        height, width = self.processor.size
        return height * width

    def look(self, batch: dict[str, Any], logits: Tensor) -> list[Any]:
        return self.said.found(self.reader, logits, self.processor, batch["sizes"])

    def measure(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        found, count = self.look(batch, logits), len(losses)
        for each, true in zip(found[:count], batch["true"][:count], strict=True):
            if self.instances:
                self.scores.update([each], [true])
            else:
                self.scores.update(torch.from_numpy(each).to(true.device), true)

        def draw(number: int, pixels: np.ndarray) -> np.ndarray:
            whole = {"sizes": [self.processor.size]}
            guess = self.said.numbers(self.look(whole, logits[number, None])[0])
            right = batch["mask"][number].cpu().numpy()
            return np.concatenate([self.said.drawn(pixels, each) for each in (right, guess)], axis=1)

        self.show_worst({"pixels": Drawn(self, batch["pixels"], draw)}, losses, lambda n: f"{losses[n]:.3g}")

    def row(self, found: Any) -> dict[str, Any]:
        return self.said.row(found)

    # Of a line that a person gives; see `lm.tasks.applying`.

    def decode_with(
        self,
        out: str | Path | None = None,
        draw: str | Path | None = None,
        threshold: float | None = None,
    ) -> None:
        """What is made of a picture from now on.

        Args:
            out: folder for maps of classes or of the numbers of things, each as large as its picture, see
                `file_for`; None: maps of classes are returned.
            draw: folder for copies of pictures with a map's colours over them.
            threshold: score of a thing that is shown; None: as before.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold}: it lies in 0 to 1", status=2)
        self.threshold = self.threshold if threshold is None else threshold
        self.out, self.draw = out, draw

    def result(self, line: Line, example: MaskedExample, found: list[Any]) -> dict[str, Any]:
        said, row, name = self.said, self.row(found[0]), example.place.name
        numbers = said.numbers(found[0])
        if not self.instances:
            row["mask"] = numbers
        if self.out is not None:
            row["mask"] = write_picture(self.file_for(self.out, name), numbers, said.palette)
        if self.draw is not None:
            drawn = said.drawn(photo(example.place), numbers)
            row["drawn"] = write_picture(self.file_for(self.draw, name), drawn)
        return row

    def show(self, row: dict[str, Any]) -> str:
        return self.said.show(row)
