"""Utilisation is what the formula says; tokens are counted over accumulation."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_utilisation_and_tokens(lm, tiny_gpt, tmp_path):
    result = lm("fit", *tiny_gpt, "--monitor.peak_flops=1e12", "--trainer.accumulate_grad_batches=2")
    assert result.status == 0, result.err
    folder = tmp_path / "checkpoints/gpt-nano"
    events = EventAccumulator(str(folder))
    events.Reload()
    summary = json.loads((folder / "summary.json").read_text())
    used = events.Scalars("speed/model_flops_utilisation")[-1].value
    speed = events.Scalars("speed/tokens_per_second")[-1].value
    assert used == pytest.approx(speed * summary["training_flops_per_token"] / 1e12, rel=1e-5)
    assert events.Scalars("progress/tokens_seen")[-1].value == 6 * 2 * 4 * 32 == summary["tokens_seen"]


def test_without_a_known_peak_there_is_no_utilisation(trained):
    events = EventAccumulator(str(trained / "checkpoints/gpt"))
    events.Reload()
    assert "speed/model_flops_utilisation" not in events.Tags()["scalars"]


def test_training_bits_per_byte_follow_from_the_loss(trained):
    """By the corpus's bytes a token, the same in every step."""
    events = EventAccumulator(str(trained / "checkpoints/gpt"))
    events.Reload()
    loss, bits = (events.Scalars(f"train/{name}") for name in ("loss", "bits_per_byte"))
    ratios = [a.value / b.value for a, b in zip(loss, bits, strict=True)]
    assert max(ratios) - min(ratios) < 1e-5
    folder = next(path for path in (trained / "data").iterdir() if path.is_dir())
    train = json.loads((folder / "manifest.json").read_text())["splits"]["train"]
    assert ratios[0] == pytest.approx(train["bytes"] / train["tokens"] * 0.6931472, rel=1e-4)
