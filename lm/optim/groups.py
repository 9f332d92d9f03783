"""Which parameters are matrices, embeddings and vectors: optimizers treat each kind in its own way."""

from typing import Any

from torch import nn

KINDS = ("matrix", "embedding", "vector")


def kind_of(name: str, parameter: nn.Parameter, embeddings: set[int]) -> str:
    """`matrix` (a linear layer inside the network), `embedding` (look-ups and heads) or `vector` (norms,
    biases)."""
    if parameter.ndim < 2:
        return "vector"
    return "embedding" if id(parameter) in embeddings or name.endswith("head.weight") else "matrix"


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, one for each kind that occurs: `params`, `kind`, and no weight decay
    on vectors. Parameters that are not trained are left out."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    groups: dict[str, dict[str, Any]] = {kind: {"kind": kind, "params": []} for kind in KINDS}
    groups["vector"]["weight_decay"] = 0.0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[kind_of(name, parameter, embeddings)]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
