"""Small models of transformers, with random weights, norms and biases, as the folders that it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lm.backbone import Classifier, LanguageModel
from lm.checkpoint import Model

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 430,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = {
    **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 430},
    **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}
LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
MODERN = {**SIZES, "num_hidden_layers": 5, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 9}
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)

# Architecture with a language-model head, its configuration.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 untied, relu": (
        "GPT2LMHeadModel",
        {**GPT2, "tie_word_embeddings": False, "activation_function": "relu", "n_inner": 24},
    ),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama 3, tied": (
        "LlamaForCausalLM",
        {**GROUPED, "rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 32},
    ),
    "llama, linear rope, biases": (
        "LlamaForCausalLM",
        {**SIZES, "rope_parameters": LINEAR, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    ),
    "llama, bias in attention": (
        "LlamaForCausalLM",
        {**GROUPED, "attention_bias": True, "hidden_act": "relu"},
    ),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 16, "attention_bias": True}),
    "qwen3, window": (
        "Qwen3ForCausalLM",
        {
            **{**GROUPED, "head_dim": 16, "tie_word_embeddings": True},
            **{"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
        },
    ),
    "bert": ("BertForMaskedLM", SIZES),
    "bert untied": ("BertForMaskedLM", {**SIZES, "tie_word_embeddings": False, "type_vocab_size": 3}),
    "roberta": (
        "RobertaForMaskedLM",
        {**SIZES, "max_position_embeddings": 42, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "modernbert": ("ModernBertForMaskedLM", MODERN),
    "modernbert, biases": ("ModernBertForMaskedLM", {**MODERN, **BIASES, "global_attn_every_n_layers": 2}),
    "modernbert, no bias, all global": (
        "ModernBertForMaskedLM",
        {**MODERN, "decoder_bias": False, "global_attn_every_n_layers": 1, "hidden_activation": "silu"},
    ),
}


@torch.no_grad()
def scramble(model: Any, seed: int = 0) -> Any:
    """Weights so large, and norms and biases so different from 1 and 0, that every mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        table = any(word in name for word in ("embed", "wte", "wpe", "lm_head", "decoder"))
        scale = p.shape[-1] ** -0.5 if p.ndim == 2 and not table else 0.5
        one = p.ndim == 1 and "bias" not in name
        p.copy_(torch.randn(p.shape, generator=generator) * scale + one)
    return model.eval()


def opened(network: LanguageModel | Classifier, tokenizer: Any, record: dict[str, Any]) -> Model:
    """A network as if it came from a checkpoint of step 7."""
    language = isinstance(network, LanguageModel)
    return Model(network.config, network.state_dict(), tokenizer, "memory", record, step=7, has_head=language)


@dataclass
class Foreign:
    """A model of transformers and the folder that it wrote, with a tokenizer."""

    model: Any
    folder: Path


@pytest.fixture
def make_foreign(tmp_path, tokenizer):
    """Makes a model of transformers: `make_foreign("LlamaForCausalLM", hidden_size=32, …)`."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def make(architecture: str, **settings: Any) -> Foreign:
        kind = getattr(transformers, architecture)
        model = scramble(kind(kind.config_class(**settings)))
        folder = tmp_path / "foreign"
        model.save_pretrained(folder)
        tokenizer.save(folder / "tokenizer.model")
        return Foreign(model, folder)

    return make


@pytest.fixture(params=CASES.values(), ids=CASES)
def foreign(request, make_foreign) -> Foreign:
    """Each family in turn, with its language-model head."""
    architecture, settings = request.param
    return make_foreign(architecture, **settings)
