"""Classifying texts and pairs of texts: one label, several, or a number."""

from typing import Any, Literal

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.data.examples.batches import Features
from lm.data.examples.records import TextExample
from lm.inference.lines import Line
from lm.tasks.classification import Classification
from lm.tasks.text.finetuning import FineTuning, documents_of


class SequenceClassification(Classification, FineTuning):
    """Put a label on a text, or on a pair of texts; several labels; or rate it.

    Which of the three the data say: a label, a list of labels, or (`rating` of the data) a number.

    Args:
        cut: which part of a text that is too long is kept: its start, its end, or the first quarter and the
            end (arXiv:1905.05583 finds both ends best).
    """

    reads = TextExample
    thing = "text"
    data_class = "lm.data.TextData"
    usage = 'classify {} "a text"'
    kept = ("kind", "cut")
    beside = Classification.beside | FineTuning.beside

    def __init__(
        self, backbone: BackboneConfig, cut: Literal["start", "end", "both"] = "start", **kwargs: Any
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.cut = cut

    def shorten(self, ids: list[int], room: int) -> list[int]:
        """The part of a text that is kept."""
        if len(ids) <= room:
            return ids
        head = {"start": room, "end": 0, "both": room // 4}[self.cut]
        return ids[:head] + ids[len(ids) - (room - head) :]

    def encode(self, example: TextExample, training: bool) -> list[Features]:
        """`tokens`, `segments` where the backbone has them, and `target` where the label is known."""
        first = self.tokenizer.encode(example.text)
        second = None if example.pair is None else self.tokenizer.encode(example.pair)
        room = self.config.max_seq_len - self.tokenizer.frame_size(second is not None)
        if second is None:
            cut = len(first) > room
            first = self.shorten(first, room)
        else:
            cut = len(first) + len(second) > room
            # The longer one gives way first.
            share = max(room - min(len(second), room // 2), room - len(second))
            first = self.shorten(first, min(len(first), share))
            second = self.shorten(second, room - len(first))
        tokens, segments = self.tokenizer.frame(first, second)
        features: Features = {"tokens": tokens, "cut": cut}
        if self.config.segments > 1:
            features["segments"] = segments
        target = self.target(example.label)
        return [features if target is None else {**features, "target": target}]

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """The network's outputs (B, labels)."""
        documents = documents_of(batch, causal=False)  # pooling has to know where a text ends
        return self.net(batch["tokens"], documents, segments=batch.get("segments"))

    def named(self, example: TextExample) -> dict[str, Any]:
        return {"text": example.text}

    def from_line(self, line: Line, text: str = "text", pair: str | None = None) -> TextExample | None:
        first = line.text(text, "text")
        if pair is None and line.fields.get("pair") is not None:
            pair = "pair"
        second = None if pair is None else line.text(pair, "pair")
        return TextExample(first, second) if first.strip() else None
