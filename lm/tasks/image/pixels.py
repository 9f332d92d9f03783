"""What is said of a picture whose pixels have classes: a map of these, in colours and in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.data.examples.batches import Features
from lm.data.images.segmentation import class_map
from lm.data.media.places import Place
from lm.processors.images import ImageProcessor
from lm.processors.pictures import Picture
from lm.tasks.image.drawing import colours, with_labels
from lm.tasks.image.mask_queries import QueryMasks
from lm.tasks.image.placed import Pictures, PlacedCollate
from lm.tasks.image.squares import SquareLabels


@dataclass(frozen=True)
class MaskCollate(PlacedCollate):
    """A `PlacedCollate` with the class of each pixel of the input, `mask` (B, H, W); of pictures that are
    measured `true`, likewise of each in its own size.

    Args:
        numbers: of the classes; see `lm.data.images.segmentation.class_map`.
    """

    numbers: dict[int | str, int] = field(default_factory=dict)

    def annotate(self, picture: Picture, features: Features) -> Picture:
        if "outlines" in features:
            mask = None if features["mask"] is None else Place(*features["mask"])
            picture.mask = class_map(mask, features["outlines"], self.numbers, picture.size)
        return picture

    def added(self, features: Sequence[Features], opened: Pictures, fitted: Pictures) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if "outlines" in features[0]:
            made["mask"] = torch.from_numpy(np.stack([each.mask for each in fitted]))
            if "index" in features[0]:
                made["true"] = [self.true(*each) for each in zip(features, opened, strict=True)]
        return made

    def true(self, features: Features, picture: Picture) -> Any:
        """What a picture is measured by."""
        return torch.from_numpy(picture.mask)


@dataclass(frozen=True)
class PixelClasses:
    """Of a picture the class of each pixel, uint8 (H, W).

    Args:
        labels: names of the classes.
    """

    labels: Sequence[str]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours of a map's numbers."""
        return colours(len(self.labels))

    def found(
        self,
        reader: SquareLabels | QueryMasks,
        outputs: Tensor,
        processor: ImageProcessor,
        sizes: Sequence[tuple[int, int]],
    ) -> list[np.ndarray]:
        """What outputs (B, T, n) say of pictures of these heights and widths, in their own pixels."""
        labels = reader.scores(outputs).argmax(1).to(torch.uint8).cpu().numpy()
        return [processor.place_labels_back(each, size) for each, size in zip(labels, sizes, strict=True)]

    def numbers(self, found: np.ndarray) -> np.ndarray:
        """The map that is written."""
        return found

    def drawn(self, pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """A picture with a map's colours over it."""
        return with_labels(pixels, numbers, self.palette)

    def row(self, found: np.ndarray) -> dict[str, Any]:
        """`shares`: of each class that occurs the share of the picture, the largest first."""
        numbers, counts = np.unique(found, return_counts=True)
        shares = sorted(zip((counts / found.size).tolist(), numbers.tolist(), strict=True), reverse=True)
        return {"shares": {self.labels[number]: round(share, 4) for share, number in shares}}

    def show(self, row: dict[str, Any]) -> str:
        return "\n".join(f"  {share:6.1%}  {label}" for label, share in row["shares"].items())
