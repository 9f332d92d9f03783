"""Fitting pictures: beside transformers' own processors, and back again."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lm.errors import UserError
from lm.processors import open_processor
from lm.processors.images import ImageProcessor
from lm.processors.pictures import VOID, Picture, read_picture

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": 224, "width": 224}
# As the folders on the hub have them: google/vit-base-patch16-224, facebook/deit-base-patch16-224,
# facebook/dinov2-small, microsoft/resnet-50, facebook/convnext-tiny-224 (the new form), convnext-base-384.
CONFIGS = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": SQUARE, "resample": 2, "do_resize": True},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, **IMAGENET},
    "dinov2": {
        **{
            "image_processor_type": "BitImageProcessor",
            "crop_size": SQUARE,
            "do_center_crop": True,
            **IMAGENET,
        },
        **{"do_convert_rgb": True, "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": 256}},
    },
    "resnet": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "crop_pct": 0.875,
        "size": 224,
        **IMAGENET,
    },
    "convnext": {
        **{"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.95, **IMAGENET},
        **{"size": {"shortest_edge": 224}, "resample": 3, "do_rescale": True},
    },
    "convnext384": {"image_processor_type": "ConvNextImageProcessor", "crop_pct": None, "size": 384},
    "plain": {"image_processor_type": "ViTImageProcessor", "do_normalize": False, "size": 64},
    "clip": {"image_processor_type": "CLIPImageProcessor"},
    "bit": {"image_processor_type": "BitImageProcessor"},
}


def theirs(config: dict, pixels: np.ndarray) -> np.ndarray:
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    kinds = (BitImageProcessorPil, CLIPImageProcessorPil, ConvNextImageProcessorPil)
    kinds = {kind.__name__[:3]: kind for kind in (*kinds, DeiTImageProcessorPil, ViTImageProcessorPil)}
    options = dict(config)
    name = options.pop("image_processor_type", None) or options.pop("feature_extractor_type")
    options = {key: value for key, value in options.items() if value is not None}
    return kinds[name[:3]](**options)(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]


def made_up(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    stripes = np.stack([128 + 100 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), (x * y) % 256], axis=2)
    return Picture(stripes.astype(np.uint8))


@pytest.mark.parametrize("name", CONFIGS)
def test_alike_with_transformers(name):
    processor = ImageProcessor.of_folder(CONFIGS[name])
    for size in ((300, 401), (333, 217), (224, 224), (97, 640), (31, 30)):
        picture = made_up(*size)
        mine = processor.pixels(processor.fitted(picture)).numpy()
        other = theirs(CONFIGS[name], picture.pixels)
        assert mine.shape == other.shape == (3, *processor.size)
        std = np.array(processor.std)[:, None, None]
        assert (np.abs(mine - other) * std).max() < 1.001 / 255  # one level of grey


@pytest.mark.real_data
def test_alike_with_transformers_on_photos(real_data):
    with tarfile.open(real_data / "imagenet-sample/imagenet_25.tar") as archive:
        files = [archive.extractfile(member).read() for member in archive.getmembers()[:6]]
    for data in files:
        picture = read_picture(data, "photo")
        for config in (CONFIGS["vit"], CONFIGS["resnet"], CONFIGS["dinov2"]):
            processor = ImageProcessor.of_folder(config)
            mine = processor.pixels(processor.fitted(picture)).numpy()
            difference = (
                np.abs(mine - theirs(config, picture.pixels)) * np.array(processor.std)[:, None, None]
            )
            assert difference.max() < 1.001 / 255


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image_processor_type": "YolosImageProcessor"}, "image_processor_type 'YolosImageProcessor'"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size"),
        ({"do_resize": False}, "size"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"crop_size": {"height": 300, "width": 300}}, "crop_size"),
        ({"crop_size": {"height": 224, "width": 100}}, "crop_size"),
        ({"crop_size": "large"}, "crop_size 'large'"),
        ({"size": [256, 256]}, r"size \[256, 256\]"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"resample": 0}, "resample 0"),
    ],
)
def test_what_it_can_not_do(change, word):
    with pytest.raises(UserError, match=rf"^preprocessor_config\.json has {word}"):
        ImageProcessor.of_folder(CONFIGS["dinov2"] | change)


def test_it_comes_back_from_its_bytes():
    processor = ImageProcessor((32, 48), "pad", resample="bilinear")
    data = processor.to_bytes()
    again = open_processor("image", data)
    assert again == processor and again.to_bytes() == data and again.fingerprint == processor.fingerprint
    assert list(json.loads(data)) == sorted(json.loads(data))
    for bad in (b"\xff", b"7", b"{}", data.replace(b"mean", b"meen")):
        with pytest.raises(UserError, match="processor of images"):
            open_processor("image", bad)
    for field, value in {
        "size": [3],
        "std": [1, 0, 1],
        "mean": ["a", "b", "c"],
        "fit": "bend",
        "resample": "nearest",
        "crop_ratio": 0.5,  # with `pad`
    }.items():
        with pytest.raises(UserError, match=f"`{field}`"):
            open_processor("image", json.dumps(json.loads(data) | {field: value}).encode())


def test_colours_there_and_back():
    picture = made_up(8, 9)
    for processor in (ImageProcessor(), ImageProcessor(mean=(0.5,) * 3, std=(0.5,) * 3)):
        pixels = processor.pixels(picture)
        assert pixels.dtype == torch.float32 and pixels.is_contiguous()
        assert np.array_equal(processor.image(pixels), picture.pixels)
    # (255/255 - 0.485) / 0.229, as every table of ImageNet has it.
    white = Picture(np.full((1, 1, 3), 255, np.uint8))
    assert ImageProcessor().pixels(white)[0].item() == pytest.approx(2.2489, abs=1e-4)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(40, 90), (90, 40), (7, 7), (300, 301)])
def test_places_there_and_back(fit, size):
    processor = ImageProcessor((60, 80), fit)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (3 * (3 * y // size[0]) + 3 * x // size[1]).astype(np.uint8)  # nine fields
    middle = np.array([size[1], size[0]] * 2) / 2
    boxes = (middle + middle * np.array([[-0.3, -0.2, 0.1, 0.3]])).astype(np.float32)
    whole = np.float32([[0, 0, size[1], size[0]]])
    picture = dataclasses.replace(made_up(*size), boxes=np.concatenate([boxes, whole]), mask=mask)
    fitted = processor.fitted(dataclasses.replace(picture, labels=np.array([3, 4])))
    assert fitted.size == fitted.mask.shape == (60, 80) and fitted.labels.tolist() == [3, 4]
    back = processor.place_back(fitted.boxes, size)
    assert np.allclose(back[0], boxes[0], atol=1e-3)
    # Of the whole picture everything is left but what was cut off.
    assert np.allclose(back[1], whole[0], atol=1e-3) == (fit != "crop")
    labels = processor.place_labels_back(fitted.mask, size)
    assert labels.shape == size
    seen = labels != VOID
    assert seen.all() == (fit != "crop")
    assert (labels == mask)[seen].mean() > 0.95


def test_what_is_padded():
    processor = ImageProcessor((60, 80), "pad")
    picture = dataclasses.replace(made_up(30, 80), mask=np.ones((30, 80), np.uint8))
    fitted = processor.fitted(picture)
    assert np.array_equal(fitted.pixels[:30], picture.pixels)
    assert (fitted.mask[:30] == 1).all() and (fitted.mask[30:] == VOID).all()
    assert processor.pixels(fitted)[:, 30:].abs().max() < 0.01  # the mean colour, as near as a byte can say
