"""Tagging: a label for each word, such as the entities of a sentence."""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.examples.records import TagExample
from lm.errors import UserError
from lm.metrics import EntityScores, MeanLoss
from lm.metrics.entities import tag_scheme
from lm.tasks.base import IGNORED
from lm.tasks.finetuning import FineTuning, documents_of

OUTSIDE = "O"


class TokenClassification(FineTuning):
    """Put a tag on each word: BIO, BIOES and IOB1 entities, parts of speech.

    Of a word's pieces one carries its tag: the first of a BERT, the last of a GPT, which has seen the whole
    word by then. A sentence longer than the window is cut between words into several, so every word gets a
    tag.
    """

    usage = 'tag {} "a sentence"'
    best_by = ("f1", "max")

    def head(self) -> dict[str, Any]:
        """One output for each tag, on each position."""
        outputs, dropout = len(self.labels), self.config.dropout
        return {"kind": "tokens", "outputs": outputs, "pooling": None, "pooler": False, "dropout": dropout}

    def find_labels(self, data: ExampleData) -> list[str]:
        """Every tag of the training data, `O` first."""
        found = Counter(tag for example in data.examples("train") for tag in example.tags)
        if len(found) < 2:
            only = next(iter(found), "nothing")
            raise UserError(f"{data.paths['train']} has one tag only ({only!r}): there is nothing to learn")
        return sorted(found, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[::-1]))

    def check_labels(self, data: ExampleData, split: str) -> None:
        """Every tag there was in training."""
        used = Counter(tag for example in data.examples(split) for tag in example.tags)
        if not used:
            raise UserError(f"{data.paths[split]} has no tags: `lm predict` tags it; no figures without")
        unknown = [tag for tag in used if tag not in self.labels]
        if unknown:
            raise UserError(
                f"{data.paths[split]} has {sum(used[t] for t in unknown):,} words with tags that were never "
                f"learned: {', '.join(map(repr, unknown[:3]))}; known are "
                f"{', '.join(map(repr, self.labels[:12]))}"
            )

    def make_figures(self) -> None:
        """Entities as the CoNLL script counts them."""
        self.loss = MeanLoss()
        types = sorted({tag.partition("-")[2] or tag for tag in self.labels if tag != OUTSIDE})
        self.scores = EntityScores(types, scheme=tag_scheme([self.labels]))
        self._parts: dict[int, dict[int, str]] = {}

    def encode(self, example: TagExample, training: bool) -> list[Features]:
        """Windows with `tokens`, `targets` at the pieces that carry a tag, and `words`, the word's number at
        the same places."""
        text = example.joiner.join(example.words)
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        room = self.config.max_seq_len - self.tokenizer.frame_size(False)
        word_of = self._words_of(example, offsets)
        windows, start = [], 0
        while start < len(ids) or not windows:
            end = min(len(ids), start + room)
            while end < len(ids) and end > start + 1 and word_of[end] == word_of[end - 1]:
                end -= 1
            if end < len(ids) and end <= start + 1:
                end = min(len(ids), start + room)  # a word longer than the window
            windows.append(self._window(example, ids[start:end], word_of[start:end]))
            start = end
            if not ids:
                break
        windows[0]["cut"] = len(windows) > 1
        return windows

    @staticmethod
    def _words_of(example: TagExample, offsets: list[tuple[int, int]]) -> list[int]:
        """The number of the word that each piece is of; -1 of a piece between words."""
        starts, place = [], 0
        for word in example.words:
            starts.append((place, place + len(word)))
            place += len(word) + len(example.joiner)
        words, number = [], 0
        for begin, end in offsets:
            while number < len(starts) - 1 and begin >= starts[number][1] and begin >= starts[number + 1][0]:
                number += 1
            first, last = starts[number] if starts else (0, 0)
            words.append(number if begin < last and end > first else -1)
        return words

    def _window(self, example: TagExample, ids: list[int], word_of: list[int]) -> Features:
        tokens, _ = self.tokenizer.frame(ids)
        lead = next((i for i in range(len(tokens) - len(ids) + 1) if tokens[i : i + len(ids)] == ids), 0)
        targets, words = [IGNORED] * len(tokens), [-1] * len(tokens)
        carriers: dict[int, int] = {}
        for place, word in enumerate(word_of):
            if word >= 0 and (self.config.causal or word not in carriers):
                carriers[word] = place
        for word, place in carriers.items():
            words[lead + place] = word
            if example.tags:
                targets[lead + place] = self.labels.index(example.tags[word])
        return {"tokens": tokens, "targets": targets, "words": words}

    @property
    def padding(self) -> dict[str, int]:
        """The words' numbers are padded too."""
        return {**super().padding, "words": -1}

    def look_at(self, data: ExampleData) -> None:
        """How many words a batch has on average: what the loss is divided by."""
        features = data.features("train")
        words = sum(t >= 0 for f in features for t in f["targets"])
        self.expected = max(words / len(features) * data.batch_size, 1)

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """The network's outputs (B, T, tags)."""
        return self.net(batch["tokens"], documents_of(batch, self.config.causal))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See `Task.training_step`."""
        nats = F.cross_entropy(
            self.logits(batch).flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        counted = (batch["targets"] >= 0).sum()
        return {
            "loss": nats / self.expected,
            "nats": nats.detach(),
            "tokens": counted,
            "bytes": torch.tensor(0),
        }

    def tags(self, batch: dict[str, Any], logits: Tensor) -> list[dict[int, tuple[str, float]]]:
        """Of each window, the tag of each of its words and the tag's probability."""
        best = logits.float().softmax(-1).max(-1)
        rows = zip(batch["words"].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            {word: (self.labels[tag], p) for word, tag, p in zip(*row, strict=True) if word >= 0}
            for row in rows
        ]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures; a sentence is counted once all of its windows have come."""
        logits, targets = self.logits(batch), batch["targets"]
        real = batch["index"] >= 0
        targets = torch.where(real[:, None], targets, IGNORED)
        nats = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        self.loss.update(nats, (targets >= 0).sum())
        for index, found in zip(batch["index"].tolist(), self.tags(batch, logits), strict=True):
            if index >= 0:
                self._parts.setdefault(index, {}).update({word: tag for word, (tag, _) in found.items()})

    def figures(self) -> dict[str, Tensor]:
        """The loss, and precision, recall and F1 of the entities."""
        split = "test" if self.trainer.state.fn == "test" else "val"
        examples = self.data.examples(split)
        parts, self._parts = self.share(self._parts), {}
        for index, tags in parts.items():
            gold = list(examples[index].tags)
            self.scores.update([[tags.get(word, OUTSIDE) for word in range(len(gold))]], [gold])
        figures = {**self.loss.compute(), **self.scores.compute()}
        self.loss.reset()
        self.scores.reset()
        return figures

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """A row for each window: the example's number, words, tags and their probabilities."""
        rows = []
        for index, found in zip(batch["index"].tolist(), self.tags(batch, self.logits(batch)), strict=True):
            if index >= 0:
                words = self.data.examples("test")[index].words
                rows.append(
                    {
                        "index": index,
                        "words": [words[w] for w in found],
                        "tags": [tag for tag, _ in found.values()],
                        "probabilities": [round(p, 6) for _, p in found.values()],
                    }
                )
        return rows
