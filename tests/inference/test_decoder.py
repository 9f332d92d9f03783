"""The prepared steps against the model's own forward pass, for every kind of block."""

import pytest
import torch

from lm.backbone import BackboneConfig, KVCache, LanguageModel
from lm.inference import decoder as decoders
from lm.inference.batch import complete
from lm.inference.decoder import Decoder, can_be_prepared
from lm.inference.generate import Sampling

KINDS = {
    "gpt2": {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu_tanh"},
    "llama": {
        "mlp": "swiglu",
        "num_kv_heads": 2,
        "tie_embeddings": False,
        "rope_type": "linear",
        "rope_factor": 2.0,
    },
    "qwen3": {"qk_norm": True, "num_kv_heads": 1, "head_dim": 16},
    "modernbert, causal": {
        "mlp": "geglu",
        "norm": "layer",
        "window": 5,
        "global_every": 2,
        "local_rope_theta": 100.0,
        "embedding_norm": True,
        "first_attention_norm": False,
    },
    "bert, causal": {
        "positions": "learned",
        "norm": "layer",
        "norm_position": "after",
        "bias": True,
        "segments": 2,
        "embedding_norm": True,
    },
    "after, rms": {"norm_position": "after", "mlp": "relu2", "attention_bias": True},
}


def make(changes: dict) -> LanguageModel:
    """A model with weights large enough, and norms uneven enough, that every detail shows."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "vocab_size": 61, "max_seq_len": 24}
    model = LanguageModel(BackboneConfig(**shape, **changes)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(5) if p.ndim == 2 else p.add_(torch.randn_like(p) / 3)
            assert "norm" not in name or p.ndim == 1
    return model


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_each_step_is_the_models_own(changes, rows, padded):
    model = make(changes)
    assert can_be_prepared(model)
    tokens = torch.randint(61, (rows, 20))
    documents = torch.zeros_like(tokens)
    documents[0, :3] = -1  # the first text is shorter
    documents = documents if padded else None
    cache = KVCache(model.config, rows, 20, torch.device("cpu"), torch.float32)
    begun = None if documents is None else documents[:, :7]
    model(tokens[:, :7], begun, cache=cache)
    step = Decoder(model, cache, begun)
    for at in range(7, 20):
        seen = None if documents is None else documents[:, : at + 1]
        expected = model(tokens[:, : at + 1], seen)[:, -1]
        torch.testing.assert_close(step(tokens[:, at : at + 1])[:, 0], expected, rtol=1e-4, atol=1e-4)
        assert cache.length == at + 1


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_several_tokens_in_one_step(changes, rows):
    model = make(changes)
    tokens = torch.randint(61, (rows, 20))
    cache = KVCache(model.config, rows, 20, torch.device("cpu"), torch.float32)
    model(tokens[:, :7], cache=cache)
    step, whole = Decoder(model, cache, None), model(tokens)
    for begin, end in ((7, 10), (10, 11), (11, 19)):
        torch.testing.assert_close(step(tokens[:, begin:end]), whole[:, begin:end], rtol=1e-4, atol=1e-4)
    cache.length = 12  # the rest is forgotten
    torch.testing.assert_close(step(tokens[:, 12:20]), whole[:, 12:20], rtol=1e-4, atol=1e-4)
    again = KVCache(model.config, rows, 20, torch.device("cpu"), torch.float32)
    first = Decoder(model, again, None, step.network)  # which is prepared, and reads the prompt, too
    torch.testing.assert_close(first(tokens[:, :9], last=2), whole[:, 7:9], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first(tokens[:, 9:], last=1), whole[:, 19:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bf16_weights():
    model = make(KINDS["qwen3"]).to(torch.bfloat16)
    tokens = torch.randint(61, (2, 12))
    cache = KVCache(model.config, 2, 12, torch.device("cpu"), torch.bfloat16)
    model(tokens[:, :8], cache=cache)
    step = Decoder(model, cache, None)
    for at in range(8, 12):
        ours, expected = step(tokens[:, at : at + 1])[:, 0].float(), model(tokens[:, : at + 1])[:, -1].float()
        assert (ours - expected).norm() < 0.05 * expected.norm()


def test_under_autocast_the_model_itself_writes():
    """As a task does while it is validated in bf16: each product is rounded for itself there."""
    model = make(KINDS["qwen3"])
    with torch.autocast("cpu", torch.bfloat16):
        written = complete(model, [[1, 2, 3], [4, 5]], 6, [0])
    assert [len(row) <= 6 for row in written] == [True, True]


def test_what_is_no_plain_model_stays_as_it_is(monkeypatch):
    model = make(KINDS["llama"])
    assert can_be_prepared(model)
    model.backbone.blocks[1].mlp.up = torch.nn.Linear(32, 128)  # some other library's
    assert not can_be_prepared(model)
    assert not can_be_prepared(make({"causal": False})), "a BERT's head has more"
    monkeypatch.setattr(decoders, "MOST", 1000)
    assert not can_be_prepared(make(KINDS["llama"])), "large: a copy costs more than it wins"


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_the_modules_as_they_are(changes):
    """For models that are too large to copy, or not plain: the same numbers, whatever keeps the entries."""
    model = make(changes)
    model.backbone.blocks[1].mlp.up = torch.nn.Sequential(model.backbone.blocks[1].mlp.up)
    tokens = torch.randint(61, (2, 9))
    known: dict[int, list[torch.Tensor]] = {}

    def look(layer, q, *new):
        kept = known.setdefault(layer.number, list(new))
        if kept[0] is not new[0]:
            kept[:] = (torch.cat(pair, 1) for pair in zip(kept, new, strict=True))
        window = model.config.window if layer.windowed else None
        keys, values = (each[:, -(window or 99) :].transpose(1, 2) for each in kept)
        return decoders.attention(q, keys, values, None)

    step = decoders.Prepared(model, 2, 24, copied=False)
    for at in range(9):
        logits = step(tokens[:, at : at + 1], torch.tensor([[at]]), look)[:, 0]
        torch.testing.assert_close(logits, model(tokens[:, : at + 1])[:, -1], rtol=1e-4, atol=1e-4)


def test_texts_that_have_ended_leave_the_batch(monkeypatch):
    """What the others get is what they get alone, greedily and by a generator of one's own."""
    model = make(KINDS["qwen3"])
    rows, step, lengths = [], Decoder.__call__, set()
    monkeypatch.setattr(
        Decoder, "__call__", lambda self, tokens: rows.append(len(tokens)) or step(self, tokens)
    )
    prompts = [[number, number + 1] for number in range(12)]
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.5)):
        ends = list(range(20))  # a third of the tokens: texts end soon, and at different times
        together = complete(model, prompts, 16, ends, sampling, seed=5)
        assert rows == sorted(rows, reverse=True) and rows[-1] <= 6, "fewer and fewer"
        alone = [complete(model, [p], 16, ends, sampling, seed=5 + i)[0] for i, p in enumerate(prompts)]
        assert together == alone
        lengths |= {len(text) for text in together}
        rows.clear()
    assert len(lengths) > 3, "they end at different times"
