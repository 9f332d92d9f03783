"""Boxes of VOC, COCO and YOLO: the same things from three kinds of file, and what is wrong in them."""

import json
import tarfile
from collections import Counter

import pytest

from lm.data.images.boxes import BoxedPicture, read_boxes, read_list, read_names
from lm.errors import UserError

THING = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def voc(*things: tuple, size: tuple[int, int] = (80, 100), head: str = "") -> str:
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"{head}<annotation>{shape}{''.join(THING.format(*thing) for thing in things)}</annotation>"


def coco(things: list[dict], pictures: tuple[str, ...] = ("a.jpg", "b.jpg")) -> str:
    images = [{"id": 7 + n, "file_name": name, "height": 80, "width": 100} for n, name in enumerate(pictures)]
    categories = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
    return json.dumps({"images": images, "annotations": things, "categories": categories})


def read(path, **options) -> tuple[dict[str, BoxedPicture], Counter]:
    faults = Counter()
    return {found.name: found for found in read_boxes(str(path), faults, **options)}, faults


def test_the_same_from_three_kinds_of_file(tmp_path):
    """A cat that fills the left half of 80 by 100, a difficult dog of one pixel, and a picture without."""
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc/a.xml").write_text(voc(("cat", 0, 1, 1, 50, 80), ("dog", 1, 100, 80, 100, 80)))
    (tmp_path / "voc/b.xml").write_text(voc())
    (tmp_path / "voc/a.jpg").write_bytes(b"\xff\xd8")
    things = [
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 80], "segmentation": [[0, 0, 50, 0, 50, 80]]},
        {"image_id": 7, "category_id": 90, "bbox": [99, 79, 1, 1], "iscrowd": 1},
    ]
    (tmp_path / "instances.json").write_text(coco(things))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.25 0.5 0.5 1\n\n1 0.995 0.99375 0.01 0.0125\n")
    (tmp_path / "labels/b.txt").write_text("")
    (tmp_path / "labels/classes.txt").write_text("cat\ndog\n")
    (tmp_path / "data.yaml").write_text("train: images\nnc: 2\nnames: {0: cat, 1: dog}\n")
    assert read_names(str(tmp_path / "data.yaml")) == read_names(str(tmp_path / "labels/classes.txt"))
    names = read_names(str(tmp_path / "data.yaml"))
    for place, ending in (("voc", ""), ("instances.json", ".jpg"), ("labels", "")):
        found, faults = read(tmp_path / place, names=names)
        assert not faults and list(found) == [f"a{ending}", f"b{ending}"]
        first, second = found.values()
        scale = 100 / first.size[1], 80 / first.size[0]
        boxes = [tuple(v * scale[n % 2] for n, v in enumerate(box)) for box in first.boxes]
        assert boxes == [pytest.approx((0, 0, 50, 80)), pytest.approx((99, 79, 100, 80))]
        assert first.labels == ["cat", "dog"] and second.boxes == second.labels == []
        assert first.aside == [False, place != "labels"]
    assert read(tmp_path / "instances.json")[0]["a.jpg"].outlines == [[[0, 0, 50, 0, 50, 80]], None]
    assert read(tmp_path / "labels")[0]["a"].labels == ["0", "1"]
    assert list(read(tmp_path / "voc", only={"b"})[0]) == ["b"]
    assert list(read(tmp_path / "instances.json", only={"b"})[0]) == ["b.jpg"]


def test_what_is_wrong_with_boxes_is_counted(tmp_path):
    (tmp_path / "a.xml").write_text(
        voc(
            *(("cat", 0, 5, 5, 9, 9), ("cat", 0, 20, 5, 10, 9), ("cat", 0, 5, 9, 30, 7)),
            *(("cat", 0, 90, 70, 140, 95), ("cat", 0, 101, 5, 120, 9), ("cow", 0, 5, 5, 9, 9)),
            *(("cat", 0, 0, 0, 100, 80), ("cat", 0, "nan", 1, 5, 5)),
        ).replace("</annotation>", "<object><name>cat</name></object></annotation>")
    )
    found, faults = read(tmp_path, names=["cat"])
    assert found["a"].boxes == [(4, 4, 9, 9), (89, 69, 100, 80), (0, 0, 100, 80)]
    assert faults == {
        "boxes of no size": 3,
        "boxes partly outside of their picture, clipped": 1,
        "boxes outside of their picture": 1,
        "boxes of unknown classes": 1,
        "things without a box": 1,
    }
    (tmp_path / "a.xml").write_text(voc(("cow", 0, 5, 5, 900, 900), size=(0, 0)))
    found, faults = read(tmp_path)  # some tools write no size: then nothing is outside
    assert found["a"].size is None and found["a"].boxes == [(4, 4, 900, 900)] and not faults

    box = {"image_id": 7, "bbox": [1, 1, 5, 5]}
    things = [{**box, "category_id": 4}, {**box, "image_id": 99, "category_id": 3}, {**box, "category_id": 3}]
    (tmp_path / "a.json").write_text(coco([*things, {**box, "category_id": 3, "bbox": [1, 1, 0, 5]}]))
    found, faults = read(tmp_path / "a.json")
    assert found["a.jpg"].boxes == [(1, 1, 6, 6)] and found["b.jpg"].boxes == []
    reasons = {"boxes of unknown classes", "boxes of pictures that are not listed", "boxes of no size"}
    assert faults == dict.fromkeys(reasons, 1)

    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.3 0.1\n5 0.5 0.5 0.1 0.1\n0 0.2 0.2 0.4 0.2 0.4 0.6\n")
    found, faults = read(tmp_path / "a.txt", names=["cat"])
    assert found["a"].boxes == [pytest.approx((0, 0.05, 0.25, 0.15)), pytest.approx((0.2, 0.2, 0.4, 0.6))]
    assert faults == {"boxes partly outside of their picture, clipped": 1, "boxes of unknown classes": 1}


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]>"""


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xml", voc()[:-9], "is not XML, or is cut short"),
        ("a.xml", "These are words.", "is not XML"),
        ("a.xml", voc(head=BOMB), "XML with a DOCTYPE is not read"),
        ("a.xml", voc(head=BOMB).encode("utf-16"), "XML with a DOCTYPE is not read"),
        ("a.xml", voc(("cat", 0, "five", 1, 2, 3)), "<bndbox> has no number <xmin>"),
        ("a.xml", b"\xff\xd8\xff\xe0\0\0\0", "is not text"),
        ("a.json", coco([])[:-3], "is not JSON, is cut short"),
        ("a.json", "{}", "is not as COCO's files of instances are: KeyError"),
        ("a.json", "[1]", "is not as COCO's files of instances are"),
        ("a.json", coco([{"image_id": 7, "category_id": 3, "bbox": [1, 2]}]), "has a box that is none"),
        ("a.txt", "0 0.5 0.5 0.1 0.1\ncat 0.5 0.5 0.1 0.1\n", ":2: this is not CLASS X Y WIDTH HEIGHT"),
        ("a.txt", "0 0.5 0.5 0.1\n", ":1: this is not CLASS X Y WIDTH HEIGHT"),
        ("a.csv", "x,y\n", "boxes are read from VOC's .xml, COCO's .json and YOLO's .txt"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and said in str(error.value)


def test_xml_in_other_letters(tmp_path):
    text = voc(("猫", 0, 1, 1, 5, 5), head='<?xml version="1.0" encoding="gb18030"?>')
    (tmp_path / "a.xml").write_bytes(text.encode("gb18030"))
    (tmp_path / "b.xml").write_bytes(voc(("猫", 0, 1, 1, 5, 5)).encode())
    found, _ = read(tmp_path)
    assert found["a"].labels == found["b"].labels == ["猫"]


def test_lists_of_pictures(tmp_path):
    (tmp_path / "voc.txt").write_text("2007_000001  1\n2007.5_b -1\n\n")
    (tmp_path / "yolo.txt").write_text("./images/train/a.jpg\nb.PNG\n")
    assert read_list(str(tmp_path / "voc.txt")) == {"2007_000001", "2007.5_b"}
    assert read_list(str(tmp_path / "yolo.txt")) == {"a", "b"}
    (tmp_path / "data.yaml").write_text("nc: 2\n")
    with pytest.raises(UserError, match=r"data\.yaml has no `names`"):
        read_names(str(tmp_path / "data.yaml"))


@pytest.mark.real_data
def test_blood_cells(real_data):
    """The counts that the data set's own description gives."""
    folder = f"{real_data}/bccd/bccd.tar!BCCD"
    found, faults = read(f"{folder}/Annotations")
    assert len(found) == 364 and not faults
    assert Counter(name for picture in found.values() for name in picture.labels) == {
        **{"RBC": 4155, "WBC": 372, "Platelets": 361}
    }
    # The first: a white cell from column 260 to 491 and row 177 to 376, counted from 1.
    assert found["BloodImage_00000"].boxes[0] == (259, 176, 491, 376)
    parts = {name: read_list(f"{folder}/ImageSets/Main/{name}.txt") for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 205, "val": 87, "test": 72}
    assert len(read(f"{folder}/Annotations", only=parts["val"])[0]) == 87
    with tarfile.open(real_data / "bccd/bccd.tar") as archive:
        pictures = {name.split("/")[-1][:-4] for name in archive.getnames() if name.endswith(".jpg")}
    assert pictures == found.keys() == set.union(*parts.values())
