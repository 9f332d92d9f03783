"""Several seeds in one command."""

import json
import shutil
from statistics import mean

import pytest

from lm.errors import UserError
from lm.run.seeds import compare_seeds, take_seeds


def test_what_is_taken_out_of_the_command():
    assert take_seeds(["fit", "--seeds", "0,7", "--name", "a"]) == ([0, 7], ["fit", "--name", "a"])
    assert take_seeds(["fit", "--seeds=3,1,2"]) == ([3, 1, 2], ["fit"])
    assert take_seeds(["fit", "--name", "seeds"]) == (None, ["fit", "--name", "seeds"])


@pytest.mark.parametrize("words", [["--seeds"], ["--seeds", "a,b"], ["--seeds", "1"], ["--seeds", "1,1"]])
def test_no_seeds(words):
    with pytest.raises(UserError, match="--seeds") as error:
        take_seeds(["fit", *words])
    assert error.value.status == 2


def test_mean_and_standard_error_by_hand(tmp_path):
    """0.6, 0.7 and 0.8: mean 0.7, deviation 0.1, standard error 0.1 / √3."""
    folders = [tmp_path / f"seed-{n}" for n in range(3)]
    for folder, value in zip(folders, (0.6, 0.7, 0.8), strict=True):
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"test_accuracy": value, "steps": 3}))
    assert "test_accuracy  0.7000 ± 0.0577" in compare_seeds(folders)
    assert json.loads((tmp_path / "seeds.json").read_text())["test_accuracy"]["values"] == [0.6, 0.7, 0.8]


def test_two_runs_by_one_command(lm, tmp_path):
    rows = [{"text": f"{'good' if n % 2 else 'bad'} film number {n}", "label": str(n % 2)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        "--data=lm.data.TextData",
        "--data.train=rows.jsonl",
        "--data.vocab_size=300",
        "--data.seq_len=32",
        "--model=lm.tasks.SequenceClassification",
        *(f"--model.backbone.{name}" for name in ("hidden_size=16", "num_layers=1", "num_heads=2")),
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--name=both",
    ]
    first = lm("fit", *words, "--seeds", "0,1")
    assert first.status == 0, first.err
    found = json.loads((tmp_path / "checkpoints/both/seeds.json").read_text())["best_val_accuracy"]
    seeds = [
        json.loads((tmp_path / f"checkpoints/both/seed-{n}/summary.json").read_text())["best_val_accuracy"]
        for n in (0, 1)
    ]
    assert found["values"] == seeds and found["mean"] == pytest.approx(mean(seeds))
    losses = {
        json.loads((tmp_path / f"checkpoints/both/seed-{n}/summary.json").read_text())["val_loss"]
        for n in (0, 1)
    }
    assert len(losses) == 2  # they do differ in their seed
    again = lm("fit", *words, "--seeds", "0,1")
    assert again.status == 0 and again.out.count("is finished") == 2
    mixed = lm("fit", *words)
    assert (mixed.status, mixed.out) == (1, "")
    assert mixed.err == (
        "lm fit: checkpoints/both holds the runs of several --seeds: choose another --name\n"
    )
    assert not (tmp_path / "checkpoints/both/config.yaml").exists()


def test_several_seeds_do_not_go_into_a_single_run_s_folder(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = {*(tmp_path / "checkpoints/gpt").iterdir()}
    result = lm("fit", *tiny_gpt, "--name=gpt", "--seeds=0,1")
    assert result.status == 1
    assert (
        result.err == "lm fit: checkpoints/gpt is a single run's folder: choose another --name for --seeds\n"
    )
    assert {*(tmp_path / "checkpoints/gpt").iterdir()} == before
