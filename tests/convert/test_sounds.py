"""Classifiers of sounds as folders that transformers reads, and theirs heard here as they hear."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lm.backbone import BackboneConfig, Classifier, Frames
from lm.checkpoint import Model
from lm.convert import export_folder, open_model
from lm.errors import UserError
from lm.processors.speech import SoundProcessor

from .conftest import scramble

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
CONFIG = BackboneConfig(
    **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "causal": False, "positions": "none"},
    **{"norm": "layer", "mlp": "gelu", "bias": True, "mlp_hidden_size": 40},
)
SHAPE = Frames(bins=20, max_frames=300)
HEAD = {"kind": "pooled", "outputs": 3, "pooling": "mean", "pooler": False, "dropout": 0.0}
LABELS = ["cat", "dog", "owl"]
PROCESSOR = SoundProcessor(bins=20, seconds=2)


def trained(config=CONFIG, shape=SHAPE, head=HEAD, processor=PROCESSOR, **more) -> Model:
    """A model with random weights, as if it came from a checkpoint."""
    arguments = {name: value for name, value in head.items() if name != "kind"}
    net = scramble(Classifier(config, **arguments, embeddings=shape.make(config)))
    record = {"version": "0.1", "task": "lm.tasks.AudioClassification", "head": head, "labels": LABELS}
    record |= {"kind": "single", "input": shape.described(), "figures": {"accuracy": 0.5}, **more}
    return Model(config, net.state_dict(), processor, "memory", record, has_head=False)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)


@pytest.fixture
def sound_file(tmp_path):
    """A file of 16 bits with a sound of so many seconds, and its samples."""
    soundfile = pytest.importorskip("soundfile")

    def make(seconds: float):
        soundfile.write(tmp_path / "sound.wav", noise(seconds), 16000)
        return tmp_path / "sound.wav", soundfile.read(tmp_path / "sound.wav", dtype="float32")[0]

    return make


@torch.no_grad()
@pytest.mark.parametrize("positions", ["learned", "sine"])
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_classifier_on_frames_is_whispers(positions, tmp_path):
    """Its positions are cut to the sounds that it was trained on, and its keys' biases are none."""
    model = trained(shape=replace(SHAPE, positions=positions))
    exported = export_folder(model, tmp_path / "out")
    assert exported.architecture == "WhisperForAudioClassification"
    assert "fills sounds with silence to 2 seconds" in exported.notes[0]
    kind = transformers.WhisperForAudioClassification
    there, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    prepare = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    samples = noise(2)
    frames = prepare(samples, sampling_rate=16000, return_tensors="pt").input_features
    assert frames.shape == (1, 20, 200)
    logits = model.network(frames)
    torch.testing.assert_close(there.eval()(frames).logits, logits, atol=1e-4, rtol=1e-4)
    assert list(there.config.id2label.values()) == LABELS
    again = open_model(tmp_path / "out")
    assert again.processor == model.processor and again.record["labels"] == LABELS
    assert again.record["input"]["max_frames"] == 200
    torch.testing.assert_close(again.network(frames), logits, atol=1e-5, rtol=1e-5)
    assert "pipeline_tag: audio-classification" in (tmp_path / "out/README.md").read_text()
    # What was opened from such a folder hears as it does: nothing is to be said.
    assert export_folder(again, tmp_path / "twice").notes == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"head": {**HEAD, "pooling": "attention"}},
            "reads the mean .*: a head with pooling 'attention' can't",
        ),
        ({"head": {**HEAD, "mix_layers": True}}, "layers that are not normed: a head with .*mix_layers True"),
        ({"head": {**HEAD, "kind": "tokens", "pooling": None}}, "a head with tokens can't"),
        ({"config": replace(CONFIG, norm="rms", mlp="swiglu")}, "nearest is whisper.*: norm rms, mlp swiglu"),
        ({"config": replace(CONFIG, norm_eps=1e-6)}, "norm_eps 1e-06"),
        ({"config": replace(CONFIG, mlp_bias=False)}, "mlp_bias"),
        ({"shape": replace(SHAPE, kernel=5)}, "input.kernel 5"),
        ({"shape": replace(SHAPE, max_frames=100)}, "200 frames, but input.max_frames is 100"),
        ({"processor": replace(PROCESSOR, rate=8000, window=200, hop=80)}, "`rate` is 8000, not 16000"),
        ({"processor": replace(PROCESSOR, norm="utterance")}, "`norm` is utterance"),
        ({"processor": replace(PROCESSOR, seconds=1.5)}, "`seconds` is 1.5"),
    ],
)
def test_what_transformers_has_no_model_for_is_refused(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        export_folder(trained(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def ast(tmp_path):
    """A classifier of transformers, in a folder."""
    config = transformers.ASTConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
        **{"num_mel_bins": 36, "max_length": 68, "id2label": dict(enumerate(LABELS))},
    )
    model = scramble(transformers.ASTForAudioClassification(config))
    model.save_pretrained(tmp_path / "ast")
    prepare = transformers.ASTFeatureExtractor(num_mel_bins=36, max_length=68)
    prepare.save_pretrained(tmp_path / "ast")
    return model, prepare, tmp_path / "ast"


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_ast_goes_out_as_it_came(ast, tmp_path):
    model, prepare, folder = ast
    ours = open_model(folder)
    exported = export_folder(ours, tmp_path / "out")
    assert exported.architecture == "ASTForAudioClassification" and exported.notes == []
    there = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "out").eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(there.state_dict()[name], tensor), name
    again = transformers.ASTFeatureExtractor.from_pretrained(tmp_path / "out")
    assert {**again.to_dict(), **prepare.to_dict()} == again.to_dict()
    assert open_model(tmp_path / "out").processor == ours.processor
    ours.record["head"] |= {"norm": False}
    del ours.weights["norm.weight"], ours.weights["norm.bias"]
    ours.__dict__.pop("network")
    with pytest.raises(UserError, match="reads the mean of two tokens through a norm: a head with"):
        export_folder(ours, tmp_path / "none")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_a_foreign_classifier_says_of_a_file_what_transformers_says(seconds, ast, sound_file, tmp_path):
    """Short sounds are filled with silence, and long ones cut, as there."""
    import lm

    path, samples = sound_file(seconds)
    export_folder(trained(padded=True), tmp_path / "whisper")
    whisper = transformers.WhisperForAudioClassification.from_pretrained(tmp_path / "whisper").eval()
    hears = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "whisper")
    for there, prepare, folder in ((*ast[:2], ast[2]), (whisper, hears, tmp_path / "whisper")):
        wanted = there(**prepare(samples, sampling_rate=16000, return_tensors="pt")).logits[0].softmax(0)
        found = lm.load(folder).classify(path)["probabilities"]
        np.testing.assert_allclose([found[name] for name in LABELS], wanted, atol=1e-3)


def test_the_command(lm, tmp_path):
    export_folder(trained(), tmp_path / "whisper")
    done = lm("export", tmp_path / "whisper", "--to", "hf", "out")
    assert done.status == 0 and "WhisperForAudioClassification" in done.out, done.err
    refused = lm("export", tmp_path / "whisper", "out.onnx")
    assert refused.status == 1 and "takes frames: only models that take texts go into an ONNX" in refused.err
    config = json.loads((tmp_path / "whisper/config.json").read_text())
    (tmp_path / "whisper/config.json").write_text(json.dumps({**config, "use_weighted_layer_sum": True}))
    refused = lm("export", tmp_path / "whisper", "--to", "hf", "other")
    assert refused.status == 1 and "use_weighted_layer_sum True is not supported here" in refused.err
