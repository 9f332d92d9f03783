"""Pictures with a label for each of their pixels."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lm.data.images.annotated import AnnotatedData, AnnotatedPicture
from lm.data.images.boxes import read_boxes
from lm.data.images.masks import label_map, thing_mask
from lm.data.media.places import Place, places
from lm.errors import SetupError, UserError
from lm.processors.pictures import VOID, read_mask

BACKGROUND = "background"  # the class of what COCO's outlines leave


@dataclass(frozen=True)
class MaskedExample(AnnotatedPicture):
    """A picture with a label for each pixel.

    Args:
        mask: where the picture of labels lies; None where there are outlines instead, or nothing is known.
        outlines: pairs of a class and what COCO has as a thing's segmentation, as JSON.
        there: what occurs: the mask's values, or the outlines' classes.
        aside: whether each outline is a crowd's, in which nobody has to tell one thing from another.
    """

    mask: Place | None = None
    outlines: str | None = None
    there: tuple[int | str, ...] = ()
    aside: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            object.__setattr__(self, "mask", Place(*self.mask))  # JSON gives a list


def class_map(
    mask: Place | None, outlines: str | None, numbers: Mapping[int | str, int], size: tuple[int, int]
) -> np.ndarray:
    """The class of each pixel, uint8 (H, W), `VOID` where there is none.

    Args:
        mask, outlines: see `MaskedExample`.
        numbers: of the classes, by the mask's values and by the outlines' names.
        size: height and width of the picture.

    Raises:
        UserError: the mask can't be read.
    """
    if mask is None:
        things = json.loads(outlines or "[]")
        labels, shapes = [numbers[name] for name, _ in things], [shape for _, shape in things]
        return label_map(shapes, labels, *size, background=numbers[BACKGROUND]).astype(np.uint8)
    values = read_mask(mask.read(), mask.where)
    table = np.full(max(int(values.max()), 0) + 1, VOID, np.uint8)
    for value, number in numbers.items():
        if isinstance(value, int) and value < len(table):
            table[value] = number
    return table[values]


class SegmentationData(AnnotatedData):
    """Pictures with a label for each of their pixels: PNG masks in files of the pictures' names, whose
    palette or greys are labels, or COCO's JSON.

        CamVid: train: camvid/train; masks: "{folder}annot/{name}.png"
        VOC:    train: VOC/JPEGImages; masks: VOC/SegmentationClass/{name}.png;
                lists: VOC/ImageSets/Segmentation/{part}.txt
        COCO:   train: coco/annotations/instances_train2017.json; files: coco/{part}2017

    A mask of another size than its picture, or with a label that is no class's, is left out.

    Args:
        train, val, test: folders with the pictures, also in archives; or COCO's JSON.
        masks: where the mask of a picture lies. `{folder}` stands for what `train` and so on say, `{name}`
            for the picture's name below it without ending, `{part}` for train, val or test.
        classes: the names of the labels 0, 1, 2 …, or by label; null: they are called by their numbers.
        void: labels of pixels that don't count.
        files: folder or archive with the pictures of COCO's JSON; null: they lie beside it.
    """

    record = MaskedExample

    def __init__(
        self,
        train: str,
        masks: str | None = None,
        classes: list[str] | dict[int, str] | str | None = None,
        void: int | list[int] = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, **kwargs)
        self.masks, self.classes = masks, classes
        self.void = [void] if isinstance(void, int) else void
        if masks is not None and "{name}" not in masks:
            raise UserError(f"`masks` {masks}: where is {{name}}, the name of the picture?", status=2)

    @cached_property
    def values(self) -> dict[int, str]:
        """The classes that were given, by the labels of masks."""
        given = self.classes if isinstance(self.classes, dict) else dict(enumerate(self.names or ()))
        return {value: name for value, name in given.items() if value not in self.void}

    def class_names(self) -> list[str]:
        found = {label for example in self.examples("train") for label in example.there}
        names = sorted(label for label in found if isinstance(label, str))
        if any(example.mask is None for example in self.examples("train")):
            return list(dict.fromkeys([BACKGROUND, *(self.values.values() or names)]))
        return list(dict.fromkeys(self.values.values())) or list(map(str, sorted(found)))

    def numbers(self, labels: list[str]) -> dict[int | str, int]:
        """The number of each class, by its name and by the labels of masks."""
        values = self.values or {int(name): name for name in labels if name.isdigit()}
        by_name = {name: number for number, name in enumerate(labels)}
        return {**by_name, **{value: by_name[name] for value, name in values.items() if name in by_name}}

    def annotated(
        self, path: str, split: str, faults: Counter[str]
    ) -> Iterator[tuple[Place | str, dict[str, Any]]]:
        wanted = self.wanted(split)
        if path.endswith(".json"):
            there = self.by_name(self.home(path, split), faults)
            for found in read_boxes(path, faults, list(self.values.values()) or None, wanted):
                things = list(zip(found.labels, found.outlines, strict=True))
                place = there.get(str(PurePosixPath(found.name).with_suffix("")), found.name)
                there_are = tuple(sorted({*found.labels}))
                yield place, {"outlines": json.dumps(things), "there": there_are, "aside": (*found.aside,)}
            return
        if self.masks is None:
            raise UserError("`masks` is not given: where do the pictures' masks lie?", status=2)
        folder, ending = self._masks(path, split)
        masks = {place.name: place for place in places(folder, lambda name: True, self._plain)}
        for place in places(path, self._wanted, self._plain):
            name = str(PurePosixPath(place.name).with_suffix(""))
            if wanted is None or PurePosixPath(name).name in wanted:
                yield place, {"mask": masks.get(ending.replace("{name}", name))}

    def _masks(self, path: str, split: str) -> tuple[str, str]:
        """The folder below which a part's masks lie, and what they are called there, with `{name}`."""
        pattern = (self.masks or "").replace("{folder}", path)
        end = max(pattern.rfind(mark, 0, pattern.index("{name}")) for mark in "/!")
        return self.of_part(pattern[:end], split), pattern[end + 1 :].replace("{part}", split)

    def named(self, path: str, split: str) -> list[str]:
        masks = [] if self.masks is None or path.endswith(".json") else [self._masks(path, split)[0]]
        return [*super().named(path, split), *masks]

    def _looked_at(self, row: tuple[Place | str, dict[str, Any]]) -> Any:
        """With what occurs in the mask; a reason, where it can't be used."""
        found = super()._looked_at(row)
        if not isinstance(found, MaskedExample):
            return found
        if found.outlines is not None:
            try:
                for _, outline in json.loads(found.outlines):
                    thing_mask(outline, *found.size)
            except SetupError:
                raise
            except UserError as error:
                return "an outline can't be drawn", f"{found.place.where}: {error}"
            return found
        if found.mask is None:
            return "there is no mask", found.place.where
        where = found.mask.where
        try:
            labels = read_mask(found.mask.read(), where)
        except SetupError:
            raise
        except UserError as error:
            return str(error).removeprefix(where).lstrip(": "), where
        if labels.shape != found.size:
            return "the mask is not as large as the picture", where
        there = {*np.unique(labels).tolist()}.difference(self.void)
        if self.values and (unknown := there - self.values.keys()):
            return f"the mask has labels of no class: {', '.join(map(str, sorted(unknown)[:3]))}", where
        return replace(found, there=tuple(sorted(there)))
