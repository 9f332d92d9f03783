"""A modality in one file and one YAML: it trains, resumes exactly, is monitored, saved, loaded."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from ..conftest import scalars

HERE = Path(__file__).parent


def write_table(path: Path, rows: int, first: int) -> None:
    """Slow and fast waves that begin anywhere."""
    lines = ["numbers,label"]
    for i in range(first, first + rows):
        speed = 0.4 if i % 2 else 1.6
        wave = " ".join(f"{5 * math.sin(speed * t + i):.3f}" for t in range(16))
        lines.append(f"{wave},{'slow' if i % 2 else 'fast'}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A person's folder: the file, its YAML, their data."""
    for name in ("numbers_in.py", "numbers_in.yaml"):
        shutil.copy(HERE / name, tmp_path)
    write_table(tmp_path / "train.csv", 200, 0)
    write_table(tmp_path / "test.csv", 21, 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_it_trains_is_monitored_saved_loaded_and_predicts(lm, folder):
    result = lm("fit", "--config=numbers_in.yaml")
    assert result.status == 0, result.err
    assert " numbers/s  " in result.err  # its own unit
    run = folder / "checkpoints/numbers"
    summary = json.loads((run / "summary.json").read_text())
    steps = summary["steps"]
    assert summary["test_accuracy"] == 1.0
    assert summary["numbers_seen"] == steps * 8 * 16 == scalars(run, "progress/numbers_seen")[steps]
    assert f"{steps * 8 * 16:,} numbers at" in result.out
    assert lm("predict", "--config=checkpoints/numbers/config.yaml").status == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [row["prediction"] for row in rows] == ["fast", "slow"] * 10 + ["fast"]

    import numbers_in

    task = numbers_in.SeriesClassification.load("checkpoints/numbers/best.ckpt")
    assert task.labels == ["fast", "slow"] and isinstance(task.processor, numbers_in.Scale)
    wave = numbers_in.Series(tuple(5 * math.sin(0.4 * t) for t in range(16)), "slow")
    batch = task.collate(task.encode(wave, training=False))
    assert task.labels[task.net(batch["numbers"]).argmax()] == "slow"
    info = lm("info", "checkpoints/numbers")
    assert (info.status, "toy-scale" in info.out) == (0, True), info.err
    refused = lm("classify", "checkpoints/numbers/best.ckpt", "0.1 0.2")
    assert (refused.status, "which is no task of lm" in refused.err) == (1, True)


def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    ends_alike_though_killed("--config=numbers_in.yaml", at="step  12/", saved=10)


def test_muon_leaves_its_input_alone(folder):
    """What stands before the blocks is optimised as embeddings are, whatever it is."""
    import numbers_in

    from lm.backbone import BackboneConfig, Classifier
    from lm.optim import parameter_groups

    config = BackboneConfig(hidden_size=16, num_layers=1, num_heads=2, causal=False)
    net = Classifier(config, 2, "mean", embeddings=numbers_in.SeriesInput(config))
    net.backbone.embeddings.stem = torch.nn.Conv1d(16, 16, 3)
    kinds = {id(p): group["kind"] for group in parameter_groups(net) for p in group["params"]}
    inputs = {name: kinds[id(p)] for name, p in net.backbone.embeddings.named_parameters()}
    assert inputs == {
        "line.weight": "embedding",
        "line.bias": "vector",
        "stem.weight": "embedding",
        "stem.bias": "vector",
    }
    assert kinds[id(net.backbone.blocks[0].attention.query.weight)] == "matrix"


def test_in_a_notebook(folder):
    """Nothing but a trainer, a task and data."""
    import numbers_in

    from lm.backbone import BackboneConfig
    from lm.optim import Muon

    torch.manual_seed(0)
    data = numbers_in.SeriesData("train.csv", test="test.csv", batch_size=8)
    shape = BackboneConfig(hidden_size=32, num_layers=2, num_heads=2, causal=False, max_seq_len=16)
    task = numbers_in.SeriesClassification(shape, optimizer=Muon)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=6, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    assert trainer.callback_metrics["test/accuracy"] == 1.0
