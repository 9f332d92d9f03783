"""What a family of Hugging Face models has to say: how its config.json and its tensors' names relate to ours.

Each family is one small class with both directions side by side, so that they can't drift apart: `read` and
`write` for the configuration, `body` and `head` for the tensors, which are lists of `Part`s read either way.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lm.backbone import BackboneConfig
from lm.convert.fields import Fields
from lm.errors import UserError

EMBEDDINGS = "backbone.embeddings.tokens.weight"

# Activations by their names there and ours, for networks without and with a gate.
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


@dataclass(frozen=True)
class Part:
    """One tensor of theirs, made of one or more of ours.

    Args:
        theirs: its name there.
        ours: our tensors, stacked along their first axis; none for a tensor that is only there to be zero.
        transposed: it is stored the other way round (GPT-2's `Conv1D`).
        skip: rows at its start that we don't have (RoBERTa's positions); zero on the way out.
        zeros: its shape, where none of ours is in it.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    skip: int = 0
    zeros: tuple[int, ...] = ()


def linear(theirs: str, ours: str | tuple[str, ...], bias: bool, transposed: bool = False) -> Iterator[Part]:
    """The parts of a linear layer or a norm, with a bias or without."""
    layers = (ours,) if isinstance(ours, str) else ours
    yield Part(f"{theirs}.weight", tuple(f"{name}.weight" for name in layers), transposed)
    if bias:
        yield Part(f"{theirs}.bias", tuple(f"{name}.bias" for name in layers))


class Family(ABC):
    """A kind of Hugging Face models.

    Attributes:
        name: `model_type` in config.json.
        prefix: what the body's tensors are called by in a model with a head.
        output: the matrix from hidden states to the vocabulary, absent where it is tied.
        twins: names under which one tensor may be stored once more, by its own; where the embeddings are not
            tied it always is, and the first is what counts.
        ignored: tables that are stored among the weights and are none.
        other_heads: heads that other tasks put on the same body.
        languages: architectures with a language-model head; the first is what we write.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]
    output: ClassVar[str] = "lm_head.weight"
    twins: ClassVar[dict[str, str]] = {}
    ignored: ClassVar[re.Pattern[str]] = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
    other_heads: ClassVar[re.Pattern[str]] = re.compile(r"(score|classifier|qa_outputs)\..*")
    languages: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read(self, fields: Fields) -> BackboneConfig:
        """The configuration that a config.json describes.

        Raises:
            UserError: a field or a value that can't be followed.
        """

    def refine(self, config: BackboneConfig, tensors: dict[str, Tensor]) -> BackboneConfig:
        """The configuration once the tensors are known too (their names without the prefix)."""
        return config

    @abstractmethod
    def misfits(self, config: BackboneConfig, head: bool = True) -> list[str]:
        """Names of the fields for which this family has no place; none where a model of ours can go out as
        one of these, with its language-model head or without."""

    @abstractmethod
    def write(self, config: BackboneConfig, pad: int | None) -> dict[str, Any]:
        """The inverse of `read`: what config.json has to say of the shape.

        Args:
            pad: id of the padding piece.
        """

    @abstractmethod
    def body(self, config: BackboneConfig, theirs: dict[str, Any]) -> Iterator[Part]:
        """The tensors of the body, by names without the prefix.

        Args:
            theirs: config.json's content.
        """

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        """The tensors of the language-model head."""
        if not config.tie_embeddings:
            yield Part(self.output, ("head.weight",))

    def pooler(self) -> Iterator[Part]:
        """The tensors of a pooler, by names without the prefix, where the family has one."""
        return iter(())

    def classifier(self, head: dict[str, Any], model: Any) -> tuple[str, list[Part]]:
        """How a classifier of ours goes out.

        Args:
            head: its kind ("pooled", "tokens", "span"), pooling and pooler, as in a checkpoint's record.
            model: the classifier itself.

        Returns:
            The architecture's name and its head's tensors by full names.

        Raises:
            UserError: no architecture computes the same.
        """
        raise UserError(f"a {self.name} classifier has no place in transformers that computes what ours does")


def misfit(config: BackboneConfig, wanted: dict[str, Any]) -> list[str]:
    """The names of `wanted` for which a configuration has another value."""
    return [
        name
        for name, value in wanted.items()
        if (value(getattr(config, name)) is False if callable(value) else getattr(config, name) != value)
    ]


def biases(config: BackboneConfig, wanted: dict[str, bool | Callable[[bool], bool]]) -> list[str]:
    """The kinds of layers that have a bias where none is wanted, or none where one is."""
    return [f"{part}_bias" for part, value in wanted.items() if config.has_bias(part) != value]


def unless_default(value: int | None, default: int) -> int | None:
    """A width, or null where it is what null means."""
    return None if value == default else value


def layer(index: int) -> str:
    """What our block `index` is called."""
    return f"backbone.blocks.{index}"
