"""GPT-2."""

import re
from collections.abc import Iterator
from typing import Any

from lm.backbone import BackboneConfig
from lm.convert import family
from lm.convert.family import EMBEDDINGS, PLAIN, PLAIN_OUT, Family, Part, linear, misfit, unless_default
from lm.convert.fields import Fields
from lm.convert.llama import causal_classifier


class GPT2(Family):
    """GPT-2 (Radford et al. 2019): learned positions, biases everywhere, matrices stored transposed."""

    name = "gpt2"
    prefix = "transformer."
    languages = ("GPT2LMHeadModel",)
    ignored = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")

    def read(self, fields: Fields) -> BackboneConfig:
        """See `Family.read`."""
        fields.require("scale_attn_weights", True)
        for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
            fields.require(name, False)
        # An old length, the same numbers in another precision, dropout, and heads of other tasks.
        fields.skip("n_ctx", "reorder_and_upcast_attn", "embd_pdrop", "attn_pdrop", "summary_type")
        fields.skip("summary_use_proj", "summary_activation", "summary_proj_to_labels")
        fields.skip("summary_first_dropout")
        width = fields.number("n_embd", 768)
        return BackboneConfig(
            hidden_size=width,
            num_layers=fields.layers("n_layer", 12),
            num_heads=fields.number("n_head", 12),
            mlp=fields.choice("activation_function", PLAIN, "gelu_new"),
            mlp_hidden_size=unless_default(fields.number("n_inner", 4 * width), 4 * width),
            vocab_size=fields.number("vocab_size", 50257),
            max_seq_len=fields.number("n_positions", 1024),
            positions="learned",
            norm="layer",
            norm_eps=fields.number("layer_norm_epsilon", 1e-5, float),
            bias=True,
            tie_embeddings=fields.flag("tie_word_embeddings", True),
            dropout=fields.number("resid_pdrop", 0.1, float),
            init_std=fields.number("initializer_range", 0.02, float),
        )

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """See `Family.misfits`."""
        wanted = {
            "causal": True,
            "positions": "learned",
            "norm": "layer",
            "norm_position": "before",
            "embedding_norm": False,
            "first_attention_norm": True,
            "segments": 0,
            "mlp": lambda kind: kind in PLAIN_OUT,
            "qk_norm": False,
            "window": None,
            "num_kv_heads": lambda heads: heads in (None, config.num_heads),
            "head_dim": lambda dim: dim in (None, config.hidden_size / config.num_heads),
        }
        biased = dict.fromkeys(("attention", "attention_output", "mlp", "norm"), True)
        return misfit(config, wanted) + family.biases(config, biased)

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """See `Family.write`."""
        return {
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.mlp_width,
            "n_positions": config.max_seq_len,
            "activation_function": PLAIN_OUT[config.mlp],
            "vocab_size": config.vocab_size,
            "layer_norm_epsilon": config.norm_eps,
            "tie_word_embeddings": config.tie_embeddings,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "initializer_range": config.init_std,
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """See `Family.body`."""
        yield Part("wte.weight", (EMBEDDINGS,))
        yield Part("wpe.weight", ("backbone.embeddings.positions.weight",))
        for i in range(config.num_layers):
            there, here = f"h.{i}", family.layer(i)
            yield from linear(f"{there}.ln_1", f"{here}.attention_norm", True)
            projections = tuple(f"{here}.attention.{name}" for name in ("query", "key", "value"))
            yield from linear(f"{there}.attn.c_attn", projections, True, transposed=True)
            yield from linear(f"{there}.attn.c_proj", f"{here}.attention.output", True, transposed=True)
            yield from linear(f"{there}.ln_2", f"{here}.mlp_norm", True)
            yield from linear(f"{there}.mlp.c_fc", f"{here}.mlp.up", True, transposed=True)
            yield from linear(f"{there}.mlp.c_proj", f"{here}.mlp.down", True, transposed=True)
        yield from linear("ln_f", "backbone.norm", True)

    def classifier(self, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
        """See `Family.classifier`."""
        return causal_classifier(self, head, model)
