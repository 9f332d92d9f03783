"""Extractive question answering: where in a text the answer to a question stands, if it does."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.examples.records import QuestionExample
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import AnswerScores, MeanLoss
from lm.tasks.text.finetuning import documents_of
from lm.tasks.text.windowed import Found, WindowedTask

NONE = 0  # the position that stands for "no answer here"
_LEAST = 8  # tokens of the text that a window has room for, however long the question


class QuestionAnswering(WindowedTask):
    """Find the answer's first and last token (arXiv:1810.04805, section 4.2).

    A text that is longer than the window is read in windows that overlap; the answer is the best span of all
    of them. Where training had questions without an answer, "" is given when no span beats the score of none
    (arXiv:1810.04805, section 4.3).

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        overlap: tokens that neighbouring windows share, at most half of a window.
        max_question: tokens of the question that are kept; fewer where a window is too small for them.
        max_answer: longest answer, in tokens.
    """

    reads = QuestionExample
    data_class = "lm.data.QuestionData"
    usage = 'answer {} --question "…" --context "…"'
    best_by = ("f1", "max")
    kept = ("windows", "unanswerable")
    beside = WindowedTask.beside | {"max_answer"}

    def __init__(
        self,
        backbone: BackboneConfig,
        overlap: int = 64,
        max_question: int = 64,
        max_answer: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.windows = {"overlap": overlap, "max_question": max_question, "max_answer": max_answer}
        for name, value in self.windows.items():
            if value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1", status=2)
        self.unanswerable = False

    def head(self) -> dict[str, Any]:
        """Two outputs on each position: does the answer begin here, does it end here."""
        dropout = self.config.dropout
        return {"kind": "span", "outputs": 2, "pooling": None, "pooler": False, "dropout": dropout}

    def find_labels(self, data: ExampleData) -> list[str]:
        """None; but look whether there are questions without an answer."""
        examples = data.examples("train")
        if not any(e.answers for e in examples):
            raise UserError(f"no question of {data.called('train')} has an answer: there is nothing to learn")
        self.unanswerable = not all(e.answers for e in examples)
        if self.unanswerable and self.config.causal:
            raise UserError(
                f"{data.called('train')} has questions without an answer, which need a BERT: a GPT's first "
                "position, which stands for none, has seen nothing"
            )
        return []

    def check_labels(self, data: ExampleData, split: str) -> None:
        if not any(e.answers for e in data.examples(split)):
            raise UserError(
                f"{data.called(split)} has no answers: `lm predict` gives them; no figures without"
            )

    def make_figures(self) -> None:
        self.loss, self.scores = MeanLoss(), AnswerScores()

    def encode(self, example: QuestionExample, training: bool) -> list[Features]:
        """Windows of question and text: `tokens`, `segments`, `allowed` where an answer may stand, `spans`
        of the allowed tokens in the text, `first` (where they begin), `start` and `end`."""
        room = self.config.max_seq_len - self.tokenizer.frame_size(True)
        if room < 2 * _LEAST:
            raise UserError(
                f"`data.seq_len` {self.config.max_seq_len} leaves no room for question and text: give more",
                status=2,
            )
        question = self.tokenizer.encode(example.question)[: min(self.windows["max_question"], room - _LEAST)]
        ids, offsets = self.tokenizer.encode_with_offsets(example.context)
        room -= len(question)
        touched: list[int] = []  # tokens of the answer
        for text, begin in example.answers[:1]:
            touched = [i for i, (a, b) in enumerate(offsets) if a < begin + len(text) and b > begin]
        first = self.tokenizer.frame(question, [-1])[0].index(-1)  # where the text begins
        step = max(room - self.windows["overlap"], room // 2)
        windows = []
        for number, s in enumerate(range(0, max(len(ids) - room, 0) + step, step)):
            part = ids[s : s + room]
            tokens, segments = self.tokenizer.frame(question, part)
            allowed = [0] * len(tokens)
            allowed[NONE] = 1
            allowed[first : first + len(part)] = [1] * len(part)
            features = {"tokens": tokens, "allowed": allowed, "spans": offsets[s : s + room]}
            if self.config.segments > 1:
                features["segments"] = segments
            start = end = NONE
            if touched and s <= touched[0] and touched[-1] < s + room:
                start, end = first + touched[0] - s, first + touched[-1] - s
            windows.append({**features, "first": first, "window": number, "start": start, "end": end})
        windows[0]["several"] = len(windows) > 1
        return windows

    @property
    def padding(self) -> dict[str, int]:
        return {**super().padding, "allowed": 0}

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Scores (B, T, 2) of each position as the answer's first and last; where no answer can stand, minus
        infinity."""
        documents = documents_of(batch, self.config.causal)
        logits = self.net(batch["tokens"], documents, segments=batch.get("segments")).float()
        return logits.masked_fill(batch["allowed"][..., None] == 0, float("-inf"))

    def losses(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """The loss of each window (B,)."""
        start = F.cross_entropy(logits[..., 0], batch["start"], reduction="none")
        return (start + F.cross_entropy(logits[..., 1], batch["end"], reduction="none")) / 2

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = self.losses(self.logits(batch), batch)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def spans(self, batch: dict[str, Any], logits: Tensor) -> list[tuple[float, float, int, int]]:
        """The best span of each window: its score, that of none, and where it begins and ends in the text, in
        characters."""
        T = logits.shape[1]
        index = torch.arange(T, device=logits.device)
        distance = index[None, :] - index[:, None]
        possible = (distance >= 0) & (distance < self.windows["max_answer"])
        sums = logits[:, :, None, 0] + logits[:, None, :, 1]  # (B, T, T)
        none = sums[:, NONE, NONE].tolist()
        sums = sums.masked_fill(~possible, float("-inf"))
        sums[:, NONE] = float("-inf")
        best = sums.flatten(1).max(1)
        found = []
        for row, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            spans, first = batch["spans"][row], int(batch["first"][row])
            start, end = place // T - first, place % T - first
            begin, stop = (spans[start][0], spans[end][1]) if score > float("-inf") else (0, 0)
            found.append((score, none[row], begin, stop))
        return found

    def answer(self, example: QuestionExample, windows: dict[int, Any]) -> dict[str, Any]:
        """The answer from an example's windows: its text, where it begins, and its score against none; None
        of a text without a token, where no answer can stand."""
        score, _, begin, end = max(windows.values())
        against = score - min(none for _, none, _, _ in windows.values())
        known = round(against, 4) if math.isfinite(against) else None
        if known is None or (self.unanswerable and against < 0):
            return {"answer": "", "start": None, "score": known}
        return {"answer": example.context[begin:end], "start": begin, "score": known}

    def found(self, batch: dict[str, Any], logits: Tensor) -> list[Found]:
        windows = batch["window"].tolist()
        return [{n: span} for n, span in zip(windows, self.spans(batch, logits), strict=True)]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures; a question is scored once all of its windows have come."""
        logits = self.logits(batch)
        self.loss.update(self.losses(logits, batch)[batch["index"] >= 0])
        self.collect(batch, logits)

    def score(self, example: QuestionExample, found: Found) -> None:
        self.scores.update([self.answer(example, found)["answer"]], [[text for text, _ in example.answers]])

    def row(self, example: QuestionExample, found: Found) -> dict[str, Any]:
        return {"id": example.id, "question": example.question, **self.answer(example, found)}

    # Of a line that a person gives; see `lm.tasks.applying`.

    def from_line(self, line: Line) -> QuestionExample | None:
        question, context = line.text("question"), line.text("context")
        if not question.strip() or not context.strip():
            return None
        return QuestionExample(str(line.fields.get("id", line.where)), question, context)

    look = spans

    def result(self, line: Line, example: QuestionExample | None, found: list[Any]) -> dict[str, Any]:
        """`answer`, the character of the text where it starts, and its score against that of none."""
        if example is None:
            return {"answer": "", "start": None, "score": None}
        return self.answer(example, dict(enumerate(found)))

    def show(self, row: dict[str, Any]) -> str:
        if row["start"] is None:
            return "no answer in the text" + ("" if row["score"] is None else f" (score {row['score']})")
        end = row["start"] + len(row["answer"])
        return f"{row['answer']}\n  characters {row['start']} to {end}, score {row['score']}"
