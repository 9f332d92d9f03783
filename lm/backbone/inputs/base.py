"""What every input is, and what its shape is written as."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig


def make_norm(config: BackboneConfig) -> nn.Module:
    """A norm over the hidden size."""
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.has_bias("norm"))


def document_positions(documents: Tensor) -> Tensor:
    """Each position's distance from the start of its document: (B, T) from document ids (B, T)."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def positions(length: int, documents: Tensor | None, past: int, device: torch.device) -> Tensor:
    """Where `length` positions stand that come after `past` others: (T,), or (B, T) where they count anew in
    each document.

    Raises:
        ValueError: documents of another length than `past` + `length`.
    """
    if documents is None:
        return torch.arange(past, past + length, device=device)
    if documents.shape[1] != past + length:
        raise ValueError(f"documents of {documents.shape[1]} positions, but there are {past + length}")
    return document_positions(documents)[:, -length:]


def behind(x: Tensor, queries: nn.Embedding | None) -> Tensor:
    """Hidden states (B, T, hidden_size) with learned vectors behind them, (B, T + queries, hidden_size)."""
    return x if queries is None else torch.cat((x, queries.weight.expand(len(x), -1, -1)), dim=1)


class Input(nn.Module, ABC):
    """A raw batch to hidden states. Its matrices are optimised as embeddings are: not by Muon.

    It has no buffers but those in its state: a network that is read from a file is built without memory, and
    gets all it has from there.

    Attributes:
        prefix: positions before those of the raw batch, such as a class token.
    """

    prefix = 0

    @abstractmethod
    def forward(self, raw: Any, documents: Tensor | None = None, past: int = 0, **more: Any) -> Tensor:
        """Hidden states (B, T, hidden_size).

        Args:
            raw: the batch, in whatever shape the modality has.
            documents: see `Backbone.forward`.
            past: positions that are in a cache already.
        """

    def brought(self) -> Iterable[nn.Module]:
        """Modules whose weights came from elsewhere: initialisation leaves them alone."""
        return ()


class BlockInput(Input):
    """An input each of whose positions stands for a block of the raw batch, and for no part of another."""

    @abstractmethod
    def blocks(self, raw: Tensor) -> Tensor:
        """What of a raw batch each position stands for, without those of `prefix`: (B, T, n)."""

    @abstractmethod
    def covered(self, raw: Tensor, hidden: Tensor) -> Tensor:
        """A raw batch with zeros in the place of the blocks that are `hidden`, bool (B, T)."""


@dataclass
class InputConfig(ABC):
    """An input's shape in plain values: what stands in YAML as a task's `input`, and in a checkpoint.

    Attributes:
        kind: its name in checkpoints.
        prefix: see `Input`; of a class token and its like alone.
    """

    kind: ClassVar[str]
    prefix = 0

    @property
    def in_blocks(self) -> bool:
        """Whether it makes a `BlockInput`, whose positions can be covered each by itself."""
        return False

    @abstractmethod
    def make(self, config: BackboneConfig) -> Input:
        """The input, with new weights."""

    def described(self) -> dict[str, Any]:
        """The values, with the kind."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """The inverse of `described`, of values that a checkpoint has."""
        return cls(**values)


@dataclass
class GridConfig(InputConfig):
    """The shape of an input of pictures, whose positions lie on a grid, row by row.

    Args:
        queries: learned vectors behind the grid (DETR, arXiv:2005.12872; YOLOS, arXiv:2106.00666); a task
            that reads them sets this.
    """

    queries: int = field(default=0, kw_only=True)

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of positions of a picture."""

    @abstractmethod
    def of_size(self, size: tuple[int, int]) -> Self:
        """The same for pictures of a height and width, unless it is for some already."""

    def length(self, height: int, width: int) -> int:
        """Positions of a picture, those before and behind its grid too."""
        return math.prod(self.grid(height, width)) + self.queries
