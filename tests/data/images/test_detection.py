"""Pictures with boxes, from files of all three kinds."""

import json

import numpy as np
import pytest
from PIL import Image

from lm.data.images.detection import DetectionData
from lm.errors import UserError

VOC = "<annotation><size><width>40</width><height>20</height></size>{}</annotation>"
THING = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "</object>"
)


def write_photo(path, size=(40, 20), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def read(tmp_path, capsys, split="train", **options):
    data = DetectionData(root=str(tmp_path), data_dir=str(tmp_path / "made"), size=16, **options)
    found = data.examples(split)
    return list(found), capsys.readouterr().err, data


def test_voc_and_what_is_wrong_with_it(tmp_path, capsys):
    things = {
        "a": THING.format("cat", 1, 1, 10, 10) + THING.format("dog", 31, 11, 60, 20),
        "b": THING.format("cat", 50, 1, 60, 10) + THING.format("cat", 5, 5, 4, 9),  # outside; of no size
        "c": "",
        "d": THING.format("cow", 1, 1, 10, 10),
        "gone": THING.format("cat", 1, 1, 10, 10),
    }
    for number, (name, found) in enumerate(things.items()):
        (tmp_path / "xml").mkdir(exist_ok=True)
        (tmp_path / f"xml/{name}.xml").write_text(VOC.format(found))
        if name != "gone":
            write_photo(tmp_path / f"photos/{name}.png", (40, 20), number)
    write_photo(tmp_path / "photos/b.png", (20, 40), 9)  # not the shape that its file says
    (tmp_path / "train.txt").write_text("a 1\nc -1\nd 1\ngone 1\nb\n")
    (tmp_path / "val.txt").write_text("a\n")
    options = {"train": "xml", "val": "xml", "files": "photos", "lists": "{part}.txt"}
    examples, said, data = read(tmp_path, capsys, classes=["dog", "cat"], **options)
    assert [each.place.name for each in examples] == ["a.png", "c.png", "d.png"]
    assert examples[0].boxes == ((0, 0, 10, 10), (30, 10, 40, 20)) and examples[0].labels == ("cat", "dog")
    assert examples[1].boxes == () and examples[0].size == (20, 40)
    for words in (
        "1 skipped: boxes of no size",
        "1 skipped: boxes outside of their picture",
        "1 skipped: boxes of unknown classes",
        "1 skipped: there is no such file (such as gone)",
        "1 skipped: the picture has not the shape that its boxes were measured by",
    ):
        assert words in said, said
    assert data.class_names() == ["dog", "cat"]
    assert [each.place.name for each in data.examples("val")] == ["a.png"]
    assert read(tmp_path, capsys, **options)[2].class_names() == ["cat", "cow", "dog"]


def test_yolo_and_coco_say_the_same(tmp_path, capsys):
    for number, name in enumerate("ab"):
        write_photo(tmp_path / f"set/images/train/{name}.png", seed=number)
    (tmp_path / "set/labels/train").mkdir(parents=True)
    (tmp_path / "set/labels/train/a.txt").write_text("1 0.25 0.5 0.5 1.0\n")
    (tmp_path / "set/labels/train/b.txt").write_text("")
    (tmp_path / "set/data.yaml").write_text("names: [cat, dog]\n")
    yolo, _, data = read(
        tmp_path,
        capsys,
        train="set/labels/train",
        val="set/labels/train",
        files="set/images/{part}",
        classes="set/data.yaml",
    )
    coco = {
        "images": [
            {"id": n, "file_name": f"{name}.png", "height": 20, "width": 40} for n, name in enumerate("ab")
        ],
        "annotations": [{"image_id": 0, "category_id": 7, "bbox": [0, 0, 20, 20], "iscrowd": 1}],
        "categories": [{"id": 7, "name": "dog"}],
    }
    (tmp_path / "set/images/train/all.json").write_text(json.dumps(coco))
    beside, _, _ = read(tmp_path, capsys, train="set/images/train/all.json", val="set/images/train/all.json")
    assert [each.boxes for each in yolo] == [each.boxes for each in beside] == [((0, 0, 20, 20),), ()]
    assert [each.labels for each in yolo] == [each.labels for each in beside] == [("dog",), ()]
    assert beside[0].aside == (True,) and yolo[0].aside == (False,)
    assert data.class_names() == ["cat", "dog"]


def test_pictures_without_a_yolo_file_have_nothing_on_them(tmp_path, capsys):
    for number, name in enumerate(["a.jpg", "a.png", "b.png", "other.png"]):
        write_photo(tmp_path / "images" / name, seed=number)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.25 0.5 0.5 1.0\n")
    (tmp_path / "labels/classes.txt").write_text("cell\n")
    (tmp_path / "train.txt").write_text("images/a.jpg\nimages/b.png\n")
    options = {"train": "labels", "files": "images"}
    examples, said, _ = read(tmp_path, capsys, val="labels", **options)
    assert [each.place.name for each in examples] == ["a.jpg", "b.png", "other.png"]
    assert [len(each.boxes) for each in examples] == [1, 0, 0]
    assert "2 mended: pictures without a file of boxes, taken as ones with nothing on them" in said
    assert "1 skipped: pictures with another's name but for the ending" in said
    listed, _, _ = read(tmp_path, capsys, val="labels", lists="train.txt", **options)
    assert [each.place.name for each in listed] == ["a.jpg", "b.png"]
    # One folder of pictures for two of labels: those of the other part must not get in.
    (tmp_path / "labels-val").mkdir()
    (tmp_path / "labels-val/b.txt").write_text("0 0.25 0.5 0.5 1.0\n")
    apart, said, _ = read(tmp_path, capsys, val="labels-val", **options)
    assert [each.place.name for each in apart] == ["a.jpg"]
    assert "2 skipped: pictures without a file of boxes, of which part nobody knows" in said
    # Labels that belong to none of the pictures say nothing of them.
    (tmp_path / "labels").rename(tmp_path / "images/labels")
    with pytest.raises(UserError, match="nothing can be used"):
        read(tmp_path, capsys, train="images", files="images")


def test_a_list_that_names_nothing_is_an_error(tmp_path, capsys):
    write_photo(tmp_path / "set/a.png")
    (tmp_path / "set/a.xml").write_text(VOC.format(""))
    (tmp_path / "train.txt").write_text("other\n")
    with pytest.raises(UserError, match="nothing"):
        read(tmp_path, capsys, train="set", lists="{part}.txt")


def test_the_cells_of_bccd_are_counted(real_data, tmp_path):
    folder = "bccd/bccd.tar!BCCD/Annotations"
    data = DetectionData(
        folder,
        folder,
        folder,
        files="bccd/bccd.tar!BCCD/JPEGImages",
        lists="bccd/bccd.tar!BCCD/ImageSets/Main/{part}.txt",
        root=str(real_data),
        data_dir=str(tmp_path),
        size=64,
    )
    parts = {split: data.examples(split) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in parts.items()} == {"train": 205, "val": 87, "test": 72}
    labels = [label for found in parts.values() for each in found for label in each.labels]
    assert len(labels) == 4888 and data.class_names() == ["Platelets", "RBC", "WBC"]
    assert (labels.count("RBC"), labels.count("WBC"), labels.count("Platelets")) == (4155, 372, 361)
