"""Sounds to classify, and speech with what is said in it."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.data.audio.augment import Augmentation
from lm.data.audio.joining import Joiner, strings
from lm.data.media.module import LabelledMedia, MediaData
from lm.data.media.places import Place
from lm.errors import UserError
from lm.processes import say
from lm.processors.sounds import pieces
from lm.processors.speech import Norm, Scale, SoundProcessor

SOUNDS = frozenset([".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf"])

_PIECE = 60.0  # seconds that are held of a sound while it is looked at


@dataclass(frozen=True)
class AudioExample(LabelledMedia):
    """A sound with what it is of.

    Args:
        seconds: how long it is.
    """

    seconds: float = 0.0


@dataclass(frozen=True)
class SpeechExample(AudioExample):
    """Speech; its label is the transcript.

    Args:
        parts: where it is joined of several sounds, of each the seconds of silence before it and its place.
    """

    parts: tuple[tuple[float, Place], ...] = ()


class AudioData(MediaData):
    """Sounds in folders by class, or named in a table; see `MediaData`.

    Args:
        seconds: the longest sound: what a classifier gets of a longer one is its beginning. With
            `model.init_from` null is what that was trained on.
        rate: samples a second, which files of another rate are brought to; with `model.init_from` it comes
            from there, and so do `bins`, `scale` and `norm`.
        bins: bands of frequencies. A frame has 25 ms, and they are 10 ms apart.
        scale: of the bands; see `lm.processors.speech.SoundProcessor`.
        norm: likewise.
    """

    record: type[AudioExample] = AudioExample
    endings = SOUNDS
    for_encoding = frozenset(["seconds", "rate", "making", "joined"])

    def __init__(
        self,
        train: str,
        seconds: float | None = None,
        rate: int = 16000,
        bins: int = 80,
        scale: Scale = "slaney",
        norm: Norm = "whisper",
        augment: list[Augmentation] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, augment=augment or (), **kwargs)
        self.seconds, self.rate = seconds, rate
        self.making = {"bins": bins, "scale": scale, "norm": norm}

    def shape(self) -> dict[str, int]:
        """See `ExampleData.shape`: there are not more positions than frames."""
        frames = 1 if self.seconds is None else math.ceil(100 * self.seconds) + 1
        return {**super().shape(), "max_seq_len": frames}

    def look(self, data: bytes, where: str) -> dict[str, Any]:
        read = pieces(data, where, self.rate, _PIECE)  # hours of sound are never held
        return {"seconds": sum(len(sound.samples) for _, sound in read) / self.rate}

    def make_processor(self, start: SoundProcessor | None = None) -> SoundProcessor:
        if start is not None:
            most = start.seconds
            if self.seconds is not None and most is not None and self.seconds > most:
                raise UserError(f"`seconds` is {self.seconds:g}: the model hears {most:g} at most", status=2)
            return replace(start, seconds=self.seconds or most)
        if self.seconds is None:
            raise UserError("`seconds` is not given: how long is the longest sound?", status=2)
        window, hop = self.rate // 40, self.rate // 100
        return SoundProcessor(self.rate, window=window, hop=hop, seconds=self.seconds, **self.making)


class SpeechData(AudioData):
    """Speech with its transcripts: a table that names files and has what is said in each; see `MediaData`.

    Args:
        text: the table's column with the transcript.
        text_from: instead of it, a regular expression: its first group in a file's name is what is said.
        joined: short recordings of a `group`, such as digits of a speaker, become strings of so many at least
            and at most, with pauses between them: others in each epoch to learn from, the same ones always to
            be measured by.
    """

    record = SpeechExample
    too_short = ": they are longer than `data.seconds`, or too short for their transcripts"

    def __init__(
        self,
        train: str,
        text: str = "text",
        text_from: str | None = None,
        joined: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, label=text, label_from=text_from, **kwargs)
        if joined is not None and not 1 <= joined[0] <= joined[1]:
            raise UserError(f"`joined` is {list(joined)}: give the fewest and the most", status=2)
        self.joined = joined
        self._strings: dict[str, list[SpeechExample]] = {}

    def unchanged(self, split: str) -> Any:
        return super().examples(split)

    def examples(self, split: str) -> Any:
        """See `ExampleData.examples`; joined ones where it is measured."""
        found = self.unchanged(split)
        if self.joined is None or split == "train":
            return found
        if split not in self._strings:
            rng = np.random.default_rng([self.seed, *split.encode()])
            made = [_joined(*each) for each in strings(found, self.joined, rng)]
            if not made:
                raise UserError(
                    f"{self.called(split)}: no group has {self.joined[0]} recordings to be joined; "
                    "give more, or a smaller `joined`"
                )
            few = sum(n for n in Counter(each.group for each in found).values() if n < self.joined[0])
            if few:
                say(f"{self.called(split)}: {few:,} recordings are of groups too small to be joined")
            self._strings[split] = made
        return self._strings[split]

    def training_collate(self) -> Any:
        made = super().training_collate()
        if self.joined is None:
            return made
        features, space = self.features("train"), self._task.space
        return replace(made, joiner=Joiner(features, self.joined, space, made.processor))


def _joined(examples: list[SpeechExample], pauses: list[float]) -> SpeechExample:
    return replace(
        examples[0],
        digest=" ".join(each.digest for each in examples),
        label=" ".join(str(each.label) for each in examples),
        seconds=sum(pauses) + sum(each.seconds for each in examples),
        parts=tuple((pause, each.place) for pause, each in zip(pauses, examples, strict=True)),
    )
