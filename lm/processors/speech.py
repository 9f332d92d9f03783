"""Sounds to what a network reads: the logarithm of the energy in mel bands, as Whisper and AST have it."""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.errors import UserError
from lm.processors.base import Processor, register
from lm.processors.sounds import Sound

Scale = Literal["slaney", "kaldi"]
Norm = Literal["whisper", "utterance", "fixed"]

_KALDI_FLOOR = float(np.finfo(np.float32).eps)
_WHISPER_FLOOR = 1e-10


@dataclass(frozen=True)
class SoundProcessor(Processor):
    """Log-mel features of sounds.

    Args:
        rate: samples a second.
        bins: bands on the mel scale.
        window: samples of a frame.
        hop: samples from one frame to the next.
        scale: which mel bands, and how frames are cut. "slaney", as Whisper and librosa have it: bands of
            equal area, frames centred on every `hop`-th sample. "kaldi", as AST and Kaldi have it: bands of
            equal height from 20 Hz on, frames that lie within the sound, their mean taken away and high
            frequencies raised (pre-emphasis of 0.97).
        norm: "whisper": log10, nothing more than 8 below the loudest, (x + 4) / 4. "utterance": natural log,
            each band with mean 0 and variance 1 over the sound. "fixed": natural log, (x - mean) / std.
        mean, std: see `norm`.
        seconds: the longest sound; the rest is cut off, where a caller does not look first. None: any length.

    Raises:
        UserError: a field is out of its range.
    """

    rate: int = 16000
    bins: int = 80
    window: int = 400
    hop: int = 160
    scale: Scale = "slaney"
    norm: Norm = "whisper"
    mean: float = 0.0
    std: float = 1.0
    seconds: float | None = None

    kind: ClassVar[str] = "sound"

    def __post_init__(self) -> None:
        for name, choices in (("scale", get_args(Scale)), ("norm", get_args(Norm))):
            if getattr(self, name) not in choices:
                raise UserError(f"`{name}` {getattr(self, name)!r}: it must be {' or '.join(choices)}")
        for name in ("rate", "bins", "window", "hop"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"`{name}` is {value!r}: it must be at least 1")
        for name in ("mean", "std", "seconds"):
            value = getattr(self, name)
            if name != "mean" and value is not None and not value > 0:
                raise UserError(f"`{name}` is {value!r}: it must be more than 0")
            # 30 and 30.0 have one fingerprint.
            object.__setattr__(self, name, value if value is None else float(value))

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            UserError: these are not the bytes of one.
        """
        try:
            values = json.loads(data)
            if {field.name for field in fields(cls)} != set(values):
                raise ValueError(f"it has the fields {', '.join(values)}")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise UserError(f"the sound processor is damaged: {error}") from error

    @classmethod
    def of_folder(cls, config: dict[str, Any]) -> Self:
        """The one that a Hugging Face folder's preprocessor_config.json describes: Whisper's or AST's.

        Raises:
            UserError: it is of another kind.
        """
        kind, rate = config.get("feature_extractor_type"), config.get("sampling_rate", 16000)
        if kind == "WhisperFeatureExtractor":
            return cls(
                rate,
                config.get("feature_size", 80),
                config.get("n_fft", 400),
                config.get("hop_length", 160),
                seconds=config.get("chunk_length", 30),
            )
        if kind == "ASTFeatureExtractor":
            ast = cls(rate, config.get("num_mel_bins", 128), rate // 40, rate // 100, "kaldi", "fixed")
            seconds = ((config.get("max_length", 1024) - 1) * ast.hop + ast.window) / rate
            # It divides by twice the deviation.
            given = config.get("mean", -4.2677393), 2 * config.get("std", 4.5689974)
            mean, std = given if config.get("do_normalize", True) else (0.0, 1.0)
            return cls(**{**asdict(ast), "mean": mean, "std": std, "seconds": seconds})
        raise UserError(f"preprocessor_config.json is of a {kind}: Whisper's and AST's can be read")

    def frames(self, samples: int) -> int:
        """How many frames a sound of so many samples has."""
        if self.seconds is not None:
            samples = min(samples, round(self.seconds * self.rate))
        if self.scale == "slaney":
            return -(-samples // self.hop)
        return 1 + max(samples - self.window, 0) // self.hop

    def features(self, sound: Sound, padded: bool = False) -> Tensor:
        """Log-mel features, float32 (bins, frames).

        Whisper pads what it hears with silence to 30 seconds. With its configuration these are the same
        features, without the frames of padding; transformers' of a sound that is not padded differ from them
        in the last frames, which look beyond the end, where it mirrors the sound.

        Args:
            sound: at the rate of the processor.
            padded: whether silence fills what is missing in `seconds`, as Whisper and AST have it.

        Raises:
            ValueError: it has another rate, or there is no length to pad to.
        """
        if sound.rate != self.rate:
            raise ValueError(f"a sound of {sound.rate} Hz for a processor of {self.rate} Hz")
        if padded and self.seconds is None:
            raise ValueError("padded to which length? There is no `seconds`")
        longest = None if self.seconds is None else round(self.seconds * self.rate)
        samples = torch.from_numpy(np.ascontiguousarray(sound.samples[:longest], np.float32))
        frames = self.frames(len(samples))
        energies = (self._centred if self.scale == "slaney" else self._within)(samples, longest)
        floor = _WHISPER_FLOOR if self.scale == "slaney" else _KALDI_FLOOR
        logs = (self._filters @ energies).clamp(min=floor).log()  # (bins, frames, or some more)
        short = self.frames(longest) - logs.shape[1] if padded and longest is not None else 0
        if short > 0:
            # What silence is: nothing in Whisper's log, zeros where AST has a log already.
            logs = F.pad(logs, (0, short), value=float(np.log(floor)) if self.scale == "slaney" else 0.0)
        return self._normalised(logs, frames)[:, : logs.shape[1] if padded else frames]

    def _normalised(self, logs: Tensor, frames: int) -> Tensor:
        if self.norm == "whisper":
            logs = logs / float(np.log(10))
            return (logs.maximum(logs.max() - 8) + 4) / 4
        if self.norm == "fixed":
            return (logs - self.mean) / self.std
        variance, mean = torch.var_mean(logs[:, :frames], dim=1, correction=0, keepdim=True)
        return (logs - mean) / (variance + 1e-5).sqrt()

    def _centred(self, samples: Tensor, longest: int | None) -> Tensor:
        """Energies (frequencies, frames) of frames around every hop, and of those that begin within the sound
        and are centred behind it."""
        # A window of silence behind it, as far as Whisper pads; what it has no room for it mirrors.
        size = len(samples) + self.window
        size = max(min(size, longest or size), self.window)
        window = torch.hann_window(self.window)
        padded = F.pad(samples, (0, size - len(samples)))
        spectrum = torch.stft(padded, self.window, self.hop, window=window, return_complex=True)
        last = -(-size // self.hop) if size == longest else spectrum.shape[1]
        return spectrum[:, :last].abs().square()

    def _within(self, samples: Tensor, longest: int | None) -> Tensor:
        """Energies (frequencies, frames) of frames that lie within the sound."""
        samples = F.pad(samples, (0, max(self.window - len(samples), 0)))
        frames = samples.unfold(0, self.window, self.hop)  # (frames, window)
        frames = frames - frames.mean(dim=1, keepdim=True)
        frames = frames - 0.97 * torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
        frames = frames * torch.hann_window(self.window, periodic=False)
        return torch.fft.rfft(frames, self._transform).abs().square().T

    @property
    def _transform(self) -> int:
        """Length of the Fourier transform: Kaldi's is a power of two."""
        return self.window if self.scale == "slaney" else 1 << (self.window - 1).bit_length()

    @cached_property
    def _filters(self) -> Tensor:
        return torch.from_numpy(mel_filters(self.scale, self.bins, self._transform, self.rate)).float()


def mel_filters(scale: Scale, bins: int, transform: int, rate: int) -> np.ndarray:
    """Triangles on the mel scale, (bins, transform // 2 + 1) float64, that sum up the energies of a Fourier
    transform.

    "slaney": linear up to 1 kHz, logarithmic above (Slaney 1998, "Auditory Toolbox"), triangles over Hz of
    equal area. "kaldi": 1127 log(1 + f / 700), triangles over mels of equal height from 20 Hz on.
    """
    places = np.linspace(0, rate / 2, transform // 2 + 1)
    if scale == "slaney":
        step = np.log(6.4) / 27  # a mel above 1 kHz, which is 15 mel
        top = rate * 3 / 400 if rate <= 2000 else 15 + np.log(rate / 2000) / step
        mels = np.linspace(0, top, bins + 2)
        edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * step))
    else:
        places, ends = (1127 * np.log1p(hertz / 700) for hertz in (places, np.array([20, rate / 2])))
        edges = np.linspace(ends[0], ends[1], bins + 2)
    low, middle, high = (edges[i : bins + i, None] for i in range(3))
    filters = np.minimum((places - low) / (middle - low), (high - places) / (high - middle)).clip(0)
    return filters * (2 / (high - low) if scale == "slaney" else 1)


register(SoundProcessor.kind, SoundProcessor.from_bytes)
