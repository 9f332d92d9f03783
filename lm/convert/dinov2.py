"""DINOv2, with registers or without."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig, Patches
from lm.convert.family import Layers, Part
from lm.convert.fields import Fields
from lm.convert.vit import ATTENTION, Vit
from lm.errors import UserError

_BLOCK = {**ATTENTION, "norm1": "attention_norm", "norm2": "mlp_norm"}
_BLOCK |= {"attention.output.dense": "attention.output"}
_PLAIN = {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
_GATED = {"mlp.weights_in": ("mlp.gate", "mlp.up"), "mlp.weights_out": "mlp.down"}


class Dinov2(Vit):
    """DINOv2 (arXiv:2304.07193): a ViT whose sublayers' outputs are scaled, which ours has in the projections
    that make them. Its classifiers read the mean of the patches beside the class token, which ours don't."""

    name = "dinov2"
    prefix = "dinov2."
    base = "Dinov2"
    side = 14
    same = {name: ours for name, ours in Vit.same.items() if name != "intermediate_size"}
    same["layer_norm_eps"] = ("norm_eps", 1e-6)
    # Of training, and of its use as a backbone.
    skipped = """
        layerscale_value drop_path_rate use_mask_token apply_layernorm reshape_hidden_states
        out_features out_indices stage_names
    """

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        inner = int(ours["hidden_size"] * fields.number("mlp_ratio", 4.0, float))
        mlp = ours["mlp"]
        if fields.flag("use_swiglu_ffn", False):
            mlp, inner = "swiglu", (int(inner * 2 / 3) + 7) // 8 * 8
        return {**super().more(fields, ours), "mlp": mlp, "mlp_hidden_size": inner}

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

    def layers(self, config: BackboneConfig) -> Layers:
        return _BLOCK | (_GATED if config.gated else _PLAIN)

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        raise UserError(f"{self.base}ForImageClassification reads the patches' mean, too: this head does not")


class Dinov2WithRegisters(Dinov2):
    """The same with tokens that hold what the patches otherwise would (arXiv:2309.16588)."""

    name = "dinov2_with_registers"
    prefix = "dinov2_with_registers."
    base = "Dinov2WithRegisters"
    side = 16
    tokens = ("cls_token", "register_tokens")

    def input(self, fields: Fields) -> Patches:
        count = fields.number("num_register_tokens", 4)
        return replace(super().input(fields), prefix=1, registers=count, antialias=True)
