"""ModernBERT."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, equal

from lm.backbone import BackboneConfig
from lm.convert import family
from lm.convert.family import EMBEDDINGS, GATED, GATED_OUT, Family, Part, linear, misfit, unless_default
from lm.convert.fields import Fields
from lm.errors import UserError


class ModernBert(Family):
    """ModernBERT (arXiv:2412.13663): rotary positions, gated networks, a window in most blocks."""

    name = "modernbert"
    prefix = "model."
    output = "decoder.weight"
    languages = ("ModernBertForMaskedLM",)

    def read(self, fields: Fields) -> BackboneConfig:
        """See `Family.read`. `local_attention` is a window's whole width: a position sees
        `local_attention // 2` others on each side."""
        fields.require("classifier_activation", "gelu")
        fields.skip("initializer_cutoff_factor", "classifier_pooling", "deterministic_flash_attn")
        fields.skip("sparse_prediction", "sparse_pred_ignore_index", "reference_compile")
        fields.skip("repad_logits_with_grad", "embedding_dropout", "mlp_dropout")
        fields.skip("position_embedding_type", "layer_norm_eps", "hidden_act")  # left over, never read there
        width, layers = fields.number("hidden_size", 768), fields.layers("num_hidden_layers", 22)
        every = self._global_every(fields, layers)
        seen = fields.number("local_attention", 128)
        window = None if every == 1 else seen // 2 + 1
        theta, local = self._thetas(fields)
        bias = fields.flag("classifier_bias", False)  # the head's dense layer
        kinds = {"attention": False, "mlp": False, "norm": False, "decoder": True}
        own = {kind: fields.flag(f"{kind}_bias", default) for kind, default in kinds.items()}
        own["head"] = own.pop("decoder")
        return BackboneConfig(
            hidden_size=width,
            num_layers=layers,
            num_heads=fields.number("num_attention_heads", 12),
            mlp=fields.choice("hidden_activation", GATED, "gelu"),
            mlp_hidden_size=unless_default(fields.number("intermediate_size", 1152), 4 * width),
            vocab_size=fields.number("vocab_size", 50368),
            max_seq_len=fields.number("max_position_embeddings", 8192),
            causal=False,
            window=window,
            global_every=every if window is not None and every > 0 else None,
            rope_theta=theta,
            local_rope_theta=local if window is not None and local != theta else None,
            norm="layer",
            norm_eps=fields.number("norm_eps", 1e-5, float),
            embedding_norm=True,
            first_attention_norm=False,
            bias=bias,
            **{f"{kind}_bias": None if value == bias else value for kind, value in own.items()},
            tie_embeddings=fields.flag("tie_word_embeddings", True),
            dropout=fields.number("attention_dropout", 0.0, float),
            init_std=fields.number("initializer_range", 0.02, float),
        )

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
        for group in (
            fields.take("rope_scaling"),
            groups.get("full_attention"),
            groups.get("sliding_attention"),
        ):
            kind = (group or {}).get("rope_type", "default")
            if kind != "default":
                raise fields.refuse(f"rope type {kind!r} is not supported here for this family")
        theta = (groups.get("full_attention") or {}).get("rope_theta") or theta
        local = (groups.get("sliding_attention") or {}).get("rope_theta") or local or theta
        return tuple(fields.checked("rope_theta", base, float) for base in (theta, local))

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """A gated ReLU whose gates equal their projections is our squared ReLU."""
        if config.mlp == "reglu":
            pairs = [
                tensor.chunk(2)
                for name, tensor in tensors.items()
                if name.endswith((".Wi.weight", ".Wi.bias"))
            ]
            if pairs and all(equal(gate, up) for gate, up in pairs):
                config.mlp = "relu2"
        return config

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """See `Family.misfits`."""
        wanted = {
            "causal": False,
            "positions": "rotary",
            "norm": "layer",
            "norm_position": "before",
            "embedding_norm": True,
            "first_attention_norm": False,
            "segments": 0,
            "mlp": lambda kind: kind in GATED_OUT,
            "qk_norm": False,
            "rope_type": "default",
            "num_kv_heads": lambda heads: heads in (None, config.num_heads),
            "head_dim": lambda dim: dim in (None, config.hidden_size / config.num_heads),
        }
        uneven = {"attention_output": config.has_bias("attention")}
        return misfit(config, wanted) + family.biases(config, uneven)

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """See `Family.write`."""
        local = config.local_rope_theta or config.rope_theta
        kinds = [
            "sliding_attention" if config.windowed(i) else "full_attention" for i in range(config.num_layers)
        ]
        return {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "hidden_activation": GATED_OUT[config.mlp],
            "intermediate_size": config.mlp_width,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len,
            "local_attention": 128 if config.window is None else 2 * (config.window - 1),
            "global_attn_every_n_layers": config.global_every or 1,
            "layer_types": kinds,
            "global_rope_theta": config.rope_theta,
            "local_rope_theta": local,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
            "norm_eps": config.norm_eps,
            "norm_bias": config.has_bias("norm"),
            "attention_bias": config.has_bias("attention"),
            "mlp_bias": config.has_bias("mlp"),
            "decoder_bias": config.has_bias("head"),
            "classifier_bias": config.bias,
            "classifier_activation": "gelu",
            "tie_word_embeddings": config.tie_embeddings,
            "attention_dropout": config.dropout,
            "embedding_dropout": config.dropout,
            "mlp_dropout": config.dropout,
            "initializer_range": config.init_std,
        }

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """See `Family.body`."""
        norm, attention, mlp = (config.has_bias(kind) for kind in ("norm", "attention", "mlp"))
        yield Part("embeddings.tok_embeddings.weight", (EMBEDDINGS,))
        yield from linear("embeddings.norm", "backbone.embeddings.norm", norm)
        for i in range(config.num_layers):
            there, here = f"layers.{i}", family.layer(i)
            if i:
                yield from linear(f"{there}.attn_norm", f"{here}.attention_norm", norm)
            projections = tuple(f"{here}.attention.{name}" for name in ("query", "key", "value"))
            yield from linear(f"{there}.attn.Wqkv", projections, attention)
            yield from linear(f"{there}.attn.Wo", f"{here}.attention.output", attention)
            yield from linear(f"{there}.mlp_norm", f"{here}.mlp_norm", norm)
            gate = "gate" if config.gated else "up"
            yield from linear(f"{there}.mlp.Wi", (f"{here}.mlp.{gate}", f"{here}.mlp.up"), mlp)
            yield from linear(f"{there}.mlp.Wo", f"{here}.mlp.down", mlp)
        yield from linear("final_norm", "backbone.norm", norm)

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        """See `Family.head`."""
        yield from linear("head.dense", "head.dense", config.bias)
        yield from linear("head.norm", "head.norm", config.has_bias("norm"))
        if config.has_bias("head"):
            yield Part("decoder.bias", ("head.bias",))
        yield from super().head(config)

    def classifier(self, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
        """See `Family.classifier`."""
        raise UserError(
            "transformers' ModernBERT classifiers have a dense layer, GELU and a norm in front of their "
            "outputs, ours do not: this classifier can't go out as one"
        )
