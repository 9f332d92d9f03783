"""A run is a folder: it is continued exactly, left alone when finished, never mixed with another."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..conftest import scalars

ROOT = Path(__file__).resolve().parents[2]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def read_until(process: subprocess.Popen, start: str) -> str:
    """What a process wrote on stderr, up to the line that begins so."""
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith(start):
            return seen
    raise AssertionError(f"it ended without a line {start!r}:\n{seen}")


def test_a_run_leaves_what_it_promises(trained):
    folder = trained / "checkpoints/gpt"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "last.ckpt", "best.ckpt", "summary.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if "partial" in name]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tokens_seen"] == 6 * 4 * 32
    assert summary["perplexity"] == pytest.approx(torch.tensor(summary["val_loss"]).exp().item(), rel=1e-5)
    for name in ("val_loss", "bits_per_byte", "tokens_per_second", "wall_seconds", "parameters"):
        assert summary[name] > 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["vocab_size"] == 400


def test_tensorboard_has_what_a_person_looks_for(trained):
    events = EventAccumulator(str(trained / "checkpoints/gpt"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "loss/train",
        "bits_per_byte/train",
        "loss/val",
        "bits_per_byte/val",
        "optimizer/learning_rate_matrix",
        "optimizer/learning_rate_embedding",
        "optimizer/gradient_norm",
        "speed/tokens_per_second",
        "speed/waiting_for_data",
        "progress/tokens_seen",
    } <= tags
    tensors = set(events.Tags()["tensors"])
    assert "sample/text_summary" in tensors
    assert "configuration/text_summary" in tensors
    assert {e.step for e in events.Scalars("loss/val")} == {6}
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_the_same_command_leaves_a_finished_run_alone(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "checkpoints/gpt/last.ckpt").stat().st_mtime_ns
    result = lm("fit", *tiny_gpt, "--name", "gpt")
    assert result.status == 0
    assert "gpt is finished" in result.out
    assert (tmp_path / "checkpoints/gpt/last.ckpt").stat().st_mtime_ns == before


def test_a_folder_of_another_configuration_is_refused(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    result = lm("fit", *tiny_gpt, "--name", "gpt", "--model.init_args.backbone.num_layers=3")
    assert result.status == 1
    assert "checkpoints/gpt belongs to another configuration" in result.err
    assert "model.backbone.num_layers 2 → 3" in result.err
    assert "Traceback" not in result.err


def test_a_run_from_before_an_option_was_there_is_still_that_run(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints/gpt"
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    saved["model"]["init_args"]["backbone"].pop("rope_factor")
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    checkpoint["lm"]["backbone"].pop("rope_factor")
    torch.save(checkpoint, folder / "best.ckpt")
    again = lm("fit", *tiny_gpt, "--name", "gpt")
    assert (again.status, "is finished" in again.out) == (0, True), again.err
    validated = lm("validate", *tiny_gpt, "--name", "gpt")
    assert validated.status == 0, validated.err
    other = lm("fit", *tiny_gpt, "--name", "gpt", "--model.init_args.backbone.rope_factor=2")
    assert "model.backbone.rope_factor 1.0 → 2.0" in other.err
    saved["model"]["init_args"]["backbone"]["of_long_ago"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    assert "of_long_ago 3 → None" in lm("fit", *tiny_gpt, "--name", "gpt").err


def test_what_is_not_learned_may_change(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    result = lm("fit", *tiny_gpt, "--name", "gpt", "--trainer.log_every_n_steps=3", "--data.num_workers=1")
    assert (result.status, "is finished" in result.out) == (0, True)


def test_a_run_goes_on_with_its_steps_cut_otherwise(lm, tiny_gpt, tmp_path):
    """Other micro-batches, the same samples a step: every sample is seen once, the weights agree."""
    words = (*tiny_gpt, "--trainer.max_steps=300", "--trainer.val_check_interval=1000")
    whole = lm("fit", *words, "--trainer.max_steps=9", "--name=whole")
    assert whole.status == 0, whole.err
    (tmp_path / "stop.py").write_text(STOP)
    first = lm("fit", *words, "--trainer.max_steps=9", "--trainer.callbacks+=stop.Stop", "--name=cut")
    assert first.status == 143, first.err
    again = lm(
        "fit", *words, "--trainer.max_steps=9", "--data.batch_size=1", "--trainer.accumulate_grad_batches=4",
        "--name=cut",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert "goes on from step 5" in again.err
    summaries = [
        json.loads((tmp_path / f"checkpoints/{n}/summary.json").read_text()) for n in ("whole", "cut")
    ]
    assert summaries[0]["tokens_seen"] == summaries[1]["tokens_seen"] == 9 * 4 * 32
    left, right = (weights(tmp_path / f"checkpoints/{name}/last.ckpt") for name in ("whole", "cut"))
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=1e-3, atol=1e-4)
    other = lm("fit", *words, "--trainer.max_steps=9", "--data.batch_size=8", "--name=cut")
    assert "finished" in other.out


def test_another_number_of_samples_a_step_is_refused(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints/gpt/summary.json").unlink()
    result = lm("fit", *tiny_gpt, "--name=gpt", "--data.batch_size=8")
    assert result.status == 1
    assert "has 4 samples" in result.err


STOP = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

class Kill(Callback):
    def on_validation_start(self, trainer, module):
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_in_a_validation_it_validates_again(start_lm, tiny_gpt, tmp_path):
    """Where a checkpoint and a validation fall on the same step, the checkpoint is the earlier."""
    words = (
        *tiny_gpt,
        "--trainer.max_steps=8",
        "--trainer.val_check_interval=4",
        "--checkpoint.every_n_steps=4",
    )
    words = (*words, "--model.init_args.optimizer=torch.optim.AdamW", "--model.init_args.optimizer.lr=0.3")
    (tmp_path / "stop.py").write_text(STOP)
    for name, more, status in (
        ("whole", (), 0),
        ("killed", ("--trainer.callbacks+=stop.Kill",), -signal.SIGKILL),
        ("killed", (), 0),
    ):
        process = start_lm("fit", *words, *more, "--name", name)
        _, err = process.communicate()
        assert process.returncode == status, err
    folders = [tmp_path / f"checkpoints/{name}" for name in ("whole", "killed")]
    assert scalars(folders[0], "loss/val") == scalars(folders[1], "loss/val")
    assert scalars(folders[0]) == scalars(folders[1])
    figures = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert figures[0]["best_step"] == figures[1]["best_step"]
    left, right = (weights(folder / "best.ckpt") for folder in folders)
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("task", ["gpt", "bert"])
def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, tiny_gpt, tiny_bert, task):
    """Dropout on, gradient accumulation on, several loader workers, over more than one epoch."""
    words = (
        *(tiny_gpt if task == "gpt" else tiny_bert),
        "--model.init_args.backbone.dropout=0.1",
        "--trainer.accumulate_grad_batches=2",
        "--data.num_workers=2",
        "--data.seq_len=64",
        "--data.batch_size=16",
        "--trainer.max_steps=30",
        "--trainer.val_check_interval=22",
        "--checkpoint.every_n_steps=5",
    )
    runs = ends_alike_though_killed(*words, at="step 18/30", saved=15)
    assert sorted(scalars(runs[0])) == list(range(1, 31))
    figures = [json.loads((run / "summary.json").read_text()) for run in runs]
    for key in ("val_loss", "best_val_loss", "best_step", "tokens_seen"):
        assert figures[0][key] == figures[1][key]


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(start_lm, tiny_gpt, tmp_path):
    process = start_lm("fit", *tiny_gpt, "--trainer.max_steps=2000", "--checkpoint.every_n_steps=2000")
    read_until(process, "step")
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "The same command goes on from there." in err
    assert "Traceback" not in err
    step = torch.load(tmp_path / "checkpoints/gpt-nano/last.ckpt", weights_only=True)["global_step"]
    assert f"stopped at step {step} of 2000" in err
    assert not (tmp_path / "checkpoints/gpt-nano/summary.json").exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
def test_a_signal_to_the_whole_group_is_the_run_s_alone(tiny_gpt, tmp_path):
    """As Ctrl-C and `timeout` send it: processes that read ahead go on until the step is saved."""
    words = (*tiny_gpt, "--trainer.max_steps=2000", "--data.num_workers=1")
    command = [sys.executable, "-m", "lm", "fit", *map(str, words)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, stderr=pipe, text=True, start_new_session=True)
    read_until(process, "step")
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "The same command goes on from there." in err
    assert (tmp_path / "checkpoints/gpt-nano/last.ckpt").exists()


def test_two_processes_cannot_train_in_one_folder(start_lm, lm, tiny_gpt):
    process = start_lm("fit", *tiny_gpt, "--trainer.max_steps=100000")
    read_until(process, "step ")  # from then on it heeds signals
    result = lm("fit", *tiny_gpt, "--trainer.max_steps=100000")
    process.terminate()
    assert result.status == 1
    assert "another process is training in checkpoints/gpt-nano" in result.err
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


def test_a_signal_that_lightning_heard_first_is_no_success(lm, tiny_gpt, monkeypatch):
    """Between its handlers and ours: it raises an exit without a status, which would be 0."""

    def fit(*arguments, **options):
        raise SIGTERMException

    monkeypatch.setattr("lightning.pytorch.Trainer.fit", fit)
    result = lm("fit", *tiny_gpt)
    assert result.status == 128 + signal.SIGTERM
    assert "stopped at once. The same command begins anew" in result.err


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_validate_and_test_agree_with_the_end_of_the_run(lm, trained, tiny_gpt, tiny_bert, tmp_path, name):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    words = tiny_gpt if name == "gpt" else tiny_bert
    summary = json.loads((tmp_path / f"checkpoints/{name}/summary.json").read_text())
    for command in ("validate", "test"):
        result = lm(command, *words, "--name", name, "--trainer.limit_test_batches=4")
        assert result.status == 0
        assert f"loss {summary['val_loss']:.4f}" in result.out
        assert f"{summary['bits_per_byte']:.4f} bits per byte" in result.out


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_predictions_go_to_a_file(lm, trained, tiny_gpt, tiny_bert, tmp_path, name):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    words = tiny_gpt if name == "gpt" else tiny_bert
    result = lm("predict", *words, "--name", name, "--trainer.limit_predict_batches=2")
    assert result.status == 0
    rows = [json.loads(line) for line in (tmp_path / f"checkpoints/{name}/predictions.jsonl").open()]
    if name == "gpt":
        assert len(rows) == 2 * 4
        assert all(row["tokens"] == 32 and row["loss"] > 0 for row in rows)
    else:
        assert all({"token", "guess", "position"} <= row.keys() for row in rows)


def test_best_ckpt_alone_is_enough(trained, tmp_path):
    """Moved to another folder, with nothing beside it."""
    shutil.copy(trained / "checkpoints/gpt/best.ckpt", tmp_path / "moved.ckpt")
    words = ["generate", "moved.ckpt", "--prompt", "def ", "--tokens", "5", "--temperature", "0"]
    result = subprocess.run(
        [sys.executable, "-m", "lm", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("def ")
    assert {path.name for path in tmp_path.iterdir()} == {"moved.ckpt"}


def test_any_torch_optimizer_works_by_class_path(lm, tiny_gpt):
    result = lm("fit", *tiny_gpt, "--model.optimizer=torch.optim.NAdam", "--model.optimizer.lr=0.001")
    assert result.status == 0, result.err
    state = torch.load("checkpoints/gpt-nano/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert "mu_product" in state["state"][0]  # NAdam's own


def test_a_corpus_that_changed_under_a_run_is_refused(lm, tiny_gpt, code_text, tokenizer, tmp_path):
    """An edited text gives another corpus, also by one tokenizer: to go on with it would be neither run."""
    text, model = tmp_path / "mine.py", tmp_path / "tokenizer.model"
    text.write_bytes(code_text.read_bytes())
    model.write_bytes(tokenizer.to_bytes())
    words = (
        *tiny_gpt,
        f"--data.corpus={text}",
        f"--data.tokenizer={model}",
        f"--data.vocab_size={tokenizer.vocab_size}",
    )
    assert lm("fit", *words).status == 0
    (tmp_path / "checkpoints/gpt-nano/summary.json").unlink()
    text.write_bytes(code_text.read_bytes() + b"# one line more\n")
    result = lm("fit", *words)
    assert result.status == 1
    assert "the corpus has changed since the run began" in result.err


def test_killed_after_the_last_step_it_still_comes_to_its_end(lm, tiny_gpt, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints/gpt"
    before = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    (folder / "best.ckpt").unlink()
    result = lm("fit", *tiny_gpt, "--name", "gpt")
    assert result.status == 0, result.err
    after = json.loads((folder / "summary.json").read_text())
    assert after["val_loss"] == before["val_loss"] == after["best_val_loss"]
    assert (folder / "best.ckpt").exists()
    assert "sample" in result.out


def test_a_finished_run_is_trained_for_longer_as_it_says(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    folder = "checkpoints/gpt"
    words = (
        "fit",
        "--config",
        f"{folder}/config.yaml",
        "--ckpt_path",
        f"{folder}/last.ckpt",
        "--name=longer",
    )
    less = lm(*words, "--trainer.max_steps=6")
    assert (less.status, "at step 6 already" in less.err) == (2, True)
    more = lm(*words, "--trainer.max_steps=9")
    assert more.status == 0, more.err
    assert json.loads((tmp_path / "checkpoints/longer/summary.json").read_text())["steps"] == 9


def test_a_checkpoint_is_not_measured_on_pieces_it_does_not_know(lm, trained, tiny_gpt, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "other.txt").write_text(
        "other words than those, again and again " * 4000 + "".join(map(chr, range(40, 400)))
    )
    words = [word for word in tiny_gpt if not word.startswith(("--data.corpus", "--data.vocab"))]
    result = lm("validate", *words, "--data.corpus=other.txt", "--data.vocab_size=300", "--name=gpt")
    assert result.status == 1
    assert "another" in result.err and "Traceback" not in result.err


def test_a_task_that_only_says_what_an_example_is(lm, trained, tiny_gpt, tmp_path):
    """As the README has it: one method, found in the folder one works in."""
    (tmp_path / "mytask.py").write_text(MY_TASK)
    words = [*tiny_gpt, "--model=mytask.Backwards", "--name=mine"]
    for command in ("fit", "validate", "predict"):
        result = lm(command, *words)
        assert result.status == 0, result.err
    assert "loss" in (tmp_path / "checkpoints/mine/predictions.jsonl").read_text()


def test_a_callback_may_end_a_run_early(lm, tiny_gpt, tmp_path):
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    words += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    words += ["--trainer.val_check_interval=2", "--trainer.max_steps=40"]
    result = lm("fit", *tiny_gpt, *words)
    assert result.status == 0, result.err
    summary = json.loads((tmp_path / "checkpoints/gpt-nano/summary.json").read_text())
    assert summary["steps"] == 4
    saved = torch.load(tmp_path / "checkpoints/gpt-nano/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert "finished" in lm("fit", *tiny_gpt, *words).out


MY_TASK = """
from lm.tasks.text.pretraining import Example, Pretraining

class Backwards(Pretraining):
    def example(self, batch, training):
        tokens = batch["tokens"].flip(1)
        return Example(tokens[:, :-1], tokens[:, 1:], None, tokens[:, 1:].numel())
"""


def test_where_and_how_it_runs_is_the_same_run(lm, tiny_gpt, tmp_path, monkeypatch):
    """Whatever decides nothing of what is learned may differ; what can't go on to the bit is said."""
    words = ("fit", *tiny_gpt, "--checkpoint.keep=2", "--name=same")
    assert lm(*words).status == 0
    run = tmp_path / "checkpoints/same"

    def back() -> None:
        (run / "step-4.ckpt").replace(run / "last.ckpt")
        (run / "summary.json").unlink()

    back()
    harmless = ("--trainer.precision=32-true", "--trainer.max_time=00:01:00:00", "--trainer.devices=1")
    harmless += (
        "--trainer.strategy=auto",
        "--config=csv",
        "--data.num_workers=1",
        "--trainer.benchmark=false",
    )
    harmless += ("--trainer.limit_test_batches=1", "--trainer.num_sanity_val_steps=0")
    result = lm(*words, *harmless)
    assert result.status == 0, result.err
    assert "goes on from step 4" in result.err
    assert "to the last bit" not in result.err
    back()
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: None)  # it takes long
    result = lm(*words, "--trainer.precision=bf16-mixed", "--model.compile=true")
    assert result.status == 0, result.err
    said = (
        "goes on with precision 32-true → bf16-mixed, compile False → True: the same training, but from here"
    )
    assert said in result.err


def test_a_run_whose_time_is_over_goes_on_with_more(lm, tiny_gpt, tmp_path):
    words = ("fit", *tiny_gpt, "--name=timed")
    result = lm(*words, "--trainer.max_time=00:00:00:00")
    assert result.status == 0
    assert "--trainer.max_time, which counts from the run's beginning, is over: give more." in result.err
    assert not (tmp_path / "checkpoints/timed/summary.json").exists()
    result = lm(*words, "--trainer.max_time=00:01:00:00")
    assert result.status == 0, result.err
    assert (tmp_path / "checkpoints/timed/summary.json").exists()
