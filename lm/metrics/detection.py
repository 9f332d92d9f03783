"""Boxes or masks that were found beside those that are there, scored as COCO does."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lm.errors import not_installed

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

_FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")  # COCO's first six


class DetectionScores(Metric):
    """Average precision of boxes, by COCO's rules as faster-coco-eval carries them out.

    A box is found where one of its class overlaps it by more than a threshold, intersection over union, and
    is surer than others that do. All boxes are kept, 24 bytes each: precision needs them in order.

    Args:
        labels: names of the classes, in the order of their numbers.
    """

    full_state_update = False
    kind = "bbox"  # as faster-coco-eval calls it

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        try:
            import faster_coco_eval  # noqa: F401 - so that it is missed before hours of training
        except ImportError as error:
            raise not_installed("average precision", "faster-coco-eval", "images") from error
        self.labels = tuple(labels)
        # Of each picture: boxes found, boxes there, and six numbers of each box.
        self.add_state("pictures", [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """fp32 always: with this a process without values takes part where others exchange theirs."""
        return torch.float32

    def update(self, found: Sequence[Mapping[str, Tensor]], true: Sequence[Mapping[str, Tensor]]) -> None:
        """Add pictures.

        Args:
            found: of each picture `boxes` (n, 4), x0 y0 x1 y1 in pixels, `scores` (n,) and `labels` (n,).
            true: of each `boxes` (m, 4), `labels` (m,), and if there are such `aside` (m,): 1 for boxes that
                nobody has to find, crowds and difficult ones.

        Raises:
            ValueError: not as many pictures here as there, or of a picture's boxes as labels or scores.
        """
        for guess, right in zip(found, true, strict=True):
            aside = right["aside"] if "aside" in right else torch.zeros(len(right["labels"]))
            rows = [_rows(guess, guess["scores"]), _rows(right, aside)]
            counts = torch.tensor([float(len(part)) for part in rows])
            self.pictures.append(torch.cat([counts, *(part.flatten() for part in rows)]).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """In 0 to 1: `map` is the mean over classes and thresholds of 0.5 to 0.95, `map_50` and `map_75` at
        one threshold, `map_small`, `map_medium` and `map_large` of boxes below 32² and 96² pixels and above;
        `ap50_NAME` of each class that has boxes. Not a number where there is none to be found."""
        kept = dim_zero_cat(self.pictures) if len(self.pictures) else torch.zeros(0, dtype=self.dtype)
        evaluation = self._evaluated(*self._things(kept.cpu().numpy()))
        if evaluation is None:
            return {name: torch.tensor(float("nan"), device=self.device) for name in _FIGURES}
        figures = dict(zip(_FIGURES, evaluation.stats.tolist(), strict=False))
        # Axes: thresholds, 101 recalls, classes, areas (all first), numbers of boxes (100 last).
        each = evaluation.eval["precision"][0, :, :, 0, -1].mean(axis=0).tolist()
        figures |= {
            f"ap50_{label}": value for label, value in zip(self.labels, each, strict=True) if value > -1
        }
        nan = float("nan")
        return {
            name: torch.tensor(nan if value < 0 else value, device=self.device)
            for name, value in figures.items()
        }

    def _things(self, numbers: np.ndarray) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
        """What was found and what is there, as COCO's files have it, and how many pictures there are."""
        found, true, pictures, start = [], [], 0, 0
        while start < len(numbers):
            guesses, rights = numbers[start : start + 2].astype(int).tolist()
            start += 2
            boxes = numbers[start : start + 6 * (guesses + rights)].reshape(-1, 6).astype(np.float64)
            start += boxes.size
            for row, (x0, y0, x1, y1, label, more) in enumerate(boxes.tolist()):
                box = {"image_id": pictures, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                if row < guesses:
                    found.append({**box, "score": more})
                else:
                    true.append({**box, "area": (x1 - x0) * (y1 - y0), "iscrowd": int(more)})
            pictures += 1
        return found, true, pictures

    def _evaluated(
        self, found: list[dict[str, Any]], true: list[dict[str, Any]], pictures: int
    ) -> "COCOeval_faster | None":
        from faster_coco_eval import COCO, COCOeval_faster

        if not true:
            return None
        true = [{**thing, "id": number} for number, thing in enumerate(true, start=1)]
        classes = [{"id": number, "name": label} for number, label in enumerate(self.labels)]
        # Boxes need no size of their picture, and runs have their own.
        images = [{"id": number, "height": 0, "width": 0} for number in range(pictures)]
        data = COCO({"images": images, "annotations": true, "categories": classes})
        evaluation = COCOeval_faster(data, data.loadRes(found), self.kind, print_function=lambda *words: None)
        evaluation.run()
        return evaluation


class InstanceScores(DetectionScores):
    """Average precision of masks, by the same rules: what overlaps are pixels. All masks are kept, as runs in
    JSON."""

    kind = "segm"

    @property
    def dtype(self) -> torch.dtype:
        """Bytes always; see `DetectionScores`."""
        return torch.uint8

    def update(self, found: Sequence[Mapping[str, Any]], true: Sequence[Mapping[str, Any]]) -> None:
        """Add pictures.

        Args:
            found: of each picture `masks`, n of them as COCO's runs (see `lm.data.images.masks.runs_of`),
                `scores` (n,) and `labels` (n,).
            true: of each m `masks`, `labels` (m,) and `aside` (m,): 1 for those that nobody has to find.

        Raises:
            ValueError: not as many pictures here as there, or of a picture's masks as labels or scores.
        """
        for guess, right in zip(found, true, strict=True):
            rows = [
                list(zip(picture["masks"], picture["labels"].tolist(), picture[more].tolist(), strict=True))
                for picture, more in ((guess, "scores"), (right, "aside"))
            ]
            line = bytearray(json.dumps(rows).encode() + b"\n")
            self.pictures.append(torch.frombuffer(line, dtype=torch.uint8).to(self.device))

    def _things(self, numbers: np.ndarray) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
        from faster_coco_eval.core import mask

        found, true, lines = [], [], numbers.tobytes().splitlines()
        for picture, line in enumerate(lines):
            guesses, rights = json.loads(line)
            place = {"image_id": picture}
            found += [
                {**place, "category_id": label, "segmentation": runs, "score": score}
                for runs, label, score in guesses
            ]
            true += [
                {
                    **{**place, "category_id": label, "segmentation": runs, "iscrowd": int(aside)},
                    **{"area": float(mask.area(runs)), "bbox": mask.toBbox(runs).tolist()},
                }
                for runs, label, aside in rights
            ]
        return found, true, len(lines)


def _rows(picture: Mapping[str, Tensor], more: Tensor) -> Tensor:
    """A picture's boxes (n, 6): four places, the class, and one more number."""
    boxes, labels, more = (
        values.detach().float().cpu() for values in (picture["boxes"], picture["labels"], more)
    )
    if not len(boxes) == len(labels) == len(more):
        raise ValueError(f"{len(boxes)} boxes with {len(labels)} labels and {len(more)} scores or flags")
    return torch.cat([boxes.reshape(-1, 4), labels[:, None], more[:, None]], dim=1)
