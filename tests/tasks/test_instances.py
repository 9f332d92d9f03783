"""Things told apart by masks: what is learned from COCO's outlines, and through the command."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco
from PIL import Image

import lm as package
from lm.data.images.augment import Flip, ScaleJitter
from lm.data.images.masks import runs_of, thing_map, thing_mask
from lm.metrics import InstanceScores
from lm.processors.images import ImageProcessor
from lm.processors.pictures import VOID
from lm.tasks.image.mask_queries import QueryMasks
from lm.tasks.image.squares import Squares
from lm.tasks.image.things import ThingCollate, Things
from tests.tasks.test_segmentation import CONFIG

KINDS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def box(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def counts(mask):
    """The lengths of runs, column by column, by hand."""
    flat = mask.T.ravel().astype(int)
    borders = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    lengths = np.diff(borders).tolist()
    return [0, *lengths] if flat[0] else lengths


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (31, 7)])
def test_runs_are_those_of_coco_s_tools(size):
    mask = np.random.default_rng(0).random(size) > 0.6
    mask[0, 0] = size != (20, 30)
    runs = runs_of(mask)
    assert json.loads(json.dumps(runs)) == runs
    plain = {"size": list(size), "counts": counts(mask)}
    assert runs["counts"].encode() == coco.frPyObjects(plain, *size)["counts"]
    for outline in (runs, plain):
        assert np.array_equal(thing_mask(outline, *size), mask)


def test_the_smallest_is_on_top_and_crowds_are_beneath():
    outlines = [box(0, 0, 8, 6), box(2, 2, 4, 4), box(6, 0, 12, 8), box(0, 0, 12, 1)]
    found = thing_map(outlines, [False, False, True, False], 8, 12)
    expected = np.zeros((8, 12))
    expected[:, 6:] = VOID
    expected[:6, :8], expected[2:4, 2:4], expected[0] = 1, 2, 3
    assert np.array_equal(found, expected)
    many = thing_map([box(n, 0, n + 1, 1) for n in range(260)], [False] * 260, 1, 260)
    assert many[0, :254].tolist() == [*range(1, 255)] and (many[0, 254:] == VOID).all()
    assert thing_map([], [], 2, 3).tolist() == [[0] * 3] * 2


@pytest.fixture
def reader():
    return QueryMasks(classes=3, queries=6, squares=Squares(4, (4, 6), 8, (32, 48)))


@pytest.fixture
def drawn(reader):
    """Random outputs of two pictures, and the numbers of three things on them, and of none."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 32, 48, dtype=torch.uint8)
    mask[0, 2:10, 3:20], mask[0, 12:30, 20:40], mask[0, 14:20, 25:30], mask[0, :, 44:] = 1, 2, 3, VOID
    classes = torch.tensor([[2, 0, 2], [-1, -1, -1]])
    return torch.randn(2, 24 + 6, reader.outputs, generator=rng), mask, classes


def test_the_order_of_things_and_pixels_of_crowds_are_nothing_to_the_loss(reader, drawn):
    outputs, mask, classes = drawn
    losses = reader.losses(outputs, mask, classes)
    assert reader.targets(mask, classes).tolist() == [3, 0] and losses.isfinite().all()
    places = torch.tensor([0, 3, 1, 2] + [0] * 251 + [VOID], dtype=torch.uint8)  # of the numbers 1, 2, 3
    torch.testing.assert_close(reader.losses(outputs, places[mask.long()], classes[:, [1, 2, 0]]), losses)
    changed = outputs.clone()
    changed[:, 5:24:6] += 3  # positions of the right edge, from column 40 on
    whole = mask.clone()
    whole[0, :, 37:] = VOID
    both = [reader.losses(each, whole, classes)[0] for each in (outputs, changed)]
    torch.testing.assert_close(*both)
    # A thing that a crop has left nothing of is not looked for.
    more = torch.cat((classes, torch.tensor([[1], [1]])), 1)
    assert torch.equal(reader.losses(outputs, mask, more), losses)


def test_where_each_class_is_one_thing_it_is_the_loss_of_classes(reader, drawn):
    outputs, mask, _ = drawn
    numbers = torch.where(mask == VOID, VOID, mask % 3 + 1)
    labels = torch.where(mask == VOID, VOID, mask % 3)
    classes = torch.arange(3).expand(2, 3)
    expected = reader.losses(outputs, labels)
    torch.testing.assert_close(reader.losses(outputs, numbers, classes), expected)
    assert torch.equal(reader.targets(numbers, classes), reader.targets(labels))


def features(tmp_path, things):
    """A picture of 32 by 48 pixels, with things: their classes, outlines, and whether they are crowds."""
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    place = [str(tmp_path / "a.png")] * 2
    outlines = json.dumps([[name, outline] for name, outline, _ in things])
    return {"place": place, "outlines": outlines, "aside": [aside for *_, aside in things], "index": 0}


THINGS = [
    ("red", box(0, 0, 16, 16), False),
    ("blue", box(24, 8, 48, 32), False),
    ("red", box(0, 24, 8, 32), False),
    ("blue", box(0, 16, 24, 24), True),
]


def test_perfect_outputs_have_an_average_precision_of_1(tmp_path, reader):
    """Query n says thing n, by a vector that only its squares have; a fourth one finds the crowd."""
    collate = ThingCollate(ImageProcessor((32, 48), "pad"), numbers={"red": 0, "blue": 1})
    batch = collate([features(tmp_path, THINGS)])
    assert batch["classes"].tolist() == [[0, 1, 0]] and (batch["mask"][0, 16:24, :24] == VOID).all()
    outputs, width = torch.zeros(1, 24 + 6, reader.outputs), 64
    queries, squares = outputs[0, 24:], torch.zeros(24, width, 4, 4)
    queries[:, 3] = 20.0
    for number, label in enumerate([0, 1, 0, 1]):
        queries[number, 3], queries[number, label] = 0.0, 20.0
        queries[number, 4 : 4 + width] = -1.0
        queries[number, 4 + number] = 2.0
        there = batch["mask"][0, 1::2, 1::2] == (number + 1 if number < 3 else VOID)  # of each square
        blocks = there.view(4, 4, 6, 4).transpose(1, 2).reshape(24, 4, 4)
        squares[:, number] = torch.where(blocks, 60.0, 0.0)
    squares[:, 10] = 60.0
    outputs[0, :24, 4 + width :] = squares.flatten(1)
    assert reader.losses(outputs, batch["mask"], batch["classes"]).item() == pytest.approx(4, abs=0.5)
    without = outputs.clone()
    without[0, -3] = outputs[0, -1]  # without the one of the crowd, whose class is wrong
    assert reader.losses(without, batch["mask"], batch["classes"]).item() < 0.5
    said = Things(["red", "blue", "green"], 0.3)
    found = said.found(reader, outputs, collate.processor, batch["sizes"])
    scores = InstanceScores(said.labels)
    scores.update(found, batch["true"])
    assert scores.compute()["map"].item() == pytest.approx(1) and len(found[0]["masks"]) == 4
    (first, *_), numbers = said.row(found[0])["things"], said.numbers(found[0])
    assert numbers.max() == 4 and first["score"] > 0.8 and set(np.unique(numbers)) == {0, 1, 2, 3, 4}
    mask = thing_mask(first["mask"], 32, 48)
    assert np.array_equal(mask, numbers == 1)
    x0, y0, x1, y1 = first["box"]
    assert mask[y0:y1, x0:x1].any(0).all() and mask.sum() == mask[y0:y1, x0:x1].sum()
    drawn = said.drawn(np.zeros((32, 48, 3), np.uint8), numbers)
    assert np.array_equal(drawn.any(2), numbers > 0) and len({*map(tuple, drawn.reshape(-1, 3))}) == 5


def test_masks_move_with_the_picture(tmp_path):
    row = {**features(tmp_path, THINGS), "draw": 3}
    collate = ThingCollate(
        ImageProcessor((32, 48), "pad"), (Flip(horizontal=1.0),), numbers={"red": 0, "blue": 1}
    )
    batch = collate([row])
    straight = ThingCollate(collate.processor, numbers=collate.numbers)([row])
    assert torch.equal(batch["mask"], straight["mask"].flip(2))
    assert torch.equal(batch["classes"], straight["classes"])
    zoomed = ThingCollate(collate.processor, (ScaleJitter((3.0, 3.0)),), numbers=collate.numbers)([row])
    assert zoomed["classes"].shape == (1, 3) and zoomed["mask"].unique().numel() < 5


def scene(number):
    """A picture of 50 by 75 pixels with two or three rectangles, and what COCO has of each; a grey crowd."""
    rng = np.random.default_rng(number)
    pixels, things = np.full((50, 75, 3), 120.0), []
    for left in (2, 27, 52)[: int(rng.integers(2, 4))]:
        name = list(KINDS)[int(rng.integers(2))]
        top, height, width = (int(rng.integers(low, high)) for low, high in ((0, 16), (14, 22), (12, 21)))
        pixels[top : top + height, left : left + width] = KINDS[name]
        things.append((name, (left, top, width, height)))
    pixels[40:48, 5:60] = 60
    return (pixels + rng.integers(-20, 20, pixels.shape)).clip(0, 255).astype(np.uint8), things


def described(numbers):
    """COCO's JSON: outlines as polygons, runs, and compressed runs."""
    annotations = []
    for number in numbers:
        for name, (x, y, width, height) in scene(number)[1]:
            outline = box(x, y, x + width, y + height)
            if len(annotations) % 3:
                mask = thing_mask(outline, 50, 75)
                outline = (
                    runs_of(mask) if len(annotations) % 3 == 1 else {**runs_of(mask), "counts": counts(mask)}
                )
            area = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"image_id": number, "category_id": [*KINDS].index(name) + 1, **area})
            annotations[-1] |= {"segmentation": outline, "id": len(annotations)}
        mask = thing_mask(box(5, 40, 60, 48), 50, 75)
        crowd = {"image_id": number, "category_id": 1, "bbox": [5, 40, 55, 8], "area": 440, "iscrowd": 1}
        outline = {"size": [50, 75], "counts": counts(mask)}
        annotations.append({**crowd, "id": len(annotations) + 1, "segmentation": outline})
    images = [{"id": n, "file_name": f"{n}.png", "height": 50, "width": 75} for n in numbers]
    kinds = [{"id": n, "name": name} for n, name in enumerate(KINDS, start=1)]
    return {"images": images, "annotations": annotations, "categories": kinds}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for part, numbers in (("train", range(40)), ("test", range(100, 108))):
        (tmp_path / f"{part}.json").write_text(json.dumps(described(numbers)))
        for number in numbers:
            Image.fromarray(scene(number)[0]).save(tmp_path / f"photos/{number}.png")
    config = deepcopy(CONFIG)
    made = config["data"]["init_args"]
    for name in ("masks", "classes", "void"):
        del made[name]
    made |= {"train": "train.json", "val": "test.json", "test": "test.json", "files": "photos"}
    config["model"]["init_args"] |= {"head": "queries", "queries": 8, "instances": True}
    config["trainer"]["val_check_interval"] = 5
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_learns_and_what_it_says_is_what_was_measured(lm, folder):
    result = lm("fit", "--config", "c.yaml", "--trainer.max_epochs=30", "--trainer.val_check_interval=75")
    assert result.status == 0, result.err
    run = folder / "checkpoints/street"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_map_50"] > 0.3, figures

    words = ("photos/101.png", "--out", "masks", "--draw", "drawn")
    shown = lm("segment", run / "best.ckpt", *words)
    row = json.loads(lm("segment", run / "best.ckpt", *words, "--json").out)
    lines = [line.split() for line in shown.out.splitlines()]
    assert shown.status == 0 and lines[-1][1] == row["things"][-1]["label"], shown.out
    written = np.asarray(Image.open(row["mask"]))
    masks = [thing_mask(each["mask"], 50, 75) for each in row["things"]]
    assert written.shape == (50, 75) and np.array_equal(written > 0, np.any(masks, axis=0))
    assert np.array_equal(written == 1, masks[0])  # the surest is on top
    assert np.asarray(Image.open(row["drawn"])).shape == (50, 75, 3)

    # By COCO's own files, and what the model says of all.
    model, found = package.load(run / "best.ckpt"), []
    for number in range(100, 108):
        for thing in model.segment(f"photos/{number}.png", threshold=0)["things"]:
            kind = [*KINDS].index(thing["label"]) + 1
            found.append({"image_id": number, "category_id": kind, "score": thing["score"]})
            found[-1]["segmentation"] = thing["mask"]
    data = COCO("test.json")
    scores = COCOeval_faster(data, data.loadRes(found), "segm", print_function=lambda *words: None)
    scores.run()
    assert figures["test_map"] == pytest.approx(scores.stats[0], abs=0.005)
    assert figures["test_map_50"] == pytest.approx(scores.stats[1], abs=0.01)
    assert model.task("segment").instances and model.labels == ["blue", "red"]

    assert lm("predict", "checkpoints/street").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(rows) == 8 and all("things" in row for row in rows)


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = ("--config=c.yaml", "--data.num_workers=1", "--trainer.max_epochs=4")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


def test_settings_that_make_no_sense(lm, folder):
    refused = lm("fit", "--config=c.yaml", "--model.head=linear")
    assert refused.status == 2 and "give --model.head queries" in refused.err
    for part in ("train", "test"):
        (folder / part).mkdir()
        Image.fromarray(scene(0)[0]).save(folder / f"{part}/0.png")
        Image.fromarray(np.ones((50, 75), np.uint8)).save(folder / f"{part}/m0.png")
    masks = ("--data.train=train", "--data.val=test", "--data.test=test", "--data.masks={folder}/m{name}.png")
    refused = lm("fit", "--config=c.yaml", *masks, "--data.files=null")
    assert refused.status and "give COCO's JSON" in refused.err and "Traceback" not in refused.err
