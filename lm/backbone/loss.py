"""Cross-entropy of a linear head without the (tokens x vocabulary) matrix of logits."""

from typing import Any

import torch
from torch import Tensor

from lm.backbone.linear import product, product_of_columns

# Logits held at a time. At most these, 256 MB of them on a CPU; but no more than are worth it there: half a
# thousand rows are as fast as all, and what fits into a cache is faster.
MOST_ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 27}
CACHED_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 27}
ENOUGH_ROWS = 512


def _chunk_rows(hidden: Tensor, vocab_size: int) -> int:
    most, cached = (
        limit.get(hidden.device.type, 1 << 25) // vocab_size for limit in (MOST_ELEMENTS, CACHED_ELEMENTS)
    )
    return max(64, min(most, max(cached, ENOUGH_ROWS)))


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are computed beside the loss, chunk by chunk, while a chunk's logits are there: three
    matrix products a chunk, where recomputing in the backward pass would take four."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int, train: bool
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hits = torch.zeros((), dtype=torch.int64, device=hidden.device)
        matrix = weight.to(hidden.dtype)
        on_cpu = hidden.device.type == "cpu"
        all_count = on_cpu and bool((targets >= 0).all())  # on a GPU looking would wait for it
        if hidden.dtype != torch.float32 and bias is None:
            scratch = hidden.new_empty((min(rows, len(hidden)), len(weight)), dtype=torch.float32)
        if train:
            grad_hidden = torch.empty_like(hidden)
            grad_weight: Tensor | None = None
            grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = product(h, matrix.t())  # (rows, V)
            if bias is not None:
                logits = logits.float() + bias
            if not train:
                hits += ((logits.argmax(dim=-1) == t) & (t >= 0)).sum()
            index = (t if all_count else t.clamp(min=0))[:, None]
            likelihoods = scratch[: len(h)].copy_(logits) if logits.dtype != torch.float32 else logits
            torch.log_softmax(likelihoods, -1, out=likelihoods)
            found = likelihoods.gather(1, index).squeeze(1)
            total -= (found if all_count else found * (t >= 0)).sum()
            if train:
                grad = likelihoods.exp_()  # softmax, and from here the gradient of the logits
                grad.scatter_add_(1, index, grad.new_full((), -1.0).expand_as(index))
                if not all_count:
                    grad.mul_((t >= 0)[:, None])
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = logits.copy_(grad) if logits.dtype == h.dtype else grad.to(h.dtype)
                grad_hidden[start : start + rows] = product(grad, matrix)
                part = product_of_columns(grad, h)
                grad_weight = part.float() if grad_weight is None else grad_weight.add_(part)
        if train:
            grad_weight = torch.zeros_like(weight) if grad_weight is None else grad_weight
            ctx.save_for_backward(grad_hidden, grad_weight, *([] if grad_bias is None else [grad_bias]))
            ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_hits: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, *grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        scaled = grad_weight.new_empty(
            grad_weight.shape, dtype=weight_dtype
        )  # rows in order, as the weight's
        torch.mul(grad_weight, grad_total, out=scaled)
        return (
            grad_hidden * grad_total.to(grad_hidden.dtype),
            scaled,
            (grad_bias[0] * grad_total).to(bias_dtype) if grad_bias else None,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over tokens of −log softmax(hidden · weightᵀ + bias)[target], in nats: a scalar, fp32. Beside it,
    outside training, how many targets have the largest logit: int64; 0 where a gradient is asked for.

    Equal to `F.cross_entropy(..., ignore_index=-100, reduction="sum")` on the whole matrix of logits, which
    never exists: at most `rows` x V of it do at a time.

    Args:
        hidden: (N, hidden_size).
        weight: (V, hidden_size).
        targets: (N,); negative ones count nothing.
        bias: (V,) or None.
        rows: tokens a chunk; chosen by the device where it is None.
    """
    device, rows = hidden.device.type, rows or _chunk_rows(hidden, len(weight))
    train = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):  # the sums are in fp32, whatever the products are in
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, rows, train)
