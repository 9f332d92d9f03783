"""Which parameters are matrices, embeddings and vectors: optimizers treat each kind in its own way."""

import re
from typing import Any

from torch import nn

from lm.backbone.transformer import last_norm

KINDS = ("matrix", "embedding", "vector")


def kind_of(name: str, parameter: nn.Parameter) -> str:
    """`matrix` (a linear layer inside the network), `embedding` (the input, whatever it is, heads, kernels of
    convolutions) or `vector` (norms, biases)."""
    if parameter.ndim < 2:
        return "vector"
    outer = parameter.ndim > 2 or "embeddings." in name or name.endswith("head.weight")
    return "embedding" if outer else "matrix"


def depth_of(name: str, layers: int) -> int:
    """How many layers stand above a parameter: 0 in the head, `layers` + 1 in the embeddings."""
    block = re.search(r"\bblocks\.(\d+)\.", name)
    if block:
        return layers - int(block[1])
    return layers + 1 if "embeddings." in name else 0


def parameter_groups(
    module: nn.Module,
    layer_decay: float = 1.0,
    layers: int = 0,
    width_scale: float = 1.0,
    backbone_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, one for each kind that occurs: `params`, `kind`, and no weight decay
    on vectors. Parameters that are not trained are left out.

    Args:
        layer_decay: below 1, a group for each kind and layer, with `lr_scale`: the factor of its learning
            rate, which is this many times that of the layer above (arXiv:1801.06146).
        layers: how many the network has.
        width_scale: the width that the learning rates are for by the network's own. Other than 1, it is the
            `width_scale` of the groups whose rate under Adam goes with the width (arXiv:2203.03466, table 8):
            the matrices, and the norm in front of the head, for the logits.
        backbone_scale: other than 1, a factor of the backbone's learning rates, in `lr_scale`, too. Queries,
            which a task puts there anew, go without it.
    """
    groups: dict[tuple[bool, int, int, bool], dict[str, Any]] = {}
    last = set() if width_scale == 1 else {id(p) for p in last_norm(module).parameters()}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kind_of(name, parameter)
        depth = 0 if layer_decay == 1 else depth_of(name, layers)
        scaled = width_scale != 1 and (kind == "matrix" or id(parameter) in last)
        below = backbone_scale != 1 and name.startswith("backbone.") and ".queries." not in name
        group = groups.setdefault((below, depth, KINDS.index(kind), scaled), {"kind": kind, "params": []})
        group["params"].append(parameter)
        if kind == "vector":
            group["weight_decay"] = 0.0
        if layer_decay != 1 or below:
            group["lr_scale"] = layer_decay**depth * (backbone_scale if below else 1)
        if scaled:
            group["width_scale"] = width_scale
    return [groups[key] for key in sorted(groups)]
