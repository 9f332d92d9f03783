"""Sounds and features varied at random, so that a network hears none of them twice. Each is a function of
what it is given and of the random numbers alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lm.errors import UserError
from lm.processors.sounds import Sound, read_sound, resampled, seconds_of

_ENDINGS = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


class Augmentation(ABC):
    """What varies sounds, or the features of sounds.

    Attributes:
        on_features: whether it takes features (bins, frames), a Tensor, in the place of a `Sound`.
    """

    on_features: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, given: Any, rng: np.random.Generator) -> Any:
        """The varied sound or features, of the kind that was given; the given ones stay as they are."""


@dataclass(frozen=True)
class Speed(Augmentation):
    """Plays it faster or slower, which changes the pitch, too (Ko et al. 2015, "Audio augmentation for speech
    recognition").

    Args:
        factors: one of them is drawn; with 1.1 it takes 1/1.1 of the time.
    """

    factors: Sequence[float] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 0:
            raise UserError(f"`factors` {self.factors}: give at least one, each more than 0")

    def __call__(self, given: Sound, rng: np.random.Generator) -> Sound:
        factor = self.factors[rng.integers(len(self.factors))]
        return Sound(resampled(given.samples, given.rate * factor, given.rate), given.rate)


@dataclass(frozen=True)
class Gain(Augmentation):
    """Makes it louder or softer.

    Args:
        decibels: the range that the gain is drawn from.
    """

    decibels: tuple[float, float] = (-6.0, 6.0)

    def __call__(self, given: Sound, rng: np.random.Generator) -> Sound:
        factor = 10 ** (rng.uniform(*self.decibels) / 20)
        return Sound(given.samples * np.float32(factor), given.rate)


@dataclass(frozen=True)
class Equalizer(Augmentation):
    """Raises some frequencies and lowers others, as another voice, room or microphone does: what a word
    sounds like in all of them is left to be learned.

    Args:
        decibels: the deviation of the gain at each of the `points`.
        points: frequencies at which a gain is drawn, evenly on the mel scale, and interpolated between.
    """

    decibels: float = 4.0
    points: int = 5

    def __call__(self, given: Sound, rng: np.random.Generator) -> Sound:
        size = len(given.samples)
        mels = np.log1p(np.fft.rfftfreq(size, 1 / given.rate) / 700)
        places = np.linspace(0, mels[-1], self.points)
        gains = np.interp(mels, places, rng.normal(0, self.decibels, self.points))
        spectrum = np.fft.rfft(given.samples) * 10 ** (gains / 20)
        return Sound(np.fft.irfft(spectrum, size).astype(np.float32), given.rate)


@dataclass(frozen=True)
class Noise(Augmentation):
    """Adds noise.

    Args:
        snr: range of the ratio of the sound's power to the noise's, in decibels.
        folder: sounds to take a random part of, all below it; white noise where it is None.

    Raises:
        UserError: there is no sound in the folder.
    """

    snr: tuple[float, float] = (10.0, 30.0)
    folder: str | None = None

    def __call__(self, given: Sound, rng: np.random.Generator) -> Sound:
        size = len(given.samples)
        ratio = 10 ** (rng.uniform(*self.snr) / 10)
        noise = rng.standard_normal(size, np.float32) if self.folder is None else self._part(given, rng)
        power, loud = np.mean(np.square(noise)), np.mean(np.square(given.samples))
        factor = np.sqrt(loud / (max(power, 1e-20) * ratio))
        return Sound(given.samples + noise * np.float32(factor), given.rate)

    def _part(self, given: Sound, rng: np.random.Generator) -> np.ndarray:
        """As many samples of one of the files, over again where it is shorter."""
        path = self._files[rng.integers(len(self._files))]
        start = rng.uniform(0, max(seconds_of(path, str(path)) - given.seconds, 0))
        samples = read_sound(path, str(path), given.rate, start, given.seconds).samples
        return np.resize(samples, len(given.samples))

    @cached_property
    def _files(self) -> list[Path]:
        folder = Path(str(self.folder)).expanduser()
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
        if not found:
            raise UserError(f"there is no sound in the folder {folder}: give one with wav, flac, ogg or mp3")
        return found


@dataclass(frozen=True)
class Shift(Augmentation):
    """Moves it in time. Silence comes in at one end, and what goes out at the other is lost.

    Args:
        seconds: by how much at the most, either way.
    """

    seconds: float = 0.1

    def __call__(self, given: Sound, rng: np.random.Generator) -> Sound:
        size = len(given.samples)
        most = min(round(self.seconds * given.rate), size)
        by = int(rng.integers(-most, most, endpoint=True))
        samples = np.zeros_like(given.samples)
        samples[max(by, 0) : size + min(by, 0)] = given.samples[max(-by, 0) : size - max(by, 0)]
        return Sound(samples, given.rate)


@dataclass(frozen=True)
class SpecAugment(Augmentation):
    """Hides bands and stretches of the features behind their mean (Park et al. 2019, arXiv:1904.08779),
    without that paper's warping of time, which helps little. Numbers and widths are those of its policy LD,
    the share that of SM, as short sentences need it.

    Args:
        bands: how many bands of frequencies are hidden.
        band_width: bins of one at the most.
        stretches: how many stretches of time are hidden.
        stretch_width: frames of one at the most,
        share: and as a share of all frames.
    """

    bands: int = 2
    band_width: int = 27
    stretches: int = 2
    stretch_width: int = 100
    share: float = 0.2

    on_features: ClassVar[bool] = True

    def __call__(self, given: Any, rng: np.random.Generator) -> Any:
        bins, frames = given.shape
        features, mean = given.clone(), given.mean()
        for _ in range(self.bands):
            features[_stretch(bins, self.band_width, rng)] = mean
        for _ in range(self.stretches):
            most = min(self.stretch_width, int(self.share * frames))
            features[:, _stretch(frames, most, rng)] = mean
        return features


def _stretch(size: int, most: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(0, min(most, size), endpoint=True))
    start = int(rng.integers(0, size - width, endpoint=True))
    return slice(start, start + width)
