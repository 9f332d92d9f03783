"""How far a student's outputs and hidden states are from its teacher's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone.linear import product, product_of_columns
from lm.backbone.loss import MOST_ELEMENTS


def soft_distance(student: Tensor, teacher: Tensor, temperature: float, dim: int = -1) -> Tensor:
    """T² · KL(teacher ‖ student), summed over all distributions, in nats: a scalar, fp32.

    Both are softened by the temperature T; T² keeps the gradients as large as at T = 1 (arXiv:1503.02531,
    section 2).

    Args:
        student: logits of any shape.
        teacher: logits of the same shape.
        dim: along which the probabilities add up to 1.
    """
    log_p = F.log_softmax(student.float() / temperature, dim)
    log_q = F.log_softmax(teacher.float() / temperature, dim)
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum()


def _log_probabilities(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = product(hidden, weight.t()).float()
    if bias is not None:
        logits = logits + bias
    return F.log_softmax(logits.div_(temperature), -1)


class _LinearSoftDistance(torch.autograd.Function):
    """The gradients are computed beside the distance, chunk by chunk: see `lm.backbone.loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: tuple[Tensor, Tensor, Tensor | None],
        temperature: float,
        rows: int,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        theirs, their_weight, their_bias = teacher
        matrix, their_matrix = weight.to(hidden.dtype), their_weight.to(theirs.dtype)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], theirs[start : start + rows]
            log_p = _log_probabilities(h, matrix, bias, temperature)  # (rows, V)
            log_q = _log_probabilities(t, their_matrix, their_bias, temperature)
            q = log_q.exp()
            total += (q * (log_q - log_p)).sum()
            grad = log_p.exp_().sub_(q).mul_(temperature)  # T² · (p - q) / T
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(h.dtype)
            grad_hidden[start : start + rows] = product(grad, matrix)
            grad_weight += product_of_columns(grad, h)
        ctx.save_for_backward(grad_hidden, grad_weight, *([] if grad_bias is None else [grad_bias]))
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total.mul_(temperature**2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
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


def linear_soft_distance(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: tuple[Tensor, Tensor, Tensor | None],
    temperature: float,
    rows: int | None = None,
) -> Tensor:
    """`soft_distance` of hidden · weightᵀ + bias to the same of the teacher, where the two (tokens x
    vocabulary) matrices of logits never exist: at most `rows` x V of each do at a time.

    Args:
        hidden: (N, hidden_size).
        weight: (V, hidden_size); of more rows on one side than on the other those in common count.
        bias: (V,) or None.
        teacher: the same three of the teacher, of its own hidden size, without a gradient.
        rows: tokens a chunk; chosen by the device where it is None.
    """
    theirs, their_weight, their_bias = teacher
    V = min(len(weight), len(their_weight))
    weight, bias = weight[:V], None if bias is None else bias[:V]
    their_weight, their_bias = their_weight[:V], None if their_bias is None else their_bias[:V]
    device = hidden.device.type
    # A quarter of the logits that a loss holds at a time: here there are four such matrices.
    rows = rows or max(64, MOST_ELEMENTS.get(device, 1 << 25) // 4 // V)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, theirs = hidden.to(dtype), theirs.to(dtype)
    with torch.autocast(device, enabled=False):  # the sums are in fp32, whatever the products are in
        return _LinearSoftDistance.apply(
            hidden, weight, bias, (theirs, their_weight, their_bias), temperature, rows
        )


def hidden_distance(pairs: list[tuple[Tensor, Tensor]], real: Tensor | None) -> Tensor:
    """The mean squared difference of normalised hidden states, the mean over a sequence's positions and over
    the pairs of layers, summed over the sequences: a scalar, fp32.

    Normalised, since layers differ in scale, above all those without a norm behind them; else as in TinyBERT
    (arXiv:1909.10351).

    Args:
        pairs: the student's and the teacher's states (B, T, width) of the same width.
        real: (B, T), False at padding; None where there is none.
    """
    total = pairs[0][0].new_zeros((), dtype=torch.float32)
    for ours, theirs in pairs:
        a, b = (F.layer_norm(each.float(), each.shape[-1:]) for each in (ours, theirs))
        apart = (a - b).square().mean(-1)  # (B, T)
        if real is None:
            total = total + apart.mean(1).sum()
        else:
            total = total + ((apart * real).sum(1) / real.sum(1).clamp(min=1)).sum()
    return total / len(pairs)
