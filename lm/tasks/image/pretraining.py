"""Pretraining on pictures without labels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.data.images.module import ImageExample
from lm.tasks.image.base import ImageTask
from lm.tasks.reconstruction import Reconstruction


class MaskedImagePretraining(Reconstruction, ImageTask):
    """Learn pictures by saying what their covered patches hold; see `Reconstruction`. What it has learned is
    another task's `init_from`."""

    reads = ImageExample
    data_class = "lm.data.ImageData"
    usage = "fit cifar10 --model.init_from {}"
    beside = Reconstruction.beside | ImageTask.beside
    raw = "pixels"

    @property
    def block_size(self) -> int:
        return self.input.channels * self.input.patch_size**2

    def cells(self, batch: dict[str, Any]) -> np.ndarray:
        rows, columns = (np.arange(n) // self.span for n in self.input.grid(*batch["pixels"].shape[2:]))
        numbers = (rows[:, None] * (columns[-1] + 1) + columns).ravel()
        return np.broadcast_to(numbers, (len(batch["pixels"]), len(numbers)))

    def joined(self, blocks: Tensor, raw: Tensor) -> Tensor:
        grid = self.input.grid(*raw.shape[2:])
        pixels = torch.nn.functional.pixel_shuffle(
            blocks.transpose(1, 2).unflatten(2, grid), self.input.patch_size
        )
        return pixels[..., : raw.shape[2], : raw.shape[3]]

    def drawn(self, raw: Tensor, batch: dict[str, Any], number: int) -> np.ndarray:
        return self.processor.image(raw)
