"""Sound files: whole, in part and in pieces, of every format and rate, and what is none."""

import io
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lm.errors import UserError
from lm.processors.sounds import pieces, read_sound, seconds_of

sf = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

FORMATS = [
    ("WAV", "PCM_U8", 1e-2),
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "DOUBLE", 1e-7),
    ("FLAC", "PCM_16", 1e-4),
    ("OGG", "VORBIS", 0.1),
    ("OGG", "OPUS", 0.1),
    ("MP3", "MPEG_LAYER_III", 0.1),
]


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    """440 Hz that swell slowly."""
    at = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * at) * (1 - np.cos(2 * np.pi * at / seconds)) / 2).astype(
        np.float32
    )


def packed(samples: np.ndarray, rate: int, format: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("format", "subtype", "off"), FORMATS)
def test_every_format_and_a_part_of_it(format, subtype, off):
    expected = tone(16000)
    data = packed(expected, 16000, format, subtype)
    whole = read_sound(data, "a", 16000)
    assert whole.samples.dtype == np.float32 and whole.rate == 16000
    assert whole.seconds == seconds_of(data, "a") == 1.0
    assert np.abs(whole.samples - expected).max() < off
    part = read_sound(data, "a", 16000, start=0.25, seconds=0.5).samples
    np.testing.assert_allclose(part, whole.samples[4000:12000], atol=1e-6)
    rest = read_sound(data, "a", 16000, start=0.75, seconds=99).samples
    np.testing.assert_allclose(rest, whole.samples[12000:], atol=1e-6)


def test_a_jump_in_mp3_loses_nothing():
    data = packed(tone(16000, 8), 16000, "MP3")
    whole = read_sound(data, "a", 16000).samples
    for start in (0.5, 1.25, 4, 6):
        part = read_sound(data, "a", 16000, start, 1).samples
        np.testing.assert_allclose(part, whole[int(start * 16000) :][:16000], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("new", [8000, 16000])
def test_another_rate_is_the_same_sound(rate, new):
    sound = read_sound(packed(tone(rate), rate, subtype="FLOAT"), "a", new)
    assert len(sound.samples) == new
    np.testing.assert_allclose(sound.samples, tone(new), atol=1e-4)


def test_channels_become_their_mean():
    both = np.stack([tone(16000), np.zeros(16000, np.float32), -0.5 * tone(16000)], axis=1)
    sound = read_sound(packed(both, 16000, subtype="FLOAT"), "a", 16000)
    np.testing.assert_allclose(sound.samples, tone(16000) / 6, atol=1e-6)


def test_silence_is_a_sound():
    sound = read_sound(packed(np.zeros(100), 44100), "a", 16000)
    assert not sound.samples.any() and 36 <= len(sound.samples) <= 37


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("overlap", [0, 0.5])
def test_pieces_are_the_whole(rate, overlap, tmp_path):
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, int(7.3 * rate))
    path.write_bytes(packed(noise, rate, "FLAC"))
    whole = read_sound(path, "a", 16000).samples
    found = list(pieces(path, "a", 16000, 2, overlap))
    for number, (start, piece) in enumerate(found):
        assert start == number * (2 - overlap)
        first = round(start * 16000)
        np.testing.assert_allclose(piece.samples, whole[first : first + 32000], atol=1e-5)
    assert len(found) == (4 if overlap == 0 else 5)
    assert first + len(piece.samples) == len(whole) and piece.seconds > overlap
    one = list(pieces(path, "a", 16000, 8, overlap))
    assert len(one) == 1 and len(one[0][1].samples) == len(whole)


def test_a_piece_that_ends_with_the_sound_is_the_last():
    data = packed(tone(16000, 4), 16000)
    assert [start for start, _ in pieces(data, "a", 16000, 2)] == [0, 2]
    assert [start for start, _ in pieces(data, "a", 16000, 2, 1)] == [0, 1, 2]
    with pytest.raises(ValueError, match="overlap"):
        next(pieces(data, "a", 16000, 2, 2))


def test_an_hour_is_never_held(tmp_path):
    path = tmp_path / "long.flac"
    with sf.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(8000 * 60, np.int16))
    tracemalloc.start()
    count = sum(1 for _ in pieces(path, "a", 8000, 30))
    part = read_sound(path, "a", 16000, 3599, 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 120 and part.seconds == 1 and seconds_of(path, "a") == 3600
    assert peak < 8 << 20  # of 115 MB in all


def whole(format: str, subtype: str | None = None) -> bytes:
    return packed(np.random.default_rng(0).normal(0, 0.1, 160000), 16000, format, subtype)


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "DOUBLE"),
        ("AIFF", "PCM_16"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
    ],
)
@pytest.mark.parametrize("left", [0.95, 0.5])
def test_what_is_cut_short_says_so(format, subtype, left):
    data = whole(format, subtype)
    with pytest.raises(UserError, match=r"^dir/it is cut short"):
        read_sound(data[: int(len(data) * left)], "dir/it", 16000)


def test_a_file_from_a_pipe_does_not_know_its_length():
    data = bytearray(packed(tone(16000), 16000))
    data[4:8] = data[40:44] = b"\xff" * 4
    assert read_sound(bytes(data), "a", 16000).seconds == 1


def test_a_flac_from_a_pipe_says_what_it_lacks():
    """Its STREAMINFO has 36 bits for the number of samples, 0 where that is not known (RFC 9639, 8.2)."""
    data = bytearray(packed(tone(16000), 16000, "FLAC"))
    assert int.from_bytes(data[21:26]) & (1 << 36) - 1 == 16000
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    for read in (lambda d: seconds_of(d, "a"), lambda d: read_sound(d, "a", 8000, 0, 0.5)):
        with pytest.raises(UserError, match=r"^a does not say how long it is.* FILE new\.flac`$"):
            read(bytes(data))
    with pytest.raises(UserError, match=r"^a does not say how long"):
        next(pieces(bytes(data), "a", 16000, 1))


def test_a_damaged_middle_says_so():
    data = whole("FLAC")
    with pytest.raises(UserError, match=r"^a is cut short or damaged"):
        read_sound(data[:50000] + bytes(90000) + data[140000:], "a", 16000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no sound that can be read"),
        (b"Once upon a time. " * 100, "no sound that can be read: give wav, flac, ogg or mp3"),
        (b"RIFF", "no sound that can be read"),
        (packed(np.zeros(0), 16000), "has no samples"),
        (packed(np.array([0.1, np.nan, 0.2]), 16000, subtype="FLOAT"), "samples that are not numbers"),
        (packed(np.array([0.1, np.inf, 0.2]), 16000, subtype="DOUBLE"), "samples that are not numbers"),
    ],
    ids=["empty", "text", "cut", "no samples", "nan", "inf"],  # not bytes, some of which are of the time
)
def test_what_is_no_sound_says_so(data, message, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(data)
    for given in (data, path):
        with pytest.raises(UserError, match=f"^a.wav .*{message}"):
            read_sound(given, "a.wav", 16000)
        with pytest.raises(UserError, match=f"^a.wav .*{message}"):
            list(pieces(given, "a.wav", 16000, 1))


def test_samples_without_a_header_are_no_sound(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(UserError, match=r"^it is no sound that can be read"):
        read_sound(path, "it", 16000)


def test_places_that_are_not_there(tmp_path, monkeypatch):
    data = packed(tone(16000), 16000)
    for start in (1, 5.5, -1):
        with pytest.raises(UserError, match=rf"^a has 1.00 seconds: there is nothing at second {start}"):
            read_sound(data, "a", 16000, start)
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(UserError, match=r"^cannot read b: "):
            read_sound(path, "b", 16000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(UserError, match=r"needs soxr: pip install -e '.\[speech\]'"):
        read_sound(data, "a", 8000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r"needs soundfile: pip install -e '.\[speech\]'"):
        read_sound(data, "a", 16000)


def members(path: Path, most: int) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            if info.isfile() and len(found) < most:
                found[Path(info.name).stem] = archive.extractfile(info).read()
    return found


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["speechocean", "ljspeech-readings"])
def test_real_sentences_are_as_long_as_their_table_says(name, real_data):
    lines = (real_data / name / "transcripts.tsv").read_text().splitlines()
    header, *rows = (line.split("\t") for line in lines)
    seconds = {row[header.index("id")]: float(row[header.index("seconds")]) for row in rows}
    for key, data in members(real_data / name / "audio.tar", 25).items():
        sound = read_sound(data, key, 16000)
        assert sound.seconds == pytest.approx(seconds[key], abs=0.011)
        assert 0.01 < np.abs(sound.samples).max() <= 1.5


@pytest.mark.real_data
def test_real_digits_and_emotions(real_data):
    digits = members(real_data / "fsdd/recordings.tar.gz", 60)
    for key, data in digits.items():
        slow, fast = read_sound(data, key, 8000), read_sound(data, key, 16000)
        assert 0.1 < slow.seconds < 3 and slow.seconds == pytest.approx(fast.seconds, abs=1e-4)
        # Nothing is above 4 kHz.
        energy = np.abs(np.fft.rfft(fast.samples * np.hanning(len(fast.samples)))) ** 2
        assert energy[int(0.52 * len(energy)) :].sum() < 1e-3 * energy.sum()
    for key, data in members(real_data / "emodb/emodb.tar", 10).items():
        assert 0.5 < read_sound(data, key, 16000).seconds < 12
