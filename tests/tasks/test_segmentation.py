"""A class for every pixel through the command: learned, measured, resumed, written as masks."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lm as package
from lm.processors.pictures import VOID
from lm.tasks.image.squares import SquareLabels, Squares

NAMES = ["ground", "red", "blue"]
COLOURS = [(120, 120, 120), (220, 30, 30), (30, 30, 220)]
CONFIG = {
    "name": "street",
    "data": {
        "class_path": "lm.data.SegmentationData",
        "init_args": {
            **{"train": "train", "val": "test", "test": "test", "masks": "{folder}annot/{name}.png"},
            **{"classes": NAMES, "void": 9, "size": [32, 48], "batch_size": 8},
            "augment": [
                {
                    "class_path": "lm.data.images.ScaleJitter",
                    "init_args": {"scale": [1.0, 1.3], "size": [32, 48]},
                },
                {"class_path": "lm.data.images.Flip"},
            ],
        },
    },
    "model": {
        "class_path": "lm.tasks.Segmentation",
        "init_args": {
            "backbone": {
                **{"hidden_size": 32, "num_layers": 1, "num_heads": 2, "mlp": "gelu", "norm": "layer"},
                **{"bias": True, "causal": False, "positions": "none", "init_std": 0.1},
            },
            "input": {
                "class_path": "lm.backbone.Patches",
                "init_args": {"patch_size": 8, "stem": "convolutions", "positions": "sine"},
            },
            "squares": 4,
            "optimizer": {"class_path": "lm.optim.Muon", "init_args": {"lr": 0.02, "adamw_lr": 0.01}},
        },
    },
    "trainer": {**{"accelerator": "cpu", "precision": "32-true", "max_epochs": 10, "log_every_n_steps": 1}},
    "checkpoint": {"every_n_steps": 5},
}


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with two rectangles, 75 by 50 pixels, and its mask, in which 9 is void."""
    rng = np.random.default_rng(number)
    mask = np.zeros((50, 75), np.uint8)
    for kind, left in ((1, 5), (2, 42)):
        top, height, width = (int(rng.integers(low, high)) for low, high in ((2, 20), (15, 28), (15, 28)))
        mask[top : top + height, left : left + width] = kind
    pixels = np.array(COLOURS)[mask] + rng.integers(-25, 25, (50, 75, 3))
    mask[:3, :3] = 9
    return pixels.clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for part, numbers in (("train", range(40)), ("test", range(100, 110))):
        for ending in ("", "annot"):
            (tmp_path / (part + ending)).mkdir()
        for number in numbers:
            pixels, mask = scene(number)
            Image.fromarray(pixels).save(tmp_path / f"{part}/{number}.png")
            Image.fromarray(mask).save(tmp_path / f"{part}annot/{number}.png")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mean_iou(model) -> float:
    """Of the masks that a model finds on the pictures of the test part, by another hand."""
    shares = []
    for kind in range(3):
        hit = union = 0
        for number in range(100, 110):
            found, mask = model.segment(f"test/{number}.png")["mask"], scene(number)[1]
            found = np.where(mask == 9, 9, found)
            hit += ((found == kind) & (mask == kind)).sum()
            union += ((found == kind) | (mask == kind)).sum()
        shares.append(hit / union)
    return float(np.mean(shares))


def test_it_learns_and_writes_masks_as_large_as_the_photo(lm, folder):
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0, result.err
    run = folder / "checkpoints/street"
    figures = json.loads((run / "summary.json").read_text())
    assert figures["test_mean_iou"] > 0.8, figures
    assert lm("predict", "checkpoints/street").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(rows) == 10 and set(rows[0]["shares"]) <= set(NAMES)

    words = ("test/101.png", "--out", "masks", "--draw", "drawn")
    shown = lm("segment", "checkpoints/street", *words)
    assert shown.out.split()[1] == "ground" and shown.status == 0
    row = json.loads(lm("segment", "checkpoints/street", *words, "--json").out)
    written, (pixels, mask) = Image.open(row["mask"]), scene(101)
    labels = np.asarray(written)
    assert written.mode == "P" and labels.shape == mask.shape
    counted = mask != 9
    assert (labels == mask)[counted].mean() > 0.9
    assert row["shares"]["red"] == pytest.approx((labels == 1).mean(), abs=1e-4)
    drawn = np.asarray(Image.open(row["drawn"]))
    assert drawn.shape == pixels.shape and (drawn != pixels).any()

    model = package.load(run / "best.ckpt")
    assert np.array_equal(model.segment("test/101.png")["mask"], labels)
    task = model.task("segment")
    assert task.squares == 4 and task.head()["outputs"] == 3 * 16  # kept in the checkpoint
    assert figures["test_mean_iou"] == pytest.approx(mean_iou(model), abs=1e-4)

    # Measured at another size than it learned from.
    measured = lm("test", "checkpoints/street", "--data.size", "[48, 72]").out
    task.processor = replace(task.processor, size=(48, 72))
    figure = float(re.search(r"mean_iou ([\d.]+)", measured)[1])
    assert figure == pytest.approx(mean_iou(model), abs=1e-4) != figures["test_mean_iou"]


def test_the_dice_loss_counts_classes_alike_and_void_nowhere():
    reader = SquareLabels(3, Squares(2, (2, 2), 4, (7, 8)), dice=2.0)
    outputs, mask = torch.randn(2, 4, 12), torch.randint(0, 2, (2, 7, 8), dtype=torch.uint8)
    mask[0, :3], mask[1, :, 5] = VOID, 2
    extra = reader.losses(outputs, mask) - replace(reader, dice=0.0).losses(outputs, mask)
    chances = reader.scores(outputs).softmax(1).numpy()
    for row, (chance, labels) in enumerate(zip(chances, mask.numpy(), strict=True)):
        known, wrong = labels != VOID, []
        for label in set(labels[known]):
            there, said = labels[known] == label, chance[label][known]
            wrong.append(1 - (2 * said[there].sum() + 1) / (there.sum() + said.sum() + 1))
        assert extra[row].item() == pytest.approx(2 * np.mean(wrong) * known.sum(), rel=1e-4)


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = ("--config=c.yaml", "--data.num_workers=1", "--trainer.max_epochs=4")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


def test_what_lies_beyond_the_picture_is_nothing_to_the_loss(lm, folder):
    assert lm("fit", "--config", "c.yaml", "--trainer.max_epochs=1").status == 0
    task = package.load("checkpoints/street/best.ckpt").task("segment")
    outputs = torch.randn(2, 24, 48)
    mask = torch.randint(0, 3, (2, 32, 48), dtype=torch.uint8)
    mask[:, 20:] = VOID
    batch = {"mask": mask}
    assert task.upsampled(outputs).shape == (2, 3, 32, 48)
    before = task.losses(batch, outputs)
    changed = outputs.clone()
    changed[:, 18:] += 5  # the lowest row of positions, of which rows 24 and below are
    assert torch.allclose(before, task.losses(batch, changed)) and task.targets(batch).tolist() == [960, 960]
    # A square's logits stand in its middle: with one for each pixel nothing is interpolated.
    task.squares = 8
    exact = torch.randn(1, 24, 3 * 64)
    whole = task.upsampled(exact)
    assert torch.equal(whole[0, 1, 8:16, 0:8].flatten(), exact[0, 6, 64:128])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--model.squares=0",), "squares is 0: it must be at least 1"),
        (("--model.dice=-1",), "dice is -1.0: it must be at least 0"),
        (("--data.masks=annot",), "where is {name}"),
        (("--data.masks={folder}none/{name}.png",), "trainnone"),
        (("--data.void=[1]", "--data.classes=null"), "the mask"),
    ],
)
def test_settings_that_make_no_sense(lm, folder, change, words):
    result = lm("fit", "--config", "c.yaml", "--trainer.max_epochs=1", *change)
    if words == "the mask":  # labels 0, 2 and 9 are called by their numbers
        assert result.status == 0, result.err
        return
    assert result.status and words in result.err and "Traceback" not in result.err
