"""Every logger gets every figure; texts go to those that can show them."""

import csv
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..conftest import scalars

wandb = pytest.importorskip("wandb")
BLOCK = 1 << 15


def of_csv(path: Path) -> dict[tuple[str, int], float]:
    with path.open(newline="") as file:
        return {
            (tag, int(row["step"])): float(value)
            for row in csv.DictReader(file)
            for tag, value in row.items()
            if value and tag != "step"
        }


def of_wandb(path: Path) -> dict[tuple[str, int], float]:
    """The figures in what W&B keeps for later: records in LevelDB's log format, behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, records = path.read_bytes(), 7, [b""]
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if kind in (1, 2):  # whole, or the first part
            records.append(b"")
        records[-1] += data[at + 7 : at + 7 + size]
        at += 7 + size
    found = {}
    for content in records:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") != "history":
            continue
        plain = (item for item in record.history.item if len(item.nested_key) < 2)  # no parts of tables
        items = {item.key or item.nested_key[0]: item.value_json for item in plain}
        step = json.loads(items.get("trainer/global_step", "0"))
        for tag, value in items.items():
            if isinstance(number := json.loads(value), int | float) and not tag.startswith(("_", "trainer/")):
                found[tag, step] = number
    return found


def test_three_loggers_show_the_same(tmp_path, tiny_gpt, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    # A process of its own: W&B writes when Python ends.
    words = [
        sys.executable,
        "-m",
        "lm",
        "fit",
        *tiny_gpt,
        "-c",
        "csv",
        "-c",
        "logger/wandb",
        "--name",
        "three",
    ]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    run = tmp_path / "checkpoints/three"
    theirs = of_csv(run / "csv/version_0/metrics.csv")
    (kept,) = run.glob("wandb/offline-run-*/*.wandb")
    offline = of_wandb(kept)
    assert {tag for tag, _ in theirs} >= {
        "loss/train",
        "loss/val",
        "bits_per_byte/val",
        "optimizer/gradient_norm",
    }
    assert theirs.keys() == offline.keys()
    for (tag, step), value in theirs.items():
        assert math.isclose(offline[tag, step], value, rel_tol=1e-6)
        assert math.isclose(scalars(run, tag)[step], value, rel_tol=1e-6), (tag, step)
    texts = list(run.glob("wandb/offline-run-*/files/media/table/sample*.json"))
    assert texts, "the sample"
    parameters = yaml.unsafe_load((run / "csv/version_0/hparams.yaml").read_text())
    assert parameters["data.seq_len"] == 32


def test_tensorboard_stays_beside_another_and_none_is_none(lm, tiny_gpt, tmp_path):
    assert lm("fit", *tiny_gpt, "--trainer.logger=false", "--name=none").status == 0
    assert not list((tmp_path / "checkpoints/none").glob("events*"))
    assert lm("fit", *tiny_gpt, "--config=csv", "--name=csv").status == 0
    assert list((tmp_path / "checkpoints/csv").glob("events*"))
    assert (tmp_path / "checkpoints/csv/csv/version_0/metrics.csv").exists()


def test_a_logger_that_is_not_installed(lm, tiny_gpt, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", False)
    result = lm("fit", *tiny_gpt, "--config=mlflow")
    assert result.status != 0
    assert "mlflow" in result.err.lower()
    assert len(result.err.splitlines()) <= 3
