"""Each family against transformers: its models read here, ours read there, and the same tensors back."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.attention import Rotary
from lm.convert import export_folder, open_model
from lm.errors import UserError

from .conftest import opened

RECORD = {"version": "0", "task": "test", "figures": {}}


def batch(pad: int, length: int = 38) -> tuple[Tensor, Tensor]:
    """Ids (3, length) and their attention mask: one whole, two padded at the right."""
    ids = torch.randint(5, 420, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 30:] = mask[2, 17:] = 0
    return torch.where(mask.bool(), ids, pad), mask


def assert_same(a: Tensor, b: Tensor, mask: Tensor) -> None:
    """Equal where there is text, in fp32."""
    real = mask.bool()
    assert a[real].std() > 0.3
    torch.testing.assert_close(a[real], b[real], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_reads_what_transformers_writes(foreign):
    start = open_model(foreign.folder)
    assert start.has_head and start.record == {}
    # Each tensor has memory of its own.
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in start.weights.values())
    ids, mask = batch(foreign.model.config.pad_token_id)
    theirs = foreign.model(input_ids=ids, attention_mask=mask).logits
    assert_same(start.network(ids, documents=mask - 1), theirs, mask)
    assert start.tokenizer.encode("def f(x):")


@torch.no_grad()
def test_beyond_the_length_it_was_trained_for(foreign):
    """Rotary positions go on as transformers' do, learned ones end."""
    start = open_model(foreign.folder)
    ids, mask = batch(0, 90)
    if start.config.positions == "learned":
        with pytest.raises(ValueError, match="were learned"):
            start.network(ids, documents=mask - 1)
        return
    theirs = foreign.model(input_ids=ids, attention_mask=mask).logits
    assert_same(start.network(ids, documents=mask - 1), theirs, mask)


def test_angles_far_into_a_text_are_the_same_to_the_bit():
    """A trained model of 30 layers makes 2e-4 of its logits out of angles that were rounded otherwise."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=576,
            num_attention_heads=9,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        )
    )
    positions = torch.arange(8192)
    cos, sin = theirs(torch.zeros(1), positions[None])
    rotary = Rotary(BackboneConfig(hidden_size=576, num_heads=9, max_seq_len=8192, rope_theta=100_000.0))
    ours = rotary(positions, 8192)
    assert torch.equal(ours[0], cos[0, :, :32]) and torch.equal(ours[1], sin[0, :, :32])


@torch.no_grad()
def test_there_and_back(foreign, tmp_path):
    import transformers

    start = open_model(foreign.folder)
    model = start.network
    out = tmp_path / "out"
    exported = export_folder(opened(model, start.tokenizer, RECORD), out)
    assert exported.family == foreign.model.config.model_type
    assert exported.architecture == type(foreign.model).__name__

    again = open_model(out)
    assert asdict(again.config) == asdict(start.config)
    assert again.weights.keys() == {n for n in start.weights if not n.startswith("pooler.")}
    assert all(torch.equal(again.weights[name], start.weights[name]) for name in again.weights)
    assert again.tokenizer.to_bytes() == start.tokenizer.to_bytes()

    there = getattr(transformers, exported.architecture).from_pretrained(out).eval()
    assert there.dtype == torch.float32
    ids, mask = batch(there.config.pad_token_id)
    theirs = there(input_ids=ids, attention_mask=mask).logits
    assert_same(model(ids, documents=mask - 1), theirs, mask)
    # RoBERTa knows padding by its id too, and these two have different ones.
    ids, mask = batch(foreign.model.config.pad_token_id)
    before = foreign.model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(theirs[mask.bool()], before[mask.bool()])


SMALL = {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "vocab_size": 420, "max_seq_len": 40}
OURS = {
    "gpt-nano": ("qwen3", {"mlp": "relu2", "qk_norm": True, "residual_init": "zero"}),
    "gpt, swiglu": ("llama", {"tie_embeddings": False, "num_kv_heads": 1}),
    "gpt, relu2 with biases": ("llama", {"mlp": "relu2", "bias": True, "dropout": 0.1, "init_std": 0.01}),
    "gpt, reglu": ("llama", {"mlp": "reglu", "max_seq_len": 64, "rope_type": "linear", "rope_factor": 2.0}),
    "gpt, window": ("qwen3", {"qk_norm": True, "window": 6}),
    "gpt, learned": ("gpt2", {"positions": "learned", "norm": "layer", "mlp": "relu2", "bias": True}),
    "bert-nano": (
        "modernbert",
        {
            **{"causal": False, "norm": "layer", "embedding_norm": True, "first_attention_norm": False},
            **{"mlp": "relu2", "residual_init": "zero"},
        },
    ),
    "bert, local": (
        "modernbert",
        {
            **{"causal": False, "norm": "layer", "embedding_norm": True, "first_attention_norm": False},
            **{"mlp": "geglu", "window": 4, "global_every": 2, "local_rope_theta": 100.0, "mlp_bias": True},
        },
    ),
    "bert, no segments": (
        "bert",
        {
            **{"causal": False, "norm": "layer", "embedding_norm": True, "norm_position": "after"},
            **{"positions": "learned", "mlp": "gelu", "bias": True},
        },
    ),
    "bert, one kind of segments": (
        "roberta",
        {
            **{"causal": False, "norm": "layer", "embedding_norm": True, "norm_position": "after"},
            **{"positions": "learned", "mlp": "gelu", "bias": True, "segments": 1},
        },
    ),
}


@pytest.mark.parametrize(("family", "changes"), OURS.values(), ids=OURS)
@torch.no_grad()
def test_ours_goes_out_and_comes_back(family, changes, tmp_path, tokenizer):
    import transformers

    torch.manual_seed(0)
    model = LanguageModel(BackboneConfig(**{**SMALL, **changes})).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.3)
    exported = export_folder(opened(model, tokenizer, RECORD), tmp_path / "out")
    assert exported.family == family
    assert any("SiLU only" in note for note in exported.notes) is (
        changes.get("mlp") in ("relu2", "reglu") and family in ("llama", "qwen3")
    )

    start = open_model(tmp_path / "out")
    assert asdict(start.config) == asdict(model.config)
    back = start.network.state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert back.keys() == model.state_dict().keys()

    transformers.logging.set_verbosity_error()
    there = getattr(transformers, exported.architecture).from_pretrained(tmp_path / "out").eval()
    ids, mask = batch(tokenizer.pad_id)
    assert_same(model(ids, documents=mask - 1), there(input_ids=ids, attention_mask=mask).logits, mask)


@torch.no_grad()
def test_writes_on_like_transformers(tmp_path, tokenizer):
    """With left padding and a cache there, one by one here."""
    import transformers

    torch.manual_seed(0)
    model = LanguageModel(BackboneConfig(**SMALL, mlp="relu2", qk_norm=True)).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.3)
    export_folder(opened(model, tokenizer, RECORD), tmp_path / "out")
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    from lm.inference.generate import Sampling, generate, prompt_ids

    prompts = ["def f(x):\n    return", "import"]
    inputs = words(prompts, padding=True, return_tensors="pt")
    made = there.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs.input_ids.shape[1] :]
    for prompt, found in zip(prompts, made, strict=True):
        steps = generate(
            model, prompt_ids(tokenizer, prompt), 8, Sampling(temperature=0), end=tokenizer.eos_id
        )
        ids = [step[0] for step in steps]
        assert found.tolist()[: len(ids)] == ids


ODD = {
    "qk_norm True": {"causal": False, "qk_norm": True, "norm": "layer", "embedding_norm": True},
    "norm layer": {"norm": "layer"},
    "global_every 2": {"window": 4, "global_every": 2},
    "attention_output_bias True": {"attention_output_bias": True},
    "norm_position after": {"norm_position": "after"},
    "embedding_norm True": {"embedding_norm": True, "qk_norm": True},
}


@pytest.mark.parametrize(("named", "changes"), ODD.items())
def test_a_shape_without_a_family_is_refused(named, changes, tmp_path, tokenizer):
    model = LanguageModel(BackboneConfig(**SMALL, **changes))
    with pytest.raises(UserError, match=f"don't fit: .*{named}"):
        export_folder(opened(model, tokenizer, RECORD), tmp_path / "out")
    assert not list(tmp_path.iterdir())
