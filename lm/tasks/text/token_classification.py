"""Tagging: a label for each word, such as the entities of a sentence."""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.data.examples.records import TagExample
from lm.errors import UserError
from lm.inference.lines import Line
from lm.metrics import ClassificationScores, EntityScores, MeanLoss
from lm.metrics.entities import are_entities, spans
from lm.tasks.base import IGNORED
from lm.tasks.text.finetuning import documents_of
from lm.tasks.text.windowed import Found, WindowedTask

OUTSIDE = "O"


class TokenClassification(WindowedTask):
    """Put a tag on each word: BIO, BIOES and IOB1 entities, parts of speech.

    Of a word's tokens one carries its tag: the first of a BERT, the last of a GPT, which has seen the whole
    word by then. A sentence longer than the window is cut between words into several, so every word gets a
    tag. A token never covers two words: where the tokenizer makes such ones, as it does of Chinese, each word
    is encoded by itself. A word that it makes no token of, as of a zero-width character, becomes the token
    for the unknown.
    """

    reads = TagExample
    data_class = "lm.data.TagData"
    usage = 'tag {} "a sentence"'
    best_by = ("f1", "max")
    kept = ("joiner",)
    beside = WindowedTask.beside | {"entities"}
    look_at = WindowedTask.count_targets
    joiner = " "  # what stands between words in a text: nothing in Chinese

    def head(self) -> dict[str, Any]:
        outputs, dropout = len(self.labels), self.config.dropout
        return {"kind": "tokens", "outputs": outputs, "pooling": None, "pooler": False, "dropout": dropout}

    def find_labels(self, data: ExampleData) -> list[str]:
        """Every tag of the training data, `O` first."""
        found = Counter(tag for example in data.examples("train") for tag in example.tags)
        if len(found) < 2:
            only = next(iter(found), "nothing")
            raise UserError(f"{data.called('train')} has one tag only ({only!r}): there is nothing to learn")
        self.joiner = data.examples("train")[0].joiner
        return sorted(found, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[::-1]))

    def labels_of(self, example: TagExample) -> tuple[str, ...]:
        return example.tags

    def check_labels(self, data: ExampleData, split: str) -> None:
        if not any(example.tags for example in data.examples(split)):
            raise UserError(f"{data.called(split)} has no tags: `lm predict` tags it; no figures without")
        self.check_learned(data, split, "words with tags")

    def make_figures(self) -> None:
        """Entities as the CoNLL script counts them; of other tags, as parts of speech, the right words."""
        self.loss = MeanLoss()
        self.entities = are_entities(self.labels)
        if self.entities:
            types = {tag.partition("-")[2] for tag in self.labels} - {""}
            self.scores: Any = EntityScores(sorted(types))
        else:
            self.scores = ClassificationScores(self.labels)
            self.best_by = ("accuracy", "max")

    def encode(self, example: TagExample, training: bool) -> list[Features]:
        """Windows with `tokens`, `targets` at the tokens that carry a tag, and `words`, the word's number at
        the same places."""
        ids, word_of = self.pieces(example)
        carriers = self._carriers(word_of)
        room = self.config.max_seq_len - self.tokenizer.frame_size(False)
        windows, start = [], 0
        while start < len(ids) or not windows:
            end = border = min(len(ids), start + room)
            while start < border < len(ids) and word_of[border] == word_of[border - 1]:
                border -= 1
            end = border if border > start else end  # else a word longer than the window
            windows.append(self._window(example, ids[start:end], carriers[start:end]))
            start = max(end, start + 1)
        windows[0]["several"] = len(windows) > 1
        return windows

    def pieces(self, example: TagExample) -> tuple[list[int], list[int]]:
        """The ids of a sentence, and of which word each is, -1 of a token between words; every word has one
        at least, and they stand in order."""
        text, starts, place = example.joiner.join(example.words), [], 0
        for word in example.words:
            starts.append(place)
            place += len(word) + len(example.joiner)
        ends = [start + len(word) for start, word in zip(starts, example.words, strict=True)]
        unknown = self.tokenizer.padding_id if self.tokenizer.unk_id is None else self.tokenizer.unk_id
        ids: list[int] = []
        word_of: list[int] = []
        reached = -1  # the last word that has a token

        def put(new: list[int], word: int) -> None:
            nonlocal reached
            skipped = range(reached + 1, word)
            ids.extend([unknown] * len(skipped) + new)
            word_of.extend([*skipped, *[word] * len(new)])
            reached = max(reached, word if new else word - 1)

        for id, (begin, end) in zip(*self.tokenizer.encode_with_offsets(text), strict=True):
            touched = range(bisect_right(ends, begin), bisect_left(starts, end))
            if len(touched) < 2:
                put([id], touched[0] if touched else -1)
            for word in touched if len(touched) > 1 else ():
                part = text[max(begin, starts[word]) : min(end, ends[word])]
                put(self.tokenizer.encode(part), word)
        put([], len(starts))
        return ids, word_of

    def _carriers(self, word_of: list[int]) -> list[int]:
        """At each token that carries a tag the word's number, else -1."""
        pieces = list(enumerate(word_of))
        chosen = {word: place for place, word in (pieces if self.config.causal else reversed(pieces))}
        return [word if chosen[word] == place else -1 for place, word in pieces]

    def _window(self, example: TagExample, ids: list[int], carriers: list[int]) -> Features:
        tokens, _ = self.tokenizer.frame(ids)
        lead = self.tokenizer.frame([-1])[0].index(-1)
        targets, words = [IGNORED] * len(tokens), [-1] * len(tokens)
        for place, word in enumerate(carriers, start=lead):
            words[place] = word
            if word >= 0 and example.tags and example.tags[word] in self.labels:
                targets[place] = self.labels.index(example.tags[word])
        return {"tokens": tokens, "targets": targets, "words": words}

    @property
    def padding(self) -> dict[str, int]:
        return {**super().padding, "words": -1}

    def logits(self, batch: dict[str, Any]) -> Tensor:
        return self.net(batch["tokens"], documents_of(batch, self.config.causal))

    def loss_of(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of outputs (B, T, tags) at the targets (B, T)."""
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        nats = self.loss_of(self.logits(batch), batch["targets"])
        return self.outcome(nats, self.expected, (batch["targets"] >= 0).sum())

    def found(self, batch: dict[str, Any], logits: Tensor) -> list[Found]:
        """Of each window, the tag of each of its words and the tag's probability."""
        best = logits.float().softmax(-1).max(-1)
        rows = zip(batch["words"].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            {word: (self.labels[tag], p) for word, tag, p in zip(*row, strict=True) if word >= 0}
            for row in rows
        ]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures; a sentence is counted once all of its windows have come."""
        logits = self.logits(batch)
        targets = torch.where(batch["index"][:, None] >= 0, batch["targets"], IGNORED)
        self.loss.update(self.loss_of(logits.float(), targets), (targets >= 0).sum())
        self.collect(batch, logits)

    def whole(self, example: TagExample, found: Found) -> bool:
        return len(found) == len(example.words)

    def score(self, example: TagExample, found: Found) -> None:
        """Count a sentence: its tags found, with their probabilities, and the right ones."""
        gold = list(example.tags)
        if not gold:
            return
        tags = [found[word] for word in range(len(gold))]
        if self.entities:
            self.scores.update([[tag for tag, _ in tags]], [gold])
            return
        targets = torch.tensor([self.labels.index(tag) for tag in gold])
        best = torch.tensor([self.labels.index(tag) for tag, _ in tags])
        p = torch.tensor([p for _, p in tags], dtype=torch.float64)[:, None]
        rest = ((1 - p) / (len(self.labels) - 1)).repeat(1, len(self.labels))
        self.scores.update(rest.scatter(1, best[:, None], p), targets)

    def row(self, example: TagExample, found: Found) -> dict[str, Any]:
        tags = [found[word] for word in range(len(example.words))]
        return {
            "words": list(example.words),
            "tags": [tag for tag, _ in tags],
            "probabilities": [round(p, 6) for _, p in tags],
        }

    # Of a line that a person gives; see `lm.tasks.applying`.

    def from_line(self, line: Line) -> TagExample | None:
        """Words: those that are given, else the text's, by white space or, where training had nothing between
        words, by character."""
        text, places, _ = self._split(line)
        if not places:
            return None
        return TagExample(tuple(text[start:end] for start, end in places), (), self.joiner)

    look = found

    def result(self, line: Line, example: TagExample | None, found: list[Found]) -> dict[str, Any]:
        """`words`, `tags` and, where these are entities', `entities`: the text's characters from `start` to
        before `end`, which are left out where the words that were given don't stand in the text that was. An
        entity is as probable as its least probable tag."""
        entities = are_entities(self.labels)
        if example is None:
            return {"words": [], "tags": []} | ({"entities": []} if entities else {})
        text, places, known = self._split(line)
        tagged = {word: pair for window in found for word, pair in window.items()}
        tags, sure = zip(*(tagged[n] for n in range(len(places))), strict=True)
        row: dict[str, Any] = {"words": list(example.words), "tags": list(tags)}
        if entities:
            row["entities"] = [
                {
                    "type": kind,
                    "text": text[places[first][0] : places[after - 1][1]],
                    **({"start": places[first][0], "end": places[after - 1][1]} if known else {}),
                    "probability": round(min(sure[first:after]), 6),
                }
                for kind, first, after in spans(tags)
            ]
        return row

    def show(self, row: dict[str, Any]) -> str:
        if "entities" not in row:
            return "\n".join(f"  {tag:8}{word}" for word, tag in zip(row["words"], row["tags"], strict=True))
        lines = [
            f"  {e['probability']:6.1%}  {e['type']:8}{e['text']}  ({e['start']} to {e['end']})"
            for e in row["entities"]
        ]
        return "\n".join(lines) or "  no entities"

    def _split(self, line: Line) -> tuple[str, list[tuple[int, int]], bool]:
        """A line's text, where its words are, and whether that is the text that came with it: where it came
        with words that are not found there, one after another, the text is the joined words."""
        text = line.fields.get("text")
        if line.fields.get("words") is None:
            text = line.text("text")
            word = r"\S+" if self.joiner else r"\S"
            return text, [match.span() for match in re.finditer(word, text)], True
        words = line.fields["words"]
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            raise UserError(f"{line.where}: 'words' is not a list of words")
        if isinstance(text, str) and (places := _places(words, text)) is not None:
            return text, places, True
        joined = self.joiner.join(words)
        return joined, _places(words, joined) or [], text is None


def _places(words: list[str], text: str) -> list[tuple[int, int]] | None:
    """Where words stand in a text, one after another; None where one does not."""
    places: list[tuple[int, int]] = []
    for word in words:
        start = text.find(word, places[-1][1] if places else 0)
        if start < 0:
            return None
        places.append((start, start + len(word)))
    return places
