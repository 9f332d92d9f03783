"""Attention: heads shared or not, rotary positions, masks for documents and windows, a key/value cache.

Shapes: B sequences, T query positions, S key positions, H query heads, K key/value heads, D a head's width.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig
from lm.backbone.linear import Linear

SHORT = 512  # keys up to which a CPU's attention is slower in bf16 than in fp32, twice at 128


class Rotary(nn.Module):
    """Rotary position embedding (arXiv:2104.09864), halves rotated against each other as in Llama. `theta` is
    the base of the wavelengths: the configuration's where it is None."""

    def __init__(self, config: BackboneConfig, theta: float | None = None) -> None:
        super().__init__()
        self.config, self.theta = config, theta or config.rope_theta
        self.fill(config.max_seq_len)

    def fill(self, length: int, device: torch.device | str | None = None) -> None:
        """Make the table of angles for `length` positions."""
        # fp32 whatever the model's precision: bf16 cannot tell neighbouring positions apart.
        dim = self.config.dim_per_head
        device = device or torch.get_default_device()
        if (
            torch.device(device).type == "meta"
        ):  # nothing to compute, and computing there imports the compiler
            self.register_buffer("cos", torch.empty(length, dim // 2, device=device), persistent=False)
            self.register_buffer("sin", self.cos, persistent=False)
            return
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
        periods = stretched(self.theta**exponents, self.config)
        # Times the inverse, as transformers has it: dividing rounds otherwise, which shows far into a text.
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * (1 / periods)
        self.register_buffer("cos", angles.cos(), persistent=False)  # (length, D / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Go to another device, but never to another precision: `model.to(torch.bfloat16)` ends up here."""
        super()._apply(fn, recurse)
        if self.cos.dtype != torch.float32:
            self.fill(len(self.cos), self.cos.device)
        return self

    def forward(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (..., T, D / 2) of integer `positions` (..., T), all below `length`."""
        if length > len(self.cos):
            self.fill(length, self.cos.device)
        return self.cos[positions], self.sin[positions]


def stretched(periods: Tensor, config: BackboneConfig) -> Tensor:
    """Rotary periods (D / 2), in positions a radian, stretched for long texts as the configuration says."""
    if config.rope_type == "default":
        return periods
    if config.rope_type == "linear":
        return periods * config.rope_factor
    # Llama 3: a wavelength that fits often enough into the original length stays, one that does not is
    # stretched, and between the two the frequencies are mixed.
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_len / (2 * math.pi * periods)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return periods / (kept + (1 - kept) / config.rope_factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` (B, H, T, D) by angles whose cosines and sines are (T, D / 2) or (B, 1, T, D / 2)."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


@dataclass
class Pattern:
    """Who attends to whom, made once for all layers.

    Args:
        causal: the plain causal triangle, left to the kernel.
        mask: True where a query sees a key, (B or 1, 1, T, S); None where everything is seen.
        blocks: FlexAttention's block mask, instead of `mask`.
    """

    causal: bool = False
    mask: Tensor | None = None
    blocks: Any = None


def pattern(
    config: BackboneConfig,
    queries: int,
    keys: int,
    documents: Tensor | None,
    device: torch.device,
    flex: bool,
    windowed: bool = True,
) -> Pattern:
    """The attention pattern of `queries` positions that stand at the end of `keys` positions.

    Args:
        documents: document of each of the `keys` positions (B, S), or None where a sequence is one document.
            Positions of different documents don't see each other.
        flex: use FlexAttention (a GPU kernel that skips blocks nobody sees) where a mask is needed.
        windowed: heed the configuration's window, if it has one.
    """
    window = config.window if windowed else None
    narrow = window is not None and window < keys
    if documents is None and not narrow:
        if not config.causal or queries == 1:
            return Pattern()
        if queries == keys:
            return Pattern(causal=True)

    def sees(b: Any, _head: Any, query: Any, key: Any) -> Any:
        """Whether position `query` of sequence `b` sees position `key`."""
        query = query + (keys - queries)
        seen = query >= key if config.causal else query >= 0
        if window is not None:
            seen = seen & ((query - key).abs() < window)
        if documents is not None:
            seen = seen & (documents[b, query] == documents[b, key])
        return seen

    rows = 1 if documents is None else len(documents)
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask

        compiled = device.type == "cuda"
        blocks = create_block_mask(sees, rows, None, queries, keys, device=device, _compile=compiled)
        return Pattern(blocks=blocks)
    b, q, k = (torch.arange(n, device=device) for n in (rows, queries, keys))
    b, q = b[:, None, None], q[:, None]
    return Pattern(mask=sees(b, None, q, k).expand(rows, queries, keys)[:, None])


@cache
def _flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # For one shape, and once for all shapes when there is a second: batches of examples vary in length.
    return torch.compile(flex_attention) if torch.cuda.is_available() else flex_attention


class KVCache:
    """Keys and values of every layer for the positions generated so far.

    Args:
        batch: sequences generated side by side.
        length: positions there is room for.
    """

    def __init__(
        self, config: BackboneConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_layers, 2, batch, config.kv_heads, length, config.dim_per_head)
        self.entries = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0  # positions filled, moved on by the backbone once every layer has stored its part

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences: those where `rows` (batch,) is True."""
        self.entries = self.entries[:, :, rows]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new `keys` and `values` (B, K, T, D) of a layer; return all of them so far (B, K, S, D)."""
        end = self.length + keys.shape[2]
        self.entries[layer, 0, :, :, self.length : end] = keys
        self.entries[layer, 1, :, :, self.length : end] = values
        k, v = self.entries[layer, :, :, :, :end].to(keys.dtype)
        return k, v


class HeadNorm(nn.RMSNorm):
    """Of each head's queries or keys, in the precision of its weight: autocast brings bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return super().forward(x.to(self.weight.dtype))


class Attention(nn.Module):
    """Multi-head attention with grouped key/value heads. Separate projections, because Muon
    orthogonalises each by itself and other projects store them so."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.num_heads, config.kv_heads, config.dim_per_head
        self.dropout = config.dropout
        width, bias = config.hidden_size, config.has_bias("attention")
        self.query = Linear(width, self.heads * self.dim, bias=bias)
        self.key = Linear(width, self.kv_heads * self.dim, bias=bias)
        self.value = Linear(width, self.kv_heads * self.dim, bias=bias)
        self.output = Linear(self.heads * self.dim, width, bias=config.has_bias("attention_output"))
        self.query_norm = HeadNorm(self.dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = HeadNorm(self.dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        pattern: Pattern,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Map (B, T, hidden_size) to the same shape."""
        B, T, _ = x.shape
        q = self.query_norm(self.query(x).view(B, T, self.heads, self.dim)).transpose(1, 2)  # (B, H, T, D)
        k = self.key_norm(self.key(x).view(B, T, self.kv_heads, self.dim)).transpose(1, 2)  # (B, K, T, D)
        v = self.value(x).view(B, T, self.kv_heads, self.dim).transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        dtype = v.dtype
        q, k = q.to(dtype), k.to(dtype)  # under autocast a norm gives fp32, a projection bf16
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        grouped = self.heads != self.kv_heads
        if pattern.blocks is not None:
            y = _flex_attention()(q, k, v, block_mask=pattern.blocks, enable_gqa=grouped)
        else:
            half = dtype in (torch.bfloat16, torch.float16)
            short = half and q.device.type == "cpu" and k.shape[2] <= SHORT
            if short:
                q, k, v = q.float(), k.float(), v.float()
            with torch.autocast("cpu", enabled=False) if short else nullcontext():
                y = F.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=pattern.mask,
                    dropout_p=self.dropout if self.training else 0.0,
                    is_causal=pattern.causal,
                    enable_gqa=grouped,
                )
        return self.output(y.transpose(1, 2).reshape(B, T, self.heads * self.dim).to(dtype))
