"""What tasks on pictures share: what stands before the blocks, and how pictures become a batch."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.backbone import BackboneConfig, GridConfig, InputConfig, Patches
from lm.data.examples.batches import Features, collate
from lm.data.images.augment import Augmentation
from lm.data.media.places import Place
from lm.metrics.pictures import sheet_picture
from lm.processors import Processor
from lm.processors.images import ImageProcessor
from lm.processors.pictures import Picture, read_picture
from lm.tasks.base import Work
from lm.tasks.media import MediaTask

_SHOWN = 16  # pictures on a sheet


@dataclass(frozen=True)
class PictureCollate:
    """Features as a batch: `pixels` (B, 3, H, W) of the pictures that they name, opened here; the rest as
    `lm.data.examples.batches.collate` has it.

    Args:
        augment: random changes, in this order, drawn by each one's `draw`.
    """

    processor: ImageProcessor
    augment: tuple[Augmentation, ...] = ()

    def __call__(self, features: Sequence[Features]) -> dict[str, Any]:
        pictures = [self.picture(each) for each in features]
        rest = [{k: v for k, v in each.items() if k not in ("place", "length")} for each in features]
        batch = collate(rest, {})
        batch["pixels"] = torch.stack([self.processor.pixels(picture) for picture in pictures])
        return batch

    def picture(self, features: Features) -> Picture:
        """The picture that features name, changed at random and made to fit."""
        place = Place(*features["place"])
        return self.changed(read_picture(place.read(), place.where), features)

    def changed(self, picture: Picture, features: Features) -> Picture:
        """A picture changed at random, and made to fit."""
        if self.augment:
            rng = np.random.Generator(np.random.Philox(features["draw"]))
            picture = self.processor.filled(picture)
            for change in self.augment:
                picture = change(picture, rng)
            if picture.size == self.processor.size:
                return picture  # a random window was made as large as it has to be
        return self.processor.fitted(picture)


class ImageTask(MediaTask):
    """A task on pictures; see `MediaTask`."""

    takes = "pictures"
    processor_class = ImageProcessor
    default_input = Patches
    input_class, inputs = GridConfig, "patches or feature maps"
    beside = MediaTask.beside | {"_worst", "_sheet"}

    def __init__(self, backbone: BackboneConfig, input: InputConfig | None = None, **kwargs: Any) -> None:
        super().__init__(backbone, input, **kwargs)
        self._worst: list[tuple[float, np.ndarray, str]] = []  # loss, picture and caption, the largest first
        self._sheet = self._worst

    def fitting_input(self, processor: ImageProcessor) -> InputConfig:
        return self.input.of_size(processor.size)

    def kept_processor(self, record: dict[str, Any]) -> Processor:
        """At the size that the data name, where it is measured: another than was learned from may suit better
        (Touvron et al. 2019, arXiv:1906.06423)."""
        kept = super().kept_processor(record)
        learns = self._trainer is not None and self.trainer.state.fn == "fit"
        return kept if learns else self.data.make_processor(kept)

    @property
    def collate(self) -> PictureCollate:
        return PictureCollate(self.processor)

    def work(self, batch: dict[str, Any]) -> Work:
        return Work(len(batch["pixels"]), "images")

    @property
    def positions(self) -> int:
        return self.input.length(*self.processor.size)

    def training_flops(self, batch: dict[str, Any]) -> int:
        each = self.positions * self.net.training_flops_per_token(self.positions)
        return len(batch["pixels"]) * (each + 3 * self._input_flops)

    @cached_property
    def _input_flops(self) -> int:
        return self.input_flops(torch.zeros(1, 3, *self.processor.size))

    def show_worst(self, batch: dict[str, Any], losses: Tensor, caption: Callable[[int], str]) -> None:
        """Keep the pictures of a batch that were learned worst, for `pictures`.

        Args:
            losses: of the pictures that count, the first ones of the batch (n,).
            caption: what to write under a picture, by its number in the batch.
        """
        values, numbers = losses.topk(min(_SHOWN, len(losses)))
        for loss, number in zip(values.tolist(), numbers.tolist(), strict=True):
            if len(self._worst) < _SHOWN or loss > self._worst[-1][0]:
                picture = self.processor.image(batch["pixels"][number])
                self._worst = sorted([*self._worst, (loss, picture, caption(number))], key=lambda x: -x[0])
                self._worst = self._worst[:_SHOWN]

    def figures(self) -> dict[str, Tensor]:
        self._sheet, self._worst = self._worst, []
        return super().figures()

    def pictures(self) -> dict[str, np.ndarray]:
        """What `super()` has, and the pictures of the last figures that were learned worst."""
        found = super().pictures()
        if self._sheet and importlib.util.find_spec("matplotlib") is not None:
            _, pictures, captions = zip(*self._sheet, strict=True)
            found["worst"] = sheet_picture(pictures, captions)
        return found
