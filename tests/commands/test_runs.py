"""`lm runs`: every run of a folder, in whatever state it is."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock


@pytest.fixture
def runs(trained, tmp_path):
    """Runs in each state."""
    folder = tmp_path / "checkpoints"
    names = ("whole", "stopped", "deep/seed-0", "damaged", "begun")
    for name in names:
        shutil.copytree(trained / "checkpoints/gpt", folder / name)
        if name not in ("whole", "deep/seed-0"):
            (folder / name / "summary.json").unlink()
    (folder / "damaged/last.ckpt").write_bytes(b"PK")
    for path in (folder / "begun").glob("*.ckpt"):
        path.unlink()
    for number, name in enumerate(names):
        for path in (folder / name).iterdir():
            os.utime(path, (1e9 + number, 1e9 + number))
    return folder


def found(lm, *words):
    result = lm("runs", *words, "--json")
    assert result.status == 0, result.err
    return {row["name"]: row for row in json.loads(result.out)}


def test_states_and_figures(lm, runs, trained):
    rows = found(lm)
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "whole": "finished",
        "stopped": "stopped",
        "deep/seed-0": "finished",
        "damaged": "damaged",
        "begun": "begun",
    }
    summary = json.loads((trained / "checkpoints/gpt/summary.json").read_text())
    whole = rows["whole"]
    assert whole["figures"] == {key: summary[key] for key in ("best_val_loss", "bits_per_byte")}
    assert (whole["step"], whole["speed"], whole["unit"]) == (6, summary["tokens_per_second"], "tokens")
    assert (whole["task"], whole["data"]) == ("CausalPretraining", "PretrainingData")
    stopped = rows["stopped"]
    assert (stopped["step"], stopped["steps"]) == (6, 6)
    assert stopped["speed"] > 0
    with FileLock(runs / "stopped/.lock"):
        assert found(lm)["stopped"]["state"] == "running"
    assert list(found(lm, runs / "deep")) == ["seed-0"]


@pytest.mark.parametrize(
    ("column", "first"), [("when", "begun"), ("name", "begun"), ("state", "begun"), ("speed", "whole")]
)
def test_sorting(lm, runs, column, first):
    names = list(found(lm, "--sort", column))
    assert names[0] == first or column == "speed"
    assert list(found(lm, "--sort", column, "--reverse")) == names[::-1]


def test_what_a_logger_keeps_in_a_run_is_no_run(lm, runs):
    below = runs / "whole/wandb/run-1/files"
    below.mkdir(parents=True)
    (below / "config.yaml").write_text("a: 1\n")
    assert len(found(lm)) == 5


def test_the_better_figure_comes_first(lm, runs):
    path = runs / "deep/seed-0/summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "best_val_loss": 0.5}))
    assert next(iter(found(lm, "--sort", "best"))) == "deep/seed-0"


def test_the_table(lm, runs):
    (runs / "whole").rename(runs / "中文")
    lines = lm("runs").out.splitlines()
    assert lines[0].split() == ["run", "state", "task", "data", "step", "best", "figures", "speed", "when"]
    assert len(lines) == 6
    place = lines[0].index("state")
    row = next(line for line in lines if "中文" in line)
    assert row[place - 2 :].startswith("finished")  # each of the two takes two columns
    assert any("6 of 6" in line for line in lines)


def test_no_runs(lm, tmp_path):
    result = lm("runs")
    assert (result.status, result.err) == (
        1,
        "lm runs: no such folder: checkpoints; runs land in checkpoints/, where `lm fit` is typed\n",
    )
    (tmp_path / "checkpoints").mkdir()
    assert lm("runs").out == "no runs in checkpoints: lm fit gpt-nano begins one\n"


def test_finished_runs_need_no_torch(trained):
    code = f"import sys; from lm.cli import run; run(['runs', {str(trained / 'checkpoints')!r}]); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("False\n")
