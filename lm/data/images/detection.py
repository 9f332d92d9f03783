"""Pictures with boxes around things."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lm.data.images.annotated import BARE, AnnotatedData, AnnotatedPicture
from lm.data.images.boxes import read_boxes
from lm.data.media.places import Place


@dataclass(frozen=True)
class BoxedExample(AnnotatedPicture):
    """A picture with the boxes of its things.

    Args:
        boxes: x0 y0 x1 y1 of each, in the picture's pixels.
        labels: the class of each.
        aside: whether each is difficult or a crowd, which nobody has to find.
    """

    boxes: tuple[tuple[float, ...], ...] = ()
    labels: tuple[str, ...] = ()
    aside: tuple[bool, ...] = ()


class DetectionData(AnnotatedData):
    """Pictures with boxes: VOC's XML, COCO's JSON or YOLO's text. Pictures of which a file says that there is
    nothing on them are learned from, too; and of YOLO's those without a file, where `lists` or the folder say
    which part they are of.

        VOC:  train, val, test: VOC/Annotations; files: VOC/JPEGImages; lists: VOC/ImageSets/Main/{part}.txt
        COCO: train: coco/annotations/instances_train2017.json; files: coco/{part}2017
        YOLO: train: set/labels/train; files: set/images/{part}; classes: set/data.yaml

    Args:
        train, val, test: the files with the boxes: a file, folder or glob, or `ARCHIVE!MEMBER`.
        files: folder or archive with the pictures; null: they lie beside the files with their boxes.
    """

    record = BoxedExample

    def annotated(
        self, path: str, split: str, faults: Counter[str]
    ) -> Iterator[tuple[Place | str, dict[str, Any]]]:
        there, wanted = self.by_name(self.home(path, split), faults), self.wanted(split)
        yolo, bare = False, dict(there)  # YOLO has no file for a picture with nothing on it
        for found in read_boxes(path, faults, self.names, wanted):
            name = found.name
            if PurePosixPath(name).suffix.lower() in self.endings:  # as COCO has them
                name = str(PurePosixPath(name).with_suffix(""))
            yolo |= found.size == (1.0, 1.0) and name in there
            bare.pop(name, None)
            yield (
                there.get(name, found.name),
                {"boxes": found.boxes, "labels": found.labels, "aside": found.aside, "measured": found.size},
            )
        if not yolo or path.endswith(".txt"):
            return
        bare = {name: place for name, place in bare.items() if self._wanted(place.name)}
        if wanted is not None:
            bare = {name: place for name, place in bare.items() if PurePosixPath(name).name in wanted}
        elif self.media is not None and "{part}" not in self.media and not self.one_part:
            faults["pictures without a file of boxes, of which part nobody knows: give `lists`"] += len(bare)
            return
        for place in bare.values():
            faults[BARE] += 1
            yield place, {"boxes": [], "labels": [], "aside": [], "measured": None}

    def class_names(self) -> list[str]:
        found = {label for example in self.examples("train") for label in example.labels}
        return self.names or sorted(found)

    def _looked_at(self, row: tuple[Place | str, dict[str, Any]]) -> Any:
        """With the boxes in pixels of the picture, whatever they were measured by."""
        place, fields = row
        measured = fields.pop("measured")
        found = super()._looked_at((place, fields))
        if not isinstance(found, BoxedExample) or measured in (None, found.size):
            return found
        height, width = np.array(found.size) / measured
        if measured != (1.0, 1.0) and not 0.95 < height / width < 1.05:
            return "the picture has not the shape that its boxes were measured by", found.place.where
        boxes = np.reshape(found.boxes, (-1, 4)) * [width, height, width, height]
        return replace(found, boxes=tuple(map(tuple, boxes.tolist())))
