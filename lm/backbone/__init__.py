"""The Transformer in pure torch: one configuration, one block, every architecture of the family."""

from lm.backbone.attention import KVCache
from lm.backbone.config import BackboneConfig
from lm.backbone.heads import Classifier, LanguageModel, Network, Pooler
from lm.backbone.inputs import Input, TokenInput
from lm.backbone.loss import linear_cross_entropy
from lm.backbone.transformer import Backbone, Block

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Block",
    "Classifier",
    "Input",
    "KVCache",
    "LanguageModel",
    "Network",
    "Pooler",
    "TokenInput",
    "linear_cross_entropy",
]
