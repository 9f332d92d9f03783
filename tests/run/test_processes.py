"""Several processes learn what one does, from where it stopped, however many there were before."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..conftest import scalars

ROOT = Path(__file__).resolve().parents[2]
# Plain gradient descent: a gradient that is not shared shows in the weights as it is, where AdamW and Muon
# would scale it and clipping hide it.
PLAIN = (
    "--model.init_args.optimizer=torch.optim.SGD",
    "--model.init_args.optimizer.lr=0.2",
    "--trainer.gradient_clip_val=0",
    "--trainer.precision=32-true",
)
TWO = (
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",  # the overlay's is a GPU's
    "--trainer.devices=2",
    "--data.batch_size=2",
)
STOP = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def overlay(name: str) -> tuple[str, ...]:
    full = ("--trainer.strategy.init_args.compute=fp32",) if name == "fsdp" else ()
    return ("--config", str(ROOT / f"configs/trainer/{name}.yaml"), *TWO, *full)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def fit(start_lm):
    """Runs `lm fit` to its end, in a process of its own."""

    def run(*words: str, status: int = 0) -> str:
        process = start_lm("fit", *words)
        _, err = process.communicate()
        assert process.returncode == status, err
        return err

    return run


def equal(left: Path, right: Path) -> None:
    """The weights of two runs are those of one training."""
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(fit, tiny_gpt, tmp_path, name):
    """Data parallel and sharded over gloo: the same samples a step, so the same weights."""
    fit(*tiny_gpt, *PLAIN, "--name", "one")
    words = ("fit", *tiny_gpt, *overlay(name), *PLAIN, "--name", "two")
    if name == "ddp":  # as a person starts it: the second process is one that Lightning starts
        command = [sys.executable, "-m", "lm", *words]
        two = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert two.returncode == 0, two.stderr
    else:
        fit(*words[1:])
    runs = tmp_path / "checkpoints"
    assert torch.load(runs / "two/last.ckpt", weights_only=True)["global_step"] == 6
    equal(runs / "one", runs / "two")
    seen = [json.loads((runs / f"{n}/summary.json").read_text())["tokens_seen"] for n in ("one", "two")]
    assert seen == [6 * 4 * 32] * 2


def test_one_then_two_then_one(fit, tiny_gpt, tmp_path):
    """A run may go on with another number of processes: every sample is seen once."""
    (tmp_path / "stop.py").write_text(STOP)
    words = (*tiny_gpt, *PLAIN, "--trainer.max_steps=9")
    fit(*words, "--name=whole")
    stop = ("--trainer.callbacks+=stop.Stop", "--trainer.callbacks.step")
    fit(*words, "--name=parts", stop[0], f"{stop[1]}=3", status=128 + signal.SIGTERM)
    two = (*words, *overlay("ddp"), "--name=parts", stop[0], f"{stop[1]}=6")
    assert "goes on from step 3" in fit(*two, status=128 + signal.SIGTERM)
    assert "goes on from step 6" in fit(*words, "--name=parts")
    runs = tmp_path / "checkpoints"
    equal(runs / "whole", runs / "parts")
    assert json.loads((runs / "parts/summary.json").read_text())["tokens_seen"] == 9 * 4 * 32


def test_killed_with_two_processes_it_goes_on_to_the_last_bit(ends_alike_though_killed, tiny_gpt):
    """Dropout draws from each process's own generator: all of their states come back."""
    words = (
        *tiny_gpt,
        *overlay("ddp"),
        "--model.init_args.backbone.dropout=0.1",
        "--trainer.max_steps=20",
        "--trainer.val_check_interval=20",
        "--checkpoint.every_n_steps=5",
    )
    whole, _ = ends_alike_though_killed(*words, at="step 12/20", saved=10)
    assert sorted(scalars(whole)) == list(range(1, 21))
