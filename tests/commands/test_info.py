"""`lm info` on real runs, checkpoints and corpora."""

import json

from lm.run.seeds import compare_seeds


def test_a_run(lm, trained):
    result = lm("info", trained / "checkpoints/gpt", "--json")
    facts = json.loads(result.out)
    assert (facts["kind"], facts["state"]) == ("run", "finished")
    assert facts["best.ckpt"]["parameters"] == f"{facts['figures']['parameters']:,}"
    assert facts["best.ckpt"]["figures"]["val/loss"] == round(facts["figures"]["best_val_loss"], 4)


def test_a_checkpoint(lm, trained):
    result = lm("info", trained / "checkpoints/bert/last.ckpt")
    assert result.status == 0
    assert "lm.tasks.MaskedPretraining" in result.out
    assert "400 tokens" in result.out
    assert "trained on" in result.out


def test_a_corpus_counts_what_lies_there(lm, trained):
    folder = next(path for path in (trained / "data").iterdir() if path.is_dir())
    facts = json.loads(lm("info", folder, "--json").out)
    tokens = sum(path.stat().st_size // 2 for path in folder.glob("train-*.bin"))
    assert f" {tokens:,} tokens" in facts["train"]
    assert "code.py (1 files" in facts["sources"][0]


def test_the_runs_of_several_seeds(lm, tmp_path):
    """0.6, 0.7 and 0.8: mean 0.7, standard error 0.1 / √3."""
    folders = [tmp_path / f"both/seed-{n}" for n in range(3)]
    for folder, value in zip(folders, (0.6, 0.7, 0.8), strict=True):
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"test_accuracy": value}))
    compare_seeds(folders)
    shown = lm("info", "both").out
    assert "both/seed-2" in shown
    assert "test_accuracy  0.7000 ± 0.0577 (mean ± standard error of 3 runs)" in shown
    facts = json.loads(lm("info", "both", "--json").out)
    assert facts["figures"] == json.loads((tmp_path / "both/seeds.json").read_text())
    (tmp_path / "both/seeds.json").write_text("{")
    damaged = lm("info", "both")
    assert (damaged.status, "seeds.json is damaged" in damaged.err) == (1, True)


def test_an_unfinished_run(lm, trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.ckpt").write_bytes((trained / "checkpoints/gpt/last.ckpt").read_bytes())
    assert "not finished" in lm("info", "run").out
