"""Every trained parameter is in one group, of the right kind."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig, Classifier, LanguageModel
from lm.convert import open_model
from lm.errors import UserError
from lm.optim import Muon, parameter_groups
from lm.optim.groups import depth_of
from lm.tasks import CausalPretraining, MaskedPretraining, SequenceClassification

from ..tasks.conftest import write_start

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


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_the_backbone_s_rates_alone_are_scaled(decay):
    model = make(tie_embeddings=False, num_layers=3)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, layer_decay=decay, layers=3, backbone_scale=0.1)
    found = {names[id(p)]: group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    for name, scale in found.items():
        own = 0.1 if name.startswith("backbone.") else 1.0
        assert scale == pytest.approx(own * decay ** (0 if decay == 1 else depth_of(name, 3)))


def test_without_a_decay_there_is_no_scale():
    assert all("lr_scale" not in group for group in parameter_groups(make()))


ADAMW = partial(torch.optim.AdamW, lr=2e-3)
MUON = partial(Muon, lr=0.02, adamw_lr=2e-3)
BERT = {
    **{"causal": False, "positions": "learned", "norm": "layer", "norm_position": "after", "mlp": "gelu"},
    **{"bias": True, "embedding_norm": True},
}
NANO = {"qk_norm": True, "mlp": "relu2", "residual_init": "zero"}


def optimizer_of(model: LanguageModel, optimizer) -> torch.optim.Optimizer:
    """As a task makes it, in front of its schedule's first step."""
    kind = CausalPretraining if model.config.causal else MaskedPretraining
    task = kind(model.config, optimizer=optimizer)
    task.net, task._trainer = model, SimpleNamespace(max_steps=10, precision="32-true")
    made = task.configure_optimizers()["optimizer"]
    for group in made.param_groups:
        group["lr"] = group["initial_lr"]
    return made


def rates(model: nn.Module, optimizer) -> dict[str, float]:
    """Learning rate by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optimizer_of(model, optimizer).param_groups
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "backbone.norm.weight"),
        ({"tie_embeddings": False}, "backbone.norm.weight"),
        ({"norm_position": "after"}, "backbone.blocks.1.mlp_norm.weight"),
        (BERT, "head.norm."),
    ],
    ids=["gpt", "untied", "norms after", "bert"],
)
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_rates_at_four_times_the_base_width(changes, last, optimizer):
    """Table 8 of arXiv:2203.03466; Muon's matrices are as arXiv:2310.17813 wants them already."""
    scaled, plain = (rates(make(**changes, base_width=base), optimizer) for base in (4, None))
    assert scaled.keys() == plain.keys()
    matrices = kinds(make(**changes))
    for name, rate in scaled.items():
        matrix = matrices[name] == "matrix" and optimizer is ADAMW
        assert rate == pytest.approx(plain[name] / (4 if matrix or name.startswith(last) else 1)), name


def test_initial_weights_at_four_times_the_base_width():
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 300, "base_width": 16}
    untied = LanguageModel(BackboneConfig(**shape, tie_embeddings=False))
    for net in (untied, LanguageModel(BackboneConfig(**shape, **BERT))):
        for name, p in net.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                assert p.std().item() == pytest.approx(0.01 / 2, rel=0.1), name
            elif p.ndim == 2:
                inside = "blocks" in name or "dense" in name
                assert p.std().item() == pytest.approx(0.01 if inside else 0.02, rel=0.1), name
        assert (net.head.norm or net.backbone.norm).weight.unique().tolist() == [0.25]
        assert net.backbone.blocks[0].mlp_norm.weight.unique().tolist() == [1.0]
    assert Classifier(BackboneConfig(**shape), 3, "mean").backbone.norm.weight.unique().tolist() == [0.25]


@pytest.mark.parametrize("changes", [{}, BERT], ids=["gpt", "bert"])
def test_at_its_own_width_a_base_changes_nothing(changes):
    made = []
    for base in (None, 16):
        torch.manual_seed(0)
        made.append(make(**changes, base_width=base))
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in made), strict=True))
    assert all("width_scale" not in group for net in made for group in optimizer_of(net, MUON).param_groups)
    with pytest.raises(UserError, match=r"backbone\.base_width is 0"):
        make(base_width=0)


def test_layers_and_width_multiply():
    model = make(base_width=4)
    groups = parameter_groups(model, layer_decay=0.5, layers=2, width_scale=model.config.width_scale)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr_scale"], g.get("width_scale")) for g in groups for p in g["params"]}
    assert found["backbone.norm.weight"] == (1, 0.25)
    assert found["backbone.blocks.0.mlp.up.weight"] == (0.25, 0.25)
    assert found["backbone.blocks.0.mlp_norm.weight"] == (0.25, None)
    assert found["backbone.embeddings.tokens.weight"] == (0.125, None)


def test_rates_for_trained_weights_are_as_given(tmp_path, tokenizer):
    for kind, task in (("bert", SequenceClassification), ("gpt", CausalPretraining)):
        start = write_start(tmp_path / f"{kind}.ckpt", kind, tokenizer, base_width=8)
        assert open_model(start).config.width_scale == 0.25
        made = task(BackboneConfig(max_seq_len=24), init_from=str(start))
        assert made.config.width_scale == 1


def changes_of(width: int, base: int | None, optimizer, shape: dict) -> list[float]:
    """Root mean square of what three updates change: the hidden states after each block, and the logits."""
    torch.manual_seed(0)
    shape = {"num_layers": 2, "vocab_size": 257, "max_seq_len": 32, "num_heads": width // 16, **shape}
    model = LanguageModel(BackboneConfig(hidden_size=width, base_width=base, **shape))
    tokens = torch.randint(257, (8, 33), generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))

    def look() -> list[Tensor]:
        seen.clear()
        with torch.no_grad():
            logits = model(tokens[:, :-1])
        return [*seen, logits]

    before, made = look(), optimizer_of(model, optimizer)
    for _ in range(3):
        made.zero_grad()
        (model(tokens[:, :-1], targets=tokens[:, 1:])[0] / 256).backward()
        made.step()
    return [(new - old).square().mean().sqrt().item() for new, old in zip(look(), before, strict=True)]


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("shape", [NANO, {"tie_embeddings": False}, BERT], ids=["gpt", "untied", "bert"])
def test_an_update_changes_as_much_at_four_times_the_width(shape, optimizer):
    """The coordinate check (arXiv:2203.03466, appendix D.1)."""
    narrow, wide, given = (changes_of(w, b, optimizer, shape) for w, b in ((64, 64), (256, 64), (256, None)))
    assert [b / a for a, b in zip(narrow[:-1], wide[:-1], strict=True)] == pytest.approx([1, 1], abs=0.3)
    # The embeddings that begin in the logits' sum are chance, which is less in a wider one.
    assert 0.5 < wide[-1] / narrow[-1] < 1.2
    assert given[-1] / narrow[-1] > 2
