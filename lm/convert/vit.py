"""ViT, DeiT and AST: Transformers over patches, with one or two tokens before them."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, Input, Patches
from lm.convert import preprocessors
from lm.convert.family import PLAIN, PLAIN_OUT, Layers, Part, block, linear
from lm.convert.fields import Fields
from lm.convert.media import Media
from lm.errors import UserError

ATTENTION = {f"attention.attention.{name}": f"attention.{name}" for name in ("query", "key", "value")}
_BLOCK = {
    **ATTENTION,
    "attention.output.dense": "attention.output",
    "layernorm_before": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "layernorm_after": "mlp_norm",
}
_HEADS = ("cls_classifier", "distillation_classifier")  # of a DeiT with a teacher


class Vit(Media):
    """ViT (arXiv:2010.11929)."""

    name = "vit"
    prefix = "vit."
    # A linear layer with tanh, which classifiers don't use; and the decoder of masked patches.
    other_heads = re.compile(r"(classifier|pooler|decoder)\..*")
    ignored = re.compile(r"embeddings\.mask_token")
    classifiers: ClassVar = {"ViTForImageClassification": {"pooling": "first"}}
    reads = "the class token"
    wanted: ClassVar = {
        **{"stem": "linear", "positions": "learned", "stride": None, "antialias": False},
        **{"prefix": 1, "registers": 0, "queries": 0},
    }
    tokens: ClassVar[tuple[str, ...]] = ("cls_token",)  # before the patches, in this order
    side: ClassVar[int] = 16  # of patches, where no field says it

    same = {
        "hidden_size": ("hidden_size", 768),
        "num_hidden_layers": ("num_layers", 12),
        "num_attention_heads": ("num_heads", 12),
        "intermediate_size": ("mlp_hidden_size", 3072),
        "layer_norm_eps": ("norm_eps", 1e-12),
        "qkv_bias": ("attention_bias", True),
        "hidden_dropout_prob": ("dropout", 0.0),
        "initializer_range": ("init_std", 0.02),
    }
    copies = {"attention_probs_dropout_prob": "hidden_dropout_prob"}
    activation = ("hidden_act", "gelu")
    activations = (PLAIN, PLAIN_OUT)
    fixed = {
        **{"causal": False, "positions": "none", "norm": "layer", "bias": True},
        "attention_output_bias": True,
    }
    biases = dict.fromkeys(("attention_output", "mlp", "norm"), True)
    skipped = "encoder_stride pooler_output_size pooler_act"

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        shape = self.input(fields)
        return {"max_seq_len": shape.length(*shape.size)}

    def input(self, fields: Fields) -> Patches:
        height, width = _sides(fields, "image_size", 224)
        side, other = _sides(fields, "patch_size", self.side)
        if side != other or height % side or width % side:
            raise fields.refuse(
                f"patch_size is {side} × {other} and image_size {height} × {width}: patches must be square, "
                "and so many of them the whole image"
            )
        channels = fields.number("num_channels", 3)
        return Patches(patch_size=side, size=(height, width), channels=channels, prefix=len(self.tokens))

    def unfit(self, shape: Any, processor: Any) -> list[str]:
        found = super().unfit(shape, processor)
        for height, width in dict.fromkeys((shape.size, processor.size)):
            if height != width or height % shape.patch_size:
                found.append(f"pictures of {height} × {width} in patches of {shape.patch_size}")
        return found

    def prepared(self, processor: Any) -> dict[str, Any]:
        return preprocessors.of_pictures(processor)

    def size(self, processor: Any) -> tuple[int, int]:
        """Height and width of what a processor gives."""
        return processor.size

    def settled(self, shape: Any, processor: Any, embeddings: Input) -> tuple[Any, dict[str, Tensor]]:
        shape = replace(shape, size=self.size(processor))
        places, first = embeddings.places(*shape.grid(*shape.size))
        return shape, {"backbone.embeddings.positions.weight": torch.cat((first, places))}

    def write_input(self, shape: Any) -> dict[str, Any]:
        height, _ = shape.size
        return {"image_size": height, "patch_size": shape.patch_size, "num_channels": shape.channels}

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        names = [f"embeddings.{name}" for name in self.tokens]
        if missing := [name for name in names if name not in tensors]:
            raise UserError(f"the weights of this {self.name} lack {missing[0]}")
        found = [tensors[name].reshape(-1, tensors[name].shape[-1]) for name in names]
        kept = {name: tensor for name, tensor in tensors.items() if name not in names}
        places = "embeddings.position_embeddings"
        if places in kept:
            kept[places] = kept[places].reshape(-1, kept[places].shape[-1])
        return kept | {names[0]: torch.cat(found)}

    def unfolded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        there = f"{self.prefix}embeddings."
        names = [there + name for name in self.tokens]
        found = tensors[names[0]][None]
        # The class token, and what else there is.
        parts = [each.clone() for each in found.split([1, found.shape[1] - 1][: len(names)], dim=1)]
        places = f"{there}position_embeddings"
        return {**tensors, **dict(zip(names, parts, strict=True)), places: tensors[places][None]}

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        there, ours = "embeddings", "backbone.embeddings"
        yield from linear(f"{there}.patch_embeddings.projection", f"{ours}.patches")
        yield Part(f"{there}.{self.tokens[0]}", (f"{ours}.first.weight",))
        yield Part(f"{there}.position_embeddings", (f"{ours}.positions.weight",))
        for i in range(config.num_layers):
            yield from block(config, f"encoder.layer.{i}", i, self.layers(config))
        yield from linear("layernorm", "backbone.norm")

    def layers(self, config: BackboneConfig) -> Layers:
        """Ours by theirs in a block."""
        return _BLOCK


class DeiT(Vit):
    """DeiT (arXiv:2012.12877): a second token has learned from a teacher. Where it has a classifier of its
    own, the mean of the two is ours, of both tokens side by side."""

    name = "deit"
    prefix = "deit."
    other_heads = re.compile(r"(classifier|cls_classifier|distillation_classifier|pooler|decoder)\..*")
    classifiers: ClassVar = {
        "DeiTForImageClassification": {"pooling": "first"},
        "DeiTForImageClassificationWithTeacher": {"pooling": "first", "also": "second"},
    }
    wanted: ClassVar = {**Vit.wanted, "prefix": 2}
    tokens = ("cls_token", "distillation_token")

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = super().folded(tensors)
        heads = [tensors.get(f"{name}.{kind}") for kind in ("weight", "bias") for name in _HEADS]
        if any(each is None for each in heads):
            return tensors
        one, other, bias, other_bias = heads
        if one.shape != other.shape or bias.shape != other_bias.shape:
            return tensors
        tensors = {name: each for name, each in tensors.items() if not name.startswith(_HEADS)}
        joined = torch.cat((one, other), 1) / 2
        return {**tensors, "classifier.weight": joined, "classifier.bias": (bias + other_bias) / 2}

    def unfolded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = super().unfolded(tensors)
        width = tensors[f"{self.prefix}layernorm.weight"].shape[0]
        joined = tensors.get("classifier.weight")
        if joined is None or joined.shape[1] == width:
            return tensors
        bias = tensors.pop("classifier.bias")
        del tensors["classifier.weight"]
        for name, weight in zip(_HEADS, (2 * joined).split(width, 1), strict=True):
            tensors |= {f"{name}.weight": weight, f"{name}.bias": bias.clone()}
        return tensors


class Ast(DeiT):
    """AST (arXiv:2104.01778): a DeiT over spectrograms, in patches that overlap."""

    name = "audio-spectrogram-transformer"
    prefix = "audio_spectrogram_transformer."
    kind = "sound"
    classifiers: ClassVar = {
        "ASTForAudioClassification": {"pooling": "first", "also": "average", "norm": True},
    }
    outputs: ClassVar = {"classifier.layernorm": "norm", "classifier.dense": "head"}
    reads = "the mean of two tokens through a norm"
    padded = True
    wanted: ClassVar = {
        **{name: value for name, value in DeiT.wanted.items() if name != "stride"},
        "channels": 1,
    }
    skipped = ""

    def input(self, fields: Fields) -> Patches:
        side, other = _sides(fields, "patch_size", 16)
        strides = fields.number("frequency_stride", 10), fields.number("time_stride", 10)
        if side != other or strides[0] != strides[1]:
            raise fields.refuse("patches and strides must be as wide as they are high")
        size = fields.number("num_mel_bins", 128), fields.number("max_length", 1024)
        return Patches(patch_size=side, stride=strides[0], size=size, channels=1, prefix=2)

    def unfit(self, shape: Any, processor: Any) -> list[str]:
        found = Media.unfit(self, shape, processor)
        return found if shape.stride is not None else [*found, "input.stride None"]

    def prepared(self, processor: Any) -> dict[str, Any]:
        return preprocessors.of_ast(processor)

    def size(self, processor: Any) -> tuple[int, int]:
        return processor.bins, processor.frames(round(processor.seconds * processor.rate))

    def write_input(self, shape: Any) -> dict[str, Any]:
        (bins, frames), stride = shape.size, shape.stride
        return {
            **{"num_mel_bins": bins, "max_length": frames, "patch_size": shape.patch_size},
            **{"frequency_stride": stride, "time_stride": stride},
        }


def _sides(fields: Fields, name: str, usual: int) -> tuple[int, int]:
    """A field that is a side, or height and width."""
    value = fields.take(name, usual)
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    return fields.checked(name, sides[0]), fields.checked(name, sides[1])
