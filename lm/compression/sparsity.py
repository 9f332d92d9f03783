"""Pruning weights: zeros in the place of those that matter least. The shapes stay, and so do size and speed:
what has zeros can be packed better, and on GPUs from Ampere on 2:4 is a kernel's.
"""

import re
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lm.backbone.linear import Linear
from lm.checkpoint import Model
from lm.compression.calibration import Read, copied, filled, inputs_of, walk
from lm.errors import UserError

Method = Literal["wanda", "magnitude"]


class Pattern(NamedTuple):
    """Which weights of a row are looked at together: of each `of` in a row `zeros` become zero."""

    zeros: int
    of: int


def pattern_of(spelt: str) -> Pattern:
    """Of "2:4": of each four weights in a row two are left.

    Raises:
        UserError: it is no such pattern.
    """
    found = re.fullmatch(r"(\d+):(\d+)", spelt)
    kept, of = map(int, found.groups()) if found else (0, 0)
    if not 0 < kept < of:
        said = "give two numbers such as 2:4, of each four weights two are left"
        raise UserError(f"`pattern` {spelt}: {said}", status=2)
    return Pattern(of - kept, of)


def sparsify(
    model: Model, share: float = 0.5, pattern: Pattern | None = None, tokens: Tensor | None = None
) -> Model:
    """The model with zeros in the blocks' linear layers; embeddings, norms and head stay as they are.

    Args:
        model: with plain weights; it is left as it is.
        share: of each row's weights, or of each layer's by magnitude, that become zero.
        pattern: instead of a share.
        tokens: of calibration (N, T): a weight matters by its size times the norm of what it is multiplied
            with (Wanda, arXiv:2306.11695), with what the layers before it make once they are pruned; None:
            by its size (arXiv:1506.02626).

    Raises:
        UserError: the share is none, or the pattern doesn't divide a layer's inputs.
    """
    if not 0 < share < 1:
        raise UserError(f"`sparsity` {share:g}: it must be above 0, below 1", status=2)
    made = copied(model)
    backbone = made.network.backbone
    for name, layer in backbone.named_modules():
        if pattern and isinstance(layer, Linear) and layer.in_features % pattern.of:
            said = f"`pattern`: {name} has {layer.in_features} inputs, no multiple of {pattern.of}"
            raise UserError(said, status=2)

    def visit(block: nn.Module, _: Tensor | None = None, read: Read | None = None) -> None:
        layers = [layer for layer in block.modules() if isinstance(layer, Linear)]
        norms: list[Tensor | None] = [None] * len(layers)
        if read is not None:
            norms = [each.sqrt() for each in inputs_of(layers, read, lambda x: x.float().square().sum(0))]
        for layer, norm in zip(layers, norms, strict=True):
            cut(layer.weight.data, share, pattern, norm)

    if tokens is None:
        for block in backbone.blocks:
            visit(block)
    else:
        walk(made, tokens, visit)
    what: dict[str, Any] = {"sparsity": pattern.zeros / pattern.of if pattern else share}
    what["method"] = "magnitude" if tokens is None else "wanda"
    if pattern:
        what["pattern"] = f"{pattern.of - pattern.zeros}:{pattern.of}"
    made.record["pruned"] = {**filled(made.record)["pruned"], **what}
    return made


def cut(weight: Tensor, share: float, pattern: Pattern | None = None, norms: Tensor | None = None) -> None:
    """Put zeros into a matrix (out, in), in place: see `sparsify`. `norms` (in,) are of its inputs."""
    scores = weight.abs().float()
    rows = scores.flatten()[None]  # the whole layer at once
    if norms is not None:
        rows = scores = scores * norms
    zeros = round(share * rows.shape[1])
    if pattern:
        rows, zeros = scores.view(-1, pattern.of), pattern.zeros
    least = rows.argsort(dim=1, stable=True)[:, :zeros]
    kept = torch.ones_like(rows, dtype=torch.bool).scatter_(1, least, False)
    weight.mul_(kept.view_as(weight))
