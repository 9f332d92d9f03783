"""Instruction tuning: learning to answer. Summaries, translations, dialogues are data for it."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.records import ChatExample, Message
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.generate import Sample, Sampling
from lm.metrics import AnswerScores, SummaryScores, TokenLoss, TranslationScores
from lm.processes import say
from lm.tasks.base import IGNORED
from lm.tasks.text.chatting import ChatTask
from lm.tasks.text.finetuning import documents_of
from lm.tokenizer.chat import shortened

Scores = Literal["translation", "summary", "answer"]


class InstructionTuning(ChatTask):
    """Learn the assistant's part of chats, from the first answer to the last; the rest is only read.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        scores: what the answers that the model writes are compared by: BLEU and chrF, ROUGE, or exact match
            and F1. Null: nothing is written, the loss is all.
        score_val: write answers at each validation too, for this many examples, spread evenly over them; 0:
            for the test part alone.
        max_answer: longest answer to write, in tokens.
    """

    reads = ChatExample
    data_class = "lm.data.ChatData"
    beside = ChatTask.beside | {"scores", "score_by", "score_val", "max_answer"}
    look_at = ChatTask.count_targets

    def __init__(
        self,
        backbone: BackboneConfig,
        scores: Scores | None = None,
        score_val: int = 0,
        max_answer: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if max_answer < 1 or score_val < 0:
            raise UserError("max_answer must be at least 1, score_val at least 0", status=2)
        self.score_by, self.score_val, self.max_answer = scores, score_val, max_answer

    @property
    def shardable(self) -> bool:
        """Not where it writes: processes would end at different steps."""
        return self.score_by is None

    def make_figures(self) -> None:
        super().make_figures()
        self.validation_loss = TokenLoss()
        lengths = torch.from_numpy(self.tokenizer.byte_lengths())
        room = max(self.config.vocab_size - len(lengths), 0)
        self.register_buffer("byte_lengths", torch.cat((lengths, lengths.new_zeros(room))), persistent=False)
        kinds = {"translation": TranslationScores, "summary": SummaryScores, "answer": AnswerScores}
        self.scores = kinds[self.score_by]() if self.score_by else None

    def encode(self, example: ChatExample, training: bool) -> list[Features]:
        *before, answer = example.messages
        return self.answered(before, [answer.content], earlier=True)

    def sums(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nats, hits, targets and their bytes of a batch."""
        targets = batch["targets"]
        if "index" in batch:
            targets = torch.where(batch["index"][:, None] >= 0, targets, IGNORED)
        nats, hits = self.net(batch["tokens"], documents_of(batch, causal=True), targets, sparse=True)
        counted = targets >= 0
        return nats, hits, counted.sum(), (self.byte_lengths[targets.clamp(min=0)] * counted).sum()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        nats, _, tokens, bytes_ = self.sums(batch)
        return self.outcome(nats, self.expected, tokens, bytes_)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        nats, hits, tokens, bytes_ = self.sums(batch)
        self.validation_loss.update(nats, tokens, bytes_, hits)
        testing = self.trainer.state.fn == "test"
        examples = self.data.examples("test" if testing else "val")
        count = len(examples) if testing else self.score_val
        chosen = [examples[i] for i in _real(batch) if i * count % len(examples) < count]  # `count` of them
        if self.scores is not None and chosen:
            answers = self.write([e.messages[:-1] for e in chosen])
            self.scores.update(answers, [[e.messages[-1].content, *e.references] for e in chosen])

    def write(self, chats: Sequence[Sequence[Message]]) -> list[str]:
        """The likeliest next answer to each of some chats, at most `max_answer` tokens long, and at most half
        of what the model sees."""
        length = min(self.max_answer, self.config.max_seq_len // 2)
        room = self.config.max_seq_len - length
        asked = ([(m.role, m.content) for m in messages] for messages in chats)
        prompts = [shortened(self.chat, messages, room).ids[-room:] for messages in asked]
        ends = self.chat.end_id, self.tokenizer.eos_id
        rows = complete(self.net, prompts, length, ends, vocab_size=self.tokenizer.vocab_size)
        return [self.tokenizer.decode(row).strip() for row in rows]

    def figures(self) -> dict[str, Tensor]:
        figures = super().figures()
        if self.trainer.state.fn == "test" and self.score_by == "translation":
            for signature in self.scores.signatures.values():
                say(signature)
        return figures

    def metrics(self) -> list[Metric]:
        """The loss on the answers and, where any are written, how good these are."""
        writes = self.score_val or self.trainer.state.fn == "test"
        return super().metrics() if writes else [self.validation_loss]

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        example = self.data.examples("val")[0]
        return Sample(f"{example.messages[-2].content}\n→ {self.write([example.messages[:-1]])[0]}")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """A row for each chat: its number, the last question, the answer written, and the one there is."""
        chats = [(i, self.data.examples("test")[i].messages) for i in _real(batch)]
        answers = self.write([messages[:-1] for _, messages in chats])
        return [
            {"index": i, "prompt": messages[-2].content, "answer": a, "reference": messages[-1].content}
            for (i, messages), a in zip(chats, answers, strict=True)
        ]


def _real(batch: dict[str, Any]) -> list[int]:
    return [i for i in batch["index"].tolist() if i >= 0]
