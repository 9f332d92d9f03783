"""What is said of a picture whose things are told apart, each with a mask: instance segmentation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.data.examples.batches import Features
from lm.data.images.masks import runs_of, thing_map, thing_mask
from lm.processors.images import ImageProcessor
from lm.processors.pictures import VOID, Picture
from lm.tasks.image.drawing import colours, with_labels
from lm.tasks.image.mask_queries import QueryMasks
from lm.tasks.image.pixels import MaskCollate
from lm.tasks.image.placed import Pictures, classes_of

_LEAST = 0.01  # score of a thing that is kept
_KEPT = 100  # things of a picture: as many as COCO's figures look at


@dataclass(frozen=True)
class ThingCollate(MaskCollate):
    """A `MaskCollate` whose `mask` has the number of the thing that each pixel is of (see `thing_map`), with
    the things' `classes` (B, N), -1 behind the last; `true` is what `InstanceScores` wants."""

    def annotate(self, picture: Picture, features: Features) -> Picture:
        if "outlines" in features:
            names, outlines, aside = _things(features)
            classes = [self.numbers[name] for name, apart in zip(names, aside, strict=True) if not apart]
            picture.mask = thing_map(outlines, aside, *picture.size)
            picture.labels = np.array(classes[: VOID - 1], np.int64)
        return picture

    def added(self, features: Sequence[Features], opened: Pictures, fitted: Pictures) -> dict[str, Any]:
        made = super().added(features, opened, fitted)
        return {**made, "classes": classes_of(fitted)} if made else made

    def true(self, features: Features, picture: Picture) -> dict[str, Any]:
        """Things as they are outlined, whole where others cover them."""
        names, outlines, aside = _things(features)
        return {
            "masks": [runs_of(thing_mask(outline, *picture.size)) for outline in outlines],
            "labels": torch.tensor([self.numbers[name] for name in names], dtype=torch.int64),
            "aside": torch.tensor(aside, dtype=torch.bool),
        }


def _things(features: Features) -> tuple[list[str], list[Any], list[bool]]:
    """Classes and outlines of a picture's things, and which are crowds."""
    things = json.loads(features["outlines"])
    return [name for name, _ in things], [outline for _, outline in things], features["aside"]


@dataclass(frozen=True)
class Things:
    """Of a picture its `size` and its things, the surest first: `labels` and `scores` (n,), `boxes`, x0 y0 x1
    y1, and `masks`, as COCO's runs.

    Args:
        labels: names of the classes.
        threshold: score of a thing that is shown.
    """

    labels: Sequence[str]
    threshold: float

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """The colours of a map's numbers."""
        return [(0, 0, 0), *colours(VOID - 1)]

    def found(
        self,
        reader: QueryMasks,
        outputs: Tensor,
        processor: ImageProcessor,
        sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Any]]:
        """What outputs (B, T, n) say of pictures of these heights and widths, in their own pixels. A query is
        as sure as its class is, times the mean of its mask where it is above a half (Mask2Former)."""
        logits, masks = reader.read(outputs)
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        results = []
        for row, size in enumerate(sizes):
            things = []
            for query in (scores[row] > _LEAST).nonzero()[:, 0].tolist():
                chances = masks[row, query].sigmoid().cpu().numpy()
                chances = processor.place_labels_back(chances, size)
                there = (chances > 0.5) & (chances <= 1)  # beyond that is `VOID`
                if there.any():
                    score = scores[row, query].item() * chances[there].mean().item()
                    things.append((score, int(labels[row, query]), _box(there), runs_of(there)))
            things = sorted(things, key=lambda thing: -thing[0])[:_KEPT]
            results.append(
                {
                    "size": size,
                    "scores": torch.tensor([thing[0] for thing in things]),
                    "labels": torch.tensor([thing[1] for thing in things], dtype=torch.int64),
                    "boxes": [thing[2] for thing in things],
                    "masks": [thing[3] for thing in things],
                }
            )
        return results

    def numbers(self, found: dict[str, Any]) -> np.ndarray:
        """The map that is written: the numbers of the things that are shown, from 1, uint8 (H, W); where they
        cover each other that of the surest."""
        result = np.zeros(found["size"], np.uint8)
        for number in range(int((found["scores"] >= self.threshold).sum()), 0, -1):
            result[thing_mask(found["masks"][number - 1], *found["size"])] = number
        return result

    def drawn(self, pixels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """A picture with a map's colours over it; what is no thing stays."""
        return with_labels(pixels, numbers - np.uint8(1), self.palette[1:])

    def row(self, found: dict[str, Any]) -> dict[str, Any]:
        """`things`, the surest first: of each `label`, `score`, `box`, x0 y0 x1 y1 in pixels, and `mask`, as
        COCO's compressed runs."""
        values = found["labels"].tolist(), found["scores"].tolist(), found["boxes"], found["masks"]
        return {
            "things": [
                {"label": self.labels[label], "score": round(score, 4), "box": box, "mask": mask}
                for label, score, box, mask in zip(*values, strict=True)
                if score >= self.threshold
            ]
        }

    def show(self, row: dict[str, Any]) -> str:
        lines = [
            f"  {each['score']:6.1%}  {each['label']}  {' '.join(map(str, each['box']))}"
            for each in row["things"]
        ]
        return "\n".join(lines) or "  nothing"


def _box(mask: np.ndarray) -> list[int]:
    """x0 y0 x1 y1 around a mask (H, W)."""
    rows, columns = (mask.any(axis).nonzero()[0] for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
