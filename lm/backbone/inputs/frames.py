"""Frames of sounds: the input of Whisper's encoder (arXiv:2212.04356)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig
from lm.backbone.inputs.base import BlockInput, InputConfig
from lm.errors import UserError


@dataclass
class Frames(InputConfig):
    """Frames of log-mel features, which two convolutions over time make fewer.

    Args:
        bins: values of a frame; the data set it.
        max_frames: of the longest sound; the data set it.
        kernel: frames that each convolution sees, an odd number.
        strides: of the two convolutions: how many times fewer each leaves.
        positions: `learned`, where Whisper's own fixed ones lie, too, or `sine`: fixed.
    """

    kind: ClassVar[str] = "frames"

    bins: int = 80
    max_frames: int = 3000
    kernel: int = 3
    strides: tuple[int, int] = (1, 2)
    positions: Literal["learned", "sine"] = "learned"

    def __post_init__(self) -> None:
        self.strides = (self.strides[0], self.strides[1])
        for name in ("bins", "max_frames", "strides"):
            value = getattr(self, name)
            if (min(value) if name == "strides" else value) < 1:
                raise UserError(f"input.{name} is {value}: it must be at least 1", status=2)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"input.kernel is {self.kernel}: it must be an odd number", status=2)

    @property
    def in_blocks(self) -> bool:
        return True

    def length(self, frames: int) -> int:
        """Positions that come out of so many frames."""
        return -(-frames // math.prod(self.strides))

    def make(self, config: BackboneConfig) -> "FrameInput":
        return FrameInput(config, self)


class FrameInput(BlockInput):
    """Frames to hidden states. A sound comes out the same alone and among longer ones."""

    def __init__(self, config: BackboneConfig, shape: Frames) -> None:
        super().__init__()
        width, (first, second) = config.hidden_size, shape.strides
        self.shape, self.width = shape, width
        around = shape.kernel // 2
        self.first = nn.Conv1d(shape.bins, width, shape.kernel, first, around)
        self.second = nn.Conv1d(width, width, shape.kernel, second, around)
        learned = shape.positions == "learned"
        self.positions = nn.Embedding(shape.length(shape.max_frames), width) if learned else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, raw: Tensor, documents: Tensor | None = None, past: int = 0, **more: Any) -> Tensor:
        """Hidden states (B, `shape.length(frames)`, hidden_size) of features (B, bins, frames).

        Args:
            documents: 0 for a position of the sound and −1 for padding, (B, positions that come out); the
                frames of padding are zeros. None without padding.

        Raises:
            ValueError: more frames than positions were learned for.
        """
        raw = raw.to(self.first.weight.dtype)  # sharded weights may compute in bf16
        x = F.pad(raw, (0, -raw.shape[2] % math.prod(self.shape.strides)))
        lengths = None if documents is None else (documents >= 0).sum(1)
        # Beyond a sound's end there are zeros in front of each convolution, as there are at a batch's end.
        x = F.gelu(self.first(self._cut(x, lengths, 1)))
        x = F.gelu(self.second(self._cut(x, lengths, self.shape.strides[0]))).transpose(1, 2)
        return self.dropout(x + self.places(x.shape[1]).to(x.dtype))

    def blocks(self, raw: Tensor) -> Tensor:
        """Values of the frames of each position: (B, positions, bins · frames)."""
        count = math.prod(self.shape.strides)
        raw = F.pad(raw, (0, -raw.shape[2] % count))
        return raw.unflatten(2, (-1, count)).transpose(1, 2).flatten(2)

    def covered(self, raw: Tensor, hidden: Tensor) -> Tensor:
        cover = hidden.repeat_interleave(math.prod(self.shape.strides), 1)[:, None, : raw.shape[2]]
        return raw.masked_fill(cover, 0.0)

    def _cut(self, x: Tensor, lengths: Tensor | None, stride: int) -> Tensor:
        """Zeros beyond the end of sounds (B, channels, frames), whose lengths (B,) are in positions that come
        out. `stride`: how many frames of the raw batch one of these stands for."""
        if lengths is None:
            return x
        ends = lengths * (math.prod(self.shape.strides) // stride)
        return torch.where(torch.arange(x.shape[2], device=x.device) < ends[:, None, None], x, 0)

    def places(self, length: int) -> Tensor:
        """Positions (length, hidden_size)."""
        if self.positions is None:
            return sinusoids(length, self.width, next(self.parameters()).device)
        if length > len(self.positions.weight):
            there = f"{length} positions, but only {len(self.positions.weight)} were learned"
            raise ValueError(f"{there}: input.max_frames is {self.shape.max_frames}")
        return self.positions.weight[:length]


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Fixed positions (length, width) as Whisper has them: sines, then cosines, of wavelengths from 2π to
    20,000π. What `width` has over an even number is 0."""
    count = width // 2
    rates = 10000.0 ** (-torch.arange(count, device=device) / max(count - 1, 1))
    angles = torch.arange(length, device=device)[:, None] * rates
    return F.pad(torch.cat((angles.sin(), angles.cos()), -1), (0, width - 2 * count))
