"""GPT-2."""

import re
from collections.abc import Iterator
from typing import Any

from lm.backbone import BackboneConfig
from lm.convert.family import EMBEDDINGS, PLAIN, PLAIN_OUT, QUERY_KEY_VALUE, Family, Part, block, linear

_NORMS = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
_MATRICES = {
    "attn.c_attn": QUERY_KEY_VALUE,
    "attn.c_proj": "attention.output",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}


class GPT2(Family):
    """GPT-2 (Radford et al. 2019): learned positions, biases everywhere, matrices stored transposed."""

    name = "gpt2"
    prefix = "transformer."
    languages = ("GPT2LMHeadModel",)
    ignored = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")

    same = {
        "n_embd": ("hidden_size", 768),
        "n_layer": ("num_layers", 12),
        "n_head": ("num_heads", 12),
        "n_inner": ("mlp_hidden_size", None),
        "vocab_size": ("vocab_size", 50257),
        "n_positions": ("max_seq_len", 1024),
        "layer_norm_epsilon": ("norm_eps", 1e-5),
        "tie_word_embeddings": ("tie_embeddings", True),
        "resid_pdrop": ("dropout", 0.1),
        "initializer_range": ("init_std", 0.02),
    }
    copies = {"embd_pdrop": "resid_pdrop", "attn_pdrop": "resid_pdrop"}
    activation = ("activation_function", "gelu_new")
    activations = (PLAIN, PLAIN_OUT)
    fixed = {"positions": "learned", "norm": "layer", "bias": True}
    free = frozenset({"rope_type"})
    biases = dict.fromkeys(("attention", "attention_output", "mlp", "norm"), True)
    insisted = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    # An old length, the same numbers in another precision, and heads of other tasks.
    skipped = """
        n_ctx reorder_and_upcast_attn summary_type summary_use_proj summary_activation
        summary_proj_to_labels summary_first_dropout
    """

    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        yield Part("wte.weight", (EMBEDDINGS,))
        yield Part("wpe.weight", ("backbone.embeddings.positions.weight",))
        for i in range(config.num_layers):
            yield from block(config, f"h.{i}", i, _NORMS)
            yield from block(config, f"h.{i}", i, _MATRICES, transposed=True)
        yield from linear("ln_f", "backbone.norm")
