"""The linear layer, by the library that is fastest on the processor: the same sums in the same precision.

torch gives products of fp32 matrices on a CPU to MKL, which uses the widest instructions on its own maker's
processors only. On others oneDNN, which torch brings too, takes half the time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 16  # rows below which preparing oneDNN's product takes longer than it saves
# Weights, and these times rows, from which it is worth it with a weight that is laid out beforehand.
LARGE, MUCH = 300_000, 1 << 20


def prefers_onednn() -> bool:
    """Whether products of fp32 matrices go to oneDNN: on an x86 processor that is not Intel's."""
    known = torch.cpu.get_capabilities()
    theirs = known.get("architecture") == "x86_64" and "Intel" not in known.get("cpu_name", "Intel")
    return theirs and known.get("avx2", False) and torch.backends.mkldnn.is_available()


ONEDNN = prefers_onednn()  # asked once: the compiler can't look into it


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Whether products in bf16 are the faster ones on a device: from Ampere on, and on CPUs that have
    instructions for them; on others they take up to a hundred times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _faster(*matrices: Tensor) -> bool:
    """Whether oneDNN is to multiply these."""
    return ONEDNN and all(
        each.device.type == "cpu"
        and each.dtype == torch.float32
        and each.ndim == 2
        and type(each) in (Tensor, nn.Parameter)
        and each.shape[0] >= FEW
        for each in matrices
    )


def _kernel(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# For the compiler, which knows oneDNN's operator with constant weights only, one that it does not look into.
_LIBRARY = torch.library.Library("lm", "FRAGMENT")
_LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_LIBRARY.impl("linear", _kernel, "CPU")
_LIBRARY.impl("linear", lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]), "Meta")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias of matrices, in whatever order they lie in memory."""
    return (torch.ops.lm.linear if torch.compiler.is_compiling() else _kernel)(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b of matrices (M, K) and (K, N), without a gradient."""
    return _onednn(a, b.t()) if _faster(a, b) else a @ b


def product_of_columns(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ · b of matrices (K, M) and (K, N), without a gradient: that of a weight."""
    if not _faster(a, b):
        return a.t() @ b
    # Few long rows are written faster than many short ones.
    return _onednn(a.t(), b.t()) if a.shape[1] <= b.shape[1] else _onednn(b.t(), a.t()).t()


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _onednn(grad, weight.t()) if needs_x else None,
            product_of_columns(grad, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x · weightᵀ + bias of (..., in), (out, in) and (out,). oneDNN gives first derivatives."""
    if x.ndim < 2 or torch.is_autocast_enabled("cpu") or not _faster(weight):
        return F.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if not _faster(rows):
        return F.linear(x, weight, bias)
    trained = any(each is not None and each.requires_grad for each in (x, weight, bias))
    multiply = _OneDnnLinear.apply if trained and torch.is_grad_enabled() else _onednn
    return multiply(rows, weight, bias).view(*x.shape[:-1], weight.shape[0])


def fastest_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """x · weightᵀ + bias of (rows, in), without a gradient and with the weight as it is now, by what is the
    fastest for so many rows."""
    cpu = weight.device.type == "cpu"
    bf16 = cpu and weight.dtype == torch.bfloat16 and multiplies_bf16_fast(weight.device)
    if bf16 or (_faster(weight) and (weight.numel() >= LARGE or weight.numel() * rows >= MUCH)):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)  # as the product wants it
        return lambda x: _kernel(x, packed, bias)
    columns = weight.t()
    return (lambda x: torch.mm(x, columns)) if bias is None else lambda x: torch.addmm(bias, x, columns)


class Linear(nn.Linear):
    """`nn.Linear`, by the fastest library."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return linear(x, self.weight, self.bias)
