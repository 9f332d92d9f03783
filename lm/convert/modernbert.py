"""ModernBERT."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert.family import (
    EMBEDDINGS,
    GATED,
    GATED_OUT,
    QUERY_KEY_VALUE,
    Family,
    Part,
    block,
    linear,
    squared,
)
from lm.convert.fields import Fields
from lm.errors import UserError


class ModernBert(Family):
    """ModernBERT (arXiv:2412.13663): rotary positions, gated networks, a window in most blocks."""

    name = "modernbert"
    prefix = "model."
    output = "decoder.weight"
    languages = ("ModernBertForMaskedLM",)

    same = {
        "hidden_size": ("hidden_size", 768),
        "num_hidden_layers": ("num_layers", 22),
        "num_attention_heads": ("num_heads", 12),
        "intermediate_size": ("mlp_hidden_size", 1152),
        "vocab_size": ("vocab_size", 50368),
        "max_position_embeddings": ("max_seq_len", 8192),
        "norm_eps": ("norm_eps", 1e-5),
        "classifier_bias": ("bias", False),  # of the head's dense layer
        "attention_bias": ("attention_bias", False),
        "mlp_bias": ("mlp_bias", False),
        "norm_bias": ("norm_bias", False),
        "decoder_bias": ("head_bias", True),
        "tie_word_embeddings": ("tie_embeddings", True),
        "attention_dropout": ("dropout", 0.0),
        "initializer_range": ("init_std", 0.02),
    }
    copies = {"embedding_dropout": "attention_dropout", "mlp_dropout": "attention_dropout"}
    activation = ("hidden_activation", "gelu")
    activations = (GATED, GATED_OUT)
    fixed = {"causal": False, "norm": "layer", "embedding_norm": True, "first_attention_norm": False}
    free = frozenset({"window", "global_every", "local_rope_theta"})
    insisted = {"classifier_activation": "gelu"}
    # The last three are left over: never read there.
    skipped = """
        initializer_cutoff_factor classifier_pooling deterministic_flash_attn sparse_prediction
        sparse_pred_ignore_index reference_compile repad_logits_with_grad
        position_embedding_type layer_norm_eps hidden_act
    """

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        """`local_attention` is a window's whole width: a position sees `local_attention // 2` others on each
        side."""
        every, seen = self._global_every(fields, ours["num_layers"]), fields.number("local_attention", 128)
        theta, local = self._thetas(fields)
        if every == 1:
            return {"rope_theta": theta}
        return {
            "window": seen // 2 + 1,
            "global_every": every if every > 0 else None,
            "rope_theta": theta,
            "local_rope_theta": local if local != theta else None,
        }

    def _global_every(self, fields: Fields, layers: int) -> int:
        """n where blocks 0, n, 2n … see everything: 1 where all do, 0 where none does."""
        every, kinds = fields.number("global_attn_every_n_layers", 3), fields.take("layer_types")
        if kinds is None:
            return every
        for n in (every, 1, 0, *range(2, layers + 1)) if len(kinds) == layers else ():
            wanted = ["full_attention" if n and i % n == 0 else "sliding_attention" for i in range(layers)]
            if wanted == kinds:
                return n
        raise fields.refuse("layer_types is not a window in all blocks but every n-th: not supported here")

    def _thetas(self, fields: Fields) -> tuple[float, float]:
        """The bases of the wavelengths in the blocks that see everything and in the others."""
        theta = fields.number("global_rope_theta", 160_000.0, float)
        local = fields.content.get("local_rope_theta", 10_000.0)
        fields.skip("local_rope_theta")
        groups = fields.take("rope_parameters", {})
        whole, near = (groups.get(f"{kind}_attention") or {} for kind in ("full", "sliding"))
        for group in (fields.take("rope_scaling", {}), whole, near):
            if (kind := group.get("rope_type", "default")) != "default":
                raise fields.refuse(f"rope type {kind!r} is not supported here for this family")
        theta = whole.get("rope_theta") or theta
        local = near.get("rope_theta") or local or theta
        return tuple(fields.checked("rope_theta", base, float) for base in (theta, local))

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        joined = [t for name, t in tensors.items() if name.endswith((".Wi.weight", ".Wi.bias"))]
        return squared(config, (tensor.chunk(2) for tensor in joined))

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        local = config.local_rope_theta or config.rope_theta
        return {
            **super().write(config, pad),
            "local_attention": 128 if config.window is None else 2 * (config.window - 1),
            "global_attn_every_n_layers": config.global_every or 1,
            "layer_types": [
                "sliding_attention" if config.windowed(i) else "full_attention"
                for i in range(config.num_layers)
            ],
            "global_rope_theta": config.rope_theta,
            "local_rope_theta": local,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        norm = config.has_bias("norm")
        layers = {
            "attn_norm": "attention_norm",
            "attn.Wqkv": QUERY_KEY_VALUE,
            "attn.Wo": "attention.output",
            "mlp_norm": "mlp_norm",
            "mlp.Wi": ("mlp.gate" if config.gated else "mlp.up", "mlp.up"),
            "mlp.Wo": "mlp.down",
        }
        yield Part("embeddings.tok_embeddings.weight", (EMBEDDINGS,))
        yield from linear("embeddings.norm", "backbone.embeddings.norm", norm)
        for i in range(config.num_layers):
            found = {theirs: ours for theirs, ours in layers.items() if i or theirs != "attn_norm"}
            yield from block(config, f"layers.{i}", i, found)
        yield from linear("final_norm", "backbone.norm", norm)

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        yield from linear("head.dense", "head.dense", config.bias)
        yield from linear("head.norm", "head.norm", config.has_bias("norm"))
        if config.has_bias("head"):
            yield Part("decoder.bias", ("head.bias",))
        yield from super().head(config)

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        raise UserError(
            "transformers' ModernBERT classifiers have a dense layer, GELU and a norm in front of their "
            "outputs, ours do not: this classifier can't go out as one"
        )
