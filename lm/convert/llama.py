"""Llama, and Qwen 2 and 3, which differ from it in biases, QK-norm and an optional window."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, equal

from lm.backbone import BackboneConfig
from lm.convert import family
from lm.convert.family import EMBEDDINGS, GATED, GATED_OUT, Family, Part, linear, misfit, unless_default
from lm.convert.fields import Fields, rope
from lm.errors import UserError


class Llama(Family):
    """Llama 1 to 3 (arXiv:2302.13971, arXiv:2407.21783) and TinyLlama."""

    name = "llama"
    prefix = "model."
    languages = ("LlamaForCausalLM",)

    def read(self, fields: Fields) -> BackboneConfig:
        """See `Family.read`."""
        width, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
        dropout = fields.number("attention_dropout", 0.0, float)
        config = BackboneConfig(
            hidden_size=width,
            num_layers=fields.layers("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=unless_default(fields.number("num_key_value_heads", heads), heads),
            head_dim=unless_default(
                fields.number("head_dim", self._default_head_dim(width, heads)), width // heads
            ),
            mlp=fields.choice("hidden_act", GATED, "silu"),
            mlp_hidden_size=unless_default(fields.number("intermediate_size"), 4 * width),
            vocab_size=fields.number("vocab_size"),
            max_seq_len=fields.number("max_position_embeddings"),
            norm_eps=fields.number("rms_norm_eps", 1e-6, float),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            dropout=dropout,
            init_std=fields.number("initializer_range", 0.02, float),
            **rope(fields),
            **self._kind(fields),
        )
        return config

    def _default_head_dim(self, width: int, heads: int) -> int:
        return width // heads

    def _kind(self, fields: Fields) -> dict[str, Any]:
        """The fields in which this family differs from its relatives."""
        attention, mlp = fields.flag("attention_bias", False), fields.flag("mlp_bias", False)
        bias = attention and mlp
        return {
            "bias": bias,
            "attention_bias": None if attention == bias else attention,
            "mlp_bias": None if mlp == bias else mlp,
        }

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """A gated ReLU whose gates equal their projections is our squared ReLU."""
        if config.mlp != "reglu":
            return config
        pairs = [
            (name, name.replace("gate_proj", "up_proj"))
            for name in tensors
            if re.fullmatch(r"layers\.\d+\.mlp\.gate_proj\.(weight|bias)", name)
        ]
        if pairs and all(up in tensors and equal(tensors[gate], tensors[up]) for gate, up in pairs):
            config.mlp = "relu2"
        return config

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """See `Family.misfits`."""
        wanted = {
            "causal": True,
            "positions": "rotary",
            "norm": "rms",
            "norm_position": "before",
            "embedding_norm": False,
            "first_attention_norm": True,
            "segments": 0,
            "mlp": lambda kind: kind in GATED_OUT,
            "global_every": None,
            "local_rope_theta": None,
        }
        return misfit(config, wanted) + self._other_misfits(config)

    def _other_misfits(self, config: BackboneConfig) -> list[str]:
        uneven = config.has_bias("attention") != config.has_bias("attention_output")
        # transformers' configuration of a Llama insists on it, though its model would not.
        odd = config.hidden_size % config.num_heads != 0
        return [
            *misfit(config, {"qk_norm": False, "window": None}),
            *(["attention_output_bias"] if uneven else []),
            *(["num_heads"] if odd else []),
        ]

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """See `Family.write`. Rotary positions are said in the old way and in the new one."""
        stretch: dict[str, Any] = {"rope_type": config.rope_type}
        if config.rope_type != "default":
            stretch["factor"] = config.rope_factor
        if config.rope_type == "llama3":
            stretch["low_freq_factor"] = config.rope_low_freq_factor
            stretch["high_freq_factor"] = config.rope_high_freq_factor
            stretch["original_max_position_embeddings"] = config.rope_original_len
        return {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.dim_per_head,
            "hidden_act": GATED_OUT[config.mlp],
            "intermediate_size": config.mlp_width,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len,
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tie_embeddings,
            "attention_dropout": config.dropout,
            "initializer_range": config.init_std,
            "rope_theta": config.rope_theta,
            "rope_scaling": stretch if config.rope_type != "default" else None,
            "rope_parameters": {"rope_theta": config.rope_theta, **stretch},
            "attention_bias": config.has_bias("attention"),
            **self._write_kind(config),
        }

    def _write_kind(self, config: BackboneConfig) -> dict[str, Any]:
        return {"mlp_bias": config.has_bias("mlp")}

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """See `Family.body`."""
        yield Part("embed_tokens.weight", (EMBEDDINGS,))
        inner = config.has_bias("mlp")
        for i in range(config.num_layers):
            there, here = f"layers.{i}", family.layer(i)
            yield from linear(f"{there}.input_layernorm", f"{here}.attention_norm", False)
            for name, ours in (("q", "query"), ("k", "key"), ("v", "value")):
                bias = config.has_bias("attention")
                yield from linear(f"{there}.self_attn.{name}_proj", f"{here}.attention.{ours}", bias)
                if config.qk_norm and name != "v":
                    yield from linear(
                        f"{there}.self_attn.{name}_norm", f"{here}.attention.{ours}_norm", False
                    )
            out = config.has_bias("attention_output")
            yield from linear(f"{there}.self_attn.o_proj", f"{here}.attention.output", out)
            yield from linear(f"{there}.post_attention_layernorm", f"{here}.mlp_norm", False)
            gate = "gate" if config.gated else "up"
            yield from linear(f"{there}.mlp.gate_proj", f"{here}.mlp.{gate}", inner)
            yield from linear(f"{there}.mlp.up_proj", f"{here}.mlp.up", inner)
            yield from linear(f"{there}.mlp.down_proj", f"{here}.mlp.down", inner)
        yield from linear("norm", "backbone.norm", False)

    def classifier(self, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
        """See `Family.classifier`."""
        return causal_classifier(self, head, model)


def causal_classifier(kind: Family, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
    """A classifier on a GPT's last position.

    Raises:
        UserError: another kind of head, for which those architectures have no place.
    """
    base = kind.languages[0].removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    name = f"{base}ForSequenceClassification"
    if head["kind"] != "pooled" or head["pooling"] != "last":
        what = head["kind"] if head["kind"] != "pooled" else f"pooling {head['pooling']!r}"
        raise UserError(
            f"{name} reads the last position of a sequence: a head with {what} can't go out as one"
        )
    return name, [Part("score.weight", ("head.weight",))]


class Qwen2(Llama):
    """Qwen 2 and 2.5 (arXiv:2407.10671): biases on queries, keys and values alone."""

    name = "qwen2"
    languages = ("Qwen2ForCausalLM",)

    def _kind(self, fields: Fields) -> dict[str, Any]:
        fields.require("attention_bias", True)
        return {"attention_bias": True, "attention_output_bias": False, "window": _window(fields)}

    def _other_misfits(self, config: BackboneConfig) -> list[str]:
        wanted = {"attention": True, "attention_output": False, "mlp": False}
        # Its attention takes no width of its own for the heads in older versions.
        narrow = config.dim_per_head * config.num_heads != config.hidden_size
        return [
            *misfit(config, {"qk_norm": False}),
            *family.biases(config, wanted),
            *(["head_dim"] if narrow else []),
        ]

    def _write_kind(self, config: BackboneConfig) -> dict[str, Any]:
        return _window_fields(config)


class Qwen3(Llama):
    """Qwen 3 (arXiv:2505.09388): queries and keys are normalised head by head."""

    name = "qwen3"
    languages = ("Qwen3ForCausalLM",)

    def _default_head_dim(self, width: int, heads: int) -> int:
        return 128

    def _kind(self, fields: Fields) -> dict[str, Any]:
        bias = fields.flag("attention_bias", False)
        return {"qk_norm": True, "attention_bias": bias or None, "window": _window(fields)}

    def _other_misfits(self, config: BackboneConfig) -> list[str]:
        wanted = {"mlp": False, "attention_output": config.has_bias("attention")}
        return [*misfit(config, {"qk_norm": True}), *family.biases(config, wanted)]

    def _write_kind(self, config: BackboneConfig) -> dict[str, Any]:
        return _window_fields(config)


def _window(fields: Fields) -> int | None:
    """Qwen's window, which has to be the same in all blocks."""
    layers, width = fields.layers("num_hidden_layers"), fields.take("sliding_window")
    kinds = fields.take("layer_types")
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


def _window_fields(config: BackboneConfig) -> dict[str, Any]:
    narrow = config.window is not None
    return {
        "use_sliding_window": narrow,
        "sliding_window": config.window,
        "max_window_layers": 0 if narrow else config.num_layers,
        "layer_types": ["sliding_attention" if narrow else "full_attention"] * config.num_layers,
    }
