"""What the machine decides: precision and compiling."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from lm.callbacks import CompileWhenWorthwhile
from lm.callbacks import compiling as compilers
from lm.run import machine

AUTO = "--trainer.precision=auto"


@pytest.fixture
def device(monkeypatch):
    """Say whether this machine multiplies bf16 fast."""
    return lambda fast: monkeypatch.setattr(machine, "multiplies_bf16_fast", lambda _device: fast)


def precision_of(folder) -> str:
    return yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["precision"]


def test_a_run_keeps_the_precision_that_it_began_with(lm, tiny_gpt, tmp_path, monkeypatch, device):
    monkeypatch.chdir(tmp_path)
    device(True)
    first = lm("fit", *tiny_gpt, AUTO, "--trainer.max_steps=2")
    assert (first.status, first.err.count("(1 process, bf16-mixed)")) == (0, 1)
    assert precision_of(tmp_path / "checkpoints/gpt-nano") == "bf16-mixed", "not auto: it may move"
    said = first.out.partition("validation loss ")[2].partition(",")[0]
    assert f"loss {said}" in lm("validate", "checkpoints/gpt-nano").out, "measured as it was trained"
    device(False)
    run = tmp_path / "checkpoints/gpt-nano"
    (run / "summary.json").unlink()
    again = lm("fit", *tiny_gpt, AUTO, "--trainer.max_steps=2")
    assert again.status == 0
    assert "precision stays bf16-mixed, as the run began; here 32-true would be chosen" in again.err
    for name in ("summary.json", "last.ckpt", "best.ckpt"):
        (run / name).unlink()
    anew = lm("fit", *tiny_gpt, AUTO, "--trainer.max_steps=2")
    assert "(1 process, 32-true)" in anew.err, "nothing was kept of what began"
    other = lm("fit", *tiny_gpt, AUTO, "--trainer.max_steps=2", "--name=other")
    assert "(1 process, 32-true)" in other.err
    assert precision_of(tmp_path / "checkpoints/other") == "32-true"


@pytest.mark.parametrize(("accelerator", "kind"), [("cpu", "cpu"), ("auto", "cuda"), ("gpu", "cuda")])
def test_the_device_that_is_meant(monkeypatch, accelerator, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.device_of(accelerator).type == kind


class Task(SimpleNamespace):
    """Counts how often it is compiled."""

    def __init__(self, compiled) -> None:
        super().__init__(compiled=compiled, device=torch.device("cpu"), times=0)

    def compile_now(self) -> None:
        self.times += 1


@pytest.mark.parametrize(
    ("wish", "steps", "seconds", "compiler", "times"),
    [
        ("auto", 100_000, 0.1, "g++", 1),
        ("auto", 100_000, 0.1, None, 0),  # a CPU without a C++ compiler
        ("auto", 700, 0.1, "g++", 0),  # a minute is all it takes
        (False, 100_000, 0.1, "g++", 0),
    ],
)
def test_long_runs_are_compiled_once(monkeypatch, wish, steps, seconds, compiler, times):
    monkeypatch.setattr(compilers.shutil, "which", lambda _name: compiler)
    monkeypatch.setattr(compilers, "within_step", lambda _trainer: False)
    monitor = SimpleNamespace(history=[(9.0, 1), (seconds, 1), (seconds, 1)])
    strategy = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(global_step=0, max_steps=steps, accumulate_grad_batches=1, strategy=strategy)
    task, callback = Task(wish), CompileWhenWorthwhile(monitor)
    callback.on_train_start(trainer, task)
    for trainer.global_step in range(1, 30):
        callback.on_train_batch_end(trainer, task, None, None, 0)
        assert task.times == (times if trainer.global_step >= compilers.LOOK_AT else 0)
    resumed, later = Task(wish), CompileWhenWorthwhile(SimpleNamespace(history=[(0.0, 1)]))
    later.load_state_dict(callback.state_dict())
    later.on_train_start(trainer, resumed)
    assert resumed.times == times, "decided once for the whole run"
    if wish is False:  # and where it was never asked, whoever asks later is heard
        later.monitor, resumed.compiled = monitor, "auto"
        later.on_train_batch_end(trainer, resumed, None, None, 0)
        assert resumed.times == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_stays_with_the_process():
    code = """
import resource, numpy as np
from lm.run.machine import keep_memory
keep_memory()
faults = []
for _ in range(3):
    np.ones(30_000_000, np.uint8)  # freed at once
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
assert faults[2] - faults[0] < 100, faults
"""
    subprocess.run([sys.executable, "-c", code], check=True)
