"""Writing a classifier of pictures as a Hugging Face folder: of a ViT's shape."""

from pathlib import Path
from typing import Any

import torch

from lm.backbone import Patches, read_input
from lm.checkpoint import Model
from lm.convert import classifiers
from lm.convert.card import model_card
from lm.convert.parts import pack
from lm.convert.vit import Vit
from lm.convert.weights import as_dtype, write_json, write_tensors
from lm.errors import UserError
from lm.processors.images import ImageProcessor

_FILTERS = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def write_pictures(
    model: Model, folder: Path, name: str, dtype: torch.dtype, shard_bytes: int
) -> tuple[str, str, int]:
    """Write a model into an empty folder: its family, architecture and the bytes of its tensors.

    Args:
        name: what the folder will be called.

    Raises:
        UserError: transformers has no model that computes the same.
    """
    family, network, config = Vit(), model.network, model.config
    shape = read_input(model.record["input"])
    if reasons := [*_misfits(shape), *(f"{each} {getattr(config, each)}" for each in family.misfits(config))]:
        raise UserError(
            f"of the models that don't take tokens a ViT can go out, and this is none: {', '.join(reasons)}"
        )
    architecture, head = family.classifier(model.record["head"])
    described = {
        "architectures": [architecture],
        "model_type": family.name,
        **family.write(config, None),
        "image_size": shape.size[0],
        "patch_size": shape.patch_size,
        "num_channels": shape.channels,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **classifiers.described(model, network),
    }
    prepared = preprocessor(model.processor)
    weights = network.state_dict()
    tensors = {family.prefix + part.theirs: pack(part, weights) for part in family.body(config, described)}
    tensors |= {part.theirs: pack(part, weights) for part in head}
    tensors = as_dtype(family.unfolded(tensors), dtype)
    write_tensors(tensors, folder, shard_bytes)
    write_json(folder / "config.json", described)
    write_json(folder / "preprocessor_config.json", prepared)
    card = model_card(name, family, architecture, model, [])
    (folder / "README.md").write_text(card, encoding="utf-8")
    return family.name, architecture, sum(tensor.nbytes for tensor in tensors.values())


def _misfits(shape: Any) -> list[str]:
    """What a ViT's input has no place for."""
    if not isinstance(shape, Patches):
        return [f"its input are {shape.kind}"]
    wanted = {"stem": "linear", "positions": "learned", "prefix": 1, "registers": 0, "antialias": False}
    wanted |= {"stride": None}
    found = {name: getattr(shape, name) for name in wanted}
    reasons = [f"input.{name} {found[name]}" for name, value in wanted.items() if found[name] != value]
    height, width = shape.size
    if height != width or height % shape.patch_size:
        reasons.append(f"pictures of {height} × {width} in patches of {shape.patch_size}")
    return reasons


def preprocessor(processor: ImageProcessor) -> dict[str, Any]:
    """preprocessor_config.json: the inverse of `ImageProcessor.of_folder`."""
    height, width = processor.size
    size = {"height": height, "width": width}
    if processor.fit == "pad":
        raise UserError("transformers' processors of ViTs don't pad pictures: this one has `fit` pad")
    described = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
        "resample": _FILTERS[processor.resample],
    }
    if processor.fit == "stretch" and processor.crop_ratio == 1:
        return {"image_processor_type": "ViTImageProcessor", "size": size, **described}
    goal = {name: round(side / processor.crop_ratio) for name, side in size.items()}
    if processor.fit == "crop":
        goal = {"shortest_edge": min(goal.values())}  # `crop` of a square
    return {
        **{"image_processor_type": "CLIPImageProcessor", "size": goal, **described},
        **{"do_center_crop": True, "crop_size": size, "do_convert_rgb": True},
    }
