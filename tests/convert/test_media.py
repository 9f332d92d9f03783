"""Models of pictures and sounds as transformers write them: the same hidden states and logits."""

import json
import tarfile
from pathlib import Path

import pytest
import torch

from lm.backbone import Classifier
from lm.convert import export_folder, open_model
from lm.errors import UserError
from lm.processors.images import ImageProcessor
from lm.processors.speech import SoundProcessor

from .conftest import scramble

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
PICTURE = {"image_size": 32, "patch_size": 8, "num_labels": 3}
DINO = {**{name: SIZES[name] for name in list(SIZES)[:3]}, **PICTURE}
WHISPER = {
    **{"d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 16, "vocab_size": 50},
    **{"num_mel_bins": 20, "max_source_positions": 30, "max_target_positions": 8, "num_labels": 3},
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    **{"begin_suppress_tokens": None, "classifier_proj_size": 24},
}
AST = {**SIZES, "num_mel_bins": 36, "max_length": 68, "num_labels": 3}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [2, 1], "num_labels": 3}
NAMES = {0: "cat", 1: "dog", 2: "owl"}

# Architecture, its configuration, what its head becomes: kept, or left out.
PICTURES = {
    "vit": ("ViTForImageClassification", {**SIZES, **PICTURE}, True),
    "vit, no bias, relu": (
        "ViTForImageClassification",
        {**SIZES, **PICTURE, "qkv_bias": False, "hidden_act": "relu"},
        True,
    ),
    "vit alone": ("ViTModel", {**SIZES, **PICTURE}, False),
    "vit of masked patches": ("ViTForMaskedImageModeling", {**SIZES, **PICTURE, "encoder_stride": 8}, False),
    "deit": ("DeiTForImageClassification", {**SIZES, **PICTURE}, True),
    "deit with a teacher": ("DeiTForImageClassificationWithTeacher", {**SIZES, **PICTURE}, True),
    "dinov2": ("Dinov2Model", DINO, False),
    "dinov2, swiglu": ("Dinov2ForImageClassification", {**DINO, "use_swiglu_ffn": True}, True),
    "dinov2, registers": ("Dinov2WithRegistersModel", {**DINO, "num_register_tokens": 3}, False),
    "dinov2, registers, classes": (
        "Dinov2WithRegistersForImageClassification",
        {**DINO, "num_register_tokens": 3},
        True,
    ),
    "resnet": ("ResNetForImageClassification", RESNET, True),
    "resnet, basic": ("ResNetForImageClassification", {**RESNET, "layer_type": "basic"}, True),
    "resnet alone": ("ResNetModel", RESNET, False),
    "regnet": ("RegNetForImageClassification", {**RESNET, "groups_width": 8}, True),
}
SOUNDS = {
    "ast": ("ASTForAudioClassification", AST, True),
    "ast alone": ("ASTModel", AST, False),
    "whisper": ("WhisperModel", WHISPER, False),
    "whisper that writes": ("WhisperForConditionalGeneration", WHISPER, False),
    "whisper that classifies": ("WhisperForAudioClassification", WHISPER, True),
}
PREPARED = {
    "image": {
        **{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3},
        **{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]},
    },
    "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20},
    "ast": {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 36, "max_length": 68},
}


@pytest.fixture
def written(tmp_path):
    """Makes a model of transformers and writes its folder: `written("ViTModel", "image", hidden_size=32)`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def make(architecture, prepared, **settings):
        kind = getattr(transformers, architecture)
        labels = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
        settings = {name: value for name, value in settings.items() if name != "num_labels"} | labels
        model = scramble(kind(kind.config_class(**settings)))
        model.save_pretrained(tmp_path / "foreign")
        text = json.dumps(PREPARED[prepared])
        (tmp_path / "foreign/preprocessor_config.json").write_text(text)
        return model, tmp_path / "foreign"

    return make


def body_of(start):
    """The backbone of a model, with a head or without."""
    if "head" in start.record:
        return start.network.backbone
    from lm.checkpoint import outline

    net = outline(start.config, {"kind": "pooled", "outputs": 1, "pooling": "first"}, start.record["input"])
    head = {"head.weight": torch.zeros(1, start.config.hidden_size), "head.bias": torch.zeros(1)}
    net.load_weights({**start.weights, **head})
    return net.eval().backbone


@torch.no_grad()
@pytest.mark.parametrize(("kind", "settings", "has_head"), PICTURES.values(), ids=PICTURES)
def test_pictures(kind, settings, has_head, written):
    model, folder = written(kind, "image", **settings)
    start = open_model(folder)
    assert isinstance(start.processor, ImageProcessor) and start.processor.mean == (0.4, 0.5, 0.6)
    assert not start.has_head and ("head" in start.record) is has_head
    body, theirs = body_of(start), getattr(model, model.base_model_prefix, model)
    interpolates = kind.startswith(("ViT", "DeiT"))
    for size in ((32, 32), (64, 64), (48, 24), (16, 40)):
        picture = torch.randn(2, 3, *size)
        more = {"interpolate_pos_encoding": True} if interpolates else {}
        hidden = theirs(picture, **more).last_hidden_state
        hidden = hidden.flatten(2).mT if hidden.ndim == 4 else hidden
        assert hidden.std() > 0.3
        torch.testing.assert_close(body(picture), hidden, atol=1e-4, rtol=1e-4)
        if has_head:
            logits = model(picture, **more).logits
            torch.testing.assert_close(start.network(picture), logits, atol=1e-4, rtol=1e-4)
    if has_head:
        assert start.record["labels"] == list(NAMES.values())
        assert start.record["task"] == "lm.tasks.ImageClassification"
        assert export_folder(start, folder.with_name("back")).architecture == kind
        back, picture = (
            type(model).from_pretrained(folder.with_name("back")).eval(),
            torch.randn(2, 3, 32, 32),
        )
        torch.testing.assert_close(back(picture).logits, model(picture).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "settings", "has_head"), SOUNDS.values(), ids=SOUNDS)
def test_sounds(kind, settings, has_head, written):
    name = kind[:3].lower() if kind.startswith("AST") else "whisper"
    model, folder = written(kind, name, **settings)
    start = open_model(folder)
    assert isinstance(start.processor, SoundProcessor) and ("head" in start.record) is has_head
    body = body_of(start)
    if name == "ast":
        raw = torch.randn(2, 36, 68)
        heard = raw.mT
        theirs = getattr(model, model.base_model_prefix, model)(heard).last_hidden_state
    else:
        raw = heard = torch.randn(2, 20, 60)
        theirs = getattr(model, "model", model).encoder(raw).last_hidden_state
        assert any(note.startswith("left out, its decoder: decoder.") for note in start.notes) is not has_head
    assert theirs.std() > 0.3
    torch.testing.assert_close(body(raw), theirs, atol=1e-4, rtol=1e-4)
    if has_head:
        torch.testing.assert_close(start.network(raw), model(heard).logits, atol=1e-4, rtol=1e-4)
        assert start.record["padded"] is True


def test_what_info_says(written, lm):
    _, folder = written("ViTForImageClassification", "image", **SIZES, **PICTURE)
    shown = lm("info", folder)
    assert shown.status == 0, shown.err
    assert "3 outputs on the first position" in shown.out and "cat, dog, owl" in shown.out
    assert "patches" in shown.out and "(32, 32)" in shown.out and "bicubic" in shown.out
    _, folder = written("WhisperModel", "whisper", **WHISPER)
    shown = lm("info", folder)
    assert shown.status == 0, shown.err
    assert "frames" in shown.out and "its decoder" in shown.out and "16000" in shown.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": [8, 4]}, "patches must be square"),
        ({"image_size": 30}, "so many of them the whole image"),
        ({"image_size": "large"}, "image_size is 'large', not a number"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported"),
        ({"tubelet_size": 2}, "unknown here"),
        ({"num_hidden_layers": 9000}, "too few for the 9000 layers"),
        (
            {"image_size": 64},
            r"position_embeddings has the shape \(17, 32\), by config.json it is \(65, 32\)",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(change, words, written):
    _, folder = written("ViTModel", "image", **SIZES, **PICTURE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        open_model(folder)


@pytest.mark.parametrize("depths", [[2, 10**9], "two", []])
def test_a_damaged_cnn_is_refused(depths, written):
    _, folder = written("ResNetModel", "image", **RESNET)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "depths": depths}))
    with pytest.raises(UserError, match=r"config\.json: depths is"):
        open_model(folder)


def test_missing_parts_are_named(written):
    from safetensors.torch import load_file, save_file

    for kind, settings, name in (
        ("ViTModel", {**SIZES, **PICTURE}, "embeddings.cls_token"),
        ("Dinov2Model", DINO, "encoder.layer.1.layer_scale2.lambda1"),
        ("WhisperModel", WHISPER, "encoder.layers.1.self_attn.k_proj.weight"),
    ):
        _, folder = written(kind, "whisper" if kind.startswith("W") else "image", **settings)
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=f"lack.* {name}"):
            open_model(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="lack"):
        open_model(folder)


@torch.no_grad()
@pytest.mark.real_data
def test_whispers_encoder_hears_what_transformers_hears(whisper_tiny: Path, real_data, tmp_path):
    from lm.processors.sounds import read_sound

    theirs = transformers.WhisperModel.from_pretrained(whisper_tiny).encoder.eval()
    prepare = transformers.WhisperFeatureExtractor.from_pretrained(whisper_tiny)
    start = open_model(whisper_tiny)
    assert start.config.num_layers == 4 and start.record["input"]["max_frames"] == 3000
    body = body_of(start)
    with tarfile.open(real_data / "ljspeech-readings/audio.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()][:2]
        for member in members:
            sound = read_sound(archive.extractfile(member).read(), member.name, 16000)
            wanted = prepare(sound.samples, sampling_rate=16000, return_tensors="pt").input_features
            features = start.processor.features(sound, padded=True)[None]
            torch.testing.assert_close(features, wanted, atol=1e-4, rtol=0)
            hidden = theirs(wanted).last_hidden_state
            torch.testing.assert_close(body(wanted), hidden, atol=1e-4, rtol=1e-4)
            assert hidden.std() > 0.3


def test_a_classifier_of_pictures_is_a_classifier_here(written):
    _, folder = written("DeiTForImageClassification", "image", **SIZES, **PICTURE)
    assert isinstance(open_model(folder).checked().network, Classifier)
