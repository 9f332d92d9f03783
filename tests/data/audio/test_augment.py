"""Varied sounds: what each variation is, by the numbers, and that it hangs on the random numbers alone."""

import jsonargparse
import numpy as np
import pytest
import torch

from lm.data.audio.augment import Augmentation, Equalizer, Gain, Noise, Shift, SpecAugment, Speed
from lm.errors import UserError
from lm.processors.sounds import Sound

sf = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def tone() -> Sound:
    return Sound(np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32), 16000)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    sf.write(tmp_path / "deeper/short.wav", rng(1).normal(0, 0.2, 1000), 16000)
    sf.write(tmp_path / "long.flac", rng(2).normal(0, 0.01, 100_000), 44100)
    (tmp_path / "notes.txt").write_text("no sound")
    return tmp_path


def pitch(sound: Sound) -> float:
    spectrum = np.abs(np.fft.rfft(sound.samples))
    return spectrum.argmax() * sound.rate / len(sound.samples)


def test_speed_changes_length_and_pitch(tone):
    for factor in (0.8, 0.9, 1.0, 1.1):
        found = Speed([factor])(tone, rng())
        assert found.rate == 16000 and len(found.samples) == pytest.approx(16000 / factor, abs=1)
        assert pitch(found) == pytest.approx(500 * factor, abs=1)
    lengths = {len(Speed()(tone, rng(seed)).samples) for seed in range(20)}
    assert len(lengths) == 3
    for bad in ((), (1.0, 0.0)):
        with pytest.raises(UserError, match="`factors`"):
            Speed(bad)


def test_gain_is_in_decibels(tone):
    found = Gain((6.0206, 6.0206))(tone, rng())
    np.testing.assert_allclose(found.samples, 2 * tone.samples, rtol=1e-5)
    peaks = [np.abs(Gain((-20, 0))(tone, rng(seed)).samples).max() for seed in range(50)]
    assert 0.1 <= min(peaks) < 0.2 and 0.8 < max(peaks) <= 1


def test_an_equalizer_changes_what_is_in_a_band_by_its_gain():
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (200, 6000))
    gains = np.array(
        [
            [
                np.sqrt(np.mean(np.square(Equalizer(4.0)(Sound(each, 16000), rng(n)).samples)) * 2)
                for n in range(200)
            ]
            for each in (low, high)
        ]
    )
    decibels = 20 * np.log10(gains)
    assert (abs(decibels.mean(1)) < 0.8).all() and (abs(decibels.std(1) - 3.5) < 0.8).all()
    assert abs(np.corrcoef(decibels)[0, 1]) < 0.2  # of far frequencies each has its own
    flat = Equalizer(0.0)(Sound(low + high, 16000), rng())
    np.testing.assert_allclose(flat.samples, low + high, atol=1e-5)


@pytest.mark.parametrize("where", ["white", "folder"])
@pytest.mark.parametrize("snr", [-5, 0, 20])
def test_noise_is_as_loud_as_asked(tone, folder, where, snr):
    noise = Noise((snr, snr), None if where == "white" else str(folder))
    for seed in range(4):
        found = noise(tone, rng(seed))
        added = found.samples - tone.samples
        ratio = 10 * np.log10(np.square(tone.samples).mean() / np.square(added).mean())
        assert ratio == pytest.approx(snr, abs=0.01)
        assert len(found.samples) == 16000
    silence = Sound(np.zeros(100, np.float32), 16000)
    assert not noise(silence, rng()).samples.any()


def test_a_folder_without_a_sound(tmp_path, tone):
    with pytest.raises(UserError, match="there is no sound in the folder"):
        Noise(folder=str(tmp_path))(tone, rng())


def test_shift_moves_and_fills_with_silence():
    sound = Sound(np.arange(1, 101, dtype=np.float32), 100)
    seen = set()
    for seed in range(300):
        found = Shift(0.1)(sound, rng(seed)).samples
        by = next(by for by in range(-10, 11) if found[50] == 51 - by)
        expected = np.array([0 if not 0 <= i - by < 100 else i - by + 1 for i in range(100)])
        np.testing.assert_array_equal(found, expected)
        seen.add(by)
    assert seen == set(range(-10, 11))
    assert len(Shift(99)(sound, rng()).samples) == 100


def test_spec_augment_hides_bands_and_stretches():
    features = torch.randn(80, 200, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    bands, stretches = set(), set()
    for seed in range(300):
        hidden = SpecAugment(1, 10, 1, 100, 0.2)(features, rng(seed)) != before
        rows, columns = hidden.all(dim=1), hidden.all(dim=0)
        assert torch.equal(hidden, rows[:, None] | columns[None])  # and nothing else
        bands.add(int(rows.sum()))
        stretches.add(int(columns.sum()))
        for each in (rows, columns):  # in one piece
            assert each.int().diff().abs().sum() <= 2
    assert torch.equal(features, before)
    assert bands == set(range(11)) and max(stretches) == 40 and min(stretches) == 0  # 0.2 of 200
    hidden = SpecAugment(2, 27, 10, 100, 1.0)(features, rng(3))
    assert torch.isclose(hidden[hidden != before], before.mean()).all()
    for shape in ((80, 1), (1, 300), (5, 3)):
        assert SpecAugment()(torch.randn(shape), rng()).shape == shape


@pytest.mark.parametrize("make", [Speed, Gain, Equalizer, Noise, Shift, "folder"])
def test_the_random_numbers_decide(make, tone, folder):
    vary = Noise(folder=str(folder)) if make == "folder" else make()
    before = tone.samples.copy()
    one, same, other = (vary(tone, rng(seed)).samples for seed in (3, 3, 1))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(tone.samples, before)
    assert len(one) != len(other) or not np.array_equal(one, other)
    assert one.dtype == np.float32 and not vary.on_features and SpecAugment().on_features


def test_they_are_given_in_yaml():
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--vary", type=list[Augmentation])
    name = "lm.data.audio.augment"
    given = [
        {"class_path": f"{name}.Speed", "init_args": {"factors": [0.5, 2]}},
        {"class_path": f"{name}.Noise", "init_args": {"snr": [5, 10]}},
        {"class_path": f"{name}.SpecAugment"},
    ]
    made = parser.instantiate_classes(parser.parse_object({"vary": given})).vary
    assert [type(each) for each in made] == [Speed, Noise, SpecAugment]
    assert list(made[0].factors) == [0.5, 2] and tuple(made[1].snr) == (5, 10)
