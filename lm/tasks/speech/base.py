"""What tasks on sounds share: what stands before the blocks, and how sounds become a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm.backbone import BackboneConfig, Frames, InputConfig
from lm.checkpoint import Model
from lm.data.audio.augment import Augmentation
from lm.data.audio.module import AudioExample
from lm.data.examples.batches import Features, collate
from lm.data.media.places import Place
from lm.data.windows import PADDING
from lm.errors import UserError
from lm.processors import Processor
from lm.processors.sounds import Sound, read_sound, seconds_of
from lm.processors.speech import SoundProcessor
from lm.tasks.base import IGNORED, Work
from lm.tasks.media import MediaTask

_HERE = {"place", "parts", "window", "group", "length"}  # features that no batch has


@dataclass(frozen=True)
class SoundCollate:
    """Features as a batch: `frames` (B, bins, frames) of the sounds that they name, opened here, with zeros
    behind the shorter ones; `documents` (B, positions), 0 where a position is of the sound and -1 behind it;
    `seconds` of sound (B,); the rest as `lm.data.examples.batches.collate` has it.

    Args:
        input: what comes after it, which says how many positions there are.
        augment: random changes of sounds, then of features, each kind in its order, drawn by each one's
            `draw`.
        joiner: puts more sounds to each, drawn likewise.
        views: rows of each sound that is learned from, one after another, whose features are varied apart.
        padded: silence fills every sound to what the model hears, and is heard: there are no `documents`.
    """

    processor: SoundProcessor
    input: Frames
    augment: tuple[Augmentation, ...] = ()
    joiner: Callable[[Features, np.random.Generator], Features] | None = None
    views: int = 1
    padded: bool = False

    def __call__(self, features: Sequence[Features]) -> dict[str, Any]:
        rows, frames, seconds = [], [], []
        for each in features:
            row, rng = each, np.random.Generator(np.random.Philox(each.get("draw", 0)))
            if self.joiner is not None:
                row = self.joiner(row, rng)
            plain = self.sound(row)
            sound = self._varied(plain, rng, on_features=False)
            if self.processor.seconds is not None and sound.seconds > self.processor.seconds:
                sound = plain  # played slowly it would lose its end
            plainly = self.processor.features(sound, self.padded)
            views = 1 if "part" in each else self.views  # what is measured has a `part`
            for _ in range(views):
                frames.append(self._varied(plainly, rng, on_features=True).T)
                rows.append({k: v for k, v in row.items() if k not in _HERE})
                seconds.append(sound.seconds / views)
        batch = collate(rows, {"targets": IGNORED})
        batch["frames"] = pad_sequence(frames, batch_first=True).mT.contiguous()
        if not self.padded:
            lengths = torch.tensor([self.input.length(len(each)) for each in frames])[:, None]
            batch["documents"] = torch.where(torch.arange(int(lengths.max())) < lengths, 0, PADDING)
        batch["seconds"] = torch.tensor(seconds)
        return batch

    def _varied(self, given: Any, rng: np.random.Generator, on_features: bool) -> Any:
        for change in self.augment:
            if change.on_features == on_features:
                given = change(given, rng)
        return given

    def sound(self, features: Features) -> Sound:
        """The sound that features name: a file, a `window` of it, or several `parts` one after another."""
        rate, start, seconds = self.processor.rate, *features.get("window", (0.0, self.processor.seconds))
        samples = []
        for pause, where in features.get("parts", ((0.0, features["place"]),)):
            place = Place(*where)
            samples.append(np.zeros(round(pause * rate), np.float32))
            samples.append(read_sound(_source(place), place.where, rate, start, seconds).samples)
        return Sound(np.concatenate(samples), rate)


def _source(place: Place) -> bytes | Path:
    """A file by its path, of which no more is read than is asked for; else the bytes."""
    whole = place.size < 0 and not place.member and place.data is None
    return Path(place.path) if whole else place.read()


class SpeechTask(MediaTask):
    """A task on sounds; see `MediaTask`.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        input: what stands before it; with `init_from` it comes from there.
        mix_layers: what the head reads is a learned mix of all layers' outputs, not the last one's: what is
            wanted of a sound often stands in the middle ones (SUPERB, arXiv:2105.01051).
    """

    takes = "sounds"
    processor_class = SoundProcessor
    default_input = Frames
    input_class, inputs = Frames, "frames of a sound"
    beside = MediaTask.beside | {"mix_layers"}

    def __init__(
        self,
        backbone: BackboneConfig,
        input: InputConfig | None = None,
        mix_layers: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, input, **kwargs)
        self.mix_layers = mix_layers

    @property
    def mixing(self) -> dict[str, Any]:
        """What `head` says of the mix."""
        return {"mix_layers": True} if self.mix_layers else {}

    def take_record(self, record: dict[str, Any], processor: Processor) -> None:
        super().take_record(record, processor)
        self.mix_layers = record["head"].get("mix_layers", False)

    def open_start(self, path: str) -> Model:
        start = super().open_start(path)
        if start.record["input"]["kind"] != Frames.kind:
            wanted = "start from a Whisper, or a model that was trained here"
            raise UserError(f"{path} cuts spectrograms into patches, which is not trained on here: {wanted}")
        return start

    def fitting_input(self, processor: SoundProcessor) -> Frames:
        frames = processor.frames(round(processor.seconds * processor.rate))
        return replace(self.input, bins=processor.bins, max_frames=frames)

    @property
    def collate(self) -> SoundCollate:
        return SoundCollate(self.processor, self.input)

    @property
    def longest(self) -> int:
        """Samples of the longest sound."""
        return round(self.processor.seconds * self.processor.rate)

    @property
    def positions(self) -> int:
        return self.input.length(self.processor.frames(self.longest))

    def work(self, batch: dict[str, Any]) -> Work:
        return Work(max(round(batch["seconds"].sum().item()), 1), "seconds")

    def training_flops(self, batch: dict[str, Any]) -> int:
        rows, _, frames = batch["frames"].shape
        positions = self.input.length(frames)
        each = positions * self.net.training_flops_per_token(positions)
        return rows * round(each + 3 * self._frame_flops * frames)

    @cached_property
    def _frame_flops(self) -> float:
        """Of what stands before the blocks, forward, on one frame."""
        return self.input_flops(torch.zeros(1, self.input.bins, 96)) / 96

    def logits(self, batch: dict[str, Any]) -> Tensor:
        return self.net(batch["frames"], batch.get("documents"))

    def example(self, place: Place) -> AudioExample:
        return self.reads(place, "", seconds=seconds_of(_source(place), place.where))
