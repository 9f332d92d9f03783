"""Sounds out of files: wav, flac, ogg, mp3 and what else libsndfile reads, whole or piece by piece."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lm.errors import UserError, not_installed

_BLOCK = 1 << 16  # frames that are read at a time
_PAGE = 27 + 255 + 255 * 255  # the most bytes of an Ogg page
_DECLARED = re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN = 0x7FFF0000  # bytes and more: what programs declare that write to a pipe and don't know the length

_ENDLESS = 1 << 62  # frames and more: what libsndfile says of such a FLAC


@dataclass
class Sound:
    """One channel of sound.

    Args:
        samples: float32 (n,), full scale is -1 to 1.
        rate: samples a second.
    """

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_sound(
    data: bytes | Path, where: str, rate: int, start: float = 0, seconds: float | None = None
) -> Sound:
    """A sound file, or a part of it: the mean of its channels, resampled.

    Args:
        data: the file's content, or its path, of which no more is read than is asked for.
        where: how errors name it.
        rate: samples a second of what comes back.
        start: seconds from the file's start.
        seconds: how many at the most; None: to the end.

    Raises:
        UserError: it is no sound, is cut short or damaged, does not say how long it is, has no samples
            (there), or some are not numbers; soundfile or soxr is not installed.
    """
    with _opened(data, where) as file:
        first = round(start * file.samplerate)
        if not 0 <= first < file.frames:
            length = file.frames / file.samplerate
            raise UserError(f"{where} has {length:.2f} seconds: there is nothing at second {start:g}")
        left = file.frames - first
        frames = left if seconds is None else min(left, max(round(seconds * file.samplerate), 1))
        # A frame of MP3 may need data of those before it, which are lost in a jump.
        lead = min(first, file.samplerate) if file.format == "MP3" else 0
        samples = _mono(file, lead + frames, where, first - lead)[lead:]
        return _heard(resampled(samples, file.samplerate, rate), rate, where)


def seconds_of(data: bytes | Path, where: str) -> float:
    """How long a sound file is, without decoding it. Raises what `read_sound` does."""
    with _opened(data, where) as file:
        return file.frames / file.samplerate


def pieces(
    data: bytes | Path, where: str, rate: int, seconds: float, overlap: float = 0
) -> Iterator[tuple[float, Sound]]:
    """A sound file of any length in pieces, with the second at which each starts. Held is one piece.

    It is resampled as a whole: no seam is heard between pieces. The last one may be shorter; it has
    something that those before it have not.

    Args:
        data, where, rate: see `read_sound`, as for what is raised.
        seconds: length of a piece.
        overlap: how many seconds of it stand in the next one, too; fewer than `seconds`.
    """
    size, step = round(seconds * rate), round((seconds - overlap) * rate)
    if not 0 < step <= size:
        raise ValueError(f"pieces of {seconds} seconds that overlap by {overlap}")
    held, start = np.empty(0, np.float32), 0
    with _opened(data, where) as file:
        for block in _resampled_blocks(file, rate, where):
            held = np.concatenate((held, block))
            while len(held) > size:  # so that there is a next one, with more than the overlap
                yield start / rate, Sound(held[:size].copy(), rate)
                held, start = held[step:], start + step
    yield start / rate, _heard(held, rate, where)


def _heard(samples: np.ndarray, rate: int, where: str) -> Sound:
    if not len(samples):
        raise UserError(f"{where} is too short: nothing of it is left at {rate} samples a second")
    return Sound(samples, rate)


def resampled(samples: np.ndarray, rate: float, new: float) -> np.ndarray:
    """Samples (n,) of one rate at another, (about n * new / rate,)."""
    return samples if rate == new else _soxr().resample(samples, rate, new, quality="HQ")


def _resampled_blocks(file: Any, rate: int, where: str) -> Iterator[np.ndarray]:
    if file.samplerate != rate:
        stream = _soxr().ResampleStream(file.samplerate, rate, 1, dtype="float32", quality="HQ")
    for first in range(0, file.frames, _BLOCK):
        block = _mono(file, min(_BLOCK, file.frames - first), where)
        last = first + _BLOCK >= file.frames
        yield block if file.samplerate == rate else stream.resample_chunk(block, last)


def _mono(file: Any, frames: int, where: str, start: int | None = None) -> np.ndarray:
    """The next frames, or those from `start` on, as the mean of their channels, float32 (frames,)."""
    from soundfile import SoundFileError

    cut = f"{where} is cut short or damaged: its header promises more sound than can be read"
    try:
        if start is not None:
            file.seek(start)
        samples = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
    except SoundFileError as error:
        raise UserError(cut) from error
    if len(samples) < frames:
        raise UserError(cut)
    if not np.isfinite(samples).all():
        raise UserError(f"{where} has samples that are not numbers: was it made by a program that failed?")
    return samples


@contextmanager
def _opened(data: bytes | Path, where: str) -> Iterator[Any]:
    """The file as soundfile has it."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without libsndfile
        raise not_installed("reading sound", "soundfile", "speech") from error
    try:
        stream: BinaryIO = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}") from error
    with stream:
        try:
            file = soundfile.SoundFile(stream)
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: named .raw, which has no header
            raise UserError(f"{where} is no sound that can be read: give wav, flac, ogg or mp3") from error
        with file:
            declared = _DECLARED.search(file.extra_info)
            short = declared is not None and int(declared[2]) < int(declared[1]) < _UNKNOWN
            if short or (file.format == "OGG" and not _ends(stream)):
                raise UserError(f"{where} is cut short: its end is missing")
            if file.frames >= _ENDLESS:
                how = f"such as by `ffmpeg -i FILE new.{file.format.lower()}`"
                raise UserError(f"{where} does not say how long it is, as from a pipe: write it anew, {how}")
            if not file.frames:
                raise UserError(f"{where} has no samples")
            yield file


def _ends(stream: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last (RFC 3533)."""
    place = stream.tell()
    stream.seek(max(stream.seek(0, io.SEEK_END) - _PAGE, 0))
    page = stream.read()
    stream.seek(place)
    page = page[max(page.rfind(b"OggS"), 0) :]
    segments = page[26] if len(page) > 26 else 0
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments]) and bool(page[5] & 4)


def _soxr() -> Any:
    try:
        import soxr
    except ImportError as error:
        raise not_installed("resampling sound", "soxr", "speech") from error
    return soxr
