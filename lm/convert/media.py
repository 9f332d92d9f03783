"""What families of models of pictures and of sounds have to say beside what others do: their input, its
processor, and which of our heads their classifiers have."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from lm.backbone import BackboneConfig, Input, InputConfig, Patches
from lm.convert.family import Family, Part, linear
from lm.convert.fields import Fields
from lm.errors import UserError
from lm.processors import Processor

_ARGUMENTS = ("pooling", "pooler", "also", "norm", "mix_layers")  # of a head, that decide what it computes


class Media(Family):
    """A kind of models that take pictures or sounds."""

    kind: ClassVar[str] = "image"  # of its processor
    shape: ClassVar[type[InputConfig]] = Patches  # of its input
    wanted: ClassVar[dict[str, Any]] = {}  # values of that, of which it has no others
    outputs: ClassVar[dict[str, str]] = {"classifier": "head"}  # a classifier's layers, ours by theirs
    reads: ClassVar[str]  # what they read, in words

    @abstractmethod
    def input(self, fields: Fields) -> InputConfig: ...

    def processor(self, described: dict[str, Any]) -> Processor:
        if self.kind == "sound":
            from lm.processors.speech import SoundProcessor

            return SoundProcessor.of_folder(described)
        from lm.processors.images import ImageProcessor

        return ImageProcessor.of_folder(described)

    def unfit(self, shape: Any, processor: Any) -> list[str]:
        """What of an input and its processor this family has no place for, in words; see `misfits`."""
        found = {name: getattr(shape, name) for name in self.wanted}
        return [f"input.{name} {found[name]}" for name, value in self.wanted.items() if found[name] != value]

    @abstractmethod
    def prepared(self, processor: Any) -> dict[str, Any]:
        """The inverse of `processor`: preprocessor_config.json.

        Raises:
            UserError: transformers has none that does the same.
        """

    def settled(self, shape: Any, processor: Any, embeddings: Input) -> tuple[Any, dict[str, Tensor]]:
        """An input's shape for the one size of what its processor gives, which is all that theirs take, and
        those of our weights that are others then."""
        return shape, {}

    @abstractmethod
    def write_input(self, shape: Any) -> dict[str, Any]:
        """The inverse of `input`: what config.json says of it."""

    def unfolded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `folded`, of tensors by their full names."""
        return tensors

    def head(self, config: BackboneConfig) -> Iterator[Part]:
        return iter(())

    def classifier(self, head: dict[str, Any]) -> tuple[str, list[Part]]:
        pooled = head["kind"] == "pooled"
        asked = {name: head[name] for name in _ARGUMENTS if head.get(name)}
        for name, computed in self.classifiers.items():
            if pooled and asked == computed:
                return name, [part for names in self.outputs.items() for part in linear(*names)]
        what = ", ".join(f"{name} {value!r}" for name, value in asked.items()) if pooled else head["kind"]
        name = next(iter(self.classifiers))
        raise UserError(f"{name} reads {self.reads}: a head with {what} can't go out as one")
