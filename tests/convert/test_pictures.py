"""Classifiers of pictures as folders that transformers reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lm.backbone import BackboneConfig, Classifier, FeatureMaps, Patches
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
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1]}
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
        ({"head": {**HEAD, "also": "mean"}}, "the class token: a head with pooling 'first', also 'mean'"),
        ({"shape": FeatureMaps(config=RESNET)}, "num_layers 2"),
        (
            {
                "config": replace(CONFIG, num_layers=0, final_norm=False),
                "shape": FeatureMaps(config={**RESNET, "hidden_sizes": [8, 24]}),
                "head": {**HEAD, "pooling": "mean"},
            },
            "no place for these of its weights: backbone.embeddings.norm",
        ),
        ({"processor": ImageProcessor((36, 36))}, "pictures of 36 × 36 in patches of 8"),
    ],
)
def test_what_transformers_has_no_model_for_is_refused(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        export_folder(trained(**change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


ALSO = {**HEAD, "also": "mean"}
WIDE = replace(CONFIG, mlp_hidden_size=64)
# Architecture, and the model of ours that goes out as one.
OUT = {
    "deit": ("DeiTForImageClassification", {"shape": replace(SHAPE, prefix=2)}),
    "deit with a teacher": (
        "DeiTForImageClassificationWithTeacher",
        {"shape": replace(SHAPE, prefix=2), "head": {**HEAD, "also": "second"}},
    ),
    "dinov2": ("Dinov2ForImageClassification", {"config": WIDE, "head": ALSO}),
    "dinov2, swiglu": (
        "Dinov2ForImageClassification",
        {"config": replace(CONFIG, mlp="swiglu", mlp_hidden_size=88), "head": ALSO},
    ),
    "dinov2, registers": (
        "Dinov2WithRegistersForImageClassification",
        {"config": WIDE, "shape": replace(SHAPE, registers=3, antialias=True), "head": ALSO},
    ),
    # Positions are learned for one size and used at another.
    "vit, larger": ("ViTForImageClassification", {"processor": ImageProcessor((48, 48))}),
    "resnet": (
        "ResNetForImageClassification",
        {
            "config": replace(CONFIG, num_layers=0, final_norm=False),
            "shape": FeatureMaps(config=RESNET),
            "head": {**HEAD, "pooling": "mean"},
        },
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "made"), OUT.values(), ids=OUT)
def test_other_families_go_out_and_come_back(architecture, made, tmp_path):
    model = trained(**made)
    assert export_folder(model, tmp_path / "out").architecture == architecture
    kind = getattr(transformers, architecture)
    there, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    picture = torch.randn(2, 3, *model.processor.size)
    logits = model.network(picture)
    assert logits.std() > 0.1
    torch.testing.assert_close(there.eval()(picture).logits, logits, atol=1e-4, rtol=1e-4)
    again = open_model(tmp_path / "out")
    assert again.processor == model.processor and again.record["head"] == model.record["head"]
    torch.testing.assert_close(again.network(picture), logits, atol=1e-5, rtol=1e-5)
