"""The state of the random number generators in the checkpoint, so that dropout goes on exactly."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer


def _states() -> dict[str, Any]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    _, keys, position, has_gauss, gauss = np.random.get_state()
    # A tensor of plain integers: what torch.load opens without running code.
    states["numpy"] = torch.from_numpy(keys.astype(np.int64))
    states["numpy_rest"] = [int(position), int(has_gauss), float(gauss)]
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    keys = states["numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *states["numpy_rest"]))


class RandomState(Callback):
    """Saves every process's generators and restores them when training starts again. On another number of
    processes they start anew from the seed: which tokens come next does not depend on them."""

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States by rank. Every rank takes part."""
        states: list[Any] = [_states()]
        if dist.is_available() and dist.is_initialized():
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, _states())
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore: after everything else that draws random numbers on the way here."""
        if self._loaded is not None and len(self._loaded) == trainer.world_size:
            _restore(self._loaded[trainer.global_rank])
        self._loaded = None
