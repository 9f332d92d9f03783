"""What a backbone looks like. GPT-2, BERT, Llama and Qwen3 are each a set of these values."""

from dataclasses import dataclass, field, fields
from typing import Literal, get_args, get_origin

from lm.errors import UserError

GATED = ("swiglu", "geglu", "reglu")


@dataclass
class BackboneConfig:
    """The shape of a Transformer. Every field can be set in YAML or as `--model.init_args.backbone.FIELD`.

    Args:
        hidden_size: width of the residual stream.
        num_layers: number of blocks; 0 where the input is a whole network, such as a CNN.
        num_heads: query heads of each attention.
        num_kv_heads: key/value heads, shared by groups of query heads (arXiv:2305.13245); as many as
            `num_heads` where it is null.
        head_dim: width of a head; `hidden_size / num_heads` where it is null.
        mlp: the feed-forward network: gated (swiglu, geglu, reglu; arXiv:2002.05202), gelu (exact),
            gelu_tanh (GPT-2's approximation), relu or relu2 (squared ReLU, arXiv:2109.08668).
        mlp_hidden_size: its inner width; 4 times the hidden size where it is null.
        vocab_size: tokens of the tokenizer; the data sets it.
        max_seq_len: longest sequence; the data sets it.
        causal: each position sees only itself and what stands before it (GPT), or everything (BERT).
        window: a position sees no further than this many positions, itself among them; null for no limit.
        global_every: blocks 0, n, 2n … see everything in spite of the window (ModernBERT,
            arXiv:2412.13663); null for a window in every block.
        positions: rotary (arXiv:2104.09864), learned embeddings of tokens, or none: the input says where
            things stand, as those of pictures and sounds do.
        rope_theta: base of the rotary wavelengths.
        local_rope_theta: their base in the blocks with a window (ModernBERT); null for `rope_theta`.
        rope_type: how they are stretched for longer texts than the first ones: default (not at all), linear
            (all by `rope_factor`, arXiv:2306.15595) or llama3 (the long ones only, arXiv:2407.21783).
        rope_factor: how much longer a stretched wavelength gets.
        rope_low_freq_factor: llama3: stretch what turns less than this often in `rope_original_len`.
        rope_high_freq_factor: llama3: keep what turns more than this often; in between, in between.
        rope_original_len: llama3: positions of a sequence before the stretching.
        norm: rms (arXiv:1910.07467) or layer (arXiv:1607.06450).
        norm_position: before each sublayer (GPT-2, Llama) or after its residual sum (BERT).
        final_norm: with norms before the sublayers, one more behind the last block.
        norm_eps: added to the variance.
        qk_norm: RMS-normalise each head's queries and keys (arXiv:2302.05442).
        embedding_norm: normalise the embeddings' sum (BERT).
        first_attention_norm: the first block has a norm before its attention; ModernBERT's, which follows
            that of the embeddings, has none.
        segments: kinds of segment embeddings (BERT: 2); 0 for none.
        bias: biases in the linear layers and the layer norms. The next five say otherwise for one kind of
            layer; null: as `bias` says.
        attention_bias: in the projections to queries, keys and values.
        attention_output_bias: in the projection out of the attention; null: as in its other projections.
        mlp_bias: in the feed-forward networks.
        norm_bias: in the layer norms; an RMS norm never has one.
        head_bias: on the logits of a BERT.
        tie_embeddings: one matrix for the token embeddings and the head.
        dropout: probability, on embeddings, attention weights and each sublayer's output.
        init_std: standard deviation of the initial weights.
        residual_init: projections back into the residual stream start scaled by 1/sqrt(2 num_layers)
            (GPT-2) or at zero (arXiv:2203.03466).
        base_width: the `hidden_size` that `init_std` and the learning rates are for, where this one is
            another: muP (arXiv:2203.03466) makes its own of them. Null: they are taken as they stand.
    """

    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp: Literal["swiglu", "geglu", "reglu", "gelu", "gelu_tanh", "relu", "relu2"] = "swiglu"
    mlp_hidden_size: int | None = None
    vocab_size: int = field(default=4096, metadata={"from_data": True})
    max_seq_len: int = field(default=256, metadata={"from_data": True})
    causal: bool = True
    window: int | None = None
    global_every: int | None = None
    positions: Literal["rotary", "learned", "none"] = "rotary"
    rope_theta: float = 10000.0
    local_rope_theta: float | None = None
    rope_type: Literal["default", "linear", "llama3"] = "default"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_len: int = 8192
    norm: Literal["rms", "layer"] = "rms"
    norm_position: Literal["before", "after"] = "before"
    final_norm: bool = True
    norm_eps: float = 1e-5
    qk_norm: bool = False
    embedding_norm: bool = False
    first_attention_norm: bool = True
    segments: int = 0
    bias: bool = False
    attention_bias: bool | None = None
    attention_output_bias: bool | None = None
    mlp_bias: bool | None = None
    norm_bias: bool | None = None
    head_bias: bool | None = None
    tie_embeddings: bool = True
    dropout: float = 0.0
    init_std: float = 0.02
    residual_init: Literal["scaled", "zero"] = "scaled"
    base_width: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value, choices = getattr(self, each.name), get_args(each.type)
            if get_origin(each.type) is Literal and value not in choices:
                raise UserError(
                    f"backbone.{each.name} is {value!r}: it can be {', '.join(choices)}", status=2
                )
        counts = ("hidden_size", "num_heads", "vocab_size", "max_seq_len", "rope_original_len")
        optional = ("num_kv_heads", "head_dim", "mlp_hidden_size", "window", "global_every", "base_width")
        for name in (*counts, *optional):
            value = getattr(self, name)
            if value is not None and value < 1:
                wanted = "at least 1, or null" if name in optional else "at least 1"
                raise UserError(f"backbone.{name} is {value}: it must be {wanted}", status=2)
        for name in ("rope_theta", "local_rope_theta", "rope_factor"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"backbone.{name} is {value}: it must be above 0", status=2)
        for wrong, words in (
            (self.num_layers < 0, f"num_layers is {self.num_layers}: it must be at least 0"),
            (
                self.width_scale != 1 and self.norm_position == "before" and not self.final_norm,
                "final_norm is false, but muP's factor of the logits lives there: leave base_width out",
            ),
            (
                self.head_dim is None and self.hidden_size % self.num_heads,
                f"num_heads {self.num_heads} does not divide backbone.hidden_size {self.hidden_size}: "
                "change one of them, or give backbone.head_dim",
            ),
            (
                self.num_heads % self.kv_heads,
                f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}",
            ),
            (
                self.positions == "rotary" and self.dim_per_head % 2,
                f"head_dim is {self.dim_per_head}: rotary positions need an even one",
            ),
            (
                not 0 < self.rope_low_freq_factor < self.rope_high_freq_factor,
                f"rope_low_freq_factor is {self.rope_low_freq_factor}: it must be above 0 and below "
                f"rope_high_freq_factor, which is {self.rope_high_freq_factor}",
            ),
            (
                self.window is None and (self.global_every is not None or self.local_rope_theta is not None),
                "global_every and local_rope_theta are about blocks with a window: give backbone.window too",
            ),
            (not 0 <= self.dropout < 1, f"dropout is {self.dropout}: it must be from 0 to below 1"),
        ):
            if wrong:
                raise UserError(f"backbone.{words}", status=2)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def dim_per_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Inner width of the feed-forward network."""
        return self.mlp_hidden_size or 4 * self.hidden_size

    @property
    def width_scale(self) -> float:
        """`base_width` by `hidden_size`: muP's factor of the logits and of Adam's rate for matrices."""
        return (self.base_width or self.hidden_size) / self.hidden_size

    @property
    def matrix_std(self) -> float:
        """Standard deviation of a matrix's initial weights inside the network: as 1/sqrt(hidden_size)."""
        return self.init_std * self.width_scale**0.5

    @property
    def gated(self) -> bool:
        """Whether the feed-forward network has a gate beside its inner projection."""
        return self.mlp in GATED

    def windowed(self, layer: int) -> bool:
        """Whether block `layer`, counted from 0, sees no further than the window."""
        return self.window is not None and (self.global_every is None or layer % self.global_every != 0)

    def has_bias(self, part: Literal["attention", "attention_output", "mlp", "norm", "head"]) -> bool:
        """Whether the layers of a kind have biases."""
        own = getattr(self, f"{part}_bias")
        if own is not None:
            return own
        return self.has_bias("attention") if part == "attention_output" else self.bias
