"""Classifying sounds: one label, several, or a number."""

from dataclasses import replace
from typing import Any, Literal

from lm.backbone import BackboneConfig
from lm.data.audio.module import AudioExample
from lm.data.examples.batches import Features
from lm.metrics import EmotionScores
from lm.tasks.classification import Classification
from lm.tasks.speech.base import SoundCollate, SpeechTask


class AudioClassification(SpeechTask, Classification):
    """Put a label on a sound, such as a word or an emotion; several labels; or rate it.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        pooling: what of the sequence is classified: the `mean` of its positions, which auto takes, too, its
            `first`, its `last`, or a mean by learned `attention`.
        padded: silence fills what is heard to `data.seconds`, and is heard, too: as transformers' Whisper and
            AST do it, which an exported model then agrees with on short sounds, at the cost of their length.
    """

    reads = AudioExample
    thing = "sound"
    data_class = "lm.data.AudioData"
    usage = "classify {} sound.wav"
    kept = (*Classification.kept, "padded")
    beside = Classification.beside | SpeechTask.beside | {"padded"}

    def __init__(
        self,
        backbone: BackboneConfig,
        pooling: Literal["auto", "first", "mean", "last", "attention"] = "auto",
        padded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.pooling = "mean" if pooling == "auto" else pooling
        self.padded = padded

    def head(self) -> dict[str, Any]:
        return {**super().head(), **self.mixing}

    @property
    def collate(self) -> SoundCollate:
        return replace(super().collate, padded=self.padded)

    def make_figures(self) -> None:
        super().make_figures()
        if self.kind == "single":
            self.scores = EmotionScores(self.labels)

    def encode(self, example: AudioExample, training: bool) -> list[Features]:
        """`place`, and `target` where the label is known."""
        samples = round(example.seconds * self.processor.rate)
        features = {
            "place": list(example.place),
            "length": min(samples, self.longest),
            "cut": samples > self.longest,
        }
        target = self.target(example.label)
        return [features if target is None else {**features, "target": target}]
