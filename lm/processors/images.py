"""What turns a picture into a network's input and a network's places back into the picture's."""

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lm.errors import UserError
from lm.processors.base import Processor, register
from lm.processors.pictures import VOID, Picture, nearest, window

Fit = Literal["crop", "pad", "stretch"]
Resample = Literal["bicubic", "bilinear"]
_FILTERS: dict[Any, Resample] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers

# What transformers' processors do where a folder's file says nothing.
_HALF: dict[str, Any] = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
_CLIP: dict[str, Any] = {
    **{"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)},
    **{"resample": 3, "size": 224, "do_center_crop": True, "crop_size": 224},
}
_KINDS: dict[str, dict[str, Any]] = {
    "ViT": {**_HALF, "resample": 2, "size": 224},
    "DeiT": {**_HALF, "resample": 3, "size": 256, "do_center_crop": True, "crop_size": 224},
    "Bit": _CLIP,  # DINOv2's too
    "CLIP": _CLIP,
    "ConvNext": {**_HALF, "resample": 3, "size": 384, "crop_pct": 0.875},  # ResNet's too
}


@dataclass(frozen=True)
class ImageProcessor(Processor):
    """Fits pictures into one size and normalises their colours.

    Args:
        size: height and width of a network's input.
        fit: `crop`: resized until it covers the size, then its middle; as ImageNet is evaluated. `pad`:
            resized until it fits in, the rest, right and below, is the mean colour; nothing is lost, so it is
            for boxes and masks. `stretch`: resized to the size, whatever its shape.
        crop_ratio: the share of height and width that is left of what `crop` covers or `stretch` makes.
        mean, std: of red, green and blue in 0 to 1, ImageNet's unless given.
        resample: bicubic or bilinear.

    Raises:
        UserError: a field has a value that can't be.
    """

    kind: ClassVar[str] = "image"

    size: tuple[int, int] = (224, 224)
    fit: Fit = "crop"
    crop_ratio: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resample: Resample = "bicubic"

    def __post_init__(self) -> None:
        for name, length in (("size", 2), ("mean", 3), ("std", 3)):
            values = tuple(getattr(self, name))
            numbers = all(isinstance(value, int | float) for value in values)
            if len(values) != length or not numbers or (name != "mean" and min(values) <= 0):
                raise UserError(f"`{name}` {values}: these are to be {length} numbers, above 0 but in `mean`")
            object.__setattr__(self, name, values)  # JSON and YAML give lists
        if self.fit not in get_args(Fit) or self.resample not in _FILTERS.values():
            known = f"crop, pad or stretch, and {' or '.join(_FILTERS.values())}"
            raise UserError(f"`fit` {self.fit!r} and `resample` {self.resample!r}: they are to be {known}")
        if not 0 < self.crop_ratio <= 1 or (self.fit == "pad" and self.crop_ratio != 1):
            raise UserError(f"`crop_ratio` {self.crop_ratio}: it lies in 0 to 1, and is 1 where `fit` is pad")

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """The processor that gave these bytes.

        Raises:
            UserError: they are those of no such processor.
        """
        try:
            found = json.loads(data)
        except ValueError as error:
            raise UserError("these are not the bytes of a processor of images") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != names:
            has = ", ".join(sorted(found)) if isinstance(found, dict) else "none"
            raise UserError(f"a processor of images has the fields {', '.join(sorted(names))}, not {has}")
        return cls(**found)

    @classmethod
    def of_folder(cls, config: dict[str, Any]) -> Self:
        """The processor that a Hugging Face folder's preprocessor_config.json describes, as transformers
        carries it out with Pillow: those of ViT, DeiT, DINOv2, ResNet, ConvNeXt and their kin.

        Raises:
            UserError: it asks for something else.
        """
        name = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViT"
        kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", name)
        if kind not in _KINDS:
            raise _unlike("image_processor_type", name)
        config = _KINDS[kind] | {key: value for key, value in config.items() if value is not None}
        square = kind in {"ViT", "DeiT"}  # what a number for a size means: both sides, or the shorter one
        size: Any = config["size"]
        if isinstance(size, int):
            size = {"height": size, "width": size} if square else {"shortest_edge": size}
        known = ({"shortest_edge"},) if kind == "ConvNext" else ({"shortest_edge"}, {"height", "width"})
        if not config.get("do_resize", True) or not isinstance(size, dict) or set(size) not in known:
            raise _unlike("size", config["size"])
        short: Any = size.get("shortest_edge")
        final = whole = (short, short) if short else (size["height"], size["width"])
        fit: Fit = "crop" if short else "stretch"
        ratio = 1.0
        if kind == "ConvNext":
            if short < 384:
                ratio = short / int(short / config["crop_pct"])
            else:
                fit = "stretch"
        elif config.get("do_center_crop"):
            crop: Any = config.get("crop_size")
            crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
            if not isinstance(crop, dict) or set(crop) != {"height", "width"}:
                raise _unlike("crop_size", crop)
            final = crop["height"], crop["width"]
            ratio = final[0] / whole[0]
            if ratio > 1 or final[0] * whole[1] != final[1] * whole[0]:
                raise _unlike("crop_size", crop)
        elif short:
            raise _unlike("do_center_crop", False)  # each picture would have a size of its own
        scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
        if abs(scale * 255 - 1) > 1e-3:
            raise _unlike("rescale_factor", scale)
        if config["resample"] not in _FILTERS:
            raise _unlike("resample", config["resample"])
        colours = (config["image_mean"], config["image_std"])
        mean, std = colours if config.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
        return cls(final, fit, ratio, mean, std, _FILTERS[config["resample"]])

    def _placing(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How a picture of this size is placed: the height and width it is resized to, and the row and column
        of that where the input begins."""
        goal_height, goal_width = (round(side / self.crop_ratio) for side in self.size)
        if self.fit == "stretch":
            new = goal_height, goal_width
        elif (goal_height * width >= goal_width * height) == (self.fit == "crop"):
            new = goal_height, max(1, int(goal_height * width / height))
        else:
            new = max(1, int(goal_width * height / width)), goal_width
        if self.fit == "pad":
            return *new, 0, 0
        return *new, (new[0] - self.size[0]) // 2, (new[1] - self.size[1]) // 2

    def fitted(self, picture: Picture) -> Picture:
        """The picture in the size of the input; boxes and mask move along, and boxes that are cut off whole
        are dropped."""
        height, width, top, left = self._placing(*picture.size)
        return self.filled(picture).resized(height, width, self.resample).cut(top, left, *self.size)

    def filled(self, picture: Picture) -> Picture:
        """The picture with the mean colour beyond its borders, which is near zero when normalised."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return replace(picture, fill=(red, green, blue))

    def place_back(self, boxes: np.ndarray, original: tuple[int, int]) -> np.ndarray:
        """Boxes (n, 4) of a fitted picture in pixels of the picture that was fitted, clipped to it.

        Args:
            original: that picture's height and width.
        """
        height, width, top, left = self._placing(*original)
        scale = np.array([original[1] / width, original[0] / height] * 2, np.float32)
        moved = (np.asarray(boxes, np.float32) + np.array([left, top] * 2, np.float32)) * scale
        return moved.clip(0, np.array([*original[::-1]] * 2, np.float32))

    def place_labels_back(self, labels: np.ndarray, original: tuple[int, int]) -> np.ndarray:
        """A map of labels (H, W) of a fitted picture in the size of the picture that was fitted; `VOID` where
        `fit` cut that off."""
        height, width, top, left = self._placing(*original)
        return nearest(window(labels, -top, -left, height, width, VOID), *original)

    def pixels(self, picture: Picture) -> Tensor:
        """Normalised colours, float32 (3, H, W), of a picture that has been fitted."""
        mean, std = (np.array(values, np.float32)[:, None, None] * 255 for values in (self.mean, self.std))
        colours = np.array(picture.pixels.transpose(2, 0, 1), np.float32, order="C")
        return torch.from_numpy((colours - mean) / std)

    def image(self, pixels: Tensor) -> np.ndarray:
        """Normalised colours (3, H, W) as a picture again, uint8 (H, W, 3)."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        colours = (pixels.detach().float().cpu() * std + mean) * 255
        return colours.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def _unlike(name: str, value: Any) -> UserError:
    return UserError(
        f"preprocessor_config.json has {name} {value!r}: pictures can't be prepared like that here"
    )


register(ImageProcessor.kind, ImageProcessor.of_bytes)
