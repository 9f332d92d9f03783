"""Which tokens a BERT has to guess: a pure function of each window's key, the same on every device."""

import torch
from torch import Tensor

from lm.data.windows import GAMMA, MIX
from lm.tasks.base import IGNORED

_SIGNED = 1 << 64  # torch's integers have a sign


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(key: Tensor, index: Tensor, stream: int) -> Tensor:
    """Numbers from 0 to below 1 that depend on `key`, `index` (int64, broadcast) and `stream` alone: fp64."""
    x = key + (index * 8 + stream + 1) * (GAMMA - _SIGNED)
    for bits, factor in MIX:
        x = (x ^ _shift(x, bits)) * (factor - _SIGNED)
    # 53 random bits fill a double; Apple's GPUs have none.
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    return _shift(x ^ _shift(x, 31), 11).to(dtype) / (1 << 53)


def mask_tokens(
    tokens: Tensor,
    key: Tensor,
    rate: float,
    mask_id: int,
    maskable: Tensor,
    vocab_size: int,
    words: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs with masks and the targets under them, (B, T) each: of each row's maskable tokens `rate` are
    chosen, of which 80% become the mask, 10% a random token, and 10% stay (BERT, arXiv:1810.04805).

    The number chosen is fixed, rounded from the rate, so that every row weighs the same. With whole words it
    may fall short by part of a word.

    Args:
        tokens: (B, T).
        key: (B,) int64, of each window.
        maskable: (B, T), False where a token must stay.
        words: (B, T) number of each token's word within its row; None to choose single tokens.
    """
    T = tokens.shape[1]
    key, index = key[:, None], torch.arange(T, device=tokens.device)[None]
    score = uniform(key, index if words is None else words, stream=0)
    score = torch.where(maskable, score, 2.0)
    rank = score.argsort(dim=1, stable=True).argsort(dim=1)
    if words is not None:  # a word is as late as its last token
        last = torch.zeros_like(rank).scatter_reduce(1, words, torch.where(maskable, rank, 0), "amax")
        rank = torch.where(maskable, last.gather(1, words), T)
    budget = (maskable.sum(1, keepdim=True) * rate).round()
    chosen = maskable & (rank < budget)
    how = uniform(key, index, stream=1)
    random = (uniform(key, index, stream=2) * vocab_size).long().clamp(max=vocab_size - 1)
    inputs = torch.where(chosen & (how < 0.8), mask_id, tokens)
    inputs = torch.where(chosen & (how >= 0.9), random, inputs)
    return inputs, torch.where(chosen, tokens, IGNORED)


def word_numbers(tokens: Tensor, opens: Tensor, closes: Tensor) -> Tensor:
    """Number of each token's word within its row, (B, T) from (B, T), by which tokens of the vocabulary open
    and close a word (V,)."""
    starts = opens[tokens].clone()
    starts[:, 1:] |= closes[tokens[:, :-1]]
    starts[:, 0] = True
    return starts.long().cumsum(1) - 1
