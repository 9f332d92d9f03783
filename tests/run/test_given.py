"""`lm validate MODEL`, `lm test MODEL`, `lm predict MODEL`: a model in the place of a configuration."""

import re
import shutil
from dataclasses import asdict

import pytest

from lm.backbone import BackboneConfig
from lm.errors import UserError
from lm.run.resume import Resumed
from lm.tasks import CausalPretraining


def figures(result) -> str:
    assert result.status == 0, result.err
    return result.out.rpartition(": ")[2]


@pytest.fixture
def usual(lm, trained, monkeypatch):
    """What `lm validate` says of the run with its configuration, in the folder where it was begun."""
    monkeypatch.chdir(trained)
    return figures(lm("validate", "--config", "checkpoints/gpt/config.yaml"))


def test_a_run_its_checkpoints_and_its_configuration_from_another_folder(
    lm, trained, usual, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = trained / "checkpoints/gpt"
    result = lm("validate", run)
    assert figures(result) == usual
    assert f"in {trained / 'data'}" in result.err  # the corpus that was prepared there
    assert result.out.startswith(f"{run}: ")
    assert figures(lm("validate", run / "last.ckpt"))
    assert figures(lm("validate", run / "config.yaml")) == usual
    assert not (tmp_path / "data").exists()
    assert lm("predict", run, "--trainer.limit_predict_batches=1").status == 0
    (run / "predictions.jsonl").unlink()


def test_a_checkpoint_alone_brings_its_configuration(lm, trained, usual, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "checkpoints/gpt/best.ckpt", "alone.ckpt")
    assert figures(lm("validate", "alone.ckpt", f"--data.data_dir={trained / 'data'}")) == usual


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_a_folder_of_transformers_is_measured_as_the_checkpoint(
    lm, trained, code_text, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    assert lm("export", trained / "checkpoints" / name, "hf").status == 0
    length = (
        "--data.seq_len=32",
        "--data.batch_size=4",
        "--trainer.limit_val_batches=4",
        f"--data.corpus={code_text}",
    )
    ours = figures(lm("validate", trained / "checkpoints" / name, *length))
    theirs = figures(lm("validate", "hf", *length))
    loss, other = (float(re.search(r"loss ([\d.]+)", text)[1]) for text in (ours, theirs))
    assert other == pytest.approx(loss, rel=2e-4)
    result = lm("validate", "hf")
    assert result.status == 2
    assert result.err == "lm validate: hf has no text of its own: give --data.corpus PATH\n"


def test_a_run_is_measured_at_another_length_of_sequence_where_positions_have_no_weights(
    lm, trained, code_text, monkeypatch
):
    monkeypatch.chdir(trained)
    few = (f"--data.corpus={code_text}", "--trainer.limit_val_batches=2")
    usual = lm("validate", "checkpoints/gpt", *few)
    longer = lm("validate", "checkpoints/gpt", *few, "--data.seq_len=48")
    assert (usual.status, longer.status) == (0, 0)
    assert figures(longer) != figures(usual)


def test_positions_with_weights_have_one_length_and_so_has_training():
    def resumed(positions, training):
        theirs, ours = (BackboneConfig(positions=positions, max_seq_len=length) for length in (32, 48))
        record = {"task": "lm.tasks.CausalPretraining", "backbone": asdict(theirs)}
        Resumed("best.ckpt", record, 1).check_model(CausalPretraining(ours), training)

    resumed("rotary", training=False)
    for positions, training in (("learned", False), ("learned", True), ("rotary", True)):
        with pytest.raises(UserError, match=r"another model: backbone\.max_seq_len 32 → 48"):
            resumed(positions, training)


def test_what_is_no_model(lm, tmp_path):
    assert "no such checkpoint or folder: nothing" in lm("test", "nothing").err
    (tmp_path / "empty").mkdir()
    assert "the folder empty holds no model" in lm("test", "empty").err
    assert "no such configuration" in lm("test", "nothing.yaml").err
