"""Instruction tuning: learning to answer. Summaries, translations, dialogues are data for it."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.examples.records import ChatExample, Message
from lm.errors import UserError
from lm.inference.batch import complete
from lm.inference.generate import Sample, Sampling
from lm.metrics import AnswerScores, SummaryScores, TokenLoss, TranslationScores
from lm.processes import say
from lm.tasks.base import IGNORED
from lm.tasks.finetuning import FineTuning, documents_of
from lm.tokenizer import Tokenizer
from lm.tokenizer.chat import ChatFormat, chat_format, shortened, with_chat

Scores = Literal["translation", "summary", "answer"]


class InstructionTuning(FineTuning):
    """Learn the assistant's part of chats, from the first answer to the last; the rest is only read.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        scores: what the answers that the model writes are compared by: BLEU and chrF, ROUGE, or exact match
            and F1. Null: nothing is written, the loss is all.
        score_val: write answers at each validation too, for this many examples, spread evenly over them; 0:
            for the test part alone.
        max_answer: longest answer to write, in pieces.
    """

    reads = ChatExample
    data_class = "lm.data.ChatData"
    needs_causal = True
    usage = "chat {}"
    best_by = ("loss", "min")

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
        self.chat: ChatFormat | None = None

    @property
    def shardable(self) -> bool:
        """Not where it writes: processes would end at different steps."""
        return self.score_by is None

    def head(self) -> dict[str, Any]:
        """The language model's own."""
        return {"kind": "language"}

    def with_pieces(self, tokenizer: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
        """With the markers of a chat."""
        return with_chat(tokenizer)

    def make_figures(self) -> None:
        """The loss on the answers, and how good written ones are."""
        self.chat = chat_format(self.tokenizer)
        self.validation_loss = TokenLoss()
        lengths = torch.from_numpy(self.tokenizer.byte_lengths())
        room = max(self.config.vocab_size - len(lengths), 0)
        self.register_buffer("byte_lengths", torch.cat((lengths, lengths.new_zeros(room))), persistent=False)
        self.scores = {
            None: lambda: None,
            "translation": TranslationScores,
            "summary": SummaryScores,
            "answer": AnswerScores,
        }[self.score_by]()

    def encode(self, example: ChatExample, training: bool) -> list[Features]:
        """`tokens` and `targets` one further, of the answers alone. Of a chat that is too long the oldest
        turns are left out, then the beginning of the last question, down to half of the window; then the
        answer's end."""
        messages = [(m.role, m.content) for m in example.messages]
        ids, learned = self.chat.render(messages)
        limit = self.config.max_seq_len + 1  # one more than the inputs
        cut = len(ids) > limit
        if cut:
            asked, _ = self.chat.render(messages[:-1], answer_next=True)
            answer, answers = ids[len(asked) :], learned[len(asked) :]
            asked, earlier, *_ = shortened(self.chat, messages[:-1], max(limit - len(answer), limit // 2))
            ids, learned = (asked + answer)[:limit], (earlier + answers)[:limit]
        targets = [i if keep else IGNORED for i, keep in zip(ids, learned, strict=True)][1:]
        if all(t == IGNORED for t in targets):
            return []
        return [{"tokens": ids[:-1], "targets": targets, "cut": cut}]

    def look_at(self, data: ExampleData) -> None:
        """How many targets a batch has on average: what the loss is divided by, so that every piece of an
        answer weighs the same in whichever batch it stands."""
        features = data.features("train")
        targets = sum(t >= 0 for f in features for t in f["targets"])
        self.expected = max(targets / len(features) * data.batch_size, 1)

    def sums(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nats, hits, targets and their bytes of a batch."""
        targets = batch["targets"]
        if "index" in batch:
            targets = torch.where(batch["index"][:, None] >= 0, targets, IGNORED)
        nats, hits = self.net(batch["tokens"], documents_of(batch, causal=True), targets, sparse=True)
        counted = targets >= 0
        return nats, hits, counted.sum(), (self.byte_lengths[targets.clamp(min=0)] * counted).sum()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See `Task.training_step`."""
        nats, _, tokens, bytes_ = self.sums(batch)
        return self.outcome(nats, self.expected, tokens, bytes_)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures."""
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
        """The likeliest next answer to each of some chats, at most `max_answer` pieces long, and at most half
        of what the model sees."""
        length = min(self.max_answer, self.config.max_seq_len // 2)
        room = self.config.max_seq_len - length
        asked = ([(m.role, m.content) for m in messages] for messages in chats)
        prompts = [shortened(self.chat, messages, room).ids[-room:] for messages in asked]
        ends = self.chat.end_id, self.tokenizer.eos_id
        rows = complete(self.net, prompts, length, ends, vocab_size=self.tokenizer.vocab_size)
        return [self.tokenizer.decode(row).strip() for row in rows]

    def figures(self) -> dict[str, Tensor]:
        """The loss on the answers; BLEU, ROUGE or F1 of written ones."""
        figures = self.validation_loss.compute()
        self.validation_loss.reset()
        testing = self.trainer.state.fn == "test"
        if self.scores is not None and (testing or self.score_val):
            figures |= self.scores.compute()
            for signature in getattr(self.scores, "signatures", {}).values() if testing else ():
                say(signature)
            self.scores.reset()
        return figures

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        """The answer to the first held-out chat."""
        example = self.data.examples("val")[0]
        return Sample(f"{example.messages[-2].content}\n→ {self.write([example.messages[:-1]])[0]}")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """A row for each chat: its number, the last question, the answer written, and the one there is."""
        indices = _real(batch)
        examples = [self.data.examples("test")[i] for i in indices]
        answers = self.write([e.messages[:-1] for e in examples])
        return [
            {"index": i, "prompt": e.messages[-2].content, "answer": a, "reference": e.messages[-1].content}
            for i, e, a in zip(indices, examples, answers, strict=True)
        ]


def _real(batch: dict[str, Any]) -> list[int]:
    return [i for i in batch["index"].tolist() if i >= 0]
