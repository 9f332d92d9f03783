"""The backbone against hand-written Transformers; documents, initial weights, parameters and FLOPs."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone import Backbone, BackboneConfig, LanguageModel, Pooler
from lm.backbone.attention import Pattern
from lm.backbone.inputs import document_positions
from lm.backbone.transformer import MLP
from lm.inference.generate import Sampling, generate_text
from lm.tokenizer import load_tokenizer

GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "bias": True}
BERT = {
    **GPT2,
    "causal": False,
    "mlp": "gelu",
    "norm_position": "after",
    "embedding_norm": True,
    "segments": 2,
    "norm_eps": 1e-12,
}
LLAMA = {"num_kv_heads": 2, "tie_embeddings": False}


def shape(**changes) -> BackboneConfig:
    small = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 31, "max_seq_len": 24}
    return BackboneConfig(**{**small, **changes})


def scramble(module: nn.Module) -> nn.Module:
    """Weights so large, and norms and biases so different from 1 and 0, that every mistake shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            scale = p.shape[-1] ** -0.5 if p.ndim == 2 and "embeddings" not in name else 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * scale + norm)
    return module.eval()


def tokens_of(config: BackboneConfig, *size: int) -> Tensor:
    return torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(1))


class ByHand:
    """A forward pass from a backbone's weights by name, in float64: no module of it takes part."""

    def __init__(self, backbone: Backbone) -> None:
        self.config = backbone.config
        self.weights = {name: p.detach().double() for name, p in backbone.named_parameters()}

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0)

    def norm(self, x: Tensor, name: str) -> Tensor:
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + self.config.norm_eps).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights.get(f"{name}.bias", 0)

    def attention(self, x: Tensor, name: str) -> Tensor:
        c, T = self.config, x.shape[1]
        q, k, v = (
            self.linear(x, f"{name}.{part}").unflatten(-1, (-1, c.dim_per_head)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        if c.positions == "rotary":
            half = c.dim_per_head // 2
            turns = torch.arange(T)[:, None] * c.rope_theta ** (
                -torch.arange(half, dtype=torch.float64) / half
            )
            spin = torch.polar(torch.ones_like(turns), turns)
            q, k = (torch.complex(x[..., :half], x[..., half:]) * spin for x in (q, k))
            q, k = (torch.cat((x.real, x.imag), -1) for x in (q, k))
        k, v = (x.repeat_interleave(c.num_heads // c.kv_heads, dim=1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(c.dim_per_head)
        if c.causal:
            scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.output")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        up = self.linear(x, f"{name}.up")
        match self.config.mlp:
            case "gelu":
                inner = up * (1 + torch.erf(up / math.sqrt(2))) / 2
            case "gelu_tanh":
                inner = up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2
            case "relu":
                inner = torch.where(up > 0, up, 0)
            case "relu2":
                inner = torch.where(up > 0, up * up, 0)
            case "reglu":
                gate = self.linear(x, f"{name}.gate")
                inner = torch.where(gate > 0, gate, 0) * up
            case "swiglu":
                gate = self.linear(x, f"{name}.gate")
                inner = gate / (1 + torch.exp(-gate)) * up
            case "geglu":
                gate = self.linear(x, f"{name}.gate")
                inner = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 * up
        return self.linear(inner, f"{name}.down")

    def __call__(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        c, w = self.config, self.weights
        x = w["embeddings.tokens.weight"][tokens]
        if c.positions == "learned":
            x = x + w["embeddings.positions.weight"][: tokens.shape[1]]
        if c.segments:
            x = (
                x
                + w["embeddings.segments.weight"][torch.zeros_like(tokens) if segments is None else segments]
            )
        if c.embedding_norm:
            x = self.norm(x, "embeddings.norm")
        for layer in range(c.num_layers):
            block = f"blocks.{layer}"
            if c.norm_position == "before":
                x = x + self.attention(self.norm(x, f"{block}.attention_norm"), f"{block}.attention")
                x = x + self.mlp(self.norm(x, f"{block}.mlp_norm"), f"{block}.mlp")
            else:
                x = self.norm(x + self.attention(x, f"{block}.attention"), f"{block}.attention_norm")
                x = self.norm(x + self.mlp(x, f"{block}.mlp"), f"{block}.mlp_norm")
        return self.norm(x, "norm") if c.norm_position == "before" else x


@pytest.mark.parametrize("changes", [GPT2, BERT, LLAMA, {**LLAMA, "norm_position": "after"}], ids=str)
@torch.no_grad()
def test_equals_the_forward_written_by_hand(changes):
    config = shape(**changes)
    backbone = scramble(Backbone(config))
    tokens = tokens_of(config, 2, 11)
    segments = torch.tensor([[0] * 4 + [1] * 7, [0] * 10 + [1]]) if config.segments else None
    by_hand = ByHand(backbone)
    torch.testing.assert_close(
        backbone(tokens, segments=segments).double(), by_hand(tokens, segments), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(backbone(tokens).double(), by_hand(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mlp", ["swiglu", "geglu", "reglu", "gelu", "gelu_tanh", "relu", "relu2"])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_each_mlp_by_hand(mlp, bias):
    backbone = scramble(Backbone(shape(mlp=mlp, bias=bias, mlp_hidden_size=13)))
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2)) * 2
    expected = ByHand(backbone).mlp(x.double(), "blocks.1.mlp")
    torch.testing.assert_close(backbone.blocks[1].mlp(x).double(), expected, atol=1e-5, rtol=1e-5)


def torch_layer(config: BackboneConfig, weights: dict[str, Tensor]) -> nn.TransformerEncoderLayer:
    """torch's own layer with a block's weights."""
    layer = nn.TransformerEncoderLayer(
        config.hidden_size,
        config.num_heads,
        config.mlp_width,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=config.norm_eps,
        batch_first=True,
        norm_first=config.norm_position == "before",
    )
    ours = {
        "self_attn.out_proj": "attention.output",
        "linear1": "mlp.up",
        "linear2": "mlp.down",
        "norm1": "attention_norm",
        "norm2": "mlp_norm",
    }
    state = {f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in ours.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        parts = [weights[f"attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.load_state_dict(state)
    return layer.eval()


@pytest.mark.parametrize("changes", [{**GPT2, "mlp": "gelu"}, BERT], ids=["before", "after"])
@torch.no_grad()
def test_block_equals_torchs_own_layer(changes):
    config = shape(**changes)
    backbone = scramble(Backbone(config))
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    mask = nn.Transformer.generate_square_subsequent_mask(9) if config.causal else None
    expected = torch_layer(config, backbone.blocks[0].state_dict())(x, mask, is_causal=config.causal)
    y = backbone.blocks[0](x, Pattern(causal=config.causal))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


DOCUMENTS = [
    pytest.param(
        {"causal": causal, "positions": positions, "window": window, **more},
        id=f"{name}-{positions}-{window}",
    )
    for name, causal, more in (
        ("gpt", True, {"num_kv_heads": 2, "qk_norm": True}),
        ("bert", False, {"norm_position": "after", "norm": "layer", "bias": True, "embedding_norm": True}),
    )
    for positions in ("rotary", "learned")
    for window in (None, 3)
]
LENGTHS = [[5, 1, 9, 9], [23, 1]]  # of the documents in each sequence of 24


def packed(config: BackboneConfig) -> tuple[Tensor, Tensor]:
    documents = [[d for d, n in enumerate(lengths) for _ in range(n)] for lengths in LENGTHS]
    return tokens_of(config, 2, 24), torch.tensor(documents)


@pytest.mark.parametrize("changes", DOCUMENTS)
@torch.no_grad()
def test_a_packed_document_has_the_logits_it_has_alone(changes):
    config = shape(**changes)
    model = scramble(LanguageModel(config))
    tokens, documents = packed(config)
    logits = model(tokens, documents)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            alone = model(tokens[row : row + 1, start : start + length])[0]
            torch.testing.assert_close(logits[row, start : start + length], alone, atol=1e-5, rtol=1e-5)
            start += length
    assert (logits - model(tokens)).abs().max() > 0.1, "documents made no difference"


@pytest.mark.parametrize("changes", DOCUMENTS)
def test_no_gradient_crosses_a_border(changes):
    config = shape(**changes)
    model = scramble(LanguageModel(config))
    tokens, documents = packed(config)
    embedded = []
    model.backbone.embeddings.register_forward_hook(lambda _m, _i, output: embedded.append(output))
    logits = model(tokens, documents)
    for row, lengths in enumerate(LENGTHS):
        for document in range(len(lengths)):
            inside = documents[row] == document
            loss = logits[row, inside].square().sum()
            gradient = torch.autograd.grad(loss, embedded[0], retain_graph=True)[0].abs().sum(-1)
            assert (gradient[row, inside] > 0).all()
            assert not gradient[row, ~inside].any()
            assert not gradient[1 - row].any()


def test_padding_behind_documents_is_one_more_document():
    """Validation pads with document -1: it may not reach the others, nor become NaN."""
    config = shape()
    model = scramble(LanguageModel(config))
    tokens = tokens_of(config, 1, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, -1, -1, -1]])
    logits = model(tokens, documents)
    torch.testing.assert_close(logits[:, :5], model(tokens[:, :5], documents[:, :5]), atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()


def test_positions_start_again_with_each_document():
    documents = torch.tensor([[4, 4, 4, 9, 9, 0, 1, -1], [2, 2, 2, 2, 2, 2, 2, 2]], dtype=torch.int32)
    expected = [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert document_positions(documents).tolist() == expected


@pytest.mark.parametrize("causal", [True, False])
def test_how_far_a_position_reaches(causal):
    """Two layers with a window of 3 reach 4 positions back, and as far ahead where it is not causal."""
    config = shape(window=3, causal=causal)
    backbone = scramble(Backbone(config))
    embedded = []
    backbone.embeddings.register_forward_hook(lambda _m, _i, output: embedded.append(output))
    hidden = backbone(tokens_of(config, 1, 20))
    gradient = torch.autograd.grad(hidden[0, 10].square().sum(), embedded[0])[0][0].abs().sum(-1)
    reached = gradient.nonzero().flatten().tolist()
    assert reached == list(range(6, 11 if causal else 15))


def test_too_many_positions_for_a_learned_table():
    backbone = Backbone(shape(positions="learned"))
    assert backbone(torch.zeros(1, 24, dtype=torch.long)).shape == (1, 24, 16)
    with pytest.raises(ValueError, match="25 positions, but only 24 were learned"):
        backbone(torch.zeros(1, 25, dtype=torch.long))
    assert Backbone(shape())(torch.zeros(1, 40, dtype=torch.long)).shape == (1, 40, 16)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    config = shape(dropout=0.5)
    backbone = Backbone(config)
    tokens = tokens_of(config, 1, 9)
    assert not torch.equal(backbone(tokens), backbone(tokens))
    backbone.eval()
    assert torch.equal(backbone(tokens), backbone(tokens))
    without = Backbone(shape())
    without.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(tokens), without(tokens))


@pytest.mark.parametrize("residual_init", ["scaled", "zero"])
@pytest.mark.parametrize("changes", [{}, BERT], ids=["gpt", "bert"])
def test_initial_weights(changes, residual_init):
    torch.manual_seed(0)
    config = shape(
        **{
            **changes,
            "hidden_size": 96,
            "num_layers": 3,
            "vocab_size": 500,
            "init_std": 0.05,
            "max_seq_len": 64,
        },
        residual_init=residual_init,
    )
    model = LanguageModel(config)
    residual = 0.0 if residual_init == "zero" else 0.05 / math.sqrt(6)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.full_like(parameter, "norm.weight" in name)), name
            continue
        expected = residual if name.endswith(("attention.output.weight", "mlp.down.weight")) else 0.05
        # Segments have 192 values only: 5 standard errors of a standard deviation.
        tolerance = 5 * expected / math.sqrt(2 * parameter.numel())
        assert parameter.std().item() == pytest.approx(expected, abs=tolerance), name
        assert abs(parameter.mean().item()) <= 5 * expected / math.sqrt(parameter.numel()), name


@torch.no_grad()
def test_zero_residual_init_makes_blocks_do_nothing_at_first():
    config = shape(residual_init="zero")
    model = LanguageModel(config)
    tokens = tokens_of(config, 2, 9)
    embeddings = model.backbone.embeddings.tokens.weight
    expected = F.rms_norm(embeddings[tokens], (16,), eps=config.norm_eps) @ embeddings.T
    torch.testing.assert_close(model(tokens), expected, atol=1e-6, rtol=1e-5)


def test_parameter_count_by_hand():
    """Width 16, 2 blocks, 4 heads of 4 with 2 key/value heads, SwiGLU 24 wide, no bias, 31 tokens."""
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    block = attention + 3 * 16 * 24 + 2 * 16
    backbone = 31 * 16 + 2 * block + 16
    config = shape(num_kv_heads=2, mlp_hidden_size=24)
    assert Backbone(config).num_parameters() == backbone
    assert LanguageModel(config).num_parameters() == backbone
    untied = shape(num_kv_heads=2, mlp_hidden_size=24, tie_embeddings=False)
    assert LanguageModel(untied).num_parameters() == backbone + 31 * 16
    with_norms = shape(num_kv_heads=2, mlp_hidden_size=24, qk_norm=True)
    assert LanguageModel(with_norms).num_parameters() == backbone + 2 * 2 * 4


def published(**changes) -> BackboneConfig:
    return BackboneConfig(**{"hidden_size": 768, "num_layers": 12, "num_heads": 12, **changes})


def test_published_parameter_counts():
    with torch.device("meta"):
        gpt2 = LanguageModel(published(**GPT2, vocab_size=50257, max_seq_len=1024))
        config = published(**BERT, vocab_size=30522, max_seq_len=512)
        bert, pooler = LanguageModel(config), Pooler(config)
    assert gpt2.num_parameters() == 124_439_808
    pooled = sum(p.numel() for p in pooler.parameters())
    assert bert.backbone.num_parameters() + pooled == 109_482_240
    # Hugging Face's BertForMaskedLM: no pooler, but a dense layer, a norm and a bias for each token.
    assert bert.num_parameters() == 109_482_240 - pooled + (768 * 768 + 768) + 2 * 768 + 30522


def test_flops_by_hand():
    """6 for each weight of a matrix product, 12 · layers · width of the heads · positions for attention."""
    products = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24) + 31 * 16  # two blocks, and the head
    for changes in ({}, {"tie_embeddings": False}, {"positions": "learned"}, {"qk_norm": True}):
        model = LanguageModel(shape(num_kv_heads=2, mlp_hidden_size=24, **changes))
        assert model.training_flops_per_token(20) == 6 * products + 12 * 2 * 16 * 20
    bert = LanguageModel(shape(causal=False, num_kv_heads=2, mlp_hidden_size=24, segments=2, bias=True))
    assert bert.training_flops_per_token(20) == 6 * (products + 16 * 16) + 12 * 2 * 16 * 20


def test_flops_of_gpt2():
    """nanoGPT counts 6 N + 12 L H Q T with N without positions: biases and norms are the difference, 0.1%."""
    with torch.device("meta"):
        model = LanguageModel(published(**GPT2, vocab_size=50257, max_seq_len=1024))
    nanogpt = 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 12 * 64 * 1024
    assert model.training_flops_per_token(1024) == 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 768 * 1024
    assert model.training_flops_per_token(1024) == pytest.approx(nanogpt, rel=2e-3)


@pytest.mark.parametrize(("causal", "seen"), [(True, 5), (False, 9)])
def test_flops_count_what_a_window_sees(causal, seen):
    model = LanguageModel(shape(window=5, causal=causal))
    full = LanguageModel(shape(causal=causal))
    saved = full.training_flops_per_token(24) - model.training_flops_per_token(24)
    assert saved == 12 * 2 * 16 * (24 - seen)
    assert model.training_flops_per_token(4) == full.training_flops_per_token(4)


def test_mlp_has_a_gate_only_where_it_is_gated():
    names = [name for name, _ in MLP(shape(mlp="gelu")).named_parameters()]
    assert names == ["up.weight", "down.weight"]
    assert "gate.weight" in dict(MLP(shape(mlp="geglu")).named_parameters())


def read_safetensors(path) -> dict[str, Tensor]:
    """A safetensors file of fp32 tensors: length of the header, header in JSON, values."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert entry["dtype"] == "F32"
            values = torch.frombuffer(content[start + begin : start + end], dtype=torch.float32)
            tensors[name] = values.view(entry["shape"])
    return tensors


@pytest.mark.real_data
def test_a_trained_llama_writes_its_story(real_data):
    """stories260K by another project: only the right norms, rotation, grouping and gate tell of Lily."""
    folder = real_data / "stories260K-hf"
    llama = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = BackboneConfig(
        hidden_size=llama["hidden_size"],
        num_layers=llama["num_hidden_layers"],
        num_heads=llama["num_attention_heads"],
        num_kv_heads=llama["num_key_value_heads"],
        mlp_hidden_size=llama["intermediate_size"],
        vocab_size=llama["vocab_size"],
        max_seq_len=llama["max_position_embeddings"],
        norm_eps=llama["rms_norm_eps"],
    )
    names = {
        "model.": "backbone.",
        "embed_tokens": "embeddings.tokens",
        "layers": "blocks",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "mlp_norm",
        "self_attn": "attention",
        **{
            f"{short}_proj": long
            for short, long in zip("qkvo", ("query", "key", "value", "output"), strict=True)
        },
        **{f"{part}_proj": part for part in ("gate", "up", "down")},
    }
    weights = {}
    for name, tensor in read_safetensors(folder / "model.safetensors").items():
        ours = name
        for theirs, replacement in names.items():
            ours = ours.replace(theirs, replacement)
        weights["head.weight" if name == "lm_head.weight" else ours] = tensor
    weights.setdefault("head.weight", weights["backbone.embeddings.tokens.weight"])
    model = LanguageModel(config)
    model.load_state_dict(weights)
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    text = generate_text(model, tokenizer, "Once upon a time", 60, Sampling(temperature=0))
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
