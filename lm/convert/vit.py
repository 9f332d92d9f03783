"""ViT, DeiT and AST: Transformers over patches, with one or two tokens before them."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, Patches
from lm.convert.family import PLAIN, PLAIN_OUT, Family, Layers, Part, block, linear
from lm.convert.fields import Fields
from lm.errors import UserError
from lm.processors import Processor

ATTENTION = {f"attention.attention.{name}": f"attention.{name}" for name in ("query", "key", "value")}
_BLOCK = {
    **ATTENTION,
    "attention.output.dense": "attention.output",
    "layernorm_before": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "layernorm_after": "mlp_norm",
}


class Vit(Family):
    """ViT (arXiv:2010.11929)."""

    name = "vit"
    prefix = "vit."
    # A linear layer with tanh, which classifiers don't use; and the decoder of masked patches.
    other_heads = re.compile(r"(classifier|pooler|decoder)\..*")
    ignored = re.compile(r"embeddings\.mask_token")
    pooled = ("first", False)
    base = "ViT"
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

    def processor(self, described: dict[str, Any]) -> Processor:
        from lm.processors.images import ImageProcessor

        return ImageProcessor.of_folder(described)

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
        """The inverse of `folded`, of a single token."""
        lead = ("embeddings.cls_token", "embeddings.position_embeddings")
        return {name: tensor[None] if name.endswith(lead) else tensor for name, tensor in tensors.items()}

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        said = super().write(config, pad)
        return {**said, "pooler_output_size": config.hidden_size, "pooler_act": "tanh"}

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

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        return iter(())

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        name = f"{self.base}ForImageClassification"
        if head["kind"] != "pooled" or head["pooling"] != "first" or head.get("pooler"):
            what = head["kind"] if head["kind"] != "pooled" else f"pooling {head['pooling']!r}"
            raise UserError(f"{name} reads the class token: a head with {what} can't go out as one")
        return name, list(linear("classifier", "head"))


class DeiT(Vit):
    """DeiT (arXiv:2012.12877): a second token has learned from a teacher. Where it has a classifier of its
    own, these two are not ours."""

    name = "deit"
    prefix = "deit."
    other_heads = re.compile(r"(classifier|cls_classifier|distillation_classifier|pooler|decoder)\..*")
    base = "DeiT"
    tokens = ("cls_token", "distillation_token")


class Ast(DeiT):
    """AST (arXiv:2104.01778): a DeiT over spectrograms, in patches that overlap. Its classifiers have a norm
    more than ours."""

    name = "audio-spectrogram-transformer"
    prefix = "audio_spectrogram_transformer."
    skipped = ""

    def input(self, fields: Fields) -> Patches:
        side, other = _sides(fields, "patch_size", 16)
        strides = fields.number("frequency_stride", 10), fields.number("time_stride", 10)
        if side != other or strides[0] != strides[1]:
            raise fields.refuse("patches and strides must be as wide as they are high")
        size = fields.number("num_mel_bins", 128), fields.number("max_length", 1024)
        return Patches(patch_size=side, stride=strides[0], size=size, channels=1, prefix=2)

    def processor(self, described: dict[str, Any]) -> Processor:
        from lm.processors.speech import SoundProcessor

        return SoundProcessor.of_folder(described)

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        raise UserError("ASTForAudioClassification has a norm before its outputs: this head has none")


def _sides(fields: Fields, name: str, usual: int) -> tuple[int, int]:
    """A field that is a side, or height and width."""
    value = fields.take(name, usual)
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    return fields.checked(name, sides[0]), fields.checked(name, sides[1])
