"""Pictures with masks, as PNG files beside them or as COCO's outlines."""

import json

import numpy as np
import pytest
from PIL import Image

from lm.data.images.segmentation import SegmentationData, class_map
from lm.errors import UserError
from lm.processors.pictures import VOID


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def photo(seed=0, height=6, width=8):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3))


def made(tmp_path, **options):
    return SegmentationData(root=str(tmp_path), data_dir=str(tmp_path / "made"), size=16, **options)


def test_masks_beside_pictures_and_what_is_wrong_with_them(tmp_path, capsys):
    masks = {
        "a": np.full((6, 8), 1),
        "sub/b": np.tile([[0, 9]], (6, 4)),
        "large": np.zeros((12, 16)),
        "unknown": np.full((6, 8), 5),
    }
    for number, (name, mask) in enumerate(masks.items()):
        write(tmp_path / f"train/{name}.png", photo(number))
        write(tmp_path / f"trainannot/{name}.png", mask)
    write(tmp_path / "train/alone.png", photo(7))
    write(tmp_path / "train/coloured.png", photo(8))
    write(tmp_path / "trainannot/coloured.png", photo(8))
    options = {"train": "train", "val": "train", "masks": "{folder}annot/{name}.png"}
    data = made(tmp_path, classes=["sky", "road"], void=9, **options)
    examples = data.examples("train")
    assert [(each.place.name, each.there) for each in examples] == [("a.png", (1,)), ("sub/b.png", (0,))]
    said = capsys.readouterr().err
    for words in (
        "1 skipped: the mask is not as large as the picture",
        "1 skipped: the mask has labels of no class: 5",
        "1 skipped: there is no mask (such as",
        "1 skipped: a mask has one number a pixel",
    ):
        assert words in said, said
    assert data.class_names() == ["sky", "road"]
    found = class_map(examples[1].mask, None, data.numbers(["sky", "road"]), (6, 8))
    assert np.array_equal(found, np.tile([[0, VOID]], (6, 4)))

    unnamed = made(tmp_path, void=[9], **options)
    assert unnamed.class_names() == ["0", "1", "5"]
    assert unnamed.numbers(["0", "1", "5"]) == {"0": 0, "1": 1, "5": 2, 0: 0, 1: 1, 5: 2}
    by_value = made(tmp_path, classes={1: "road", 5: "tree"}, void=[0, 9], **options)
    assert by_value.class_names() == ["road", "tree"] and by_value.numbers(["road", "tree"])[5] == 1


def test_outlines_of_coco(tmp_path):
    for name in "ab":
        write(tmp_path / f"photos/{name}.png", photo(ord(name)))
    square = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
    coco = {
        "images": [{"id": n, "file_name": f"{x}.png", "height": 6, "width": 8} for n, x in enumerate("ab")],
        "annotations": [{"image_id": 0, "category_id": 3, "bbox": [2, 1, 4, 3], "segmentation": square}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(coco))
    data = made(tmp_path, train="all.json", val="all.json", files="photos")
    labels, examples = data.class_names(), data.examples("train")
    assert labels == ["background", "cat"]
    maps = [class_map(each.mask, each.outlines, data.numbers(labels), each.size) for each in examples]
    expected = np.zeros((6, 8))
    expected[1:4, 2:6] = 1
    assert np.array_equal(maps[0], expected) and not maps[1].any()


def test_outlines_that_cannot_be_drawn_are_found_before_training(tmp_path, capsys):
    outlines = {
        "good": [[2, 1, 6, 1, 6, 4, 2, 4]],
        "none": None,
        "garbage": {"size": [6, 8], "counts": "garbage"},
        "negative": {"size": [6, 8], "counts": [52, -4]},
        "nan": [[0, 0, float("nan"), 0, 3, 3]],
    }
    for number, name in enumerate(outlines):
        write(tmp_path / f"{name}.png", photo(number))
    thing = {"category_id": 3, "bbox": [2, 1, 4, 3]}
    coco = {
        "images": [{"id": name, "file_name": f"{name}.png", "height": 6, "width": 8} for name in outlines],
        "annotations": [{**thing, "image_id": k, "segmentation": v} for k, v in outlines.items() if v],
        "categories": [{"id": 3, "name": "cat"}],
    }
    coco["annotations"].append({**thing, "image_id": "none"})  # as where there are boxes only
    (tmp_path / "all.json").write_text(json.dumps(coco))
    data = made(tmp_path, train="all.json", val="all.json")
    assert [each.place.name for each in data.examples("train")] == ["good.png"]
    said = capsys.readouterr().err
    assert "4 skipped: an outline can't be drawn (such as" in said and "an outline is a list of" in said


def test_settings_that_make_no_sense(tmp_path):
    write(tmp_path / "train/a.png", photo())
    with pytest.raises(UserError, match=r"where is \{name\}"):
        made(tmp_path, train="train", masks="annot/x.png")
    with pytest.raises(UserError, match="`masks` is not given"):
        made(tmp_path, train="train", val="train").examples("train")


def test_the_streets_of_camvid_are_read(real_data, tmp_path):
    names = [
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "person",
        "bicycle",
    ]
    data = SegmentationData(
        "camvid/camvid.tar!train",
        val="camvid/camvid.tar!val",
        test="camvid/camvid.tar!test",
        masks="{folder}annot/{name}.png",
        classes=names,
        void=11,
        root=str(real_data),
        data_dir=str(tmp_path),
        size=64,
    )
    parts = {split: data.examples(split) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in parts.items()} == {"train": 367, "val": 101, "test": 233}
    example = parts["train"][0]
    labels = class_map(example.mask, None, data.numbers(names), example.size)
    assert labels.shape == (180, 240) and {*np.unique(labels)} <= {*range(11), VOID}
    assert set(example.there) == {*np.unique(labels).tolist()} - {VOID}
