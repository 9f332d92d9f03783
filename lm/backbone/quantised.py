"""Linear layers whose weights are small integers: a quarter or an eighth of what fp32 takes, and as much less
to read from memory for each token, which is what writing one text costs.

A weight is (integer − offset) · scale + zero: with 8 bits a scale for each row (symmetric), with 4 bits scale
and zero for each `group` of a row. The integers are not trained; what stands before them, or beside them
(QLoRA, arXiv:2305.14314), gets its gradient through them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lm.backbone.linear import linear, multiplies_bf16_fast, product

FEW = 64  # rows up to which the integers are multiplied as they are
KEPT = ("values", "scales", "zeros")  # in the place of `weight`


class _Product(torch.autograd.Function):
    """x · weightᵀ of (..., in), whose weights are made anew for the gradient: to keep them until then would
    take the memory that integers save."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        return linear(x, restored(dict(zip(KEPT, kept, strict=False))).to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        weight = restored(dict(zip(KEPT, kept, strict=False))).to(grad.dtype)
        found = product(grad.reshape(-1, len(weight)), weight).view(*grad.shape[:-1], -1)
        return found, *[None] * len(kept)


class QuantisedLinear(nn.Linear):
    """A linear layer with integers for weights.

    Few rows on a CPU are multiplied by torch's kernels for integers, with activations in bf16; many, and on
    other devices, by weights that are made anew each time. `weight` is that (out, in) matrix.

    Args:
        in_features, out_features, bias: as of `nn.Linear`.
        bits: 8 or 4.
        group: weights of a row that share scale and zero; 0 for a whole row, which 8 bits have.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool, bits: int, group: int, device: Any = None
    ) -> None:
        nn.Module.__init__(self)  # its own has a matrix of floats
        self.in_features, self.out_features, self.bits, self.group = in_features, out_features, bits, group
        kind = torch.int8 if bits == 8 else torch.uint8
        groups = in_features // group if group else 1
        self.register_buffer(
            "values", torch.empty(out_features, in_features * bits // 8, dtype=kind, device=device)
        )
        self.register_buffer("scales", torch.empty(out_features, groups, dtype=torch.bfloat16, device=device))
        if bits == 4:
            self.register_buffer("zeros", torch.empty_like(self.scales))
        self.bias = nn.Parameter(torch.empty(out_features, device=device)) if bias else None
        # As the kernel for 4 bits wants it: the integers; scales and zeros.
        self.packed: tuple[Tensor, Tensor] | None = None

    @property
    def num_weights(self) -> int:
        """Weights that are no parameters."""
        return self.in_features * self.out_features

    @property
    def kept(self) -> list[Tensor]:
        """The layer's `KEPT`."""
        return [getattr(self, each) for each in KEPT[: 2 + (self.bits == 4)]]

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            return restored(dict(zip(KEPT, self.kept, strict=False)))
        return super().__getattr__(name)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.packed = None  # of other weights
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rows = x.numel() // self.in_features
        if rows <= FEW and not x.requires_grad and self.fits_kernel():
            y = self.multiply(x.reshape(rows, -1).bfloat16()).to(x.dtype).view(*x.shape[:-1], -1)
        else:
            y = _Product.apply(x, *self.kept)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def fits_kernel(self) -> bool:
        """Whether torch has a kernel for the shape, here: of others it multiplies something else, or ends."""
        if self.values.device.type != "cpu" or not multiplies_bf16_fast(self.values.device):
            return False
        return self.in_features % 32 == 0 and self.out_features % (1 if self.bits == 8 else 64) == 0

    def multiply(self, x: Tensor) -> Tensor:
        """x · weightᵀ of (rows, in) in bf16, by the kernel."""
        if self.bits == 8:
            return torch._weight_int8pack_mm(x, self.values, self.scales[:, 0])
        if self.packed is None:
            whole = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpacked(self.values).int(), 1)
            both = torch.stack((self.scales, self.zeros), -1).transpose(0, 1)  # (groups, out, 2)
            self.packed = whole, both.contiguous()
        whole, both = self.packed
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, whole, self.group, both)

    @classmethod
    def joined(cls, layers: Sequence["QuantisedLinear"]) -> "QuantisedLinear":
        """One layer of several that read the same input: their outputs one behind the other."""
        if len(layers) == 1:
            return layers[0]
        first, outputs = layers[0], sum(each.out_features for each in layers)
        whole = cls(first.in_features, outputs, first.bias is not None, first.bits, first.group, "meta")
        parts = [each.state_dict() for each in layers]
        whole.load_state_dict(
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, assign=True
        )
        return whole

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group={self.group}"


def unpacked(values: Tensor) -> Tensor:
    """Two integers of 4 bits from each byte: (out, in / 2) to (out, in) uint8."""
    return torch.stack((values & 15, values >> 4), -1).flatten(1)


def restored(kept: dict[str, Tensor]) -> Tensor:
    """The weights (out, in), fp32, of a layer's `KEPT`."""
    scales = kept["scales"].float()[..., None]  # (out, groups, 1)
    if "zeros" not in kept:
        return kept["values"].float().view(*scales.shape[:2], -1).mul_(scales).flatten(1)
    values = unpacked(kept["values"]).float().view(*scales.shape[:2], -1)
    return values.sub_(8).mul_(scales).add_(kept["zeros"].float()[..., None]).flatten(1)


def dequantised(weights: dict[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """A network's weights with floats in the place of these layers' integers."""
    found = dict(weights)
    for layer in layers:
        own = {each: found.pop(f"{layer}.{each}") for each in KEPT if f"{layer}.{each}" in weights}
        found[f"{layer}.weight"] = restored(own)
    return found


def put_quantised(network: nn.Module, layers: Iterable[str], bits: int, group: int) -> None:
    """Put quantised layers without weights into a network, in the place of these linear ones."""
    for name in layers:
        parent, _, own = name.rpartition(".")
        old = network.get_submodule(name)
        new = QuantisedLinear(
            old.in_features, old.out_features, old.bias is not None, bits, group, old.weight.device
        )
        setattr(network.get_submodule(parent), own, new)


def described(network: nn.Module) -> dict[str, Any] | None:
    """What a record says of a network's quantised layers: `bits`, `group` and the `layers`' names; None where
    it has none."""
    layers = {name: each for name, each in network.named_modules() if isinstance(each, QuantisedLinear)}
    first = next(iter(layers.values()), None)
    return first and {"bits": first.bits, "group": first.group, "layers": list(layers)}
