"""Low-rank adapters as they lie in a checkpoint, put into the weights that they were trained beside."""

from typing import Any

from torch import Tensor

from lm.backbone.quantised import dequantised

DOWN, UP, SIZE = "lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"


def merge(weights: dict[str, Tensor], adapter: dict[str, Any]) -> dict[str, Tensor]:
    """A network's weights without the adapter: W + s·B·A (LoRA, arXiv:2106.09685), or that with each row
    brought to its learned length (DoRA, arXiv:2402.09353). W is restored where it is integers.

    Args:
        weights: by the names that peft gives them: of a layer `NAME`, `NAME.base_layer.weight`,
            `NAME.lora_A.default.weight` (rank, in), `NAME.lora_B.default.weight` (out, rank) and, in DoRA,
            `NAME.lora_magnitude_vector.default.weight` (out,).
        adapter: its `rank` and `alpha`; s is alpha / rank.
    """
    scale = adapter["alpha"] / adapter["rank"]
    integers = [name.removesuffix(".values") for name in weights if name.endswith(".base_layer.values")]
    merged = {}
    weights = dequantised(weights, integers)
    for name, value in weights.items():
        layer, _, rest = name.partition(".base_layer.")
        if not rest:
            if ".lora_" not in name:
                merged[name] = value
            continue
        plain = value
        if rest == "weight" and f"{layer}.{DOWN}" in weights:
            down, up = weights[f"{layer}.{DOWN}"], weights[f"{layer}.{UP}"]
            whole = value.float() + scale * (up.float() @ down.float())
            if f"{layer}.{SIZE}" in weights:
                whole *= (weights[f"{layer}.{SIZE}"].float() / whole.norm(dim=1))[:, None]
            plain = whole.to(value.dtype)
        merged[f"{layer}.{rest}"] = plain
    return merged


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter."""
    return ".lora_" in name
