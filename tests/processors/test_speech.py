"""Features of sounds: transformers' own to many digits, padded or not, and what travels in a checkpoint."""

import json
import pickle

import numpy as np
import pytest
import torch

from lm.errors import UserError
from lm.processors import open_processor
from lm.processors.sounds import Sound
from lm.processors.speech import SoundProcessor, mel_filters

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")

WHISPER = SoundProcessor(seconds=30)
LENGTHS = [1, 159, 160, 399, 400, 401, 16000, 77777, 479700, 479999, 480000, 500000]


def sound(size: int, rate: int = 16000) -> Sound:
    """Noise that comes and goes."""
    samples = np.random.default_rng(size).normal(0, 0.1, size) * np.sin(np.arange(size) / 3000)
    return Sound(samples.astype(np.float32), rate)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("rate", [2000, 8000, 16000])
def test_filters_over_hertz(bins, rate):
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(201, bins, 0.0, rate / 2, rate, "slaney", "slaney").T
    np.testing.assert_allclose(mel_filters("slaney", bins, 400, rate), expected, atol=1e-12)


@pytest.mark.parametrize("bins", [40, 128])
def test_filters_over_mels(bins):
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(257, bins, 20.0, 8000.0, 16000, None, "kaldi", True).T
    np.testing.assert_allclose(mel_filters("kaldi", bins, 512, 16000), expected, atol=1e-12)


@pytest.mark.parametrize("size", LENGTHS)
def test_whisper_s(size):
    given = sound(size)
    theirs = transformers.WhisperFeatureExtractor()
    expected = torch.tensor(theirs(given.samples, sampling_rate=16000).input_features[0])
    found = WHISPER.features(given, padded=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    alone = WHISPER.features(given)
    assert alone.shape == (80, WHISPER.frames(size)) and alone.dtype == torch.float32
    assert alone.shape[1] == min(-(-size // 160), 3000)
    torch.testing.assert_close(alone, expected[:, : alone.shape[1]], atol=1e-5, rtol=0)


def test_transformers_mirrors_what_it_does_not_pad():
    given = sound(16000)
    theirs = transformers.WhisperFeatureExtractor()(given.samples, sampling_rate=16000, padding="do_not_pad")
    expected, found = torch.tensor(theirs.input_features[0]), WHISPER.features(given)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, :-2], expected[:, :-2], atol=1e-5, rtol=0)
    assert (found - expected).abs().max() > 0.01


@pytest.mark.parametrize("size", [400, 401, 16000, 77777, 200000])
def test_ast_s(size):
    given = sound(size)
    theirs = transformers.ASTFeatureExtractor()
    processor = SoundProcessor.of_folder(theirs.to_dict())
    expected = torch.tensor(theirs(given.samples, sampling_rate=16000).input_values[0]).T
    found, alone = processor.features(given, padded=True), processor.features(given)
    assert found.shape == (128, 1024)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert alone.shape[1] == processor.frames(size)
    torch.testing.assert_close(alone, expected[:, : alone.shape[1]], atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", ["slaney", "kaldi"])
def test_each_band_of_an_utterance_is_normalised(scale):
    processor = SoundProcessor(8000, 40, 200, 80, scale, "utterance")
    for size in (1, 50, 8000):
        found = processor.features(sound(size, 8000))
        assert found.shape == (40, processor.frames(size)) and found.isfinite().all()
    heard = found.std(dim=1, correction=0) > 0.5  # a band without a frequency of its own stays 0
    assert heard.sum() > 30
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        found[heard].var(dim=1, correction=0), torch.ones(int(heard.sum())), atol=0.01, rtol=0
    )
    louder = processor.features(Sound(3 * sound(8000, 8000).samples, 8000))
    torch.testing.assert_close(louder, found, atol=0.01, rtol=0)  # how loud it is does not matter


@pytest.mark.parametrize("norm", ["whisper", "utterance", "fixed"])
@pytest.mark.parametrize("scale", ["slaney", "kaldi"])
def test_silence_is_flat(scale, norm):
    found = SoundProcessor(scale=scale, norm=norm).features(Sound(np.zeros(16000, np.float32), 16000))
    assert found.isfinite().all() and (found == found[0, 0]).all()


def test_it_travels():
    processor = SoundProcessor(8000, 64, 200, 80, "kaldi", "fixed", -4, 4.5, 12)
    data = processor.to_bytes()
    again = open_processor("sound", data)
    assert again == processor and again.fingerprint == processor.fingerprint
    assert (
        again.fingerprint == SoundProcessor(8000, 64, 200, 80, "kaldi", "fixed", -4.0, 4.5, 12.0).fingerprint
    )
    assert again.fingerprint != SoundProcessor().fingerprint
    again.features(sound(8000, 8000))
    assert pickle.loads(pickle.dumps(again)) == processor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "`rate` is 0: it must be at least 1"),
        ({"hop": 1.5}, "`hop` is 1.5"),
        ({"scale": "mel"}, "`scale` 'mel': it must be slaney or kaldi"),
        ({"norm": ""}, "`norm` '': it must be whisper or utterance or fixed"),
        ({"std": 0}, "`std` is 0: it must be more than 0"),
        ({"seconds": float("nan")}, "`seconds` is nan"),
        ({"seconds": "long"}, "damaged"),
        ({"more": 1}, "the sound processor is damaged: it has the fields"),
    ],
)
def test_bad_fields(change, message):
    values = {**json.loads(SoundProcessor().to_bytes()), **change}
    with pytest.raises(UserError, match=message):
        open_processor("sound", json.dumps(values).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"7", b"\xff"])
def test_bad_bytes(data):
    with pytest.raises(UserError, match="the sound processor is damaged"):
        open_processor("sound", data)


def test_folders():
    large = transformers.WhisperFeatureExtractor(feature_size=128).to_dict()
    assert SoundProcessor.of_folder(large) == SoundProcessor(bins=128, seconds=30)
    plain = SoundProcessor.of_folder(transformers.ASTFeatureExtractor(do_normalize=False).to_dict())
    assert (plain.mean, plain.std, plain.frames(10**6)) == (0, 1, 1024)
    with pytest.raises(UserError, match="of a Wav2Vec2FeatureExtractor: Whisper's and AST's can be read"):
        SoundProcessor.of_folder({"feature_extractor_type": "Wav2Vec2FeatureExtractor"})


def test_what_a_caller_got_wrong():
    with pytest.raises(ValueError, match="a sound of 8000 Hz for a processor of 16000 Hz"):
        WHISPER.features(sound(100, 8000))
    with pytest.raises(ValueError, match="padded to which length"):
        SoundProcessor().features(sound(100), padded=True)
