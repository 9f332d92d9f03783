"""Pretraining on pictures without labels."""

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.backbone import Patches
from lm.data.images.module import ImageExample
from lm.errors import UserError
from lm.metrics.pictures import sheet_picture
from lm.processors.images import ImageProcessor
from lm.tasks.image.base import ImageTask
from lm.tasks.reconstruction import Reconstruction, normalised

_SHOWN = 5  # pictures on a sheet, each three times


class MaskedImagePretraining(Reconstruction, ImageTask):
    """Learn pictures by saying what their covered patches hold; see `Reconstruction`. What it has learned is
    another task's `init_from`."""

    reads = ImageExample
    data_class = "lm.data.ImageData"
    usage = "fit cifar10 --model.init_from {}"
    beside = Reconstruction.beside | ImageTask.beside | {"_shown"}
    raw = "pixels"
    _shown: tuple[Tensor, Tensor, Tensor] | None = None  # pixels, covered positions and guesses

    def fitting_input(self, processor: ImageProcessor) -> Patches:
        found = super().fitting_input(processor)
        if not isinstance(found, Patches) or found.stride is not None:
            raise UserError(
                "`input` has to be patches that do not overlap: what else is to be covered?", status=2
            )
        return found

    @property
    def block_size(self) -> int:
        return self.input.channels * self.input.patch_size**2

    def cells(self, batch: dict[str, Any]) -> np.ndarray:
        rows, columns = (np.arange(n) // self.span for n in self.input.grid(*batch["pixels"].shape[2:]))
        numbers = (rows[:, None] * (columns[-1] + 1) + columns).ravel()
        return np.broadcast_to(numbers, (len(batch["pixels"]), len(numbers)))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if batch_idx == 0:
            hidden = self.hidden(batch, batch["index"].clamp(min=0))
            self._shown = batch["pixels"], hidden, self.guessed(batch, hidden)

    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures as they are, covered, and as they were guessed."""
        if self._shown is None or importlib.util.find_spec("matplotlib") is None:
            return {}
        pixels, hidden, guessed = (each[:_SHOWN].float() for each in self._shown)
        embeddings, side = self.net.backbone.embeddings, self.input.patch_size
        blocks = embeddings.blocks(pixels)
        _, mean, std = normalised(blocks)
        blocks = torch.where(hidden[..., None] > 0, guessed * std + mean, blocks)
        grid = self.input.grid(*pixels.shape[2:])
        filled = torch.nn.functional.pixel_shuffle(blocks.transpose(1, 2).unflatten(2, grid), side)
        covered = embeddings.covered(pixels, hidden > 0)
        kinds = (("as it is", pixels), ("covered", covered), ("guessed", filled))
        made = [(self.processor.image(each[n]), name) for n in range(len(pixels)) for name, each in kinds]
        return {"guessed": sheet_picture(*zip(*made, strict=True), columns=3)}
