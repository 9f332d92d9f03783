"""Weights to small integers: which ones, and how they are rounded."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lm.backbone.linear import Linear
from lm.backbone.quantised import KEPT, QuantisedLinear
from lm.checkpoint import Model
from lm.compression.calibration import filled
from lm.errors import UserError

_SHRINKS = torch.linspace(1.0, 0.6, 21)  # of a group's range, that are tried


def quantise(model: Model, bits: int = 8, group: int | None = None) -> Model:
    """The model with the blocks' linear layers in integers; embeddings, norms and head stay as they are.

    Args:
        model: with plain weights.
        bits: 8 or 4.
        group: weights that share a scale; None: a whole row with 8 bits, 32 with 4.

    Raises:
        UserError: it is quantised already, bits or group can't be, or no layer fits.
    """
    if model.record.get("quantised"):
        raise UserError(f"{model.source} is quantised already: give the model that it was made of")
    group = group_of(bits, group)
    network = model.checked().network
    layers = {
        name: module
        for name, module in network.backbone.named_modules(prefix="backbone")
        if isinstance(module, Linear) and module.in_features % (group or 1) == 0
    }
    if not layers:
        raise UserError(f"{model.source} has no linear layer whose inputs are groups of {group}", status=2)
    weights = dict(model.weights)
    for name in layers:
        plain = weights.pop(f"{name}.weight")
        rounded = to_int8(plain) if bits == 8 else to_int4(plain, group)
        weights |= {f"{name}.{kind}": value for kind, value in rounded.items()}
    record = {**model.record, "quantised": {"bits": bits, "group": group, "layers": list(layers)}}
    notes = []
    if bits == 4 and "sparsity" in record.get("pruned", {}):
        record, notes = (
            filled(record),
            ["the zeros of pruning are no longer zero with 4 bits; with 8 they are"],
        )
    return replace(model, weights=weights, record=record, notes=notes)


def group_of(bits: int, group: int | None) -> int:
    """How many weights share a scale, 0 for a whole row, where `group` were asked for.

    Raises:
        UserError: bits or group can't be.
    """
    if bits not in (4, 8):
        raise UserError(f"`bits` {bits}: they can be 8 or 4", status=2)
    found = (0 if bits == 8 else 32) if group is None else group
    if (bits == 8 and found) or (bits == 4 and found not in (32, 64, 128, 256)):
        raise UserError(f"`group` {found}: 4 bits have 32, 64, 128 or 256, 8 bits none", status=2)
    return found


def to_int8(weight: Tensor) -> dict[str, Tensor]:
    """Each row of (out, in) by its largest value: `values` int8 and `scales` (out, 1) bf16."""
    scales = (weight.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    kept = scales.bfloat16()
    values = (weight.float() / kept.float()).round().clamp(-127, 127).to(torch.int8)
    return {"values": values, "scales": kept}


def to_int4(weight: Tensor, group: int) -> dict[str, Tensor]:
    """Each group of a row between its least and its largest value, or a part of that range, whichever has the
    least squared error: `values` (out, in / 2) uint8, two to a byte, `scales` and `zeros` (out, in / group).
    """
    rows = weight.float().view(weight.shape[0], -1, group)
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    best = [torch.full_like(low, torch.inf), *(torch.empty_like(low) for _ in range(2))]
    for shrink in _SHRINKS.tolist():
        scale = (shrink * (high - low) / 15).clamp_min(1e-8).bfloat16().float()
        # (q − 8) · scale + zero: the middle of the range is between 7 and 8.
        zero = ((low + high) / 2 + scale / 2).bfloat16().float()
        error = (_rounded(rows, scale, zero) * scale + zero - rows).square().sum(-1, keepdim=True)
        better = error < best[0]
        best = [torch.where(better, new, old) for new, old in zip((error, scale, zero), best, strict=True)]
    _, scale, zero = best
    values = (_rounded(rows, scale, zero) + 8).flatten(1).to(torch.uint8)
    return {
        "values": values[:, ::2] | (values[:, 1::2] << 4),
        "scales": scale[..., 0].bfloat16(),
        "zeros": zero[..., 0].bfloat16(),
    }


def _rounded(rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((rows - zero) / scale).round().clamp(-8, 7)


def quantised_bytes(network: nn.Module) -> tuple[int, int]:
    """Bytes of the quantised layers, and what they would be in fp32."""
    layers = [each for each in network.modules() if isinstance(each, QuantisedLinear)]
    own = sum(getattr(each, kind).nbytes for each in layers for kind in KEPT if hasattr(each, kind))
    return own, sum(4 * each.in_features * each.out_features for each in layers)


def packed(network: nn.Module) -> list[Tensor]:
    """What the kernels for 4 bits keep beside the weights, once they were used."""
    layers = [each for each in network.modules() if isinstance(each, QuantisedLinear)]
    return [part for each in layers if each.packed is not None for part in each.packed]
