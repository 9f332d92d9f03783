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
        ({"num_layers": 0}, ["num_layers is 0"]),
        ({"num_heads": -4}, ["num_heads is -4"]),
        ({"num_kv_heads": 0}, ["num_kv_heads is 0"]),
        ({"num_kv_heads": -1}, ["num_kv_heads is -1"]),
        ({"head_dim": 0}, ["head_dim is 0"]),
        ({"mlp_hidden_size": 0}, ["mlp_hidden_size is 0"]),
        ({"vocab_size": 0}, ["vocab_size is 0"]),
        ({"max_seq_len": 0}, ["max_seq_len is 0"]),
        ({"window": 0}, ["window is 0", "null"]),
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
    [("swiglu", True), ("geglu", True), ("gelu", False), ("gelu_tanh", False), ("relu2", False)],
)
def test_which_mlps_have_a_gate(mlp, gated):
    assert BackboneConfig(mlp=mlp).gated is gated
