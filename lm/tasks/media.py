"""What tasks on pictures and on sounds share: what stands before the blocks, and files that are named."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lm.backbone import BackboneConfig, Input, InputConfig, read_input
from lm.checkpoint import Model
from lm.data.media.module import MediaData, MediaExample
from lm.data.media.places import Place
from lm.errors import UserError
from lm.inference.lines import Line
from lm.processes import say
from lm.processors import Processor
from lm.tasks.transfer import TransferTask


class MediaTask(TransferTask):
    """A task on files of some kind. A subclass says which head it needs and its loss.

    Args:
        backbone: the shape of the Transformer, not causal; with `init_from` it comes from there.
        input: what stands before it; with `init_from` it comes from there.
    """

    takes = ""  # what it works on, in the plural
    processor_class: type[Processor]
    default_input: type[InputConfig]
    input_class: type[InputConfig]  # what may stand before the blocks,
    inputs = ""  # in words
    beside = TransferTask.beside | {"input"}
    column = "path"
    needs_causal = False

    def __init__(self, backbone: BackboneConfig, input: InputConfig | None = None, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.input = input or self.default_input()
        if self.start is not None:
            self.input = read_input(self.start.record["input"])
        if not isinstance(self.input, self.input_class):
            raise UserError(f"`input` has to be {self.inputs}, not {self.input.kind}", status=2)

    def open_start(self, path: str) -> Model:
        start = super().open_start(path)
        if not isinstance(start.processor, self.processor_class):
            raise UserError(f"{path} does not take {self.takes}: start from a model that does", status=2)
        return start

    @abstractmethod
    def fitting_input(self, processor: Processor) -> InputConfig:
        """The input for what a processor gives, of a model that begins from nothing."""

    def make_processor(self, data: MediaData) -> Processor:
        processor = data.make_processor(self.start.processor if self.start else None)
        if self.start is None:
            say("starting from nothing: no `model.init_from` was given")
            self.input = self.fitting_input(processor)
        return processor

    def make_input(self) -> Input:
        return self.input.make(self.config)

    def record(self) -> dict[str, Any]:
        return {**super().record(), "input": self.input.described()}

    def take_record(self, record: dict[str, Any], processor: Processor) -> None:
        super().take_record(record, processor)
        if self.input.described() != record["input"]:  # else it is what was given, and may name any class
            self.input = read_input(record["input"])

    def input_flops(self, raw: Tensor) -> int:
        """Floating-point operations of what stands before the blocks, forward, on a raw batch."""
        like = next(self.net.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.net.backbone.embeddings(raw.to(like))
        return counter.get_total_flops()

    def named(self, example: MediaExample) -> dict[str, Any]:
        return {"path": example.place.name}

    # Of a line that a person gives; see `lm.tasks.applying`.

    def from_line(self, line: Line, text: str = "path") -> MediaExample:
        data = line.fields.get("data")
        if isinstance(data, bytes):  # which no file of lines holds
            return self.example(Place(line.where, line.where, data=data))
        name = line.text(text, "text")
        return self.example(Place(name, name))

    def example(self, place: Place) -> MediaExample:
        """What lies at a place, of which nothing else is known."""
        return self.reads(place, "")
