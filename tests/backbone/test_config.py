"""A wrong shape is refused with the names of the fields."""

import pytest

from lm.backbone import BackboneConfig
from lm.errors import UserError


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden_size": 100, "num_heads": 3}, ["num_heads 3", "hidden_size 100", "head_dim"]),
        ({"num_heads": 4, "num_kv_heads": 3}, ["num_kv_heads 3", "num_heads 4"]),
        ({"num_heads": 4, "num_kv_heads": 8}, ["num_kv_heads 8", "num_heads 4"]),
        ({"hidden_size": 12, "num_heads": 4}, ["head_dim is 3", "rotary", "even"]),
        ({"head_dim": 5}, ["head_dim is 5", "even"]),
        ({"hidden_size": 0}, ["hidden_size is 0"]),
        ({"num_layers": -1}, ["num_layers is -1"]),
        ({"num_heads": -4}, ["num_heads is -4"]),
        ({"num_kv_heads": 0}, ["num_kv_heads is 0"]),
        ({"num_kv_heads": -1}, ["num_kv_heads is -1"]),
        ({"head_dim": 0}, ["head_dim is 0"]),
        ({"mlp_hidden_size": 0}, ["mlp_hidden_size is 0"]),
        ({"vocab_size": 0}, ["vocab_size is 0"]),
        ({"max_seq_len": 0}, ["max_seq_len is 0"]),
        ({"window": 0}, ["window is 0", "null"]),
        ({"window": 4, "global_every": 0}, ["global_every is 0", "null"]),
        ({"global_every": 2}, ["global_every", "give backbone.window too"]),
        ({"local_rope_theta": 100.0}, ["local_rope_theta", "give backbone.window too"]),
        ({"rope_theta": 0.0}, ["rope_theta is 0.0", "above 0"]),
        ({"rope_type": "yarn"}, ["rope_type is 'yarn'", "default, linear, llama3"]),
        ({"rope_factor": -1.0}, ["rope_factor is -1.0", "above 0"]),
        ({"rope_low_freq_factor": 4.0}, ["rope_low_freq_factor is 4.0", "below", "4.0"]),
        ({"rope_original_len": 0}, ["rope_original_len is 0"]),
        ({"dropout": 1.0}, ["dropout is 1.0"]),
        ({"dropout": -0.1}, ["dropout is -0.1"]),
    ],
    ids=str,
)
def test_wrong_shapes_are_refused_by_name(fields, named):
    with pytest.raises(UserError) as caught:
        BackboneConfig(**fields)
    assert caught.value.status == 2
    assert "backbone." in str(caught.value)
    for words in named:
        assert words in str(caught.value)


def test_null_fields_follow_from_the_others():
    config = BackboneConfig(hidden_size=96, num_heads=6)
    assert (config.kv_heads, config.dim_per_head, config.mlp_width) == (6, 16, 384)
    config = BackboneConfig(hidden_size=100, num_heads=6, num_kv_heads=2, head_dim=32, mlp_hidden_size=77)
    assert (config.kv_heads, config.dim_per_head, config.mlp_width) == (2, 32, 77)


def test_learned_positions_allow_an_odd_head():
    assert BackboneConfig(hidden_size=12, num_heads=4, positions="learned").dim_per_head == 3


@pytest.mark.parametrize(
    ("mlp", "gated"),
    [
        *(("swiglu", True), ("geglu", True), ("reglu", True)),
        *(("gelu", False), ("gelu_tanh", False), ("relu", False), ("relu2", False)),
    ],
)
def test_which_mlps_have_a_gate(mlp, gated):
    assert BackboneConfig(mlp=mlp).gated is gated


@pytest.mark.parametrize(
    ("fields", "windowed"),
    [
        ({}, [False] * 7),
        ({"window": 4}, [True] * 7),
        ({"window": 4, "global_every": 3}, [False, True, True, False, True, True, False]),
        ({"window": 4, "global_every": 1}, [False] * 7),
    ],
    ids=str,
)
def test_which_blocks_have_a_window(fields, windowed):
    config = BackboneConfig(num_layers=7, **fields)
    assert [config.windowed(layer) for layer in range(7)] == windowed


def test_a_bias_of_its_own_wins():
    parts = ("attention", "attention_output", "mlp", "norm", "head")
    for bias in (True, False):
        config = BackboneConfig(bias=bias)
        assert all(config.has_bias(part) is bias for part in parts)
        for part in parts:
            config = BackboneConfig(bias=bias, **{f"{part}_bias": not bias})
            changed = {part, "attention_output"} if part == "attention" else {part}
            assert {other for other in parts if config.has_bias(other) is not bias} == changed
    config = BackboneConfig(attention_bias=True, attention_output_bias=False)  # Qwen 2
    assert config.has_bias("attention") and not config.has_bias("attention_output")


def test_a_shape_that_was_stored_before_there_were_more_fields():
    """What an older checkpoint does not say is as it was."""
    from lm.checkpoint import config_of

    assert config_of({"backbone": {"hidden_size": 64, "bias": True}}) == BackboneConfig(
        hidden_size=64, bias=True
    )
