"""Pretraining without labels on pictures and sounds: parts are covered, and guessed."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.backbone import BackboneConfig, InputConfig
from lm.data.examples.batches import Features
from lm.data.media.module import MediaExample
from lm.errors import UserError
from lm.metrics import MeanLoss
from lm.tasks.media import MediaTask


class Reconstruction(MediaTask):
    """Learn to say what stood where a raw batch was covered with zeros: masked patches as SimMIM has them
    (arXiv:2111.09886), masked frames as Mockingjay (arXiv:1910.12638). The loss is the squared distance to
    the covered values, which are normalised in each block as MAE's are (arXiv:2111.06377).

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        mask_rate: the share of positions that is covered.
        span: positions side by side that are covered together; of pictures in both directions.
    """

    reads = MediaExample
    beside = MediaTask.beside | {"mask_rate", "span"}
    raw = ""  # the batch's tensor that is covered

    def __init__(
        self,
        backbone: BackboneConfig,
        input: InputConfig | None = None,
        mask_rate: float = 0.6,
        span: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, input, **kwargs)
        if not 0 < mask_rate < 1:
            raise UserError(f"mask_rate is {mask_rate}: it must be between 0 and 1", status=2)
        if span < 1:
            raise UserError(f"span is {span}: it must be at least 1", status=2)
        self.mask_rate, self.span = mask_rate, span

    def head(self) -> dict[str, Any]:
        return {"kind": "tokens", "outputs": self.block_size, "pooling": None, "dropout": 0.0}

    def encode(self, example: MediaExample, training: bool) -> list[Features]:
        return [{"place": list(example.place)}]

    def make_figures(self) -> None:
        self.loss = MeanLoss()

    @abstractmethod
    def cells(self, batch: dict[str, Any]) -> np.ndarray:
        """Which positions are covered together: a number for each, of every row (B, T); −1 for padding."""

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Values of a block."""

    def hidden(self, batch: dict[str, Any], draws: Tensor) -> Tensor:
        """The positions that are covered, bool (B, T): a function of each one's draw (B,)."""
        cells = self.cells(batch)
        covered = np.zeros(cells.shape, dtype=bool)
        for row, (numbers, draw) in enumerate(zip(cells, draws.tolist(), strict=True)):
            count = int(numbers.max()) + 1
            order = np.random.Generator(np.random.Philox(key=draw)).permutation(count)
            covered[row] = np.isin(numbers, order[: max(round(self.mask_rate * count), 1)])
        return torch.from_numpy(covered).to(draws.device)

    def guessed(self, batch: dict[str, Any], hidden: Tensor) -> Tensor:
        """What the network says of every position, (B, T, block_size)."""
        embeddings = self.net.backbone.embeddings
        raw = embeddings.covered(batch[self.raw], hidden)
        return self.net(raw, batch.get("documents"))[:, embeddings.prefix :]

    def losses(self, batch: dict[str, Any], draws: Tensor) -> Tensor:
        """The loss of each covered position (n,)."""
        hidden = self.hidden(batch, draws)
        guessed = self.guessed(batch, hidden)[hidden]
        truth, _, _ = normalised(self.net.backbone.embeddings.blocks(batch[self.raw])[hidden].float())
        return (guessed - truth).square().mean(-1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = self.losses(batch, batch["draw"])
        expected = self.mask_rate * self.positions * self.data.batch_size
        return self.outcome(losses.sum(), expected, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        counted = batch["index"] >= 0
        batch = {
            name: value[counted] if isinstance(value, Tensor) else value for name, value in batch.items()
        }
        if counted.any():
            self.loss.update(self.losses(batch, batch["index"]))


def normalised(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks (..., n) with mean 0 and deviation 1 each; and those that they had (..., 1)."""
    mean, std = blocks.mean(-1, keepdim=True), (blocks.var(-1, keepdim=True) + 1e-6).sqrt()
    return (blocks - mean) / std, mean, std
