"""Pictures through the command: trained on, measured, resumed, classified."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lm as package
from lm.data.images import Flip, RandomCrop
from lm.data.images.mixing import mixed
from lm.data.images.module import ImageData
from lm.errors import UserError
from lm.tasks.image.base import PictureCollate

COLOURS = {"blue": 2, "green": 1, "red": 0}
CONFIG = {
    "name": "pictures",
    "data": {
        "class_path": "lm.data.ImageData",
        "init_args": {
            "train": "pictures.tar!train",
            "test": "pictures.tar!test",
            "size": 16,
            "augment": [
                {"class_path": "lm.data.images.RandomCrop", "init_args": {"padding": 2}},
                {"class_path": "lm.data.images.Flip"},
                {"class_path": "lm.data.images.ColorJitter", "init_args": {"brightness": 0.2}},
            ],
            "batch_size": 8,
        },
    },
    "model": {
        "class_path": "lm.tasks.ImageClassification",
        "init_args": {
            "backbone": {
                **{"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp": "gelu", "norm": "layer"},
                **{"bias": True, "causal": False, "positions": "none", "dropout": 0.1},
            },
            "input": {"class_path": "lm.backbone.Patches", "init_args": {"patch_size": 4}},
            "mixup": 0.2,
            "cutmix": 1.0,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
        },
    },
    "trainer": {
        **{"accelerator": "cpu", "precision": "32-true", "max_epochs": 6, "log_every_n_steps": 1},
    },
    "checkpoint": {"every_n_steps": 5},
}


def picture(colour: str, number: int) -> bytes:
    """A square that is mostly of a colour, 16×12 or 12×16 pixels."""
    rng = np.random.default_rng([number, COLOURS[colour]])
    pixels = rng.integers(0, 120, (16, 12, 3), dtype=np.uint8)
    pixels[..., COLOURS[colour]] += 120
    file = io.BytesIO()
    Image.fromarray(pixels if number % 2 else pixels.transpose(1, 0, 2)).save(file, "PNG")
    return file.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An archive of pictures, 20 to learn from and 6 to test on of each colour, and the YAML."""
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for part, numbers in (("train", range(20)), ("test", range(100, 106))):
            for colour in COLOURS:
                for number in numbers:
                    add(archive, f"{part}/{colour}/{number:03}.png", picture(colour, number))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_learns_says_what_it_sees_and_opens_anywhere(lm, pipe, folder):
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0, result.err
    assert " images/s  " in result.err
    assert "lm classify checkpoints/pictures/best.ckpt photo.jpg" in result.out
    run = folder / "checkpoints/pictures"
    assert json.loads((run / "summary.json").read_text())["test_accuracy"] == 1.0
    assert "accuracy 100.0%" in lm("test", "checkpoints/pictures").out

    assert lm("predict", "checkpoints/pictures").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [(row["path"], row["prediction"]) for row in rows] == [
        (f"{colour}/{number}.png", colour) for colour in COLOURS for number in range(100, 106)
    ]
    for name, colour in (("one.png", "red"), ("two.png", "blue")):
        (folder / name).write_bytes(picture(colour, 300))
    assert lm("classify", "checkpoints/pictures", "one.png", "--best", "1").out.split()[1] == "red"
    several = lm("classify", "checkpoints/pictures", "*.png", "--json").out.splitlines()
    assert [(row["path"], row["prediction"]) for row in map(json.loads, several)] == [
        ("one.png", "red"),
        ("two.png", "blue"),
    ]
    line = pipe('{"path": "two.png", "id": 7}\n', "classify", "checkpoints/pictures").out
    assert (json.loads(line)["id"], json.loads(line)["prediction"]) == (7, "blue")
    facts = json.loads(lm("info", run / "best.ckpt", "--json").out)
    assert facts["labels"] == "3: blue, green, red" and "classifier of pictures" in facts["what for"]

    model = package.load(run / "best.ckpt")
    found = model.classify([folder / "one.png", picture("green", 301)])
    assert [row["prediction"] for row in found] == ["red", "green"]
    alone = model.classify(str(folder / "one.png"))["probabilities"]
    assert alone == pytest.approx(found[0]["probabilities"], abs=1e-5)  # whoever shares the batch
    with pytest.raises(UserError, match="classifier of pictures: use `lm classify`"):
        model.generate("a")

    (folder / "text.png").write_text("this is no picture")
    for words, said in (
        (("text.png",), "lm classify: text.png is no picture"),
        (("none.png",), "lm classify: no such file: none.png"),
        (("one.png", "--pair", "x"), "--text and --pair name fields"),
    ):
        refused = lm("classify", "checkpoints/pictures", *words)
        assert refused.status and said in refused.err and refused.err.count("\n") == 1
    missing = pipe('{"file": "two.png"}\n', "classify", "checkpoints/pictures")
    assert "there is no 'path', only file; give --text NAME" in missing.err


def test_killed_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    words = ("--config=c.yaml", "--data.num_workers=2", "--trainer.max_epochs=3")
    ends_alike_though_killed(*words, at="step 14/", saved=10)


def test_what_can_not_be_used_is_counted_and_said(lm, folder):
    with tarfile.open("pictures.tar", "a") as archive:
        add(archive, "train/red/cut.png", picture("red", 7)[:200])
        add(archive, "train/red/text.png", b"no picture")
        add(archive, "train/red/notes.txt", b"left alone")
        add(archive, "test/blue/copy.png", picture("blue", 3))
    result = lm("fit", "--config", "c.yaml", "--trainer.max_epochs", "1")
    assert result.status == 0, result.err
    assert (
        "1 skipped: the picture is cut short" in result.err
        and "such as pictures.tar!red/cut.png" in result.err
    )
    assert "1 skipped: is no picture" in result.err
    assert "warning: 1 examples of pictures.tar!test stand in pictures.tar!train too" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data.size=null",), "--data.size is not given"),
        (("--data.train=nothing.tar",), "no such file or folder: nothing.tar"),
        (("--data.train=pictures.tar!train/red",), "there is nothing to learn|no label"),
        (("--model.input.patch_size=32",), "input.patch_size is 32: pictures are (16, 16)"),
        (("--model.input.patch_size=6", "--model.input.stem=convolutions"), "powers of 2"),
        (("--model.mixup=-1",), "mixup is -1"),
        (("--model.also=mean",), "also is mean, beside the first position: give --model.pooling first"),
        (
            ("--model.also=mean", "--model.pooling=first"),
            "also is mean, beside the class token, but there is none",
        ),
        (("--model.backbone.causal=true",), "ImageClassification needs a BERT"),
        (("--data.label_from=[a-z]+",), "has no group in parentheses"),
    ],
)
def test_settings_that_make_no_sense(lm, folder, options, words):
    result = lm("fit", "--config", "c.yaml", *options)
    assert result.status and result.err.count("\n") <= 3, result.err
    assert any(part in result.err for part in words.split("|")), result.err


def test_a_table_names_files_and_groups_stay_together(lm, folder):
    rows = ["name,what,who"]
    for colour in COLOURS:
        for number in range(20):
            rows.append(f"{colour}/{number:03}.png,{colour},{'abcd'[number % 4]}")
    rows.append("red/999.png,red,a")
    (folder / "t.csv").write_text("\n".join(rows))
    data = ImageData(
        "t.csv", files="pictures.tar!train", path="name", label="what", group="who", test_groups=["b"], size=8
    )
    parts = {split: data.examples(split) for split in ("train", "val", "test")}
    assert {e.group for e in parts["test"]} == {"b"} and len(parts["test"]) == 15
    assert {e.group for e in parts["train"]}.isdisjoint({e.group for e in parts["val"]})
    assert len(parts["train"]) + len(parts["val"]) == 45
    byname = ImageData("pictures.tar!train", label_from=r"(\d)\.png$", group_from=r"^(\w+)/", size=8)
    assert {e.label for e in byname.examples("train")} <= set("0123456789")
    assert {e.group for e in byname.examples("train")} | {e.group for e in byname.examples("val")} == {
        *COLOURS
    }


def test_what_is_drawn_is_decided_by_the_draw_alone(lm, folder):
    assert lm("fit", "--config", "c.yaml", "--trainer.max_epochs", "1").status == 0
    task = package.load("checkpoints/pictures/best.ckpt").task("classify")
    data = ImageData("pictures.tar!train", size=16, augment=[RandomCrop(2), Flip()])
    features = [
        {"place": list(e.place), "target": 0, "draw": d} for d, e in enumerate(data.examples("train")[:4])
    ]
    collate = PictureCollate(task.processor, data.augment)
    batch = collate(features)
    again = collate(features[::-1])
    assert torch.equal(batch["pixels"], again["pixels"].flip(0))
    other = collate([{**f, "draw": f["draw"] + 50} for f in features])
    assert not torch.equal(batch["pixels"], other["pixels"])
    assert not torch.equal(batch["pixels"], PictureCollate(task.processor)(features)["pixels"])
    shift = RandomCrop(40)  # all that is seen of most is what lies beyond: near zero, whatever the mean is
    dark = replace(task.processor, mean=(0.1, 0.1, 0.1), std=(0.3, 0.3, 0.3))
    values = PictureCollate(dark, (shift,))(features)["pixels"]
    assert (values.abs() < 0.01).float().mean() > 0.5
    soft = torch.eye(4)
    first, second = (mixed(batch["pixels"], soft, batch["draw"], 0.2, 1.0) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.allclose(first[1].sum(1), torch.ones(4))
