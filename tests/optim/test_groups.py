"""Every trained parameter is in one group, of the right kind."""

import pytest
import torch
from torch import nn

from lm.backbone import BackboneConfig, LanguageModel
from lm.optim import parameter_groups
from lm.optim.groups import depth_of

VECTORS = ("norm.weight", "bias")


def make(**changes) -> LanguageModel:
    small = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 31, "max_seq_len": 8}
    return LanguageModel(BackboneConfig(**{**small, **changes}))


def kinds(module: nn.Module) -> dict[str, str]:
    """Kind by name; fails where a parameter is in two groups."""
    names = {id(p): name for name, p in module.named_parameters()}
    found: dict[str, str] = {}
    for group in parameter_groups(module):
        for p in group["params"]:
            assert names[id(p)] not in found
            found[names[id(p)]] = group["kind"]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": True, "tie_embeddings": False},
        {
            "causal": False,
            "positions": "learned",
            "norm": "layer",
            "bias": True,
            "segments": 2,
            "embedding_norm": True,
        },
    ],
    ids=["gpt", "untied", "bert"],
)
def test_every_parameter_has_one_kind(changes):
    model = make(**changes)
    found = kinds(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, kind in found.items():
        if name.endswith(VECTORS):
            assert kind == "vector", name
        elif name == "head.weight" or name.startswith("backbone.embeddings."):
            assert kind == "embedding", name
        else:
            assert kind == "matrix", name


def test_heads():
    tied = kinds(make())
    assert tied["backbone.embeddings.tokens.weight"] == "embedding"
    assert "head.weight" not in tied
    assert kinds(make(tie_embeddings=False))["head.weight"] == "embedding"
    bert = kinds(make(causal=False, bias=True))
    assert (bert["head.dense.weight"], bert["head.dense.bias"]) == ("matrix", "vector")
    assert (bert["head.norm.weight"], bert["head.bias"]) == ("vector", "vector")


def test_vectors_have_no_weight_decay_with_any_optimizer():
    optimizer = torch.optim.AdamW(parameter_groups(make()), lr=1e-3, weight_decay=0.1)
    decay = {group["kind"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"matrix": 0.1, "embedding": 0.1, "vector": 0.0}


def test_frozen_parameters_are_left_out():
    model = make()
    model.backbone.embeddings.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(False)
    found = kinds(model)
    assert set(found.values()) == {"matrix"}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert [group["kind"] for group in parameter_groups(model)] == ["matrix"], "an empty group"


def test_a_layer_s_depth():
    assert depth_of("head.weight", 6) == depth_of("backbone.norm.weight", 6) == 0
    assert depth_of("pooler.dense.weight", 6) == 0
    assert depth_of("backbone.blocks.5.mlp.up.weight", 6) == 1
    assert depth_of("backbone.blocks.0.attention.query.weight", 6) == 6
    assert depth_of("backbone.blocks.10.mlp_norm.bias", 12) == 2
    assert depth_of("backbone.embeddings.tokens.weight", 6) == 7


@pytest.mark.parametrize("tie", [True, False])
def test_learning_rates_by_layer(tie):
    """Every parameter in one group, with its kind and a rate by its depth."""
    model = make(tie_embeddings=tie, num_layers=3)
    groups = parameter_groups(model, layer_decay=0.8, layers=3)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    for name, group in found.items():
        assert group["kind"] == kinds(model)[name]
        assert group["lr_scale"] == pytest.approx(0.8 ** depth_of(name, 3))
        assert (group.get("weight_decay") == 0.0) is (group["kind"] == "vector")
    scales = {group["lr_scale"] for group in groups}
    assert len(scales) == 5  # three layers, the embeddings, and the norm at the top with an untied head
    assert len(groups) == len({(group["kind"], group["lr_scale"]) for group in groups})


def test_without_a_decay_there_is_no_scale():
    assert all("lr_scale" not in group for group in parameter_groups(make()))
