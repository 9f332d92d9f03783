"""What a family of Hugging Face models has to say: how its config.json and its tensors' names relate to ours.

Each family is one small class that says everything once, so that the two directions can't drift apart: `same`
and its neighbours for the configuration, `body` and `head` for the tensors, which are lists of `Part`s; both
are read either way.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, equal

from lm.backbone import BackboneConfig, InputConfig
from lm.convert.fields import Fields
from lm.errors import UserError
from lm.processors import Processor

EMBEDDINGS = "backbone.embeddings.tokens.weight"
QUERY_KEY_VALUE = ("attention.query", "attention.key", "attention.value")

# Activations by their names there and ours, for networks without and with a gate; and ours by theirs.
PLAIN = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
PLAIN_OUT = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu2": "relu2"}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "relu": "reglu"}
# Squared ReLU goes out as a gated ReLU whose gate equals its projection: relu(u)² = relu(u)·u.
GATED_OUT = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu", "relu2": "relu"}

# What makes a shape one of a family: each of these has the family's own value, ours where it says none.
_SHAPE = (
    *("causal", "positions", "norm", "norm_position", "final_norm", "embedding_norm", "first_attention_norm"),
    *("segments", "qk_norm", "window", "global_every", "local_rope_theta", "rope_type"),
)
_BIASED = ("attention", "mlp", "norm", "head")


@dataclass(frozen=True)
class Part:
    """One tensor of theirs, made of one or more of ours, which are stacked along their first axis."""

    theirs: str  # its name there
    ours: tuple[str, ...]  # none of a tensor that is only there to be zero
    transposed: bool = False  # it is stored the other way round (GPT-2's `Conv1D`)
    skip: int = 0  # rows at its start that we don't have (RoBERTa's positions); zero on the way out
    zeros: tuple[int, ...] = ()  # its shape, where none of ours is in it


Layers = dict[str, str | tuple[str, ...]]


def linear(
    theirs: str, ours: str | Sequence[str], bias: bool = True, transposed: bool = False
) -> Iterator[Part]:
    """The parts of a linear layer or a norm, with a bias or without."""
    layers = (ours,) if isinstance(ours, str) else ours
    yield Part(f"{theirs}.weight", tuple(f"{name}.weight" for name in layers), transposed)
    if bias:
        yield Part(f"{theirs}.bias", tuple(f"{name}.bias" for name in layers))


class Family(ABC):
    """A kind of Hugging Face models."""

    name: ClassVar[str]  # `model_type` in config.json
    prefix: ClassVar[str]  # what the body's tensors are called by in a model with a head
    # Their fields and what they are called here. Behind it what a field is where it is not there, of which it
    # has the type; nothing where it has to be there.
    same: ClassVar[dict[str, tuple[Any, ...]]]
    copies: ClassVar[dict[str, str]] = {}  # fields that are written as others are, and not read
    activation: ClassVar[tuple[str, str]]  # the field that names it, and what it is where it is not there
    activations: ClassVar[tuple[dict[str, str], dict[str, str]]]  # ours by theirs and theirs by ours
    fixed: ClassVar[dict[str, Any]] = {}  # values of ours that no field says
    free: ClassVar[frozenset[str]] = frozenset()  # ours in `_SHAPE` that other fields say, or don't matter
    biases: ClassVar[dict[str, bool]] = {}  # the kinds of layers that always have a bias, or never
    insisted: ClassVar[dict[str, Any]] = {}  # fields with the one value that can be followed
    skipped: ClassVar[str] = ""  # fields that don't matter in this family
    output: ClassVar[str] = "lm_head.weight"  # from hidden states to the vocabulary; absent where it is tied
    # Names under which one tensor may be stored once more, by its own; where the embeddings are not tied it
    # always is, and the first is what counts.
    twins: ClassVar[dict[str, str]] = {}
    # Tables that are stored among the weights and are none.
    ignored: ClassVar[re.Pattern[str]] = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
    # What other tasks put on the same body.
    other_heads: ClassVar[re.Pattern[str]] = re.compile(r"(score|classifier|qa_outputs)\..*")
    others: ClassVar[str] = "another task's head"  # what those are
    # Architectures with a language-model head, of families that take tokens; the first is what we write.
    languages: ClassVar[tuple[str, ...]] = ()
    # Classifiers of sequences with what a record says of their heads; of others a GPT's reads the last
    # position, a BERT's the first through its pooler.
    classifiers: ClassVar[dict[str, dict[str, Any]]] = {}
    padded: ClassVar[bool] = False  # silence fills whatever sounds its classifiers hear

    def read(self, fields: Fields) -> BackboneConfig:
        """The configuration that a config.json describes."""
        for name, value in self.insisted.items():
            fields.require(name, value)
        fields.skip(*self.skipped.split(), *self.copies)
        ours = dict(self.fixed)
        for theirs, (name, *default) in self.same.items():
            ours[name] = (fields.layers if name == "num_layers" else fields.like)(theirs, *default)
        field, usual = self.activation
        ours["mlp"] = fields.choice(field, self.activations[0], usual)
        return BackboneConfig(**shortened(ours | self.more(fields, ours)))

    def more(self, fields: Fields, ours: dict[str, Any]) -> dict[str, Any]:
        """What `same` can't say: further values of ours, and in place of those that were read already."""
        return {}

    def input(self, fields: Fields) -> InputConfig | None:
        """What stands before the blocks, if it is not tokens."""
        return None

    def processor(self, described: dict[str, Any]) -> Processor:
        """What turns pictures or sounds into its input, by what preprocessor_config.json says."""
        raise NotImplementedError(f"{type(self).__name__} reads tokens, which come with a tokenizer")

    def folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (their names without the prefix) as the parts of `body` have them: several of theirs that
        make one of ours are put together.

        Raises:
            UserError: some are missing.
        """
        return tensors

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """The configuration once the tensors are known too (their names without the prefix)."""
        return config

    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """Names of the fields for which this family has no place; none where a model of ours can go out as
        one of these, with its language-model head or without."""
        usual, read = BackboneConfig(), {name for name, *_ in self.same.values()}
        wanted = {**vars(usual), **self.fixed}
        said = read | self.free
        found = [name for name in _SHAPE if name not in said and getattr(config, name) != wanted[name]]
        if config.mlp not in self.activations[1]:
            found.append("mlp")
        if "num_kv_heads" not in read and config.kv_heads != config.num_heads:
            found.append("num_kv_heads")
        if "head_dim" not in read and config.dim_per_head * config.num_heads != config.hidden_size:
            found.append("head_dim")
        biases = {"attention_output": config.has_bias("attention"), **self.biases}
        found += [
            f"{part}_bias"
            for part, value in biases.items()
            if config.has_bias(part) != value and (head or part != "head")
        ]
        return found + self.odd(config, head)

    def odd(self, config: BackboneConfig, head: bool) -> list[str]:
        """More misfits, of this family alone."""
        return []

    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """The inverse of `read`: what config.json says of the shape. `pad` is the padding token's id."""
        said = {theirs: meant(config, name) for theirs, (name, *_) in self.same.items()}
        copied = {copy: said[theirs] for copy, theirs in self.copies.items()}
        return {**said, **copied, self.activation[0]: self.activations[1][config.mlp], **self.insisted}

    @abstractmethod
    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """The tensors of the body, by names without the prefix. `theirs` is config.json's content."""

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        """The tensors of the language-model head."""
        if not config.tie_embeddings:
            yield Part(self.output, ("head.weight",))

    def pooler(self) -> Iterator[Part]:
        """The tensors of a pooler, by names without the prefix, where the family has one."""
        return iter(())

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        """How a classifier of ours goes out: the architecture's name and its head's tensors by full names.
        Here that of a GPT, on the last position.

        Args:
            head: its kind ("pooled", "tokens", "span"), pooling and pooler, as in a checkpoint's record.

        Raises:
            UserError: no architecture computes the same.
        """
        base = self.languages[0].removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        name = f"{base}ForSequenceClassification"
        if head["kind"] != "pooled" or head["pooling"] != "last":
            what = head["kind"] if head["kind"] != "pooled" else f"pooling {head['pooling']!r}"
            raise UserError(
                f"{name} reads the last position of a sequence: a head with {what} can't go out as one"
            )
        return name, [Part("score.weight", ("head.weight",))]


def shortened(ours: dict[str, Any]) -> dict[str, Any]:
    """Values of ours with None where it means the same."""
    width, heads = ours["hidden_size"], ours["num_heads"]
    usual = {"num_kv_heads": heads, "head_dim": width // heads, "mlp_hidden_size": 4 * width}
    usual |= {f"{part}_bias": ours.get("bias", False) for part in _BIASED}
    return {name: None if name in usual and value == usual[name] else value for name, value in ours.items()}


def meant(config: BackboneConfig, name: str) -> Any:
    """A value of ours, of those with None for what that means."""
    if name.endswith("_bias"):
        return config.has_bias(name.removesuffix("_bias"))
    names = {"num_kv_heads": "kv_heads", "head_dim": "dim_per_head", "mlp_hidden_size": "mlp_width"}
    return getattr(config, names.get(name, name))


def squared(config: BackboneConfig, pairs: Iterable[tuple[Tensor, Tensor]]) -> BackboneConfig:
    """A gated ReLU whose gates equal their projections, pair by pair, is our squared ReLU."""
    if config.mlp == "reglu" and all(equal(gate, up) for gate, up in pairs):
        config.mlp = "relu2"
    return config


def block(config: BackboneConfig, there: str, index: int, layers: Layers, **how: bool) -> Iterator[Part]:
    """The parts of our block `index`, by what each of its layers is called here; a bias is where we have one.

    Args:
        there: what the block is called there.
        layers: ours by theirs; several for one that stacks them.
    """
    for theirs, ours in layers.items():
        names = [f"backbone.blocks.{index}.{name}" for name in ([ours] if isinstance(ours, str) else ours)]
        yield from linear(f"{there}.{theirs}", names, _has_bias(config, names[0]), **how)


def _has_bias(config: BackboneConfig, name: str) -> bool:
    """Whether a layer of ours has one. RMS norms never do."""
    if name.endswith("norm"):
        return config.norm == "layer" and config.has_bias("norm")
    part = "attention_output" if name.endswith("attention.output") else name.split(".")[-2]
    return config.has_bias(part)
