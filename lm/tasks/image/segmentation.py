"""Semantic segmentation: what each pixel of a picture shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.images.segmentation import MaskedExample, class_map
from lm.data.media.places import Place
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import MeanLoss, SegmentationScores
from lm.processors.pictures import VOID, Picture
from lm.tasks.image.drawing import colours, with_labels
from lm.tasks.image.placed import Drawn, PlacedCollate, PlacedTask, photo, write_picture


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


class Segmentation(PlacedTask):
    """Say of every pixel of a picture what it shows. A linear head says it of small squares, each position of
    some; in between, logits are interpolated (the linear decoder of Segmenter, arXiv:2105.05633).

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        squares: of them each position has as many by as many.
    """

    reads = MaskedExample
    data_class = "lm.data.SegmentationData"
    usage = "segment {} photo.jpg --out masks"
    best_by = ("mean_iou", "max")
    beside = PlacedTask.beside | {"out", "draw", "squares"}
    kept = ("squares",)

    def __init__(self, backbone: BackboneConfig, squares: int = 2, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        if squares < 1:
            raise UserError(f"squares is {squares}: it must be at least 1", status=2)
        self.squares = squares
        self.out: str | Path | None = None
        self.draw: str | Path | None = None

    def outputs(self) -> int:
        return len(self.labels) * self.squares**2

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
        """Logits of each pixel of the input (B, classes, H, W) from outputs (B, T, outputs)."""
        rows, columns = self.grid
        squares = outputs[:, -rows * columns :].mT.unflatten(2, (rows, columns))
        squares = F.pixel_shuffle(squares, self.squares)  # (B, classes, rows · squares, columns · squares)
        size = rows * self.step, columns * self.step  # what is padded to whole positions is cut off again
        height, width = self.processor.size
        return F.interpolate(squares, size, mode="bilinear")[:, :, :height, :width]

    def losses(self, batch: dict[str, Any], logits: Tensor) -> Tensor:
        pixels = self.upsampled(logits)
        return F.cross_entropy(pixels, batch["mask"].long(), ignore_index=VOID, reduction="none").sum((1, 2))

    def targets(self, batch: dict[str, Any]) -> Tensor:
        return (batch["mask"] != VOID).sum((1, 2))

    @property
    def expected(self) -> float:
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
            out: folder for masks, each as large as its picture; None: they are returned.
            draw: folder for copies of pictures with the classes' colours over them.
        """
        self.out, self.draw = out, draw

    def result(self, line: Line, example: MaskedExample, found: list[np.ndarray]) -> dict[str, Any]:
        labels, row = found[0], self.row(found[0])
        name = f"{Path(example.place.name).stem}.png"
        row["mask"] = labels
        if self.out is not None:
            row["mask"] = write_picture(Path(self.out) / name, labels, colours(len(self.labels)))
        if self.draw is not None:
            row["drawn"] = write_picture(Path(self.draw) / name, self.drawn(photo(example.place), labels))
        return row

    def show(self, row: dict[str, Any]) -> str:
        return "\n".join(f"  {share:6.1%}  {label}" for label, share in row["shares"].items())
