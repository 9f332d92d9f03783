"""Recognising speech: what is said, by connectionist temporal classification."""

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert.whisper_decoder import DecoderWords
from lm.data.audio.module import SpeechExample
from lm.data.examples.batches import Features
from lm.data.examples.module import ExampleData
from lm.errors import UserError
from lm.inference.ctc import Likeliest, words_of
from lm.inference.generate import Sample, Sampling
from lm.inference.lines import Line
from lm.metrics import MeanLoss, SpeechScores
from lm.metrics.speech import transcript
from lm.processes import say
from lm.tasks.base import IGNORED
from lm.tasks.sharing import Found, share
from lm.tasks.speech.base import SoundCollate, SpeechTask
from lm.tasks.speech.decoding import Decoder, open_language_model
from lm.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_bytes
from lm.tokenizer.spelling import spelling_tokenizer

DECODER = "decoder"  # of `tokens`: the Whisper's; `decoder` is what finds words in classes
TRANSCRIPTS = "transcripts"
_KEPT: Any = object()  # a setting that is not given: None is one, too


class SpeechRecognition(SpeechTask):
    """Write down what is said: a network says of each position which character is heard, or none (CTC, Graves
    et al. 2006). Class 0 is the blank.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        tokens: what is written instead of the characters of the transcripts: so many pieces of their words,
            which are heard better where the same words come again; or the tokens of a tokenizer, such as a
            SentencePiece model's file, whose token 0 has to be no text; or `decoder`: the pieces of words of
            the decoder of the Whisper that it starts from, with a head that begins with what the decoder
            reads, and finds words that no transcript has; see `lm.convert.whisper_decoder`. Of a recogniser
            that it starts from it is those tokens and the head that this one has.
        case, punctuation: whether they are learned and count; see `lm.metrics.speech.transcript`.
        consistency: the weight with which two views of a sound, whose features are varied apart, have to
            agree (CR-CTC, Yao et al. 2024, arXiv:2410.05101); a step takes twice as long. 0: one view.
        beam_width: how many beginnings are followed by `lm test` and `lm predict`; null: 32 with a language
            model, else none. A validation takes the likeliest class of each position.
        language_model: what helps to choose then: `transcripts`, those that are learned from; a text file or
            a table with a column `text`, of which an n-gram of words is made; or a GPT.
        alpha: the weight of the language model.
        beta: what each class adds to the score.
    """

    reads = SpeechExample
    data_class = "lm.data.SpeechData"
    usage = "transcribe {} speech.wav"
    best_by = ("word_error_rate", "min")
    kept = ("case", "punctuation", "spelling")
    beside = SpeechTask.beside | {
        *("beam_width", "language_model", "alpha", "beta", "tokenizer", "decoder", "decoder_words", "_found"),
    }

    def __init__(
        self,
        backbone: BackboneConfig,
        tokens: int | str | None = None,
        case: bool = False,
        punctuation: bool = False,
        consistency: float = 0.0,
        beam_width: int | None = None,
        language_model: str | None = None,
        alpha: float = 0.5,
        beta: float = 0.0,
        **kwargs: Any,
    ) -> None:
        reads = f"tokens: {DECODER}: it reads a Whisper's last layer"
        if tokens == DECODER and kwargs.get("init_from") is None:
            raise UserError(f"{reads}: give `init_from`, a Whisper's folder", status=2)
        super().__init__(backbone, **kwargs)
        self.tokens, self.case, self.punctuation = tokens, case, punctuation
        if consistency < 0:
            raise UserError(f"consistency is {consistency}: it must not be negative", status=2)
        if tokens == DECODER and self.mix_layers:
            raise UserError(f"{reads}: leave `mix_layers` out", status=2)
        self.consistency = consistency
        self.beam_width, self.language_model, self.alpha, self.beta = beam_width, language_model, alpha, beta
        self.decode_with(beam_width)  # which it may refuse
        self.spelling = ""  # the tokenizer's bytes in base64
        self._found: dict[int, Found] = {}  # log-probabilities by sound and `part`, until all have come

    # What is written.

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the transcripts; its token 0 is the blank."""
        return tokenizer_from_bytes(base64.b64decode(self.spelling))

    def written(self, text: str) -> str:
        """A transcript as it is learned."""
        return transcript(text, self.case, self.punctuation)

    def targets(self, text: str) -> list[int]:
        """The classes that spell a transcript; what was never learned is left out."""
        unknown = (0, self.tokenizer.unk_id)
        return [id for id in self.tokenizer.encode(self.written(text)) if id not in unknown]

    @property
    def space(self) -> list[int]:
        """What stands between words: nothing where each brings its own space."""
        word = next(text.strip() for text in self.labels if text.strip())
        one, two = self.tokenizer.encode(word), self.tokenizer.encode(f"{word} {word}")
        return two[len(one) : len(two) - len(one)]

    def text_of(self, ids: Sequence[int]) -> str:
        return " ".join(self.tokenizer.decode(ids).split())

    def find_labels(self, data: ExampleData) -> list[str]:
        """What each class stands for."""
        if self.consistency and not any(change.on_features for change in data.augment):
            wanted = "add lm.data.audio.SpecAugment to `data.augment`"
            raise UserError(f"consistency: nothing varies the features of sounds: {wanted}", status=2)
        texts = [self.written(example.label) for example in data.examples("train")]
        if self.tokens == DECODER and (spelling := self.start.record.get("spelling")):
            tokenizer = tokenizer_from_bytes(base64.b64decode(spelling))
        elif self.tokens == DECODER:
            tokenizer = spelling_tokenizer(texts, self.decoder_words.pieces(set("".join(texts))))
        elif isinstance(self.tokens, str):
            tokenizer = load_tokenizer(self.tokens)
            if not tokenizer.is_special(0):
                why = "is text, which the blank can't be"
                raise UserError(f"tokens: token 0 of {self.tokens} {why}", status=2)
        else:
            tokenizer = spelling_tokenizer(texts, self.tokens)
        self.spelling = base64.b64encode(tokenizer.to_bytes()).decode()
        where = data.called("train")
        if not any(self.text_of(self.targets(text)) for text in texts):
            raise UserError(f"{where}: nothing that is said there is spelled by these `tokens`")
        if isinstance(self.tokens, str):  # else the tokens were made of these very texts
            self._say_unknown(texts, where)
        return [
            "" if tokenizer.is_special(id) else tokenizer.piece_bytes(id).decode(errors="replace")
            for id in range(tokenizer.vocab_size)
        ]

    def check_labels(self, data: ExampleData, split: str) -> None:
        examples = data.examples(split)
        if missing := sum(example.label is None for example in examples):
            raise UserError(
                f"{missing:,} of {len(examples):,} sounds of {data.called(split)} have no transcript: "
                "`lm predict` writes them; there are no figures without"
            )
        self._say_unknown([self.written(example.label) for example in examples], data.called(split))

    def _say_unknown(self, texts: list[str], where: str) -> None:
        unknown = [set(text) - set(self.text_of(self.targets(text))) - {" "} for text in texts]
        if count := sum(map(bool, unknown)):
            what = ", ".join(map(repr, sorted(set.union(*unknown))[:5]))
            say(f"{count:,} transcripts of {where} have characters that were never learned: {what}")

    @cached_property
    def decoder_words(self) -> DecoderWords:
        """Of the Whisper that it starts from."""
        return DecoderWords(Path(str(self.init_from)))

    @property
    def shardable(self) -> bool:
        """Not with the decoder's head: its rows' gradients are looked after where they are whole."""
        return self.tokens != DECODER

    def initialize(self, resumed: bool, training: bool) -> None:
        """See `ExampleTask.initialize`. Raises UserError where the Whisper's decoder can't be read."""
        super().initialize(resumed, training)
        if self.tokens == DECODER and not resumed and "head.weight" in self._fresh:
            weight, bias, known = self.decoder_words.head(self.labels)
            with torch.no_grad():
                head = self.net.head
                head.weight[known], head.bias[known] = weight[known], bias[known]
            say(f"head: {int(known.sum()):,} of {len(known):,} pieces are the decoder's")
        self.__dict__.pop("decoder_words", None)

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        """See `ExampleTask.look_at`. Of the decoder's head the rows of what is never said get no gradient:
        Adam would move them as far as the others, always away."""
        super().look_at(data, parts)
        if self.tokens != DECODER or "train" not in parts:
            return
        said = torch.zeros(len(self.labels), dtype=torch.bool)
        for features in data.features("train"):
            said[[0, *features["targets"]]] = True
        for weights in (self.net.head.weight, self.net.head.bias):
            rows = said.view(-1, *[1] * (weights.ndim - 1))
            weights.register_hook(lambda gradient, rows=rows: gradient * rows.to(gradient.device))

    def head(self) -> dict[str, Any]:
        made = {"kind": "tokens", "outputs": len(self.labels), "pooling": None, "pooler": False}
        return {**made, "dropout": self.config.dropout, **self.mixing}

    # From a sound to its classes.

    def encode(self, example: SpeechExample, training: bool) -> list[Features]:
        """`place` and `targets`. Without a transcript, windows that overlap of what is longer than the model
        hears. What is not learned from has `part`: which window, of how many."""
        length = round(example.seconds * self.processor.rate)
        features: Features = {"place": list(example.place), "length": length}
        if example.parts:
            features["parts"] = [[pause, list(place)] for pause, place in example.parts]
        if example.group is not None:
            features["group"] = example.group
        if not training:
            features["part"] = [0, 1]
        if example.label is None:
            return self._windows(features) if length > self.longest else [features]
        targets = self.targets(example.label)
        repeats = sum(a == b for a, b in pairwise(targets))
        positions = self.input.length(self.processor.frames(length))
        if length > self.longest or not 0 < len(targets) + repeats <= positions:
            return []
        return [{**features, "targets": targets}]

    @property
    def _step(self) -> int:
        """Positions from one window of a long sound to the next, which has a sixth of it, too."""
        return max(self.positions * 5 // 6, 1)

    def _windows(self, features: Features) -> list[Features]:
        length, overlap = features["length"], (self.positions - self._step) * self.hop
        starts = range(0, max(length - overlap, 1), self._step * self.hop)
        return [
            {
                **features,
                "length": min(length - start, self.longest),
                "window": [start / self.processor.rate, self.processor.seconds],
                "part": [number, len(starts)],
            }
            for number, start in enumerate(starts)
        ]

    @property
    def hop(self) -> int:
        """Samples from one position to the next."""
        return math.prod(self.input.strides) * self.processor.hop

    @property
    def collate(self) -> SoundCollate:
        return replace(super().collate, views=2 if self.consistency else 1)

    def make_figures(self) -> None:
        self.loss = MeanLoss()
        self.scores = SpeechScores(self.case, self.punctuation)

    def losses(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Nats of each transcript (B,); 0 where the sound, as it was varied, is too short for it."""
        targets = batch["targets"]
        return F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            targets.clamp(min=0),
            (batch["documents"] >= 0).sum(1),
            (targets != IGNORED).sum(1),
            reduction="none",
            zero_infinity=True,
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.logits(batch)
        losses = self.losses(logits, batch)
        if self.consistency:
            losses = losses.unflatten(0, (-1, 2)).mean(1)
            losses = losses + self.consistency * disagreement(logits, batch["documents"] >= 0)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        testing = self.trainer.state.fn == "test"
        examples = self.data.examples("test" if testing else "val")
        logits, counted = self.logits(batch), batch["index"] >= 0
        self.loss.update(self.losses(logits, batch)[counted])
        decoder = self.decoder if testing else self._greedy
        found = [self.text_of([label.token for label in decoder(each)]) for each in self.look(batch, logits)]
        indices = batch["index"].tolist()
        if pairs := [(text, examples[i].label) for text, i in zip(found, indices, strict=True) if i >= 0]:
            self.scores.update(*map(list, zip(*pairs, strict=True)))

    # From classes to what is said.

    @property
    def _greedy(self) -> Decoder:
        return Decoder(self.labels, self.text_of)

    @cached_property
    def decoder(self) -> Decoder:
        model: Any = None
        if self.language_model == TRANSCRIPTS:
            if self.data is None:
                raise UserError("the model has no transcripts any more: name a text file, or a GPT", status=2)
            model = [example.label for example in self.data.examples("train")]
        elif self.language_model is not None:
            model = open_language_model(self.language_model, next(self.net.parameters()).device)
        if isinstance(model, list):
            model = [self.written(text) for text in model]
        return Decoder(self.labels, self.text_of, self.beam_width, model, self.alpha, self.beta)

    def decode_with(
        self, beam_width: Any = _KEPT, language_model: Any = _KEPT, alpha: Any = _KEPT, beta: Any = _KEPT
    ) -> None:
        """Go on with other settings; what is not given stays. Raises UserError where the width is below 1."""
        if isinstance(beam_width, int) and beam_width < 1:
            raise UserError(f"beam_width is {beam_width}: it must be at least 1", status=2)
        given = {"beam_width": beam_width, "language_model": language_model, "alpha": alpha, "beta": beta}
        vars(self).update({name: value for name, value in given.items() if value is not _KEPT})
        self.__dict__.pop("decoder", None)

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        features = self.data.features("val")[0]
        batch = self.collate([features])
        batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        found = self._greedy(self.look(batch, self.logits(batch))[0])
        said = self.data.examples("val")[features["index"]].label
        return Sample(f"{self.written(said)}\n→ {self.text_of([label.token for label in found])}")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """Rows of the sounds of which all windows have come now."""
        found = self.look(batch, self.logits(batch))
        for i, part, each in zip(batch["index"].tolist(), batch["part"], found, strict=True):
            if i >= 0:
                self._found.setdefault(i, {})[tuple(part)] = each
        return self._rows()

    def last_rows(self) -> list[dict[str, Any]]:
        """Of sounds whose windows have gone to several processes."""
        self._found = share(self.trainer, self._found)
        return self._rows()

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each whole sound: its path, the text, and the transcript if it has one."""
        rows = []
        for i in [i for i, found in self._found.items() if len(found) == next(iter(found))[1]]:
            windows = [each for _, each in sorted(self._found.pop(i).items())]
            labels, example = self.decoder(self._whole(windows)), self.data.examples("test")[i]
            text = self.text_of([label.token for label in labels])
            rows.append({"index": i, **self.named(example), "text": text, "label": example.label})
        return rows

    # Of a line that a person gives; see `lm.tasks.applying`.

    def look(self, batch: dict[str, Any], logits: Tensor) -> list[Likeliest]:
        """Log-probabilities of the classes at each position of each sound."""
        lengths = (batch["documents"] >= 0).sum(1).tolist()
        rows = (row[:length] for row, length in zip(logits, lengths, strict=True))
        return [Likeliest(row.float().log_softmax(-1)) for row in rows]

    def result(self, line: Line, example: SpeechExample, found: list[Likeliest]) -> dict[str, Any]:
        """The text and its words with the seconds from and to which each is said."""
        labels = self.decoder(self._whole(found))
        said = words_of(labels, self.labels, self.hop / self.processor.rate)
        words = [{"word": w.text, "start": round(w.start, 2), "end": round(w.end, 2)} for w in said]
        return {"text": self.text_of([label.token for label in labels]), "words": words}

    def _whole(self, windows: list[Likeliest]) -> Likeliest:
        """Windows of one sound as if it had been heard at once: half of what two share is from either."""
        half, last = (self.positions - self._step) // 2, len(windows) - 1
        own = [
            slice(half if number else 0, self._step + half if number < last else None)
            for number in range(len(windows))
        ]
        return Likeliest.joined(windows, own)

    def show(self, row: dict[str, Any]) -> str:
        return row["text"]


def disagreement(logits: Tensor, real: Tensor) -> Tensor:
    """How far two views of each sound are apart, in nats (B,): the Kullback-Leibler divergence of one from
    the other, which stands still, summed over positions; the mean of both ways.

    Args:
        logits: (2 B, positions, classes), the views of a sound one after another.
        real: (2 B, positions), whether a position is of the sound.
    """
    log_probs = logits.float().log_softmax(-1).unflatten(0, (-1, 2))  # (B, 2, positions, classes)
    apart = F.kl_div(log_probs, log_probs.flip(1).detach(), reduction="none", log_target=True).sum(-1)
    return (apart * real.unflatten(0, (-1, 2))).sum(-1).mean(1)
