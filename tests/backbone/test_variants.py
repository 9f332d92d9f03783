"""What some families have and others don't: windows in most blocks, stretched rotary positions, biases by
kind, a first block without its norm; and sequences of different lengths side by side in one cache."""

import math

import pytest
import torch
from torch import Tensor

from lm.backbone import Backbone, BackboneConfig, KVCache, LanguageModel
from lm.backbone.attention import Pattern, Rotary

SMALL = {"hidden_size": 16, "num_layers": 4, "num_heads": 2, "vocab_size": 31, "max_seq_len": 24}


def make(**changes) -> Backbone:
    """A backbone whose weights, norms and biases are all random."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5 + (parameter.ndim == 1))
    return backbone


TOKENS = torch.randint(31, (2, 20), generator=torch.Generator().manual_seed(1))


def moved_by(backbone: Backbone, position: int) -> list[int]:
    """Positions whose states change with the token at `position`."""
    other = TOKENS.clone()
    other[:, position] = (other[:, position] + 1) % 31
    with torch.no_grad():
        changed = (backbone(other) - backbone(TOKENS)).abs().amax((0, 2)) > 1e-6
    return changed.nonzero().flatten().tolist()


@pytest.mark.parametrize("causal", [True, False])
def test_the_window_of_some_blocks(causal):
    """Each block with a window carries a token 2 positions on; one that sees everything, to the end."""
    first = 10 if causal else 0
    shape = {"causal": causal, "window": 3, "num_layers": 3}
    assert moved_by(make(**shape), 10) == list(range(10 if causal else 4, 17))
    assert moved_by(make(**shape, global_every=3), 10) == list(range(first, 20))
    # Only the last block is without: what follows block 0 has a window.
    backbone = make(**{**shape, "num_layers": 2}, global_every=5)
    assert moved_by(backbone, 10) == list(range(first, 20))
    backbone.blocks[0].attention.output.weight.data.zero_()
    assert moved_by(backbone, 10) == list(range(10 if causal else 8, 13))


def test_blocks_with_and_without_a_window_equal_a_backbone_of_each_kind():
    """Put together by hand from two backbones, with angles of their own."""
    mixed = make(causal=False, window=4, global_every=2, local_rope_theta=50.0, rope_theta=1000.0)
    wide, narrow = make(causal=False, rope_theta=1000.0), make(causal=False, window=4, rope_theta=50.0)
    for backbone in (wide, narrow):
        backbone.load_state_dict(mixed.state_dict())
    with torch.no_grad():
        x = mixed.embeddings(TOKENS, torch.arange(20))
        for layer in range(4):
            backbone = narrow if layer % 2 else wide
            turns = backbone.angles(torch.arange(20), 20, windowed=True)
            near = (torch.arange(20)[:, None] - torch.arange(20)).abs() < 4
            mask = near.expand(2, 1, 20, 20) if layer % 2 else None
            x = mixed.blocks[layer](x, Pattern(mask=mask), turns)
        torch.testing.assert_close(mixed(TOKENS), mixed.norm(x), atol=1e-5, rtol=1e-5)


def test_patterns_and_angles_are_made_once_for_each_kind(monkeypatch):
    from lm.backbone import transformer

    made = []
    real = transformer.pattern
    monkeypatch.setattr(transformer, "pattern", lambda *args: made.append(args[-1]) or real(*args))
    make()(TOKENS)
    assert made == [False]
    make(window=4)(TOKENS)
    assert made == [False, True]
    make(window=4, global_every=2)(TOKENS)
    assert sorted(made[2:]) == [False, True]


def test_flops_of_blocks_with_and_without_a_window():
    full = LanguageModel(BackboneConfig(**SMALL)).training_flops_per_token(20)
    some = LanguageModel(BackboneConfig(**SMALL, window=5, global_every=2)).training_flops_per_token(20)
    assert full - some == 12 * 16 * 2 * (20 - 5)


def test_linear_rope_slows_every_angle_down():
    config = BackboneConfig(**SMALL, rope_type="linear", rope_factor=4.0)
    cos, sin = Rotary(config)(torch.tensor([8]), 24)
    plain_cos, plain_sin = Rotary(BackboneConfig(**SMALL))(torch.tensor([2]), 24)
    torch.testing.assert_close(cos, plain_cos)
    torch.testing.assert_close(sin, plain_sin)


def test_llama_3_rope_by_its_own_words():
    """Wavelengths that fit 4 times into the original length are kept, those that don't fit once stretched,
    the frequencies between mixed (Meta's `apply_scaling`)."""
    config = BackboneConfig(
        **{**SMALL, "head_dim": 16, "rope_theta": 500.0, "rope_type": "llama3", "rope_factor": 8.0},
        **{"rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0, "rope_original_len": 64},
    )
    cos, sin = Rotary(config)(torch.tensor([1]), 24)
    found = torch.atan2(sin[0].double(), cos[0].double())
    kinds = set()
    for i, angle in enumerate(found.tolist()):
        frequency = 500.0 ** (-2 * i / 16)
        wavelength = 2 * math.pi / frequency
        if wavelength < 64 / 4:
            wanted, kind = frequency, "kept"
        elif wavelength > 64 / 1:
            wanted, kind = frequency / 8, "stretched"
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            wanted, kind = (1 - smooth) * frequency / 8 + smooth * frequency, "mixed"
        kinds.add(kind)
        assert angle == pytest.approx(wanted, rel=1e-5)
    assert kinds == {"kept", "stretched", "mixed"}


def test_the_tables_are_filled_for_a_model_from_meta():
    config = BackboneConfig(**SMALL, window=4, global_every=2, local_rope_theta=50.0)
    torch.manual_seed(0)
    model = LanguageModel(config)
    with torch.device("meta"):
        copy = LanguageModel(config)
    copy.load_weights(dict(model.state_dict()))
    assert torch.equal(copy(TOKENS), model(TOKENS))


BIASES = {
    "attention_bias": {"attention.query", "attention.key", "attention.value", "attention.output"},
    "attention_output_bias": {"attention.output"},
    "mlp_bias": {"mlp.up", "mlp.gate", "mlp.down"},
    "norm_bias": {"attention_norm", "mlp_norm"},
    "head_bias": set(),
}


@pytest.mark.parametrize(("field", "layers"), BIASES.items())
def test_biases_by_kind(field, layers):
    shape = {**SMALL, "causal": False, "norm": "layer", "embedding_norm": True}
    model = LanguageModel(BackboneConfig(**shape, **{field: True}))
    names = {name.removesuffix(".bias") for name, _ in model.named_parameters() if name.endswith(".bias")}
    wanted = {f"backbone.blocks.{i}.{name}" for i in range(4) for name in layers}
    if field == "norm_bias":
        wanted |= {"backbone.norm", "backbone.embeddings.norm", "head.norm"}
    assert names == (wanted or {"head"})
    every = LanguageModel(BackboneConfig(**shape, bias=True, **{field: False}))
    names = {name.removesuffix(".bias") for name, _ in every.named_parameters() if name.endswith(".bias")}
    assert not names & (wanted or {"head"}) and len(names) > 5


@pytest.mark.parametrize("causal", [True, False])
def test_a_first_block_without_its_norm(causal):
    bare, full = (make(causal=causal, first_attention_norm=norm) for norm in (False, True))
    weights = full.state_dict()
    assert weights.keys() - bare.state_dict().keys() == {"blocks.0.attention_norm.weight"}
    bare.load_state_dict({n: w for n, w in weights.items() if n != "blocks.0.attention_norm.weight"})
    with torch.no_grad():
        assert not torch.allclose(bare(TOKENS), full(TOKENS))
        full.blocks[0].attention_norm = torch.nn.Identity()
        assert torch.equal(bare(TOKENS), full(TOKENS))


PROMPTS = [[5, 9, 3], [7], [4, 8, 15, 16, 23, 2, 30], [1, 2]]
SHAPES = {
    "rotary": {},
    "learned": {"positions": "learned"},
    "grouped, QK-norm": {"num_kv_heads": 1, "qk_norm": True},
    "window": {"window": 3},
    "windows in some blocks": {"window": 3, "global_every": 2, "local_rope_theta": 30.0},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_prompts_of_different_lengths_share_a_cache(changes):
    """Padded at the left, each goes on with the states that it has alone, a step after the other."""
    backbone = make(**changes)
    longest, steps = max(map(len, PROMPTS)), 5
    more = torch.randint(31, (len(PROMPTS), steps), generator=torch.Generator().manual_seed(2))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])
    documents = torch.tensor([[-1] * (longest - len(p)) + [0] * (len(p) + steps) for p in PROMPTS])
    cache = KVCache(backbone.config, len(PROMPTS), longest + steps, torch.device("cpu"), torch.float32)
    found = [backbone(tokens, documents[:, :longest], cache=cache)]
    for step in range(steps):
        end = longest + step + 1
        found.append(backbone(more[:, step : step + 1], documents[:, :end], cache=cache))
    together = torch.cat(found, 1)
    for row, prompt in enumerate(PROMPTS):
        alone = backbone(torch.cat((torch.tensor(prompt), more[row]))[None])
        torch.testing.assert_close(
            together[row, longest - len(prompt) :], alone[0], atol=1e-5, rtol=1e-4, msg=f"prompt {row}"
        )


@torch.no_grad()
def test_several_new_tokens_behind_a_padded_prompt():
    backbone = make(num_kv_heads=1)
    documents: Tensor = torch.tensor([[-1, -1, 0, 0, 0, 0, 0], [0] * 7])
    tokens = TOKENS[:, :7]
    cache = KVCache(backbone.config, 2, 7, torch.device("cpu"), torch.float32)
    parts = [
        backbone(tokens[:, :3], documents[:, :3], cache=cache),
        backbone(tokens[:, 3:], documents, cache=cache),
    ]
    whole = backbone(tokens, documents)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


def test_documents_of_the_wrong_length():
    backbone = make()
    cache = KVCache(backbone.config, 2, 8, torch.device("cpu"), torch.float32)
    backbone(TOKENS[:, :3], torch.zeros(2, 3), cache=cache)
    with pytest.raises(ValueError, match="documents of 1 positions, but there are 4"):
        backbone(TOKENS[:, 3:4], torch.zeros(2, 1), cache=cache)
