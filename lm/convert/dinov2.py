"""DINOv2, with registers or without."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lm.backbone import BackboneConfig, Patches
from lm.convert.family import PLAIN, PLAIN_OUT, Layers
from lm.convert.fields import Fields
from lm.convert.vit import ATTENTION, Vit
from lm.errors import UserError

_BLOCK = {**ATTENTION, "norm1": "attention_norm", "norm2": "mlp_norm"}
_BLOCK |= {"attention.output.dense": "attention.output"}
_PLAIN = {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
_GATED = {"mlp.weights_in": ("mlp.gate", "mlp.up"), "mlp.weights_out": "mlp.down"}


class Dinov2(Vit):
    """DINOv2 (arXiv:2304.07193): a ViT whose sublayers' outputs are scaled, which ours has in the projections
    that make them."""

    name = "dinov2"
    prefix = "dinov2."
    classifiers: ClassVar = {"Dinov2ForImageClassification": {"pooling": "first", "also": "mean"}}
    reads = "the class token and the mean of the patches"
    side = 14
    activations = (PLAIN, {**PLAIN_OUT, "swiglu": "gelu"})  # which a SwiGLU does not look at
    same = {name: ours for name, ours in Vit.same.items() if name != "intermediate_size"}
    same["layer_norm_eps"] = ("norm_eps", 1e-6)
    # Of training, and of its use as a backbone.
    skipped = """
        layerscale_value drop_path_rate use_mask_token apply_layernorm reshape_hidden_states
        out_features out_indices stage_names
    """

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        gated, ratio = fields.flag("use_swiglu_ffn", False), fields.number("mlp_ratio", 4.0, float)
        mlp = "swiglu" if gated else ours["mlp"]
        inner = _inner(ours["hidden_size"], ratio, gated)
        return {**super().more(fields, ours), "mlp": mlp, "mlp_hidden_size": inner}

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        return [] if _ratio(config) else ["mlp_hidden_size"]

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        said = super().write(config, pad)
        return {**said, "mlp_ratio": _ratio(config), "use_swiglu_ffn": config.gated}

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = super().folded(tensors)
        outputs = {"1": "attention.output.dense"}
        for name in [name for name in tensors if name.endswith((".fc2.bias", ".weights_out.bias"))]:
            layer, _, last = name.removesuffix(".bias").rpartition(".mlp.")
            for number, output in (outputs | {"2": f"mlp.{last}"}).items():
                scale, bias = f"{layer}.layer_scale{number}.lambda1", tensors.get(f"{layer}.{output}.bias")
                factor, weight = tensors.pop(scale, None), tensors.get(f"{layer}.{output}.weight")
                if factor is None or weight is None or bias is None or factor.shape != bias.shape:
                    raise UserError(f"the weights of this {self.name} lack {scale}, or what it scales")
                tensors[f"{layer}.{output}.weight"] = weight * factor[:, None]
                tensors[f"{layer}.{output}.bias"] = bias * factor
        return tensors

    def unfolded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All scales are 1."""
        tensors = super().unfolded(tensors)
        for number in (1, 2):
            norms = [name for name in tensors if name.endswith(f".norm{number}.weight")]
            scales = {name.replace(f"norm{number}.weight", f"layer_scale{number}.lambda1") for name in norms}
            tensors |= {name: torch.ones_like(tensors[norms[0]]) for name in scales}
        unused = torch.zeros_like(tensors[f"{self.prefix}embeddings.cls_token"][0])
        return {**tensors, f"{self.prefix}embeddings.mask_token": unused}  # else a new one is made, and said

    def layers(self, config: BackboneConfig) -> Layers:
        return _BLOCK | (_GATED if config.gated else _PLAIN)


class Dinov2WithRegisters(Dinov2):
    """The same with tokens that hold what the patches otherwise would (arXiv:2309.16588)."""

    name = "dinov2_with_registers"
    prefix = "dinov2_with_registers."
    classifiers: ClassVar = {
        "Dinov2WithRegistersForImageClassification": {"pooling": "first", "also": "mean"}
    }
    side = 16
    wanted: ClassVar = {
        **{name: value for name, value in Dinov2.wanted.items() if name != "registers"},
        "antialias": True,
    }
    tokens = ("cls_token", "register_tokens")

    def input(self, fields: Fields) -> Patches:
        count = fields.number("num_register_tokens", 4)
        return replace(super().input(fields), prefix=1, registers=count, antialias=True)

    def write_input(self, shape: Any) -> dict[str, Any]:
        return {**super().write_input(shape), "num_register_tokens": shape.registers}


def _inner(width: int, ratio: float, gated: bool) -> int:
    """Inner width of a feed-forward network: with a gate two thirds, in whole eights."""
    inner = int(width * ratio)
    return (int(inner * 2 / 3) + 7) // 8 * 8 if gated else inner


def _ratio(config: BackboneConfig) -> int | None:
    """Which `mlp_ratio`, a whole number, makes the inner width; None: none does."""
    # 4 first: small widths with a gate come of several.
    ratios = (4, *range(1, 33))
    inner = config.mlp_width
    return next((each for each in ratios if _inner(config.hidden_size, each, config.gated) == inner), None)
