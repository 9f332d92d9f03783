"""What fine-tuning tasks on texts share: a tokenizer that may grow, padding, and what a batch is."""

from typing import Any

import torch
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.checkpoint import Model
from lm.data.examples.module import ExampleData
from lm.errors import UserError
from lm.processes import say
from lm.tasks.base import IGNORED, Work
from lm.tasks.transfer import TransferTask
from lm.tokenizer import Tokenizer

TOKENS, POSITIONS = (f"backbone.embeddings.{kind}.weight" for kind in ("tokens", "positions"))


class FineTuning(TransferTask):
    """A task on texts. The tokenizer comes with the starting point, or is made of the data."""

    beside = TransferTask.beside | {"_added"}
    _added: tuple[str, ...] = ()  # tokens that the starting point lacks

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the starting point, or made from the data; from `setup` on."""
        return self.processor

    @property
    def padding(self) -> dict[str, int]:
        return {"tokens": self.tokenizer.padding_id, "segments": 0, "targets": IGNORED, "documents": -1}

    def work(self, batch: dict[str, Any]) -> Work:
        return Work(batch["seen"], "tokens")

    def with_pieces(self, tokenizer: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
        """The tokenizer with the tokens that the task needs and it lacks, and which these are."""
        return tokenizer, ()

    def make_processor(self, data: ExampleData) -> Tokenizer:
        found = self.start.tokenizer if self.start else data.make_tokenizer()
        tokenizer, self._added = self.with_pieces(found)
        if self.start is None:
            self.config.vocab_size = tokenizer.vocab_size
            say("starting from nothing: no `model.init_from` was given")
        return tokenizer

    def fit_shape(self, start: Model, wanted: BackboneConfig) -> None:
        if start.config.max_seq_len > wanted.max_seq_len:
            start.notes.append(
                f"the new model takes texts of {wanted.max_seq_len} tokens (`data.seq_len`), where "
                f"{start.source} takes {start.config.max_seq_len}"
            )
        start.config.max_seq_len = wanted.max_seq_len
        # As large as it will be, so that a run that goes on finds the shape that it began with.
        pieces = self.with_pieces(start.tokenizer)[0].vocab_size
        start.config.vocab_size = max(start.config.vocab_size, pieces)

    def growth(self, start: Model) -> list[str]:
        notes, added = [], self._added
        if added and self.freeze_layers and self.adapter is None:
            raise UserError(
                f"freeze_layers is {self.freeze_layers}: the embeddings would stay as they are, but those of "
                f"{' '.join(added)}, which {self.init_from} lacks, have to be learned: leave it out",
                status=2,
            )
        if added:
            how = "learned from here on" if self.adapter is None else "which an adapter uses as they begin"
            notes.append(f"new tokens in the vocabulary, {how}: {' '.join(added)}")
        rows, room = start.config.max_seq_len, len(start.weights.get(POSITIONS, ()))
        if room and rows > room:
            notes.append(f"{self.init_from} has learned {room} positions: those up to {rows} begin as copies")
        return notes

    def grown(self, start: Model, name: str, theirs: Tensor, ours: Tensor) -> Tensor | None:
        rows = len(theirs)
        if theirs.shape[1:] != ours.shape[1:]:
            return None
        if (name == TOKENS or (self.writes and name.startswith("head."))) and len(ours) > rows:
            # New tokens start like any of the known ones: drawn with their mean and spread.
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randn(len(ours) - rows, *theirs.shape[1:], generator=generator)
            return torch.cat((theirs, theirs.mean(0) + theirs.std(0) * drawn))
        if name == POSITIONS:
            return theirs.repeat(-(-len(ours) // rows), 1)[: len(ours)]
        return None


def documents_of(batch: dict[str, Any], causal: bool) -> Tensor | None:
    """The batch's `documents`, or None where no mask is needed: nothing is padded or packed, or the backbone
    is causal, so that no token has padding in its past. On a GPU nobody looks: it would wait for the device.
    """
    documents = batch["documents"]
    if documents.device.type != "cpu":
        return documents
    needed = documents > 0 if causal else documents != 0
    return documents if bool(needed.any()) else None
