"""Sounds for training: examples of speech, and how they are varied."""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    dict.fromkeys(("Augmentation", "Equalizer", "Gain", "Noise", "Shift", "SpecAugment", "Speed"), "augment"),
)
