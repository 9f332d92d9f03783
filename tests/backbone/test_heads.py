"""The language-model head, tied and untied, BERT's transform, the pooler, and losses beside logits."""

import pytest
import torch
import torch.nn.functional as F

from lm.backbone import BackboneConfig, LanguageModel, Pooler

SHAPES = {
    "gpt": {"causal": True},
    "gpt untied": {"causal": True, "tie_embeddings": False},
    "gpt learned": {"causal": True, "positions": "learned", "norm": "layer", "bias": True},
    "bert": {"causal": False, "bias": True, "norm": "layer", "norm_position": "after"},
    "bert untied, no bias": {"causal": False, "tie_embeddings": False},
}


def make(changes: dict) -> LanguageModel:
    """A model with random norms and biases too."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 23, "max_seq_len": 12}
    model = LanguageModel(BackboneConfig(**small, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def model(request) -> LanguageModel:
    return make(request.param)


TOKENS = torch.arange(20).view(2, 10) % 23


def test_logits_by_hand(model):
    hidden = model.backbone(TOKENS)
    config, head = model.config, model.head
    if not config.causal:
        hidden = F.gelu(hidden @ head.dense.weight.T + (head.dense.bias if config.bias else 0))
        if config.norm == "layer":
            hidden = F.layer_norm(hidden, (16,), head.norm.weight, head.norm.bias, config.norm_eps)
        else:
            hidden = F.rms_norm(hidden, (16,), head.norm.weight, config.norm_eps)
    embeddings = model.backbone.embeddings.tokens.weight
    logits = hidden @ (embeddings if config.tie_embeddings else head.weight).T
    if not config.causal and config.bias:
        logits = logits + head.bias
    torch.testing.assert_close(model(TOKENS), logits, atol=1e-5, rtol=1e-5)


def test_a_tied_matrix_is_one_parameter(model):
    tied = model.head.weight is model.backbone.embeddings.tokens.weight
    assert tied is model.config.tie_embeddings
    names = [name for name, _ in model.named_parameters()]
    assert ("head.weight" in names) is not model.config.tie_embeddings


def test_loss_equals_the_cross_entropy_of_the_logits(model):
    targets = (TOKENS * 7 + 3) % 23
    targets[0, :4] = targets[1, 5] = -100
    documents = torch.tensor([[0] * 4 + [1] * 6, [0] * 10])
    logits = model(TOKENS, documents)
    targets[1, :3] = logits[1, :3].argmax(-1)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    nats, _ = model(TOKENS, documents, targets)
    torch.testing.assert_close(nats, expected, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad(nats, list(model.parameters()))
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    with torch.no_grad():
        nats, hits = model(TOKENS, documents, targets)
    torch.testing.assert_close(nats, expected.detach(), atol=1e-4, rtol=1e-5)
    assert hits == (logits.argmax(-1) == targets).sum() >= 3


def test_nothing_to_guess_costs_nothing(model):
    nats, _ = model(TOKENS, targets=torch.full_like(TOKENS, -100))
    nats.backward()
    assert nats == 0
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_weights_move_into_a_model_built_on_meta(model):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.device("meta"):
        copy = LanguageModel(model.config)
    copy.load_weights(weights)
    assert torch.equal(copy(TOKENS), model(TOKENS))
    tied = copy.head.weight is copy.backbone.embeddings.tokens.weight
    assert tied is model.config.tie_embeddings
    assert all(p.requires_grad and p.device.type == "cpu" for p in copy.parameters())
    copy(TOKENS, targets=TOKENS)[0].backward()  # it can be trained further


@pytest.mark.parametrize("damage", ["missing", "foreign", "shape"])
def test_weights_that_do_not_fit(model, damage):
    weights = dict(model.state_dict())
    name = "backbone.blocks.0.mlp.up.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "foreign":
        weights["more"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match="more" if damage == "foreign" else name):
        LanguageModel(model.config).load_weights(weights)


def test_pooler_by_hand():
    config = BackboneConfig(hidden_size=8, num_heads=2, bias=True)
    pooler = Pooler(config)
    hidden = torch.randn(3, 5, 8)
    expected = torch.tanh(hidden[:, 0] @ pooler.dense.weight.T + pooler.dense.bias)
    torch.testing.assert_close(pooler(hidden), expected)
