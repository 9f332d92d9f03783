"""Things in pictures through the command: learned, measured, resumed, found and drawn."""

import io
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lm as package
from lm.data.images.augment import Flip, ScaleJitter
from lm.errors import UserError
from lm.tasks.image.boxes import overlap, surest
from lm.tasks.image.dense import DenseBoxes
from lm.tasks.image.detection import BoxCollate

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
BACKBONE = {
    **{"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp": "gelu", "norm": "layer"},
    **{"bias": True, "causal": False, "positions": "none", "init_std": 0.1, "residual_init": "zero"},
}
CONFIG = {
    "name": "things",
    "data": {
        "class_path": "lm.data.DetectionData",
        "init_args": {
            **{"train": "train.json", "val": "test.json", "test": "test.json", "files": "photos"},
            "size": [48, 64],
            "augment": [
                {
                    "class_path": "lm.data.images.ScaleJitter",
                    "init_args": {"scale": [0.9, 1.2], "size": [48, 64]},
                },
                {"class_path": "lm.data.images.Flip"},
            ],
            "batch_size": 8,
        },
    },
    "model": {
        "class_path": "lm.tasks.ObjectDetection",
        "init_args": {
            "backbone": BACKBONE,
            "input": {
                "class_path": "lm.backbone.Patches",
                "init_args": {"patch_size": 8, "stem": "convolutions", "positions": "sine"},
            },
            "optimizer": {"class_path": "lm.optim.Muon", "init_args": {"lr": 0.02, "adamw_lr": 0.01}},
        },
    },
    "trainer": {**{"accelerator": "cpu", "precision": "32-true", "max_epochs": 40, "log_every_n_steps": 1}},
    "checkpoint": {"every_n_steps": 5},
}


def scene(number: int) -> tuple[np.ndarray, list[tuple[list[int], str]]]:
    """Up to three coloured rectangles on noise, 128 by 96 pixels, some pictures empty."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 160, (96, 128, 3), dtype=np.uint8)
    things = []
    for left in (2, 44, 86) if number % 8 else ():
        if rng.random() < 0.3:
            continue
        width, height = (int(side) for side in rng.integers(26, 40, 2))
        top, colour = int(rng.integers(2, 54)), ("red", "blue")[int(rng.integers(2))]
        pixels[top : top + height, left : left + width] = COLOURS[colour]
        things.append(([left, top, width, height], colour))
    return pixels, things


def write(folder, part: str, numbers: range) -> None:
    images, annotations = [], []
    (folder / "photos").mkdir(exist_ok=True)
    for number in numbers:
        pixels, things = scene(number)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        for box, colour in things:
            kind = list(COLOURS).index(colour)
            annotations.append({"image_id": number, "category_id": kind, "bbox": box})
    kinds = [{"id": number, "name": name} for number, name in enumerate(COLOURS)]
    made = {"images": images, "annotations": annotations, "categories": kinds}
    (folder / f"{part}.json").write_text(json.dumps(made))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write(tmp_path, "train", range(48))
    write(tmp_path, "test", range(100, 116))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_learns_and_finds_things_in_pixels_of_the_photo(lm, pipe, folder):
    result = lm("fit", "--config", "c.yaml", "--trainer.val_check_interval=120")
    assert result.status == 0, result.err
    run = folder / "checkpoints/things"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_map_50"] > 0.8, figures
    assert "lm detect checkpoints/things/best.ckpt photo.jpg" in result.out
    assert lm("predict", "checkpoints/things").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [row["path"] for row in rows] == [f"{number}.png" for number in range(100, 116)]

    words = ("photos/101.png", "photos/102.png", "--threshold", "0.2", "--draw", "drawn", "--json")
    found = [json.loads(line) for line in lm("detect", "checkpoints/things", *words).out.splitlines()]
    hits = total = 0
    for number, row in zip((101, 102), found, strict=True):
        pixels, things = scene(number)
        boxes = torch.tensor([each["box"] for each in row["boxes"]]).view(-1, 4)
        assert bool((boxes >= 0).all()) and bool((boxes[:, 2] <= 128).all())
        for (left, top, width, height), colour in things:
            there = torch.tensor([left, top, left + width, top + height], dtype=torch.float32)
            near = overlap(boxes, there) > 0.5
            hits += colour in [
                each["label"] for each, is_near in zip(row["boxes"], near, strict=True) if is_near
            ]
            total += 1
        drawn = np.asarray(Image.open(row["drawn"]))
        assert drawn.shape == pixels.shape and (drawn != pixels).any() == bool(row["boxes"])
    assert hits >= 0.7 * total > 0
    shown = lm("detect", "checkpoints/things", "photos/104.png", "--threshold", "0.99")
    assert shown.out.strip() == "nothing"
    line = pipe('{"path": "photos/101.png", "id": 7}\n', "detect", "checkpoints/things").out
    assert json.loads(line)["id"] == 7 and "boxes" in json.loads(line)

    model = package.load(run / "best.ckpt")
    file = io.BytesIO()
    Image.fromarray(scene(101)[0]).save(file, "PNG")
    alone, shared = model.detect(file.getvalue()), model.detect(["photos/101.png", "photos/102.png"])[0]
    assert [each["label"] for each in alone["boxes"]] == [each["label"] for each in shared["boxes"]]
    task = model.task("detect")
    assert task.grid == (6, 8) and task.step == 8
    with pytest.raises(UserError, match="finder of things in pictures: use `lm detect`"):
        model.classify("photos/101.png")
    refused = lm("detect", "checkpoints/things", "photos/101.png", "--threshold", "7")
    assert refused.status == 2 and "it lies in 0 to 1" in refused.err


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = ("--config=c.yaml", "--data.num_workers=1", "--trainer.max_epochs=3")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--data.size=null",), "--data.size is not given"),
        (("--data.train=none.json",), "no such file or folder: none.json"),
        (("--data.fit=crop",), "fit"),
        (("--data.label=x",), "label"),
    ],
)
def test_settings(lm, folder, change, words):
    result = lm("fit", "--config", "c.yaml", "--trainer.max_epochs=1", *change)
    assert result.status and words in result.err


def test_boxes_are_moved_with_their_picture(folder):
    from lm.processors.images import ImageProcessor

    processor = ImageProcessor((48, 64), "pad")
    place = ["photos/101.png", "101.png", 0, -1, "", None]
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in scene(101)[1]]
    features = {"place": place, "boxes": boxes, "labels": [0] * len(boxes), "draw": 5}
    plain = BoxCollate(processor)([features])
    assert torch.allclose(plain["boxes"][0] * 2, torch.tensor(boxes, dtype=torch.float32))
    changed = BoxCollate(processor, (ScaleJitter((0.9, 1.2), (48, 64)), Flip(1.0)))
    batch = changed([features, {**features, "boxes": [], "labels": []}])
    assert torch.equal(batch["pixels"], changed([features, features])["pixels"])
    assert (batch["classes"][1] == -1).all() and (batch["classes"][0] >= 0).all()
    assert torch.equal(batch["boxes"][0], changed([features])["boxes"][0])


def test_overlap_has_the_values_that_are_known():
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert overlap(a, b).item() == pytest.approx(1 / 7)
    assert overlap(a, b, generalised=True).item() == pytest.approx(1 / 7 - 2 / 9)
    far = torch.tensor([[10.0, 0, 12, 2], [100.0, 0, 102, 2]])
    near, further = overlap(a, far, generalised=True).tolist()
    assert -1 < further < near < 0
    assert overlap(a, far).tolist() == [0, 0]


def test_of_boxes_that_say_the_same_the_surest_is_kept():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.5, 0.9, 0.4, 0.1]), torch.tensor([0, 0, 1, 0])
    assert surest(boxes, scores, labels).tolist() == [1, 2, 3]
    assert surest(boxes[:0], scores[:0], labels[:0]).tolist() == []
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=rng) * 40
    boxes = torch.cat((corners, corners + 5 + 20 * torch.rand(60, 2, generator=rng)), 1)
    kept = surest(boxes, torch.rand(60, generator=rng), torch.zeros(60))
    shared = overlap(boxes[kept][:, None], boxes[kept]).fill_diagonal_(0)
    assert shared.max() <= 0.6  # none is left that another covers
    gone = sorted(set(range(60)) - set(kept.tolist()))
    assert (overlap(boxes[gone][:, None], boxes[kept]).amax(1) > 0.6).all()  # and none is gone for nothing


def test_outputs_that_are_right_have_next_to_no_loss_and_are_found():
    reader = DenseBoxes(classes=2, grid=(4, 5), step=8)
    true = torch.tensor([[[4.0, 4, 20, 20], [22, 10, 38, 30]], [[0, 0, 16, 8], [0, 0, 0, 0]]])
    labels = torch.tensor([[0, 1], [1, -1]])
    start = torch.zeros(2, 20, reader.outputs)
    thing, _, quality = reader.assigned(*reader.read(start), true, labels)
    assert thing[1].max() == 0 and (thing[0] == 1).any() and (quality[thing >= 0] >= 0).all()
    right = torch.full((2, 20, reader.outputs), -20.0)
    places = reader.places(true.device)
    for picture in range(2):
        for number, label in enumerate(labels[picture].tolist()):
            if label < 0:
                continue
            x0, y0, x1, y1 = true[picture, number]
            inside = (places[:, 0] > x0) & (places[:, 0] < x1) & (places[:, 1] > y0) & (places[:, 1] < y1)
            at, (x, y) = inside.nonzero()[:, 0], places[inside].T
            reach = torch.stack((x - x0, y - y0, x1 - x, y1 - y), -1).clamp(min=1e-3)
            right[picture, at, label] = 20.0
            right[picture, at, 2:] = (reach / 8).log()
    assert (reader.losses(right, true, labels) < 0.01 * reader.losses(start, true, labels)).all()
    found = reader.found(right)
    assert torch.allclose(found[1]["boxes"], true[1, :1], atol=0.1) and found[1]["labels"].tolist() == [1]
    assert sorted(found[0]["labels"].tolist()) == [0, 1]
    nothing = reader.losses(start, true[:, :0], labels[:, :0])
    assert nothing.shape == (2,) and bool((nothing > 0).all())
