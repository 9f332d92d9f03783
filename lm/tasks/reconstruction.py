"""Pretraining without labels on pictures and sounds: parts are covered, and guessed."""

import importlib.util
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.backbone import BackboneConfig, InputConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.media.module import MediaExample
from lm.errors import UserError
from lm.metrics import MeanLoss
from lm.metrics.pictures import sheet_picture
from lm.tasks.media import MediaTask

_SHOWN = 5  # examples on a sheet, each three times


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
    beside = MediaTask.beside | {"mask_rate", "span", "_shown"}
    raw = ""  # the batch's tensor that is covered
    _shown: tuple[dict[str, Any], Tensor, Tensor] | None = None  # a batch, covered positions and guesses

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
        if not self.input.in_blocks:
            wanted = "patches that do not overlap, or frames of a sound: what else is to be covered?"
            raise UserError(f"`input` has to be {wanted}", status=2)
        self.mask_rate, self.span = mask_rate, span

    def head(self) -> dict[str, Any]:
        return {"kind": "tokens", "outputs": self.block_size, "pooling": None, "dropout": 0.0}

    def encode(self, example: MediaExample, training: bool) -> list[Features]:
        return [{"place": list(example.place)}]

    def make_figures(self) -> None:
        self.loss = MeanLoss()

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        super().look_at(data, parts)
        self.expected = self.mask_rate * self.positions * data.batch_size

    @abstractmethod
    def cells(self, batch: dict[str, Any]) -> np.ndarray:
        """Which positions are covered together: a number for each, of every row (B, T); −1 for padding."""

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Values of a block."""

    @abstractmethod
    def joined(self, blocks: Tensor, raw: Tensor) -> Tensor:
        """Blocks (B, T, block_size) as a raw batch like `raw`: the inverse of the input's `blocks`."""

    @abstractmethod
    def drawn(self, raw: Tensor, batch: dict[str, Any], number: int) -> np.ndarray:
        """A picture, uint8 (h, w, 3), of an example of `batch` that looks like `raw` now."""

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
        first = embeddings.prefix
        return self.net(raw, batch.get("documents"))[:, first : first + hidden.shape[1]]

    def losses(self, batch: dict[str, Any], hidden: Tensor, guessed: Tensor) -> Tensor:
        """The loss of each covered position (n,)."""
        truth, _, _ = normalised(self.net.backbone.embeddings.blocks(batch[self.raw])[hidden].float())
        return (guessed[hidden] - truth).square().mean(-1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        hidden = self.hidden(batch, batch["draw"])
        losses = self.losses(batch, hidden, self.guessed(batch, hidden))
        return self.outcome(losses.sum(), self.expected, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        counted = batch["index"] >= 0
        hidden = self.hidden(batch, batch["index"].clamp(min=0))
        guessed = self.guessed(batch, hidden)  # of padding, too: sharded weights wait for every process
        if not counted.any():
            return
        hidden, guessed = hidden[counted], guessed[counted]
        batch = {
            name: value[counted] if isinstance(value, Tensor) else value for name, value in batch.items()
        }
        self.loss.update(self.losses(batch, hidden, guessed))
        if batch_idx == 0:
            self._shown = batch, hidden, guessed

    def pictures(self) -> dict[str, np.ndarray]:
        """Examples as they are, covered, and as they were guessed."""
        if self._shown is None or importlib.util.find_spec("matplotlib") is None:
            return {}
        batch, hidden, guessed = self._shown
        raw, hidden, guessed = batch[self.raw][:_SHOWN].float(), hidden[:_SHOWN], guessed[:_SHOWN].float()
        embeddings = self.net.backbone.embeddings
        blocks = embeddings.blocks(raw)
        _, mean, std = normalised(blocks)
        filled = self.joined(torch.where(hidden[..., None], guessed * std + mean, blocks), raw)
        kinds = {"as it is": raw, "covered": embeddings.covered(raw, hidden), "guessed": filled}
        made = [(self.drawn(kinds[k][n], batch, n), k) for n in range(len(raw)) for k in kinds]
        return {"guessed": sheet_picture(*zip(*made, strict=True), columns=len(kinds))}


def normalised(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks (..., n) with mean 0 and deviation 1 each; and those that they had (..., 1)."""
    mean, std = blocks.mean(-1, keepdim=True), (blocks.var(-1, keepdim=True) + 1e-6).sqrt()
    return (blocks - mean) / std, mean, std
