"""A byte that is not what it was is noticed; a run whose last state it is in goes on from the one before."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from lm import checkpoint as checkpoints
from lm.callbacks.files import states
from lm.errors import UserError
from lm.run.resume import Resumed


def flip(path: Path) -> None:
    """One bit in the middle of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    at = largest.header_offset + 128 + largest.file_size // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "words", [["generate", "{}", "a"], ["info", "{}"], ["export", "{}", "out"], ["validate", "{}"]]
)
def test_a_flipped_bit_is_one_clear_line(lm, trained, tmp_path, words):
    shutil.copy(trained / "checkpoints/gpt/best.ckpt", tmp_path / "x.ckpt")
    flip(tmp_path / "x.ckpt")
    result = lm(*(word.format("x.ckpt") for word in words))
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        f"lm {words[0]}: x.ckpt is damaged: a tensor in it has another checksum than when it was written: "
        "use another, or train again\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_base_or_optimizer(trained, tmp_path):
    """Of a state to train on everything counts."""
    shutil.copy(trained / "checkpoints/gpt/last.ckpt", tmp_path / "last.ckpt")
    checkpoints.read(tmp_path / "last.ckpt")
    flip(tmp_path / "last.ckpt")
    with pytest.raises(checkpoints.Damaged):
        checkpoints.read(tmp_path / "last.ckpt")


def test_the_last_states_are_kept_and_a_damaged_one_is_passed_over(lm, tiny_gpt, tmp_path):
    words = ("fit", *tiny_gpt, "--checkpoint.every_n_steps=1", "--checkpoint.keep=3")
    assert lm(*words, "--name=whole").status == 0
    whole = tmp_path / "checkpoints/whole"
    assert [path.name for path in states(whole)] == ["last.ckpt", "step-5.ckpt", "step-4.ckpt"]
    run = tmp_path / "checkpoints/run"
    shutil.copytree(whole, run)
    for name in ("summary.json", "best.ckpt"):
        (run / name).unlink()
    flip(run / "last.ckpt")
    (run / "step-5.ckpt").write_bytes((run / "step-5.ckpt").read_bytes()[:5000])
    result = lm(*words, "--name=run")
    assert result.status == 0, result.err
    for name, before in (("last", "step-5"), ("step-5", "step-4")):
        said = f"warning: checkpoints/run/{name}.ckpt is damaged: going on from checkpoints/run/{before}.ckpt"
        assert said in result.err
    assert "goes on from step 4" in result.err
    states_of = {folder: [checkpoints.read(path) for path in states(folder)] for folder in (run, whole)}
    for ours, theirs in zip(states_of[run], states_of[whole], strict=True):
        assert ours["global_step"] == theirs["global_step"]
        for name, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], value)
    assert [path.name for path in states(run)] == ["last.ckpt", "step-5.ckpt", "step-4.ckpt"]


def test_what_can_t_be_read_is_not_what_is_damaged(trained, tmp_path, monkeypatch):
    """A disk that is away for a moment must not cost a run its last state."""
    shutil.copy(trained / "checkpoints/gpt/last.ckpt", tmp_path / "last.ckpt")
    error = OSError(116, "Stale file handle")
    monkeypatch.setattr(torch, "load", lambda *words, **options: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=r"cannot read .*: Stale file handle") as caught:
        Resumed.latest([tmp_path / "last.ckpt", tmp_path / "step-1.ckpt"])
    assert not isinstance(caught.value, checkpoints.Damaged)


def test_a_damaged_directory_of_the_archive_is_damage(trained, tmp_path):
    data = bytearray((trained / "checkpoints/gpt/best.ckpt").read_bytes())
    for at in range(len(data) - 40, len(data), 7):
        path = tmp_path / f"{at}.ckpt"
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            checkpoints.read(path)
        except checkpoints.Damaged:
            continue


def test_without_one_before_it_is_said(lm, tiny_gpt, tmp_path):
    words = ("fit", *tiny_gpt, "--name=run")
    assert lm(*words).status == 0
    (tmp_path / "checkpoints/run/summary.json").unlink()
    assert [path.name for path in states(tmp_path / "checkpoints/run")] == ["last.ckpt"]
    flip(tmp_path / "checkpoints/run/last.ckpt")
    result = lm(*words)
    assert result.status == 1
    assert "delete it, and the same `lm fit` begins the run anew" in result.err
    assert lm("fit", *tiny_gpt, "--checkpoint.keep=0").status == 2
