"""Utilisation is what the formula says; tokens are counted over accumulation."""

import json
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lm.callbacks.monitor import Monitor
from lm.tasks.base import Work


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


def test_bits_per_byte_are_of_the_targets_alone(lm, tiny_bert, tmp_path):
    """Nothing is learned, documents are short: training's figure is validation's, up to which text it is."""
    (tmp_path / "short.jsonl").write_text(
        "\n".join(f'{{"text": "import module{n} as m{n}"}}' for n in range(3000))
    )
    words = [word for word in tiny_bert if not word.startswith(("--data.corpus", "--data.vocab"))]
    words += [
        "--data.corpus=short.jsonl",
        "--data.vocab_size=300",
        "--model.init_args.optimizer=torch.optim.SGD",
    ]
    result = lm("fit", *words, "--model.init_args.optimizer.lr=1e-12", "--trainer.limit_val_batches=1.0")
    assert result.status == 0, result.err
    events = EventAccumulator(str(tmp_path / "checkpoints/bert-nano"))
    events.Reload()
    train = [event.value for event in events.Scalars("bits_per_byte/train")]
    assert sum(train) / len(train) == pytest.approx(events.Scalars("bits_per_byte/val")[-1].value, rel=0.05)


def test_waiting_for_data_is_from_a_batch_s_end_to_the_next_one_s_start(monkeypatch):
    times = iter([5.0, 6.0, 7.0, 10.0, 10.5, 11.0])  # start and end of three batches
    monkeypatch.setattr("lm.callbacks.monitor.time", SimpleNamespace(perf_counter=lambda: next(times)))
    trainer = SimpleNamespace(
        optimizers=[SimpleNamespace(param_groups=[])], log_every_n_steps=0, global_step=1, device_mesh=None
    )
    task = SimpleNamespace(work=lambda batch: Work(8, "images"))
    monitor, one = Monitor(), torch.ones(())
    monkeypatch.setattr("lm.callbacks.monitor.data_shard", lambda trainer: SimpleNamespace(size=1))
    for _ in range(3):
        monitor.on_train_batch_start(trainer, task, None, 0)
        monitor.on_train_batch_end(trainer, task, {"total": one, "count": one, "bytes": one}, None, 0)
    assert (monitor.waiting_seconds, monitor.train_seconds, monitor.waiting) == (1.5, 6.0, 0.25)
    again = Monitor()
    again.load_state_dict(monitor.state_dict())
    assert again.waiting == 0.25
