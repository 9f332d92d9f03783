"""What the machine decides: the precision of a run that says `auto`; and that memory stays with a run."""

import ctypes
import platform
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace

from lm.backbone.linear import multiplies_bf16_fast
from lm.callbacks.files import states
from lm.processes import say


def device_of(accelerator: str) -> torch.device:
    """The kind of device that a trainer's `accelerator` means here."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    mps = accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available()
    return torch.device("mps" if mps else "cpu")


def keep_memory() -> None:
    """Have what a step frees stay with the process for the next step. By itself glibc gives tensors of more
    than 32 MiB back to Linux, which has to clear every page anew: a quarter of the time of a CNN's step.
    Nothing happens where the C library is another."""
    if platform.libc_ver()[0] == "glibc":
        libc, most = ctypes.CDLL(None), (1 << 31) - 1
        # M_MMAP_THRESHOLD. glibc before 2.35 takes 32 MiB at the most, to which it comes by itself, unless
        # it is told the other option alone.
        if libc.mallopt(-3, most) or libc.mallopt(-3, 32 << 20):
            libc.mallopt(-1, most)  # M_TRIM_THRESHOLD


def decide(config: Namespace, folder: Path) -> None:
    """Put a precision in the place of `trainer.precision: auto`: that with which the run in `folder` began,
    or the faster one here."""
    if config.trainer.precision != "auto":
        return
    fast = multiplies_bf16_fast(device_of(str(config.trainer.accelerator)))
    config.trainer.precision = here = "bf16-mixed" if fast else "32-true"
    if not states(folder) and not (folder / "best.ckpt").exists():
        return  # nothing is kept of what may have begun there
    try:
        began = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["trainer"]["precision"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return
    config.trainer.precision = began
    if (began or "32-true") != here:
        say(f"precision stays {began or '32-true'}, as the run began; here {here} would be chosen")
