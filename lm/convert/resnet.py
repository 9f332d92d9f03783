"""ResNet and RegNet: a CNN in front of no block at all."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from lm.backbone import BackboneConfig, FeatureMaps
from lm.convert import preprocessors
from lm.convert.family import Part
from lm.convert.fields import Fields
from lm.convert.media import Media

_WHERE = "backbone.embeddings.network"
_MOST = 10_000  # layers and channels: what is beyond is damaged, and would be made before a tensor is seen


class ResNet(Media):
    """ResNet (arXiv:1512.03385), computed by transformers' own module."""

    name = "resnet"
    prefix = "resnet."
    other_heads = re.compile(r"classifier\..*")
    ignored = re.compile(r"(?!)")
    classifiers: ClassVar = {"ResNetForImageClassification": {"pooling": "mean"}}
    outputs: ClassVar = {"classifier.1": "head"}
    reads = "the mean of all positions"
    shape = FeatureMaps
    wanted: ClassVar = {"levels": [], "queries": 0}
    skipped = "out_features out_indices stage_names"
    own = """
        num_channels embedding_size hidden_sizes depths layer_type hidden_act downsample_in_first_stage
        downsample_in_bottleneck
    """

    def read(self, fields: Fields) -> BackboneConfig:
        fields.skip(*self.skipped.split())
        sizes = self.input(fields).config["hidden_sizes"]
        return BackboneConfig(
            hidden_size=sizes[-1],
            num_layers=0,
            num_heads=1,
            causal=False,
            positions="none",
            final_norm=False,
            max_seq_len=49,  # of pictures of 224 × 224; nothing depends on it
        )

    def input(self, fields: Fields) -> FeatureMaps:
        config = {name: fields.take(name) for name in self.own.split()}
        config = {name: value for name, value in config.items() if value is not None}
        for name in ("hidden_sizes", "depths"):
            values = config.get(name)
            if not isinstance(values, list) or not values:
                raise fields.refuse(f"{name} is {values!r}, no list of numbers")
            for value in values:
                if not 1 <= fields.checked(name, value) <= _MOST:
                    raise fields.refuse(f"{name} is {values!r}: each must be from 1 to {_MOST:,}")
        shape = FeatureMaps(config={"model_type": self.name, **config})
        with torch.device("meta"):  # no memory is needed to find out its strides
            shape.grid(1, 1)
        return shape

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        return [name for name in ("num_layers", "final_norm") if getattr(config, name)]

    def unfit(self, shape: Any, processor: Any) -> list[str]:
        kind = (shape.config or {}).get("model_type")
        if kind != self.name:
            return [f"its CNN is {kind or 'of another kind'}"]
        found = super().unfit(shape, processor)
        height, width = processor.size
        stride = max(shape.strides)
        if height % stride or width % stride:
            found.append(f"pictures of {height} × {width} at a stride of {stride}")
        return found

    def prepared(self, processor: Any) -> dict[str, Any]:
        return preprocessors.of_pictures(processor)

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        return {}

    def write_input(self, shape: Any) -> dict[str, Any]:
        return {name: value for name, value in shape.config.items() if name in self.own.split()}

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        own = {name: theirs[name] for name in self.own.split() if name in theirs}
        with torch.device("meta"):
            network = FeatureMaps(config={"model_type": self.name, **own}).make(config).network
        for name in network.state_dict():
            yield Part(name, (f"{_WHERE}.{name}",))


class RegNet(ResNet):
    """RegNet (arXiv:2003.13678)."""

    name = "regnet"
    prefix = "regnet."
    classifiers: ClassVar = {"RegNetForImageClassification": {"pooling": "mean"}}
    own = f"{ResNet.own} groups_width"
