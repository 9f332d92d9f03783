"""The language-model head, tied and untied, BERT's transform and pooler, losses, classifiers."""

import pytest
import torch
import torch.nn.functional as F

from lm.backbone import BackboneConfig, Classifier, LanguageModel, Patches, Pooler

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


def classifier(pooling, pooler=False, outputs=3, **changes) -> Classifier:
    """A classifier with random weights, norms and biases too."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 23, "max_seq_len": 12}
    net = Classifier(BackboneConfig(**small, **changes), outputs, pooling, pooler).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return net


PADDED = torch.tensor([[0] * 10, [0] * 6 + [-1] * 4])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [None, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("pooling", ["first", "pooler", "mean", "last", None])
def test_classifier_by_hand(pooling, documents, causal):
    net = classifier(
        "first" if pooling == "pooler" else pooling, pooling == "pooler", causal=causal, bias=True
    )
    hidden = net.backbone(TOKENS, documents)
    ends = [10, 10 if documents is None else 6]
    match pooling:
        case "first":
            wanted = hidden[:, 0]
        case "pooler":
            wanted = torch.tanh(hidden[:, 0] @ net.pooler.dense.weight.T + net.pooler.dense.bias)
        case "mean":
            wanted = torch.stack([hidden[i, :end].mean(0) for i, end in enumerate(ends)])
        case "last":
            wanted = torch.stack([hidden[i, end - 1] for i, end in enumerate(ends)])
        case None:
            wanted = hidden
    logits = net(TOKENS, documents)
    assert logits.shape == ((2, 10, 3) if pooling is None else (2, 3)) and logits.dtype == torch.float32
    assert (net.head.bias is None) == (pooling == "last")
    bias = 0 if net.head.bias is None else net.head.bias
    torch.testing.assert_close(logits, wanted @ net.head.weight.T + bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@torch.no_grad()
def test_padding_changes_no_class(pooling):
    net = classifier(pooling, causal=False)
    alone = net(TOKENS[1:, :6])
    torch.testing.assert_close(net(TOKENS, PADDED)[1:], alone, atol=1e-5, rtol=1e-5)
    left = torch.cat((torch.zeros(1, 4, dtype=torch.long), TOKENS[1:, :6]), 1)
    documents = torch.tensor([[-1] * 4 + [0] * 6])
    torch.testing.assert_close(net(left, documents), alone, atol=1e-5, rtol=1e-5)


def test_a_classifier_begins_like_its_backbone():
    torch.manual_seed(0)
    net = Classifier(BackboneConfig(causal=False, bias=True, init_std=0.05), 7, "first", pooler=True)
    for layer in (net.head, net.pooler.dense):
        assert layer.weight.std().item() == pytest.approx(0.05, rel=0.1)
        assert not layer.bias.any()
    assert net.num_parameters() == net.backbone.num_parameters() + 256 * 257 + 7 * 257


def test_a_classifiers_dropout_acts_in_training_only():
    net = classifier("first")
    net.dropout.p = 0.5
    assert torch.equal(net(TOKENS), net(TOKENS))
    net.train()
    assert not torch.equal(net(TOKENS), net(TOKENS))


def test_a_pooler_needs_the_first_position():
    with pytest.raises(ValueError, match="pooling is 'mean'"):
        classifier("mean", pooler=True)
    with pytest.raises(ValueError, match="`also` 'second' stands beside the first position"):
        Classifier(BackboneConfig(causal=False), 3, "mean", also="second")


@torch.no_grad()
@pytest.mark.parametrize("also", ["second", "mean", "average"])
def test_what_is_read_beside_the_first_position_by_hand(also):
    """Of an input that puts 2 vectors before the patches; a norm has the width of the backbone."""
    config = BackboneConfig(hidden_size=16, num_layers=1, num_heads=2, causal=False, positions="none")
    shape, norm = Patches(patch_size=4, size=(8, 8), prefix=1, registers=1), also == "average"
    net = Classifier(config, 3, "first", embeddings=shape.make(config), also=also, norm=norm).eval()
    picture = torch.randn(2, 3, 8, 8)
    hidden = net.backbone(picture)  # (2, 6, 16)
    wanted = {
        "second": torch.cat((hidden[:, 0], hidden[:, 1]), 1),
        "mean": torch.cat((hidden[:, 0], (hidden[:, 2:5].sum(1) + hidden[:, 5]) / 4), 1),
        "average": net.norm((hidden[:, 0] + hidden[:, 1]) / 2) if norm else None,
    }[also]
    torch.testing.assert_close(net(picture), net.head(wanted), atol=1e-5, rtol=1e-5)
    documents = torch.tensor([[0] * 6, [0] * 4 + [-1] * 2])
    if also == "mean":
        hidden = net.backbone(picture, documents)
        wanted = torch.cat((hidden[1, 0], hidden[1, 2:4].mean(0)))
        torch.testing.assert_close(net(picture, documents)[1], net.head(wanted), atol=1e-5, rtol=1e-5)


def test_a_classifier_moves_from_meta():
    net = classifier("first", pooler=True, causal=False)
    with torch.device("meta"):
        copy = Classifier(net.config, 3, "first", True)
    copy.load_weights({name: tensor.clone() for name, tensor in net.state_dict().items()})
    assert torch.equal(copy.eval()(TOKENS), net(TOKENS))
    weights = dict(net.state_dict())
    del weights["head.weight"]
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        copy.load_weights(weights)


def test_a_classifiers_flops():
    """The body's, and the head's once a position or once a sequence."""
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 23, "mlp_hidden_size": 24}
    body = 6 * (4 * 16 * 16 + 3 * 16 * 24) + 12 * 16 * 10
    everywhere = Classifier(BackboneConfig(**shape), 3, None)
    assert everywhere.training_flops_per_token(10) == body + 6 * 3 * 16
    pooled = Classifier(BackboneConfig(**shape), 3, "first", pooler=True)
    assert pooled.training_flops_per_token(10) == body + 6 * (3 * 16 + 16 * 16) // 10


def test_segments_reach_the_backbone():
    net = classifier("first", causal=False, segments=2)
    model = make({"causal": False, "segments": 2})
    segments = (torch.arange(10) > 4).long().expand(2, -1)
    for each in (net, model):
        assert torch.equal(each(TOKENS), each(TOKENS, segments=torch.zeros_like(TOKENS)))
        assert not torch.allclose(each(TOKENS), each(TOKENS, segments=segments))
    hidden = model.backbone(TOKENS, segments=segments)
    assert torch.equal(model(TOKENS, segments=segments), model.head(hidden))


def test_a_tied_head_may_be_left_out(model):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "head.weight"}
    copy = LanguageModel(model.config)
    if not model.config.tie_embeddings:
        with pytest.raises(RuntimeError, match=r"head\.weight"):
            copy.load_weights(weights)
        return
    copy.load_weights(weights)
    assert torch.equal(copy(TOKENS), model(TOKENS))
    assert copy.head.weight is copy.backbone.embeddings.tokens.weight
