"""Cross-entropy of a linear head without the (tokens x vocabulary) matrix of logits."""

from typing import Any

import torch
from torch import Tensor

# Logits held at a time: small enough to stay in a CPU's cache, large enough to fill a GPU.
CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}


def _chunk_rows(hidden: Tensor, vocab_size: int) -> int:
    return max(64, CHUNK_ELEMENTS.get(hidden.device.type, 1 << 25) // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are computed beside the loss, chunk by chunk, while a chunk's logits are there: three
    matrix products a chunk, where recomputing in the backward pass would take four."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int, train: bool
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hits = torch.zeros((), dtype=torch.int64, device=hidden.device)
        if train:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
            grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = (h @ weight.t()).float()  # (rows, V)
            if bias is not None:
                logits = logits + bias
            valid = t >= 0
            index = t.clamp(min=0)[:, None]
            log_z = logits.logsumexp(dim=-1, keepdim=True)
            total += ((log_z - logits.gather(1, index)).squeeze(1) * valid).sum()
            if not train:
                hits += ((logits.argmax(dim=-1) == t) & valid).sum()
            else:
                grad = logits.sub_(log_z).exp_()  # softmax, and from here the gradient of the logits
                grad.scatter_add_(1, index, grad.new_full((), -1.0).expand_as(index))
                grad.mul_(valid[:, None])
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(h.dtype)
                grad_hidden[start : start + rows] = grad @ weight
                grad_weight += grad.t() @ h
        if train:
            ctx.save_for_backward(grad_hidden, grad_weight, *([] if grad_bias is None else [grad_bias]))
            ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_hits: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, *grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            grad_hidden * grad_total.to(grad_hidden.dtype),
            (grad_weight * grad_total).to(weight_dtype),
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
    train = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, rows or _chunk_rows(hidden, len(weight)), train
    )
