"""Pictures' boxes from files: VOC's XML, COCO's JSON and YOLO's text, in folders or archives."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import yaml

from lm.data.examples.files import File, read_files
from lm.errors import UserError

CLIPPED = "boxes partly outside of their picture, clipped"
_NAMES = {"classes", "labels", "obj", "readme", "notes"}  # text files beside YOLO's that hold no boxes


@dataclass
class BoxedPicture:
    """What is known of a picture's things.

    Args:
        name: the picture's name, COCO's `file_name`; without ending where each picture has a file of its own.
        size: height and width that the boxes are measured by: in pixels, 1 and 1 in YOLO's; None where a file
            does not say, and boxes are in the picture's own pixels.
        boxes: x0 y0 x1 y1 of each thing.
        labels: the class of each.
        aside: whether each is difficult (VOC) or a crowd (COCO), which nobody has to find.
        outlines: what COCO has of each as its segmentation; see `lm.data.images.masks`.
    """

    name: str
    size: tuple[float, float] | None = None
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    aside: list[bool] = field(default_factory=list)
    outlines: list[Any] = field(default_factory=list)

    def add(
        self, box: Sequence[float], label: str, faults: Counter[str], aside: bool = False, outline: Any = None
    ) -> None:
        """Add a thing, its box clipped to the picture; where there is nothing left it is counted instead."""
        height, width = self.size or (float("inf"), float("inf"))
        x0, y0, x1, y1 = box
        if not (x1 > x0 and y1 > y0):  # nor where one is not a number
            faults["boxes of no size"] += 1
            return
        clipped = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            faults["boxes outside of their picture"] += 1
            return
        # Whether pixels are counted from 0 or 1 is not always known, and YOLO's numbers are rounded.
        slack = 1.0 if self.size != (1.0, 1.0) else 0.01
        if max(abs(now - before) for now, before in zip(clipped, box, strict=True)) > slack:
            faults[CLIPPED] += 1
        self.boxes.append(clipped)
        self.labels.append(label)
        self.aside.append(aside)
        self.outlines.append(outline)


def read_boxes(
    path: str,
    faults: Counter[str],
    names: Sequence[str] | None = None,
    only: Collection[str] | None = None,
) -> Iterator[BoxedPicture]:
    """The boxes of each picture that files tell of, those without any too: .xml is VOC's, .json COCO's, .txt
    YOLO's.

    Args:
        path: a file, folder or glob, or `ARCHIVE!MEMBER`.
        faults: is told how many boxes could not be used as they are, by reason.
        names: the classes; YOLO's numbers count them from 0, and things of others are left out. None: those
            of the files; YOLO's are then called by their numbers.
        only: names of pictures, without folder and ending, such as `read_list` gives: no others are read.

    Raises:
        UserError: a file can't be read, or is not what its ending says; names it.
    """

    def wanted(name: str) -> bool:
        place = PurePosixPath(name)
        if place.suffix.lower() == ".json":
            return True
        is_boxes = place.suffix.lower() == ".xml" or _is_yolo(place)
        return is_boxes and (only is None or place.stem in only)

    for file in read_files(path, wanted):
        if file.suffix == ".json":
            for found in _coco(file, faults, names):
                if only is None or PurePosixPath(found.name).stem in only:
                    yield found
        elif file.suffix == ".xml":
            yield _voc(file, faults, names)
        elif file.suffix == ".txt":
            yield _yolo(file, faults, names)
        else:
            raise UserError(f"{file.where}: boxes are read from VOC's .xml, COCO's .json and YOLO's .txt")


def _is_yolo(place: PurePosixPath) -> bool:
    return place.suffix.lower() == ".txt" and place.stem.lower() not in _NAMES


def read_list(path: str) -> set[str]:
    """The pictures that a list names, one in the first word of each line, without folder and ending; as VOC's
    ImageSets and YOLO's train.txt do."""
    lines = (line.split() for file in read_files(path) for line in file.text().splitlines())
    return {PurePosixPath(words[0]).stem if "/" in words[0] else _stem(words[0]) for words in lines if words}


def _stem(name: str) -> str:
    """Without a picture's ending; VOC's names have none, and may have dots."""
    known = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    place = PurePosixPath(name)
    return place.stem if place.suffix.lower() in known else name


def read_names(path: str) -> list[str]:
    """The classes in their order: of a text file a line each, or `names` of YOLO's data.yaml."""
    file = next(iter(read_files(path)))
    if file.suffix not in {".yaml", ".yml"}:
        return [line.strip() for line in file.text().splitlines() if line.strip()]
    try:
        found = yaml.safe_load(file.text())
        names = found["names"]
        if isinstance(names, dict):
            names = [names[number] for number in range(len(names))]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise UserError(f"{file.where} has no `names`, a list or an object with numbers from 0") from error
    return [str(name) for name in names]


def _xml_text(file: File) -> str:
    """The text by the encoding that it declares, which the few words of a file are too little to guess."""
    declared = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)", file.data)
    with suppress(LookupError, UnicodeDecodeError):
        if declared is not None:
            return file.data.decode(declared[1].decode())
    return file.text()


def _voc(file: File, faults: Counter[str], names: Sequence[str] | None) -> BoxedPicture:
    text = _xml_text(file)
    if "<!DOCTYPE" in text:  # an entity can stand for gigabytes, or for another file
        raise UserError(f"{file.where}: XML with a DOCTYPE is not read")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{file.where} is not XML, or is cut short: {error}") from error

    def number(node: ElementTree.Element, name: str) -> float:
        try:
            return float(node.findtext(name, ""))
        except ValueError as error:
            raise UserError(f"{file.where}: <{node.tag}> has no number <{name}>") from error

    size = root.find("size")
    found = BoxedPicture(str(PurePosixPath(file.name).with_suffix("")))
    if size is not None:
        height, width = number(size, "height"), number(size, "width")
        found.size = (height, width) if height > 0 and width > 0 else None  # some tools write zeros
    for thing in root.iter("object"):
        label, box = thing.findtext("name", "").strip(), thing.find("bndbox")
        if box is None:
            faults["things without a box"] += 1
        elif names is not None and label not in names:
            faults["boxes of unknown classes"] += 1
        else:
            # VOC counts pixels from 1, and the last one belongs to the box.
            corners = (
                number(box, "xmin") - 1,
                number(box, "ymin") - 1,
                number(box, "xmax"),
                number(box, "ymax"),
            )
            found.add(corners, label, faults, aside=thing.findtext("difficult", "0").strip() == "1")
    return found


def _coco(file: File, faults: Counter[str], names: Sequence[str] | None) -> Iterator[BoxedPicture]:
    try:
        content = json.loads(file.data)
        classes = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
        things = defaultdict(list)
        for thing in content["annotations"]:
            things[thing["image_id"]].append(thing)
        for picture in content["images"]:
            size = float(picture["height"]), float(picture["width"])
            found = BoxedPicture(picture["file_name"], size)
            for thing in things.pop(picture["id"], ()):
                label = classes.get(thing["category_id"])
                if label is None or (names is not None and label not in names):
                    faults["boxes of unknown classes"] += 1
                    continue
                x, y, width, height = map(float, thing["bbox"])
                box, aside = (x, y, x + width, y + height), bool(thing.get("iscrowd"))
                found.add(box, label, faults, aside, thing.get("segmentation"))
            yield found
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file.where} is not JSON, is cut short, or has a box that is none: {error}"
        ) from error
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file.where} is not as COCO's files of instances are: {error!r}") from error
    if things:
        faults["boxes of pictures that are not listed"] += sum(map(len, things.values()))


def _yolo(file: File, faults: Counter[str], names: Sequence[str] | None) -> BoxedPicture:
    found = BoxedPicture(str(PurePosixPath(file.name).with_suffix("")), (1.0, 1.0))
    for line, words in enumerate((text.split() for text in file.data.splitlines()), start=1):
        if not words:
            continue
        try:
            kind, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            kind, values = -1, []
        if kind < 0 or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise UserError(
                f"{file.where}:{line}: this is not CLASS X Y WIDTH HEIGHT, all but the first of 0 to 1"
            )
        if names is not None and kind >= len(names):
            faults["boxes of unknown classes"] += 1
            continue
        if len(values) == 4:
            x, y, width, height = values
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        else:  # an outline: x and y of its points
            box = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        found.add(box, str(kind) if names is None else names[kind], faults)
    return found
