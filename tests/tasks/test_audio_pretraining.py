"""Masked frames: what is covered, that it does not leak, and what comes of it through the command."""

import json

import numpy as np
import pytest
import torch
import yaml

import lm as package
from lm.backbone import BackboneConfig, Frames
from lm.data.audio.module import AudioData, AudioExample
from lm.data.media.places import Place
from lm.tasks.speech.pretraining import MaskedAudioPretraining

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "mlp": "gelu", "norm": "layer"}
SHAPE |= {"bias": True, "causal": False, "positions": "rotary"}
FRAMES = {"strides": [2, 2], "kernel": 5, "positions": "sine"}
TONES = (200, 400, 800, 1600)
CONFIG = {
    "name": "covered",
    "data": {
        "class_path": "lm.data.AudioData",
        "init_args": {
            **{"train": "sounds", "label": None, "seconds": 0.5, "rate": 4000, "bins": 16, "batch_size": 8},
        },
    },
    "model": {
        "class_path": "lm.tasks.MaskedAudioPretraining",
        "init_args": {
            "backbone": SHAPE,
            "input": {"class_path": "lm.backbone.Frames", "init_args": FRAMES},
            "span": 2,
            "optimizer": {"class_path": "lm.optim.Muon"},
        },
    },
    "trainer": {
        **{"accelerator": "cpu", "precision": "32-true", "max_steps": 48, "log_every_n_steps": 1},
        "val_check_interval": 12,
    },
    "checkpoint": {"every_n_steps": 5},
}


def write_sounds(folder, count: int = 40, low: float = 0.2, high: float = 0.6) -> None:
    """Sounds of one tone each, of so many seconds, whose names say nothing."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        at = np.arange(int(4000 * rng.uniform(low, high))) / 4000
        tone = np.sin(2 * np.pi * TONES[number % len(TONES)] * at) * rng.uniform(0.1, 0.4)
        noisy = tone + 0.01 * rng.standard_normal(len(at))
        soundfile.write(folder / f"{number:02}.flac", noisy, 4000)


@pytest.fixture
def task(tmp_path, monkeypatch) -> MaskedAudioPretraining:
    """One that has looked at forty sounds."""
    monkeypatch.chdir(tmp_path)
    write_sounds(tmp_path / "sounds")
    torch.manual_seed(0)
    task = MaskedAudioPretraining(BackboneConfig(**SHAPE, max_seq_len=51), input=Frames(**FRAMES), span=2)
    task.prepare(AudioData(**CONFIG["data"]["init_args"]))
    return task.eval()


def batch_of(task: MaskedAudioPretraining, numbers: list[int]) -> dict:
    return task.collate([{**task.data.features("train")[n], "draw": n} for n in numbers])


def test_spans_of_a_sound_are_covered_whole_and_nothing_behind_its_end():
    documents = torch.zeros(4, 41, dtype=torch.int64)
    for row, length in enumerate((41, 30, 41, 1)):
        documents[row, length:] = -1
    for span, rate in ((1, 0.6), (2, 0.5), (5, 0.4)):
        task = MaskedAudioPretraining(BackboneConfig(**SHAPE), mask_rate=rate, span=span)
        hidden = task.hidden({"documents": documents}, torch.tensor([5, 5, 5, 6]))
        assert not hidden[documents < 0].any()
        assert torch.equal(hidden[0], hidden[2]) and hidden[3, 0]
        for row, length in ((0, 41), (1, 30)):
            spans = hidden[row, :length].split(span)
            assert all(each.all() == each.any() for each in spans)
            assert sum(bool(each.any()) for each in spans) == round(rate * len(spans))
        other = task.hidden({"documents": documents}, torch.tensor([7, 5, 5, 6]))
        assert not torch.equal(other[0], hidden[0]) and torch.equal(other[1:], hidden[1:])
        alone = task.hidden({"documents": documents[1:2, :30]}, torch.tensor([5]))
        assert torch.equal(alone[0], hidden[1, :30])  # whoever shares the batch


def test_what_is_covered_is_not_seen_and_the_rest_is(task):
    batch = batch_of(task, [0, 1, 2, 3])
    hidden = task.hidden(batch, batch["draw"])
    guessed = task.guessed(batch, hidden)
    count = task.block_size // task.input.bins
    cover = hidden.repeat_interleave(count, 1)[:, None, : batch["frames"].shape[2]]
    other = {**batch, "frames": torch.where(cover, torch.randn_like(batch["frames"]), batch["frames"])}
    assert not torch.equal(other["frames"], batch["frames"])
    assert torch.equal(task.guessed(other, hidden), guessed)
    seen = {**batch, "frames": torch.where(cover, batch["frames"], batch["frames"] + 1)}
    assert not torch.equal(task.guessed(seen, hidden)[hidden], guessed[hidden])
    # A loss of nothing but what is covered: guesses elsewhere don't count.
    moved = torch.where(hidden[..., None], guessed, guessed + 9)
    losses = task.losses(batch, hidden, guessed)
    assert torch.equal(task.losses(batch, hidden, moved), losses) and len(losses) == hidden.sum()


def test_a_sound_is_learned_alike_alone_and_among_longer_ones(task):
    numbers = [0, 1, 2, 3, 4]
    batch = batch_of(task, numbers)
    assert (batch["documents"] < 0).any()
    hidden = task.hidden(batch, batch["draw"])
    together = task.losses(batch, hidden, task.guessed(batch, hidden)).split(hidden.sum(1).tolist())
    for number, losses in zip(numbers, together, strict=True):
        alone = batch_of(task, [number])
        cover = task.hidden(alone, alone["draw"])
        torch.testing.assert_close(task.losses(alone, cover, task.guessed(alone, cover)), losses)


def test_the_loss_is_divided_by_what_a_batch_has_on_average(task):
    data = task.data
    found = [
        task.hidden(each, each["draw"]).sum().item() for n in range(36) for each in [batch_of(task, [n])]
    ]
    mean = np.mean(found) * data.batch_size
    assert task.expected == pytest.approx(mean, rel=0.1)


def test_blocks_become_frames_again(task):
    for frames in (48, 46):
        raw = torch.randn(2, 16, frames)
        assert torch.equal(task.joined(task.net.backbone.embeddings.blocks(raw), raw), raw)


def test_long_sounds_are_learned_in_windows(task):
    def windows(seconds: float) -> list[tuple[float, int]]:
        found = task.encode(AudioExample(Place("a", "a"), "", seconds=seconds), training=True)
        assert found[0]["several"] == (len(found) > 1) and "several" not in {k for f in found[1:] for k in f}
        return [(f["window"][0], f["length"]) for f in found]

    assert windows(0.1) == [(0.0, 400)]
    assert windows(0.7) == [(0.0, 2000)]  # an end of 0.2 seconds
    assert windows(1.4) == [(0.0, 2000), (0.5, 2000), (1.0, 1600)]


def test_it_learns_shows_what_it_guesses_and_is_what_others_start_from(lm, tmp_path):
    pytest.importorskip("matplotlib")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_sounds(tmp_path / "sounds", 60, high=1.5)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    result = lm("fit", "--config", "c.yaml")
    assert result.status == 0 and "read in several windows" in result.err, result.err
    assert "lm fit fsdd --model.init_from" in result.out
    run = tmp_path / "checkpoints/covered"
    assert json.loads((run / "summary.json").read_text())["best_val_loss"] < 0.85  # 1: the mean alone
    events = EventAccumulator(str(run))
    events.Reload()
    assert events.Tags()["images"] == ["guessed"]
    refused = lm("classify", run, "sounds/00.flac")
    assert "a network pretrained on sounds: use `lm fit --model.init_from`" in refused.err

    for number in range(60):  # the same with labels in their names
        place = tmp_path / f"sounds/{number:02}.flac"
        place.rename(place.with_name(f"{'abcd'[number % 4]}_{number:02}.flac"))
    start = package.load(run / "best.ckpt").model
    for task, data, labels in (
        ("AudioClassification", "AudioData", "label_from"),
        ("SpeechRecognition", "SpeechData", "text_from"),
    ):
        known = {"train": "sounds", labels: "([abcd])_", "val_fraction": 0.3}
        after = {
            "name": task,
            "data": {"class_path": f"lm.data.{data}", "init_args": known},
            "model": {"class_path": f"lm.tasks.{task}", "init_args": {"init_from": str(run)}},
            "trainer": {**CONFIG["trainer"], "max_steps": 2, "val_check_interval": 2},
        }
        after["model"]["init_args"]["optimizer"] = {
            "class_path": "Muon",
            "init_args": {"lr": 0, "adamw_lr": 0},
        }
        (tmp_path / "after.yaml").write_text(yaml.safe_dump(after))
        result = lm("fit", "after.yaml")
        assert result.status == 0 and f"starting from {run}; new: head" in result.err, result.err
        found = package.load(f"checkpoints/{task}/best.ckpt").model
        for part in ("backbone.embeddings.first.weight", "backbone.blocks.1.attention.output.weight"):
            assert torch.equal(found.weights[part], start.weights[part])
        assert found.processor.bins == 16 and found.record["input"] == start.record["input"]


def test_bad_input_is_said(lm, tmp_path):
    write_sounds(tmp_path / "sounds", 2)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    patches = ("--model.input", "lm.backbone.Patches")
    for options, words in (
        (["--model.span=0"], "span is 0"),
        (["--model.mask_rate=1"], "mask_rate is 1"),
        (["--data.seconds=null"], "seconds is not given"),
        (patches, "frames of a sound"),
    ):
        result = lm("fit", "--config", "c.yaml", *options)
        assert words in result.err and result.status, result.err
        assert "Traceback" not in result.err


@pytest.mark.real_data
def test_a_step_on_real_digits_and_a_step_after_it(lm, real_data):
    few = ("--data.limit=100", "--data.batch_size=16", f"--data.root={real_data}", "--data.num_workers=0")
    few += ("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu")
    few += ("--trainer.max_steps=2", "--trainer.precision=32-true")
    assert lm("fit", "sounds-masked", *few).status == 0
    result = lm("fit", "fsdd", *few, "--model.init_from=checkpoints/sounds-masked")
    assert result.status == 0 and "starting from checkpoints/sounds-masked" in result.err, result.err
