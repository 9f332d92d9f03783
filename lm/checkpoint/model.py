"""What is open: a model with all that belongs to it, wherever it came from."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lm.backbone import BackboneConfig, Classifier, Input, LanguageModel, read_input
from lm.backbone.lowrank import merge
from lm.backbone.quantised import dequantised, put_quantised
from lm.checkpoint.format import config_of, network_weights, processor_of, read, read_record
from lm.errors import UserError
from lm.processors import Processor


def make_network(
    config: BackboneConfig, head: dict[str, Any] | None = None, embeddings: Input | None = None
) -> LanguageModel | Classifier:
    """A network with new weights.

    Args:
        head: what a record says of it: its `kind`, and of a classifier's its arguments; None: a language
            model's.
        embeddings: what stands before the blocks of a classifier; None: token embeddings.
    """
    if is_language(head):
        return LanguageModel(config)
    arguments = {name: value for name, value in (head or {}).items() if name != "kind"}
    return Classifier(config, **arguments, embeddings=embeddings)


def is_language(head: dict[str, Any] | None) -> bool:
    """Whether what a record says of a head is a language model's."""
    return head is None or head["kind"] == "language"


_DRAWING = {each for each in vars(torch.nn.init).values() if callable(each)}


class Uninitialized(TorchFunctionMode):
    """Leaves new weights as they are, which then take no memory. Drawing them on the meta device would import
    the compiler, too, which takes as long as torch itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def outline(
    config: BackboneConfig, head: dict[str, Any] | None = None, input: dict[str, Any] | None = None
) -> LanguageModel | Classifier:
    """A network as `make_network` makes it, without memory for its weights: on the meta device.

    Args:
        input: what a record says of what stands before the blocks; None: tokens.
    """
    with torch.device("meta"), Uninitialized():
        return make_network(config, head, read_input(input).make(config) if input else None)


@dataclass
class Model:
    """A model that was read from a checkpoint or from another project's folder.

    Args:
        config: its backbone's shape.
        weights: by the network's own names: `backbone.…`, and as far as they are there `head.…` (a matrix
            over the vocabulary only if it is not tied) and BERT's `pooler.…`, also beside another head.
        processor: the one it was trained with.
        source: where it was read, for people.
        record: what `make_record` wrote, without the processor; empty for a foreign folder.
        notes: what a person should know, a sentence each.
        step: optimizer steps it was trained for.
        has_head: whether `weights` hold all of a `LanguageModel`.
        chat_template: how a foreign folder writes chats, as Jinja.
    """

    config: BackboneConfig
    weights: dict[str, Tensor]
    processor: Processor
    source: str
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    step: int = 0
    has_head: bool = True
    chat_template: str | None = None

    @property
    def tokenizer(self) -> Any:
        """The processor, of a model that works on text."""
        return self.processor

    @property
    def chats(self) -> bool:
        """Whether a model that writes has learned to chat: a foreign one brings a template then."""
        plain = (None, "lm.tasks.CausalPretraining")
        return self.chat_template is not None or self.record.get("task") not in plain

    @cached_property
    def network(self) -> LanguageModel | Classifier:
        """The network in evaluation mode; it shares memory with `weights`, and lies where they do.

        Raises:
            UserError: there is no head, neither a language model's nor a classifier's.
            RuntimeError: the weights don't fit the shape.
        """
        head, weights = self.record.get("head"), self.weights
        if is_language(head) and not self.has_head:
            raise UserError(f"{self.source} has no language-model head")
        if is_language(head) or not (head or {}).get("pooler"):
            weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
        network = outline(self.config, head, self.record.get("input"))
        self.shape(network)
        network.load_weights(weights, next((value.device for value in weights.values()), "cpu"))
        return network.eval()

    def shape(self, network: torch.nn.Module) -> None:
        """Give a network of this model's kind, without weights yet, the quantised layers that it has."""
        if made := self.record.get("quantised"):
            put_quantised(network, made["layers"], made["bits"], made["group"])

    def dequantised(self) -> Self:
        """The same with floats in the place of integers: to train on, or for other formats."""
        if not (made := self.record.get("quantised")):
            return self
        record = {name: value for name, value in self.record.items() if name != "quantised"}
        note = f"the weights of {self.source} were rounded to {made['bits']} bits"
        weights = dequantised(self.weights, made["layers"])
        return replace(self, weights=weights, record=record, notes=[*self.notes, note])

    def to(self, dtype: torch.dtype) -> None:
        """Keep the weights in a type of fewer digits, one after the other."""
        self.__dict__.pop("network", None)  # where it has been made, it holds them too
        for name, value in self.weights.items():
            if value.is_floating_point():  # others are quantised
                self.weights[name] = value.to(dtype)

    def checked(self) -> Self:
        """The model itself, if its weights fit; they are looked at when they are first used otherwise.

        Raises:
            UserError: they don't fit its own description, or that is not whole.
        """
        try:
            _ = self.network
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.source} is damaged: its description is not whole ({error!r})") from error
        except RuntimeError as error:
            raise UserError(f"the weights in {self.source} don't fit its own description: {error}") from error
        return self


def merged(weights: dict[str, Tensor], record: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights with their adapter in them, if there is one, and what their record then says: integers that it
    stood beside have become floats."""
    if not record.get("adapter"):
        return weights, record
    found, made = merge(weights, record["adapter"]), record.get("quantised") or {}
    left = [name for name in made.get("layers", ()) if f"{name}.values" in found]
    record = {**record, "adapter": None, "quantised": {**made, "layers": left} if left else None}
    return found, record


def model_of(checkpoint: dict[str, Any], path: str | Path, device: torch.device | str = "cpu") -> Model:
    """The model of a checkpoint's content, before anybody looks whether its weights fit. An adapter in it is
    merged.

    Raises:
        UserError: see `read_record`; or its description is not whole.
    """
    record = read_record(checkpoint, path)
    if record.get("base") is not None:
        raise UserError(
            f"{path} is an adapter, without the model that it was made for: use best.ckpt beside it, or "
            "put it into that model by `lm export`"
        )
    try:
        config, language = config_of(record), is_language(record.get("head"))
        weights = network_weights(checkpoint["state_dict"])
        weights, record = merged(weights, record)
        if language and config.tie_embeddings:
            weights.pop("head.weight", None)
        return Model(
            config,
            {name: value.to(device) for name, value in weights.items()},
            processor_of(record),
            str(path),
            {name: value for name, value in record.items() if name != "processor"},
            step=checkpoint.get("global_step", 0),
            has_head=language,
            chat_template=record.get("chat_template"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its description is not whole ({error!r})") from error


def open_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Model:
    """The model of a checkpoint, with nothing but that file.

    Raises:
        UserError: see `read`, `model_of` and `Model.checked`.
    """
    return model_of(read(path), path, device).checked()
