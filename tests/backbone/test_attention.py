"""Attention against plain loops, rotary positions against complex numbers, and who sees whom."""

import math

import pytest
import torch
from torch import Tensor

from lm.backbone import BackboneConfig, KVCache
from lm.backbone.attention import Attention, Rotary, pattern, rotate

CPU = torch.device("cpu")


def make(**changes) -> tuple[Attention, BackboneConfig]:
    """An attention whose weights and norms are all random."""
    torch.manual_seed(0)
    config = BackboneConfig(**{"hidden_size": 24, "num_heads": 4, "max_seq_len": 32, **changes})
    attention = Attention(config)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5 + (parameter.ndim == 1))
    return attention, config


def visible(config: BackboneConfig, query: int, key: int, documents: list[int] | None = None) -> bool:
    """The rule of who sees whom, said once more."""
    if documents is not None and documents[query] != documents[key]:
        return False
    if config.causal and key > query:
        return False
    return config.window is None or abs(query - key) < config.window


def turned(x: Tensor, position: int, theta: float) -> Tensor:
    """Rotary embedding of one head's vector (D,) as a product of complex numbers."""
    half = len(x) // 2
    angles = torch.tensor([position * theta ** (-2 * i / len(x)) for i in range(half)], dtype=torch.float64)
    product = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((product.real, product.imag))


def plain_attention(attention: Attention, config: BackboneConfig, x: Tensor, rotary: bool) -> Tensor:
    """One sequence (T, hidden_size) in float64, a position and a head at a time."""
    weights = {name: p.detach().double() for name, p in attention.named_parameters()}
    T, D = len(x), config.dim_per_head

    def project(name: str) -> Tensor:
        y = x.double() @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        return y.view(T, -1, D)

    def normed(vector: Tensor, name: str) -> Tensor:
        if not config.qk_norm:
            return vector
        return vector / (vector.square().mean() + config.norm_eps).sqrt() * weights[f"{name}_norm.weight"]

    queries, keys, values = project("query"), project("key"), project("value")
    mixed = torch.zeros(T, config.num_heads, D, dtype=torch.float64)
    for head in range(config.num_heads):
        shared = head // (config.num_heads // config.kv_heads)
        for t in range(T):
            seen = [s for s in range(T) if visible(config, t, s)]
            scores = []
            for s in seen:
                q, k = normed(queries[t, head], "query"), normed(keys[s, shared], "key")
                if rotary:
                    q, k = turned(q, t, config.rope_theta), turned(k, s, config.rope_theta)
                scores.append(float(q @ k) / math.sqrt(D))
            shares = [math.exp(score - max(scores)) for score in scores]
            for share, s in zip(shares, seen, strict=True):
                mixed[t, head] += share / sum(shares) * values[s, shared]
    return mixed.reshape(T, -1) @ weights["output.weight"].T + weights.get("output.bias", 0)


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 2, "bias": True},
        {"num_kv_heads": 1, "head_dim": 10, "rope_theta": 100.0},
        {"window": 3, "qk_norm": True},
        {"window": 1, "num_kv_heads": 2, "qk_norm": True, "norm_eps": 0.1},
    ],
    ids=str,
)
def test_equals_plain_loops(changes, causal, rotary):
    attention, config = make(causal=causal, **changes)
    x = torch.randn(2, 9, config.hidden_size)
    cos_sin = Rotary(config)(torch.arange(9), 9) if rotary else None
    y = attention(x, pattern(config, 9, 9, None, CPU, flex=False), cos_sin)
    for row in range(2):
        expected = plain_attention(attention, config, x[row], rotary)
        torch.testing.assert_close(y[row].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flex", [False, True])
@pytest.mark.parametrize("with_documents", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4, 50])
def test_pattern_is_the_rule(window, causal, with_documents, flex):
    T = 12
    config = BackboneConfig(causal=causal, window=window)
    documents = torch.tensor([[0] * 5 + [1] * 1 + [2] * 6, [7] * 9 + [-1] * 3]) if with_documents else None
    seen = pattern(config, T, T, documents, CPU, flex)
    if seen.blocks is not None:
        b, q, k = torch.meshgrid(torch.arange(2), torch.arange(T), torch.arange(T), indexing="ij")
        mask = seen.blocks.mask_mod(b, 0, q, k)
    elif seen.mask is not None:
        mask = seen.mask.expand(2, 1, T, T)[:, 0]
    else:  # left to the kernel
        mask = torch.ones(2, T, T, dtype=torch.bool)
        mask = mask.tril() if seen.causal else mask
    for row in range(2):
        ids = None if documents is None else documents[row].tolist()
        rule = [[visible(config, q, k, ids) for k in range(T)] for q in range(T)]
        assert mask[row].tolist() == rule


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(("queries", "keys"), [(1, 6), (4, 10), (6, 6)])
def test_pattern_of_queries_at_the_end_of_the_keys(queries, keys, window):
    config = BackboneConfig(window=window)
    seen = pattern(config, queries, keys, None, CPU, flex=False)
    mask = torch.ones(queries, keys, dtype=torch.bool) if seen.mask is None else seen.mask[0, 0]
    if seen.causal:
        mask = mask.tril()
    rule = [[visible(config, keys - queries + q, k) for k in range(keys)] for q in range(queries)]
    assert mask.tolist() == rule


def test_plain_patterns_are_left_to_the_kernel():
    """A mask would cost the fast kernels."""
    assert pattern(BackboneConfig(), 8, 8, None, CPU, flex=False).causal
    for config in (BackboneConfig(causal=False), BackboneConfig(causal=False, window=8)):
        seen = pattern(config, 8, 8, None, CPU, flex=False)
        assert (seen.causal, seen.mask, seen.blocks) == (False, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": False},
        {"num_kv_heads": 2, "window": 5},
        {"num_kv_heads": 1, "causal": False, "window": 3},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_flex_attention_equals_the_mask(changes):
    attention, config = make(**changes)
    T = 140  # more than one of its blocks of 128
    x = torch.randn(2, T, config.hidden_size)
    documents = torch.tensor([[0] * 30 + [1] * 101 + [2] * 9, [0] * 139 + [1]])
    rotary = Rotary(config)(torch.arange(T), T)
    masked, flex = (
        attention(x, pattern(config, T, T, documents, CPU, flex=flex), rotary) for flex in (False, True)
    )
    torch.testing.assert_close(flex, masked, atol=1e-5, rtol=1e-5)


def test_rotation_is_complex_multiplication():
    config = BackboneConfig(hidden_size=16, num_heads=2, rope_theta=100.0, max_seq_len=6)
    x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(1))
    y = rotate(x, *Rotary(config)(torch.arange(6), 6))
    for head in range(2):
        for t in range(6):
            expected = turned(x[0, head, t].double(), t, 100.0).float()
            torch.testing.assert_close(y[0, head, t], expected, atol=1e-6, rtol=1e-6)


def test_rotation_golden_values():
    """Width 4, theta 100: position 3 turns the pairs (0, 2) and (1, 3) by 3 and 3 / sqrt(100) radians."""
    rotary = Rotary(BackboneConfig(hidden_size=4, num_heads=1, rope_theta=100.0))
    x = torch.tensor([1.0, 1.0, 0.0, 2.0]).view(1, 1, 1, 4)
    y = rotate(x, *rotary(torch.tensor([3]), 4)).flatten()
    expected = [
        math.cos(3),
        math.cos(0.3) - 2 * math.sin(0.3),
        math.sin(3),
        2 * math.cos(0.3) + math.sin(0.3),
    ]
    assert y.tolist() == pytest.approx(expected, abs=1e-6)


def test_rotated_products_depend_on_the_distance_only():
    rotary = Rotary(BackboneConfig(hidden_size=64, num_heads=1, max_seq_len=512))
    q, k = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    q, k = (rotate(x.expand(1, 1, 512, 64), *rotary(torch.arange(512), 512))[0, 0] for x in (q, k))
    products = q @ k.T  # [m, n] is the product of a query at m with a key at n
    for distance in (-200, -3, 0, 1, 17, 300):
        along = products.diagonal(distance)
        assert (along - along[0]).abs().max() < 1e-4
    assert products[0].std() > 0.1, "the product does not depend on the distance at all"


@pytest.mark.parametrize("length", [8, 9, 40])
def test_rotary_table_grows_with_the_text(length):
    short, long = Rotary(BackboneConfig(max_seq_len=8)), Rotary(BackboneConfig(max_seq_len=40))
    positions = torch.arange(length)
    for grown, table in zip(short(positions, length), long(positions, length), strict=True):
        assert torch.equal(grown, table)


def test_rotary_table_stays_exact_in_a_bf16_model():
    config = BackboneConfig(max_seq_len=300)
    exact, converted = Rotary(config), Rotary(config).to(torch.bfloat16)
    assert converted.cos.dtype == torch.float32
    assert torch.equal(converted.cos, exact.cos)
    assert torch.equal(converted.sin, exact.sin)
    x = torch.ones(1, 1, 300, 64, dtype=torch.bfloat16)
    assert rotate(x, *converted(torch.arange(300), 300)).dtype == torch.bfloat16


def test_cache_keeps_layers_and_positions_apart():
    config = BackboneConfig(hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1)
    cache = KVCache(config, batch=3, length=5, device=CPU, dtype=torch.float32)
    first, second = torch.randn(2, 2, 2, 3, 1, 2, 4)  # (layer, keys or values, B, K, T, D) each
    for layer in range(2):
        keys, values = cache.extend(layer, *first[layer])
        assert torch.equal(keys, first[layer, 0])
        assert torch.equal(values, first[layer, 1])
    cache.length = 2
    for layer in range(2):
        keys, values = cache.extend(layer, *second[layer])
        assert torch.equal(keys, torch.cat((first[layer, 0], second[layer, 0]), dim=2))
        assert torch.equal(values, torch.cat((first[layer, 1], second[layer, 1]), dim=2))
