"""ResNet and RegNet: a CNN in front of no block at all."""

import re
from collections.abc import Iterator
from typing import Any

import torch

from lm.backbone import BackboneConfig, FeatureMaps
from lm.convert.family import Family, Part, linear
from lm.convert.fields import Fields
from lm.processors import Processor

_WHERE = "backbone.embeddings.network"
_MOST = 10_000  # layers and channels: what is beyond is damaged, and would be made before a tensor is seen


class ResNet(Family):
    """ResNet (arXiv:1512.03385), computed by transformers' own module."""

    name = "resnet"
    prefix = "resnet."
    other_heads = re.compile(r"classifier\..*")
    ignored = re.compile(r"(?!)")
    pooled = ("mean", False)
    base = "ResNet"
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

    def processor(self, described: dict[str, Any]) -> Processor:
        from lm.processors.images import ImageProcessor

        return ImageProcessor.of_folder(described)

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        own = {name: theirs[name] for name in self.own.split() if name in theirs}
        with torch.device("meta"):
            network = FeatureMaps(config={"model_type": self.name, **own}).make(config).network
        for name in network.state_dict():
            yield Part(name, (f"{_WHERE}.{name}",))

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        return iter(())

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        return f"{self.base}ForImageClassification", list(linear("classifier.1", "head"))


class RegNet(ResNet):
    """RegNet (arXiv:2003.13678)."""

    name = "regnet"
    prefix = "regnet."
    base = "RegNet"
    own = f"{ResNet.own} groups_width"
