"""Patches of pictures: the Vision Transformer's input (arXiv:2010.11929); and of spectrograms, which are
pictures of one channel: AST's (arXiv:2104.01778)."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig
from lm.backbone.inputs.base import BlockInput, GridConfig, behind
from lm.errors import UserError


@dataclass
class Patches(GridConfig):
    """Pictures cut into square patches, each a position of the sequence, row by row.

    Args:
        patch_size: side of a patch, in pixels.
        stride: pixels from one patch to the next, where they overlap; null for the patch size.
        size: height and width, in pixels, of the pictures that positions are learned for; the data set it.
            Others may be smaller or larger: positions are interpolated.
        channels: of the pictures; 1 for spectrograms, which are bins high and frames wide.
        stem: how a patch becomes a vector: `linear`, or by convolutions of 3×3 (arXiv:2106.14881), the last
            ones at stride 2, which learn more of few pictures. Then the patch size is a power of 2.
        stem_width: channels of the first convolution; the hidden size by `patch_size` where it is null.
        positions: `learned`, or `sine`: fixed, half of the values for each axis.
        antialias: learned positions are interpolated with antialiasing, as DINOv2's with registers are.
        prefix: learned vectors before the patches: 1 for a class token, 2 for DeiT's two.
        registers: more of them behind those, without a position (DINOv2, arXiv:2309.16588).
    """

    kind: ClassVar[str] = "patches"

    patch_size: int = 16
    stride: int | None = None
    size: tuple[int, int] | None = None
    channels: int = 3
    stem: Literal["linear", "convolutions"] = "linear"
    stem_width: int | None = None
    positions: Literal["learned", "sine"] = "learned"
    antialias: bool = False
    prefix: int = 0
    registers: int = 0

    def __post_init__(self) -> None:
        if self.size is not None:
            self.size = (self.size[0], self.size[1])
        if self.patch_size < 1 or (self.size is not None and min(self.size) < self.patch_size):
            raise UserError(f"input.patch_size is {self.patch_size}: pictures are {self.size}", status=2)
        if self.stem == "convolutions" and self.patch_size & (self.patch_size - 1):
            raise UserError(
                f"input.patch_size is {self.patch_size}: convolutions at stride 2 make powers of 2", status=2
            )

        if self.stride is not None and (self.stem != "linear" or not 0 < self.stride <= self.patch_size):
            raise UserError(
                f"input.stride is {self.stride}: it goes from 1 to input.patch_size, with the linear stem",
                status=2,
            )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture; a part of a patch counts as one, but not where patches
        overlap."""
        side, stride = self.patch_size, self.stride
        if stride is not None:
            return (height - side) // stride + 1, (width - side) // stride + 1
        return -(-height // side), -(-width // side)

    def length(self, height: int, width: int) -> int:
        return self.prefix + self.registers + super().length(height, width)

    @property
    def in_blocks(self) -> bool:
        return self.stride is None  # else patches overlap

    def of_size(self, size: tuple[int, int]) -> "Patches":
        return self if self.size is not None else replace(self, size=size)

    def make(self, config: BackboneConfig) -> "PatchInput":
        return PatchInput(config, self)


class PatchInput(BlockInput):
    """Patches to hidden states, with positions in two dimensions."""

    def __init__(self, config: BackboneConfig, shape: Patches) -> None:
        super().__init__()
        width = config.hidden_size
        self.shape, self.width = shape, width
        self.prefix = shape.prefix + shape.registers
        self.patches = _stem(shape, width) if shape.stem == "convolutions" else _linear(shape, width)
        if shape.size is None and shape.positions == "learned":
            raise ValueError("learned positions need a size")
        learned = shape.positions == "learned"
        self.grid = shape.grid(*shape.size) if shape.size is not None else None
        self.positions = nn.Embedding(shape.prefix + math.prod(self.grid), width) if learned else None
        self.first = nn.Embedding(self.prefix, width) if self.prefix else None
        self.queries = nn.Embedding(shape.queries, width) if shape.queries else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, raw: Tensor, documents: Tensor | None = None, past: int = 0, **more: Any) -> Tensor:
        """Hidden states (B, prefix + rows · columns + queries, hidden_size) of pictures (B, channels, height,
        width) or spectrograms (B, bins, frames), padded with zeros on the right and at the bottom to whole
        patches, unless these overlap."""
        raw = raw[:, None] if raw.ndim == 3 else raw
        raw = raw.to(next(self.patches.parameters()).dtype)  # sharded weights may compute in bf16
        if self.shape.stride is None:
            raw = padded(raw, self.shape.patch_size)
        x = self.patches(raw)  # (B, hidden_size, rows, columns)
        places, first = self.places(*x.shape[2:])
        x = x.flatten(2).transpose(1, 2) + places
        if self.first is not None:
            lead = self.first.weight
            if first is not None:
                lead = lead + F.pad(first, (0, 0, 0, self.shape.registers))
            x = torch.cat((lead.expand(len(x), -1, -1), x), dim=1)
        return self.dropout(behind(x, self.queries))

    def blocks(self, raw: Tensor) -> Tensor:
        """Pixels of each patch: (B, rows · columns, channels · patch_size²)."""
        side = self.shape.patch_size
        return F.pixel_unshuffle(padded(raw, side), side).flatten(2).transpose(1, 2)

    def covered(self, raw: Tensor, hidden: Tensor) -> Tensor:
        rows, columns = self.shape.grid(*raw.shape[2:])
        cover = hidden.view(-1, 1, rows, columns).float()
        cover = F.interpolate(cover, scale_factor=self.shape.patch_size)[..., : raw.shape[2], : raw.shape[3]]
        return raw * (1 - cover)

    def places(self, rows: int, columns: int) -> tuple[Tensor, Tensor | None]:
        """Positions (rows · columns, hidden_size) of a grid, and those of the vectors before it."""
        if self.positions is None:
            like = next(self.parameters())
            return sine_positions(rows, columns, self.width, like.device, self.grid).to(like.dtype), None
        first, places = self.positions.weight.split((self.shape.prefix, math.prod(self.grid)))
        if (rows, columns) != self.grid:
            square = places.T.reshape(1, self.width, *self.grid)
            square = F.interpolate(
                square.float(), (rows, columns), mode="bicubic", antialias=self.shape.antialias
            )
            places = square.to(places.dtype).flatten(2)[0].T
        return places, first


def padded(pictures: Tensor, side: int) -> Tensor:
    """Pictures (B, channels, height, width) with zeros on the right and at the bottom, so that `side` divides
    both sides."""
    bottom, right = -pictures.shape[2] % side, -pictures.shape[3] % side
    return F.pad(pictures, (0, right, 0, bottom)) if bottom or right else pictures


def sine_positions(
    rows: int, columns: int, width: int, device: torch.device, grid: tuple[int, int] | None = None
) -> Tensor:
    """Fixed positions (rows · columns, width): sines and cosines of the row, then of the column
    (arXiv:2005.12872 has them so, without its normalisation). What `width` has over a multiple of 4 is 0.

    Args:
        grid: rows and columns that are learned from: others lie between the same borders.
    """
    count = width // 4
    rates = 10000.0 ** (-torch.arange(count, device=device) / max(count, 1))
    sides = zip((rows, columns), grid or (rows, columns), strict=True)
    places = (((torch.arange(n, device=device) + 0.5) * known / n - 0.5)[:, None] for n, known in sides)
    y, x = (place * rates for place in places)  # (n, count)
    y = torch.cat((y.sin(), y.cos()), -1)[:, None].expand(rows, columns, -1)
    x = torch.cat((x.sin(), x.cos()), -1)[None].expand(rows, columns, -1)
    return F.pad(torch.cat((y, x), -1), (0, width - 4 * count)).flatten(0, 1)


def _linear(shape: Patches, width: int) -> nn.Module:
    return nn.Conv2d(shape.channels, width, shape.patch_size, shape.stride or shape.patch_size)


def _stem(shape: Patches, width: int) -> nn.Module:
    """3×3 convolutions, each but the first at stride 2 and twice as wide, then one to the hidden size."""
    halvings = shape.patch_size.bit_length() - 1
    channels = shape.stem_width or max(width >> halvings, 8)
    layers: list[nn.Module] = []
    before = shape.channels
    for number in range(halvings + 1):
        layers += [
            nn.Conv2d(before, channels, 3, stride=2 if number else 1, padding=1, bias=False),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
        ]
        before, channels = channels, channels * 2
    return nn.Sequential(*layers, nn.Conv2d(before, width, 1))
