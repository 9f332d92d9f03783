"""What the two pretrainings share: a network that predicts tokens, and the figures of a language model."""

from abc import abstractmethod
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, LanguageModel
from lm.checkpoint import Model
from lm.convert.models import open_model
from lm.errors import UserError
from lm.metrics import CorpusLosses, TokenLoss
from lm.processes import say
from lm.tasks.base import Task, Work
from lm.tasks.table import writes_text
from lm.tokenizer import Tokenizer

POSITIONS = "backbone.embeddings.positions.weight"
_SHAPE = ("num_layers", "hidden_size", "vocab_size")  # what is said of a start's


class Example(NamedTuple):
    """A batch as a language model learns from it, B sequences of T tokens.

    Args:
        inputs: (B, T).
        targets: (B, T), `IGNORED` where nothing is to be predicted.
        documents: (B, T), or None where each sequence is one document.
        expected: targets of a full batch, by which the loss is divided: see `Task.outcome`.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None
    expected: int


def several_documents(documents: Tensor) -> Tensor | None:
    """`documents` (B, T), or None where a look shows that no sequence has a border in it. On a GPU nobody
    looks: it would wait for the device."""
    if documents.device.type == "cpu" and bool((documents == documents[:, :1]).all()):
        return None
    return documents


def _apart(asked: BackboneConfig, taken: BackboneConfig) -> list[str]:
    """What a configuration asks of a shape that is another's: what is no default, which nobody need have
    asked for, and not the other's."""
    values = {each: getattr(asked, each.name) for each in fields(asked) if not each.metadata}
    return [
        f"{each.name} {value}"
        for each, value in values.items()
        if value not in (each.default, getattr(taken, each.name))
    ]


class Pretraining(Task):
    """Pretraining of a language model. A subclass says what an example is.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        init_from: go on from a checkpoint or a Hugging Face folder, on a corpus in its tokenizer's tokens.
            None: from nothing.
    """

    causal: bool | None = None  # whether the backbone has to be; None: either will do

    def __init__(self, backbone: BackboneConfig, init_from: str | None = None, **kwargs: Any) -> None:
        self.init_from = init_from
        self.start = None if init_from is None else self.open_start(init_from, backbone.max_seq_len)
        if self.start is not None:
            self._overridden = _apart(backbone, self.start.config)
            backbone = self.start.config
        if self.causal is not None and backbone.causal != self.causal:
            wanted, there = ("a GPT", "a BERT") if self.causal else ("a BERT", "a GPT")
            said = f"but {init_from} is {there}" if init_from else f"set causal to {str(self.causal).lower()}"
            raise UserError(f"{type(self).__name__} needs {wanted}: {said}", status=2)
        super().__init__(backbone, **kwargs)
        self.net = LanguageModel(backbone)
        self.validation_loss = TokenLoss()
        self.corpus_losses: CorpusLosses | None = None  # beside it, where the data are a mixture
        self.register_buffer(
            "byte_lengths", torch.zeros(backbone.vocab_size, dtype=torch.int64), persistent=False
        )

    def open_start(self, path: str, length: int) -> Model:
        """The model to go on from, with windows of `length` tokens.

        Raises:
            UserError: it is no language model, or has not learned so many positions.
        """
        start = open_model(path)
        if not (writes_text(start.record) and start.has_head):
            raise UserError(f"{path} has no language-model head: pretraining can't go on from it")
        if start.config.positions == "learned" and length > start.config.max_seq_len:
            known = start.config.max_seq_len
            raise UserError(f"{path} has learned {known} positions: give `data.seq_len` {known}", status=2)
        # Rates for trained weights are as they are given: how those were once found is the past.
        return replace(start, config=replace(start.config, max_seq_len=length, base_width=None))

    @abstractmethod
    def example(self, batch: dict[str, Tensor], training: bool) -> Example:
        """Inputs and targets of a batch of windows (`tokens` and `documents` (B, T + 1), `key` (B,))."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The corpus's; from `setup` on."""
        return self.processor

    def setup(self, stage: str) -> None:
        """Take the tokenizer from the data.

        Raises:
            UserError: the checkpoint that the trainer loads was trained with another, so that its figures
                would be nonsense; or the model has no room for its tokens.
        """
        data, record = self.trainer.datamodule, self.checkpoint_record()
        if data.processor is None:
            raise UserError(
                f"{type(self).__name__} needs a corpus, and {type(data).__name__} has examples to fine-tune "
                "on: give `data` lm.data.PretrainingData, or another `model`",
                status=2,
            )
        self.processor = data.processor
        names = getattr(data, "mixed", ())
        self.corpus_losses = CorpusLosses(names) if names else None
        if record is not None and checkpoints.processor_of(record).fingerprint != self.processor.fingerprint:
            raise UserError(
                f"{self.trainer.ckpt_path} was trained with another tokenizer than {data.source} has: "
                "give its own `data.corpus`, or `data.tokenizer` with the tokenizer.model of its corpus"
            )
        if self.start is not None:
            self._begin(self.start, data.source, anew=record is None)
            self.start = None  # its weights are in the network now
        lengths = torch.from_numpy(self.tokenizer.byte_lengths())
        if len(lengths) > self.config.vocab_size:
            raise UserError(
                f"the data's tokenizer has {len(lengths)} tokens, the model room for {self.config.vocab_size}"
            )
        self.byte_lengths[: len(lengths)] = lengths

    def _begin(self, start: Model, source: str, anew: bool) -> None:
        if start.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(
                f"{self.init_from} has another tokenizer than {source}: let `data.tokenizer` be the former"
            )
        if anew:
            rows = self.config.max_seq_len  # of learned positions no more are needed
            weights = {n: w[:rows] if n == POSITIONS else w for n, w in start.weights.items()}
            self.net.load_state_dict(weights, strict=False)  # a tied head is not among them
            shape = (f"{name} {getattr(self.config, name)}" for name in _SHAPE)
            said = f"going on from {self.init_from}, with its {', '.join(shape)}"
            if self._overridden:
                said += f"; not used of model.backbone: {', '.join(self._overridden)}"
            for note in (*start.notes, said):
                say(note)

    def record(self) -> dict[str, Any]:
        return {**super().record(), **({"init_from": self.init_from} if self.init_from else {})}

    def sums(self, batch: dict[str, Tensor], training: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Nats, hits, targets and their bytes of a batch; the targets of a full one."""
        inputs, targets, documents, expected = self.example(batch, training)
        nats, hits = self.net(inputs, documents, targets)
        counted = targets >= 0
        bytes_ = (self.byte_lengths[targets.clamp(min=0)] * counted).sum()
        return nats, hits, counted.sum(), bytes_, expected

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        nats, _, tokens, bytes_, expected = self.sums(batch, training=True)
        return self.outcome(nats, expected, tokens, bytes_)

    def work(self, batch: dict[str, Tensor]) -> Work:
        """The tokens that are read; a window's last one is only predicted."""
        return Work(batch["tokens"][:, 1:].numel(), "tokens")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        nats, hits, tokens, bytes_, _ = self.sums(batch, training=False)
        self.validation_loss.update(nats, tokens, bytes_, hits)
        if self.corpus_losses is not None:
            self.corpus_losses.update(batch["corpus"], nats, tokens, bytes_)

    def held_out(self, length: int) -> list[int]:
        """The first tokens of the held-out part, at most `length`."""
        stream = self.trainer.datamodule.corpus.split("val")
        return stream.window(0, min(length, len(stream)))[0].tolist()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:
        nats, hits, tokens, *_ = self.sums(batch, training=False)
        return [{"loss": nats.item() / max(tokens.item(), 1), "tokens": tokens.item(), "hits": hits.item()}]
