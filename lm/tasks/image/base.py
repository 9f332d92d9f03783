"""What tasks on pictures share: what stands before the blocks, and how pictures become a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lm.backbone import BackboneConfig, Input, InputConfig, Patches, read_input
from lm.checkpoint import Model
from lm.data.examples.batches import Features, collate
from lm.data.images.augment import Augmentation
from lm.data.media.module import MediaData, MediaExample
from lm.data.media.places import Place
from lm.errors import UserError
from lm.inference.lines import Line
from lm.processes import say
from lm.processors import Processor
from lm.processors.images import ImageProcessor
from lm.processors.pictures import Picture, read_picture
from lm.tasks.base import Work
from lm.tasks.transfer import TransferTask


@dataclass(frozen=True)
class PictureCollate:
    """Features as a batch: `pixels` (B, 3, H, W) of the pictures that they name, opened here; the rest as
    `lm.data.examples.batches.collate` has it.

    Args:
        augment: random changes, in this order, drawn by each one's `draw`.
    """

    draws: ClassVar[bool] = True
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
        picture = read_picture(place.read(), place.where)
        if self.augment:
            rng = np.random.Generator(np.random.Philox(features["draw"]))
            for change in self.augment:
                picture = change(picture, rng)
        return self.processor.fitted(picture)


class ImageTask(TransferTask):
    """A task on pictures. A subclass says which head it needs and its loss.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        input: what stands before it; with `init_from` it comes from there.
    """

    beside = TransferTask.beside | {"input"}
    needs_causal = False

    def __init__(self, backbone: BackboneConfig, input: InputConfig | None = None, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.input = input or Patches()
        if self.start is not None:
            self.input = read_input(self.start.record.get("input") or {"kind": "tokens"})

    def open_start(self, path: str) -> Model:
        start = super().open_start(path)
        if not isinstance(start.processor, ImageProcessor):
            raise UserError(f"{path} does not take pictures: start from a model that does", status=2)
        return start

    def make_processor(self, data: MediaData) -> Processor:
        if self.start is None:
            say("starting from nothing: no `model.init_from` was given")
        processor = data.make_processor(self.start.processor if self.start else None)
        self.input = self.input.of_size(processor.size)
        self.config.max_seq_len = self.input.length(*processor.size)
        return processor

    def make_input(self) -> Input:
        return self.input.make(self.config)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "input": self.input.described()}

    def take_record(self, record: dict[str, Any], processor: Processor) -> None:
        super().take_record(record, processor)
        self.input = read_input(record["input"])

    @property
    def collate(self) -> PictureCollate:
        return PictureCollate(self.processor)

    def work(self, batch: dict[str, Any]) -> Work:
        return Work(len(batch["pixels"]), "images")

    def training_flops(self, batch: dict[str, Any]) -> int:
        positions = self.config.max_seq_len
        each = positions * self.net.training_flops_per_token(positions)
        return len(batch["pixels"]) * (each + 3 * self._input_flops)

    @cached_property
    def _input_flops(self) -> int:
        """Of what stands before the blocks, forward, on one picture."""
        like = next(self.net.parameters())
        one = torch.zeros(1, 3, *self.processor.size, dtype=like.dtype, device=like.device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.net.backbone.embeddings(one)
        return counter.get_total_flops()

    def named(self, example: MediaExample) -> dict[str, Any]:
        return {"path": example.place.name}

    # Of a line that a person gives; see `lm.tasks.applying`.

    def from_line(self, line: Line, path: str = "path") -> MediaExample:
        name = line.text(path, "path")
        return self.reads(Place(name, name), "")
