"""The Transformer in pure torch: one configuration, one block, every architecture of the family."""

from lm.backbone.attention import KVCache
from lm.backbone.config import BackboneConfig
from lm.backbone.heads import Classifier, LanguageModel, Pooler
from lm.backbone.loss import linear_cross_entropy
from lm.backbone.transformer import Backbone, Block

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Block",
    "Classifier",
    "KVCache",
    "LanguageModel",
    "Pooler",
    "linear_cross_entropy",
]
