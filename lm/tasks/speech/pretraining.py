"""Pretraining on sounds without labels."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from lm.data.audio.module import AudioExample
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.tasks.reconstruction import Reconstruction
from lm.tasks.speech.base import SpeechTask


class MaskedAudioPretraining(Reconstruction, SpeechTask):
    """Learn sounds by saying what their covered frames hold; see `Reconstruction`. What it has learned is
    another task's `init_from`. As frames overlap, the edges of a covered stretch stand in part in those
    beside it: a larger `span` leaves less to copy."""

    reads = AudioExample
    data_class = "lm.data.AudioData"
    usage = "fit fsdd --model.init_from {}"
    beside = Reconstruction.beside | SpeechTask.beside
    raw = "frames"

    def encode(self, example: AudioExample, training: bool) -> list[Features]:
        """The `place`; of what is longer than the model hears, windows one after another, without an end of
        less than half a window."""
        rate, most = self.processor.rate, self.longest
        length = round(example.seconds * rate)
        starts = range(0, max(length - most // 2, 1), most)
        windows: list[Features] = [
            {
                "place": list(example.place),
                "length": min(length - start, most),
                "window": [start / rate, self.processor.seconds],
            }
            for start in starts
        ]
        windows[0]["several"] = len(windows) > 1
        return windows

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        super().look_at(data, parts)
        if "train" in parts:  # most are shorter than the longest
            self.expected *= data.features("train").lengths.mean() / self.longest

    @property
    def _frames(self) -> int:
        """Of a position."""
        return math.prod(self.input.strides)

    @property
    def block_size(self) -> int:
        return self.input.bins * self._frames

    def cells(self, batch: dict[str, Any]) -> np.ndarray:
        there = batch["documents"].cpu().numpy() >= 0
        return np.where(there, np.arange(there.shape[1]) // self.span, -1)

    def joined(self, blocks: Tensor, raw: Tensor) -> Tensor:
        frames = blocks.unflatten(2, (-1, self._frames)).transpose(1, 2).flatten(2)
        return frames[..., : raw.shape[2]]

    def drawn(self, raw: Tensor, batch: dict[str, Any], number: int) -> np.ndarray:
        """A spectrogram, low frequencies at the bottom, in the colours that it has as it is."""
        from matplotlib import colormaps

        length = int((batch["documents"][number] >= 0).sum()) * self._frames
        low, high = batch["frames"][number, :, :length].float().aminmax()
        shades = ((raw[:, :length] - low) / (high - low).clamp(min=1e-6)).flip(0)
        return colormaps["magma"](shades.cpu().numpy(), bytes=True)[..., :3]
