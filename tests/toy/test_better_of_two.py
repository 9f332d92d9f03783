"""A text task in one file and one YAML: it trains, is tested, predicts, resumes exactly."""

import json
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIVING = ("cat", "dog", "horse", "child", "bird", "cow")
THINGS = ("stone", "door", "lamp", "chair", "cloud", "hat")
VERBS = ("eats", "sleeps", "runs", "drinks", "sings", "plays", "sees me", "is hungry", "comes home", "stands")


def write_rows(path: Path, verbs: tuple[str, ...], known: bool = True) -> list[int]:
    """Six rows for each verb: what lives does it, things don't. Gives the right answers."""
    rows = []
    for i, verb in enumerate(v for v in verbs for _ in LIVING):
        # Odd rows have the right one second.
        starts = [f"The {LIVING[i % 6]}", f"The {THINGS[(i + i // 6) % 6]}"][:: -1 if i % 2 else 1]
        rows.append({"context_options": starts, "continuation": f"{verb}.", "gold": i % 2 if known else None})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [i % 2 for i in range(len(rows))]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A person's folder: the file, its YAML, 48 rows to learn from and 12 to be tested on."""
    for name in ("better_of_two.py", "better_of_two.yaml"):
        shutil.copy(HERE / name, tmp_path)
    write_rows(tmp_path / "train.jsonl", VERBS[:8])
    write_rows(tmp_path / "test.jsonl", VERBS[8:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_trains_is_validated_tested_and_predicts(lm, folder):
    result = lm("fit", "--config=better_of_two.yaml")
    assert result.status == 0, result.err
    run = folder / "checkpoints/better"
    assert json.loads((run / "summary.json").read_text())["test_accuracy"] == 1.0
    config = f"--config={run}/config.yaml"
    for verb in ("validate", "test"):
        result = lm(verb, config)
        assert (result.status, "accuracy 100.0%" in result.out) == (0, True), result.err
    right = write_rows(folder / "blind.jsonl", VERBS[8:], known=False)
    result = lm("predict", config, "--data.test=blind.jsonl")
    assert result.status == 0, result.err
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [row["prediction"] for row in rows] == right
    assert "no gold" in lm("test", config, "--data.test=blind.jsonl").err


def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, folder):
    ends_alike_though_killed("--config=better_of_two.yaml", at="step 12/", saved=10)
