"""What datamodules share of pictures whose things have places: which pictures are meant, and how they fit."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lm.data.examples.files import Known, Mended, Skipped, source_files
from lm.data.images.augment import Augmentation
from lm.data.images.boxes import CLIPPED, read_list, read_names
from lm.data.images.module import ImageData
from lm.data.media.module import MediaExample
from lm.data.media.places import Place, places
from lm.processors.images import ImageProcessor

BARE = "pictures without a file of boxes, taken as ones with nothing on them"


@dataclass(frozen=True)
class AnnotatedPicture(MediaExample):
    """A picture in which things have their places.

    Args:
        size: its height and width.
        group: see `LabelledMedia`.
    """

    size: tuple[int, int] = (0, 0)
    group: str | None = None


class AnnotatedData(ImageData):
    """Pictures in which things have their places. They are never cropped to fit: nothing may get lost.

    Args:
        train, val, test: see the subclass.
        files: folder or archive with the pictures.
        lists: a file with the names of a part's pictures, one a line: no others are taken. In it, as in
            `files`, `{part}` stands for train, val or test.
        classes: the names in their order, or a file that has them, such as YOLO's data.yaml; null for those
            that are found.
        size: height and width of the network's input, or one number for both; with `model.init_from` null is
            what that was trained on.
        fit: how a picture of another size or shape is made to fit; see `lm.processors.images.ImageProcessor`.
        mean, std, resample: likewise.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        files: str | None = None,
        lists: str | None = None,
        classes: list[str] | str | None = None,
        size: int | tuple[int, int] | None = None,
        fit: Literal["pad", "stretch"] = "pad",
        augment: list[Augmentation] | None = None,
        **kwargs: Any,
    ) -> None:
        # What a table says of whole pictures is nothing here.
        super().__init__(
            train,
            val=val,
            test=test,
            files=files,
            size=size,
            fit=fit,
            crop_ratio=1.0,
            augment=augment,
            path="",
            label=None,
            columns=None,
            separator=None,
            rating=False,
            label_names=None,
            label_from=None,
            group=None,
            part=None,
            **kwargs,
        )
        self.lists, self.classes = lists, classes
        self.one_part = {val, test} <= {train, None}  # nothing else can lie in the folder of the pictures

    @abstractmethod
    def annotated(
        self, path: str, split: str, faults: Counter[str]
    ) -> Iterator[tuple[Place | str, dict[str, Any]]]:
        """The pictures of a part with the fields of their examples; of one that is not there, the name.

        Args:
            faults: is told of what can't be used, by reason.
        """

    @abstractmethod
    def class_names(self) -> list[str]:
        """The classes, in the order of their numbers."""

    @cached_property
    def names(self) -> list[str] | None:
        """The classes that were given, in their order."""
        return read_names(self.located(self.classes)) if isinstance(self.classes, str) else self.classes

    def of_part(self, pattern: str, split: str) -> str:
        """What a name with `{part}` in it means."""
        return self.located(pattern.replace("{part}", split))

    def home(self, path: str, split: str) -> str:
        """The folder or archive with a part's pictures: that of the files about them, unless given."""
        if self.media is not None:
            return self.of_part(self.media, split)
        return re.sub(r"[^/!]*$", "", path).rstrip("/!") or "." if path.endswith(".json") else path

    def wanted(self, split: str) -> set[str] | None:
        """Names of a part's pictures, without folder and ending; None for all."""
        return None if self.lists is None else read_list(self.of_part(self.lists, split))

    def by_name(self, home: str, faults: Counter[str]) -> dict[str, Place]:
        """Pictures by their names without ending; where several have one, the first."""
        found: dict[str, Place] = {}
        for place in places(home, self._wanted, self._plain):
            name = str(PurePosixPath(place.name).with_suffix(""))
            if found.setdefault(name, place) is not place:
                faults["pictures with another's name but for the ending"] += 1
        return found

    def named(self, path: str, split: str) -> list[str]:
        """All that is read for a part."""
        return [path, self.home(path, split), *([self.of_part(self.lists, split)] if self.lists else ())]

    def files(self, path: str) -> list[Path]:
        parts = [split for split, given in self.paths.items() if given and self.located(given) == path]
        names = dict.fromkeys(name for split in parts for name in self.named(path, split))
        return list(dict.fromkeys(file for name in names for file in source_files(name)))

    def read(self, path: str, split: str) -> Iterator[MediaExample | Skipped | Known]:
        self._faults: Counter[str] = Counter()
        yield from super().read(path, split)
        for reason, count in self._faults.items():
            yield from repeat((Mended if reason in {CLIPPED, BARE} else Skipped)(reason), count)

    def listed(self, path: str, split: str) -> Iterator[tuple[Place | str, dict[str, Any]]]:
        for place, fields in self.annotated(path, split, self._faults):
            named = place if isinstance(place, Place) else Place(place, place)
            fields["group"] = self._found(self.group_from, named)
            if self._in_part(fields, split):
                yield place, fields

    def make_processor(self, start: ImageProcessor | None = None) -> ImageProcessor:
        made = super().make_processor(start)
        return made if made.fit != "crop" else replace(made, fit="pad", crop_ratio=1.0)
