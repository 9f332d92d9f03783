"""The Transformer in pure torch: one configuration, one block, every architecture of the family."""

from lm.backbone.attention import KVCache
from lm.backbone.config import BackboneConfig
from lm.backbone.heads import Classifier, LanguageModel, Network, Pooler
from lm.backbone.inputs import (
    FeatureMapInput,
    FeatureMaps,
    FrameInput,
    Frames,
    GridConfig,
    Input,
    InputConfig,
    Patches,
    PatchInput,
    TokenInput,
    read_input,
)
from lm.backbone.loss import linear_cross_entropy
from lm.backbone.transformer import Backbone, Block

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Block",
    "Classifier",
    "FeatureMapInput",
    "FeatureMaps",
    "FrameInput",
    "Frames",
    "GridConfig",
    "Input",
    "InputConfig",
    "KVCache",
    "LanguageModel",
    "Network",
    "PatchInput",
    "Patches",
    "Pooler",
    "TokenInput",
    "linear_cross_entropy",
    "read_input",
]
