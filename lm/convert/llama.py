"""Llama, and Qwen 2 and 3, which differ from it in biases, QK-norm and an optional window."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert.family import EMBEDDINGS, GATED, GATED_OUT, Family, Part, block, linear, squared
from lm.convert.fields import ROPE, Fields, rope

# What all three say of a shape.
_SAME = {
    "hidden_size": ("hidden_size",),
    "num_attention_heads": ("num_heads",),
    "num_hidden_layers": ("num_layers",),
    "num_key_value_heads": ("num_kv_heads", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("mlp_hidden_size",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_seq_len",),
    "rms_norm_eps": ("norm_eps", 1e-6),
    "tie_word_embeddings": ("tie_embeddings", False),
    "attention_dropout": ("dropout", 0.0),
    "initializer_range": ("init_std", 0.02),
}
_BLOCK = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}
_QK_NORMS = {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}


class Llama(Family):
    """Llama 1 to 3 (arXiv:2302.13971, arXiv:2407.21783) and TinyLlama."""

    name = "llama"
    prefix = "model."
    languages = ("LlamaForCausalLM",)
    same = {**_SAME, "attention_bias": ("attention_bias", False), "mlp_bias": ("mlp_bias", False)}
    activation = ("hidden_act", "silu")
    activations = (GATED, GATED_OUT)
    free = frozenset({"rope_type"})

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        bias = all(ours.get(name, False) for name in ("attention_bias", "mlp_bias"))
        return {"bias": bias, **rope(fields)}

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        pairs = [
            (tensor, tensors[up])
            for name, tensor in tensors.items()
            if re.fullmatch(r"layers\.\d+\.mlp\.gate_proj\.(weight|bias)", name)
            and (up := name.replace("gate_proj", "up_proj")) in tensors
        ]
        return squared(config, pairs)

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        # transformers' configuration of a Llama insists on it, though its model would not.
        return ["num_heads"] if config.hidden_size % config.num_heads else []

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """Rotary positions are said in the old way and in the new one."""
        said = {theirs: getattr(config, name) for theirs, name in ROPE[config.rope_type].items()}
        stretch = {"rope_type": config.rope_type, **said}
        return {
            **super().write(config, pad),
            "rope_theta": config.rope_theta,
            "rope_scaling": stretch if config.rope_type != "default" else None,
            "rope_parameters": {"rope_theta": config.rope_theta, **stretch},
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        yield Part("embed_tokens.weight", (EMBEDDINGS,))
        layers = _BLOCK | (_QK_NORMS if config.qk_norm else {})
        layers |= {} if config.gated else {"mlp.gate_proj": "mlp.up"}
        for i in range(config.num_layers):
            yield from block(config, f"layers.{i}", i, layers)
        yield from linear("norm", "backbone.norm", False)


class Qwen(Llama):
    """What Qwen 2 and 3 have and Llama has not: a window, which has to be the same in all blocks."""

    free = frozenset({"rope_type", "window"})

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        return {**super().more(fields, ours), "window": _window(fields, ours["num_layers"])}

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        return []

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        narrow = config.window is not None
        return {
            **super().write(config, pad),
            "use_sliding_window": narrow,
            "sliding_window": config.window,
            "max_window_layers": 0 if narrow else config.num_layers,
            "layer_types": ["sliding_attention" if narrow else "full_attention"] * config.num_layers,
        }


class Qwen2(Qwen):
    """Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values alone."""

    name = "qwen2"
    languages = ("Qwen2ForCausalLM",)
    same = _SAME
    fixed = {"attention_bias": True, "attention_output_bias": False}
    biases = {"attention": True, "attention_output": False, "mlp": False}
    insisted = {"attention_bias": True}

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        # Its attention takes no width of its own for the heads in older versions.
        return ["head_dim"] if config.dim_per_head * config.num_heads != config.hidden_size else []


class Qwen3(Qwen):
    """Qwen 3 (arXiv:2505.09388): queries and keys are normalised head by head."""

    name = "qwen3"
    languages = ("Qwen3ForCausalLM",)
    same = {**_SAME, "head_dim": ("head_dim", 128), "attention_bias": ("attention_bias", False)}
    fixed = {"qk_norm": True}
    biases = {"mlp": False}


def _window(fields: Fields, layers: int) -> int | None:
    """Qwen's window, from what its fields say of each of its `layers`."""
    width, kinds = fields.take("sliding_window"), fields.take("layer_types")
    used, first = fields.flag("use_sliding_window", False), fields.number("max_window_layers", layers)
    if kinds is None:
        narrow = {used and width is not None and i >= first for i in range(layers)}
    else:
        narrow = {kind == "sliding_attention" for kind in kinds}
        if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
            raise fields.refuse(f"layer_types has {sorted(unknown)[0]!r}, which is not supported here")
    if len(narrow) > 1:
        raise fields.refuse("a window in some layers only is not supported for this family")
    if narrow == {False}:
        return None
    if not used or width is None:
        raise fields.refuse("layer_types has windows, but use_sliding_window and sliding_window have none")
    return int(width)
