"""Classifiers of pictures as folders that transformers reads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lm.backbone import BackboneConfig, Classifier, Patches
from lm.checkpoint import Model
from lm.convert import export_folder, open_model
from lm.errors import UserError
from lm.processors.images import ImageProcessor
from lm.processors.pictures import Picture

from .conftest import scramble

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
CONFIG = BackboneConfig(
    **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "causal": False, "positions": "none"},
    **{"norm": "layer", "mlp": "gelu", "bias": True, "mlp_hidden_size": 40, "norm_eps": 1e-6},
)
SHAPE = Patches(patch_size=8, size=(32, 32), prefix=1)
HEAD = {"kind": "pooled", "outputs": 3, "pooling": "first", "pooler": False, "dropout": 0.0}
LABELS = ["cat", "dog", "owl"]
PROCESSOR = ImageProcessor((32, 32), "crop", 0.8)


def trained(config=CONFIG, shape=SHAPE, head=HEAD, processor=PROCESSOR) -> Model:
    """A model with random weights, as if it came from a checkpoint."""
    arguments = {name: value for name, value in head.items() if name != "kind"}
    net = scramble(Classifier(config, **arguments, embeddings=shape.make(config)))
    record = {"version": "0.1", "task": "lm.tasks.ImageClassification", "head": head, "labels": LABELS}
    record |= {"kind": "single", "input": shape.described(), "figures": {"accuracy": 0.5}}
    return Model(config, net.state_dict(), processor, "memory", record, has_head=False)


@torch.no_grad()
def test_transformers_computes_the_same_and_it_comes_back(tmp_path):
    model = trained()
    exported = export_folder(model, tmp_path / "out")
    assert exported.architecture == "ViTForImageClassification"
    there = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    picture = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(there(picture).logits, model.network(picture), atol=1e-4, rtol=1e-4)
    assert list(there.config.id2label.values()) == LABELS
    again = open_model(tmp_path / "out")
    assert again.processor == model.processor and again.record["labels"] == LABELS
    assert again.record["input"] == model.record["input"]
    assert torch.equal(again.network(picture), model.network(picture))
    card = (tmp_path / "out/README.md").read_text()
    assert "pipeline_tag: image-classification" in card and "| accuracy | 0.5 |" in card


@pytest.mark.parametrize(("fit", "ratio"), [("crop", 0.8), ("crop", 1.0), ("stretch", 1.0), ("stretch", 0.8)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_transformers_prepares_pictures_alike(fit, ratio, resample, tmp_path):
    from PIL import Image

    ours = ImageProcessor((32, 32), fit, ratio, resample=resample)
    export_folder(trained(processor=ours), tmp_path / "out")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    wanted = theirs(Image.fromarray(pixels), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(ours.pixels(ours.fitted(Picture(pixels))), wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": {**HEAD, "pooling": "mean"}}, "reads the class token: a head with pooling 'mean'"),
        ({"shape": replace(SHAPE, prefix=0), "head": {**HEAD, "pooling": "mean"}}, "input.prefix 0"),
        ({"shape": replace(SHAPE, stem="convolutions")}, "input.stem convolutions"),
        ({"shape": replace(SHAPE, size=(32, 24))}, "pictures of 32 × 24 in patches of 8"),
        ({"config": replace(CONFIG, norm="rms", mlp="swiglu")}, "norm rms, mlp swiglu"),
        ({"config": replace(CONFIG, final_norm=False)}, "final_norm False"),
        ({"processor": replace(PROCESSOR, fit="pad", crop_ratio=1)}, "`fit` pad"),
    ],
)
def test_what_transformers_has_no_model_for_is_refused(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        export_folder(trained(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_sounds(lm, tmp_path):
    folder = tmp_path / "whisper"
    config = transformers.WhisperConfig(
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2},
        **{"decoder_attention_heads": 2, "vocab_size": 50, "max_source_positions": 20, "num_mel_bins": 8},
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    )
    transformers.WhisperForAudioClassification(config).save_pretrained(folder)
    prepared = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    refused = lm("export", folder, "--to", "hf", "out")
    assert refused.status == 1 and "this is none: its input are frames" in refused.err
    refused = lm("export", folder, "out.onnx")
    assert refused.status == 1 and "takes frames: only models that take texts go into an ONNX" in refused.err
