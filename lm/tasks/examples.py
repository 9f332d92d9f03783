"""Tasks on examples: how one is encoded, which labels there are, and a network that is made once the data are
known. Nothing here knows what an example is of."""

from abc import abstractmethod
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Self

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Input, Network
from lm.checkpoint import Model
from lm.convert import open_model
from lm.data.examples.batches import Collate, Features, collate
from lm.data.examples.module import ExampleData
from lm.engine.lightning import train_by_steps
from lm.errors import UserError
from lm.optim import Linear, Schedule
from lm.processors import Processor
from lm.tasks.base import Task

_PARTS = {"fit": ("train", "val", "test"), "validate": ("val",)}  # of the data; else the test part


class ExampleTask(Task):
    """A task on examples. A subclass says which head it needs, how an example is encoded, and its loss.

    The network is made in `setup`, once the data are read, because it depends on the labels found there.

    Args:
        backbone: the shape of the Transformer.
        optimizer: any torch optimizer.
        schedule: learning-rate factors over the run.
    """

    reads: type = object  # the class of its examples
    data_class = ""  # the datamodule that reads such, to be named in messages
    beside = Task.beside | {"data", "_seen"}
    kept: tuple[str, ...] = ()  # attributes that travel in the checkpoint, under their names
    shardable = True  # whether all it does with the network goes through the network's own forward

    def __init__(
        self,
        backbone: BackboneConfig,
        optimizer: OptimizerCallable = AdamW,
        schedule: Schedule | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, optimizer, schedule or Linear(warmup=0), **kwargs)
        self.data: ExampleData | None = None
        self.labels: list[str] = []
        self._seen: set[str] = set()  # parts of the data

    # What a subclass says.

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """See `Task.head`."""

    @abstractmethod
    def encode(self, example: Any, training: bool) -> list[Features]:
        """The features of an example: several where it is cut into windows, none where it is of no use."""

    @abstractmethod
    def make_processor(self, data: ExampleData) -> Processor:
        """What turns raw examples into numbers, for a run that begins."""

    def make_input(self) -> Input | None:
        """What stands before the blocks; None: token embeddings."""
        return None

    def find_labels(self, data: ExampleData) -> list[str]:
        """The labels' names, found in the training data."""
        return []

    def labels_of(self, example: Any) -> tuple[str, ...]:
        """The labels of one example."""
        return ()

    def check_labels(self, data: ExampleData, split: str) -> None:
        """Look whether a held-out part has labels that were never learned.

        Raises:
            UserError: it has.
        """

    def check_learned(self, data: ExampleData, split: str, what: str, hint: str = "") -> None:
        """See that a part has no labels but those that were learned.

        Args:
            what: what has them, for the message.
            hint: what else may be the reason.

        Raises:
            UserError: it has.
        """
        used = Counter(name for example in data.examples(split) for name in self.labels_of(example))
        unknown = [name for name in used if name not in self.labels]
        if unknown:
            raise UserError(
                f"{data.called(split)} has {sum(used[name] for name in unknown):,} {what} that were never "
                f"learned: {', '.join(map(repr, unknown[:3]))}; known are "
                f"{', '.join(map(repr, self.labels[:12]))}{hint}"
                + ("; raise `data.limit`" if data.limit else "")
            )

    def make_figures(self) -> None:
        """Make the metrics, now that the labels and the data are known."""

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        """Look at encoded parts of the data, each once, before what is done with them begins."""

    @property
    def padding(self) -> dict[str, int]:
        """What each list among the features is padded with, by its name."""
        return {}

    @property
    def collate(self) -> Collate:
        """Makes a batch of features. Processes that read ahead are handed it, so it holds no network."""
        return partial(collate, padding=self.padding)

    # From the data to a network.

    def setup(self, stage: str) -> None:
        """Take processor and labels from the checkpoint that the trainer loads, else find them; make the
        network; say how examples become batches. A second time, with the same data, it looks at what it has
        not seen of them."""
        data = self.trainer.datamodule
        if data is not self.data or data is None:
            self.prepare(data, self.checkpoint_record(), stage)
        else:
            parts = self._unseen(stage)
            self._check(parts, stage)
            self.look_at(data, parts)
        if stage == "fit":
            train_by_steps(self.trainer, data.steps_per_epoch)

    def prepare(self, data: ExampleData, record: dict[str, Any] | None = None, stage: str = "fit") -> None:
        """What `setup` does once data and checkpoint are known.

        Args:
            data: after its own `setup`.
            record: of the checkpoint that a run goes on from or that is evaluated; None: a run begins.
            stage: `fit`, `validate`, `test` or `predict`.
        """
        if not isinstance(data, ExampleData):
            raise UserError(
                f"{type(self).__name__} needs examples: give a class of lm.data.examples as data", status=2
            )
        self.data, self._seen = data, set()
        parts = self._unseen(stage)
        if not isinstance(data.examples(parts[0])[0], self.reads):
            ours, theirs = type(self).__name__, type(data).__name__
            raise UserError(f"{ours} can't learn from {theirs}: give `data` {self.data_class}", status=2)
        data.give_back_rare(self.labels_of)
        if record is not None:
            self.take_record(record, self.kept_processor(record))
        else:
            self.processor = self.make_processor(data)
            self.labels = self.find_labels(data)
        self._check(parts, stage)
        self.net = self.make_network()
        self.initialize(resumed=record is not None, training=stage == "fit")
        data.use(self)
        self.make_figures()
        self.look_at(data, parts)

    def _unseen(self, stage: str) -> list[str]:
        """The parts of the data that a stage needs and none before it did."""
        new = [p for p in _PARTS.get(stage, ("test",)) if p not in self._seen and self.data.has(p)]
        self._seen.update(new)
        return new

    def _check(self, parts: list[str], stage: str) -> None:
        """Look whether parts of the data go with each other and with the labels."""
        if "train" in parts:
            self.data.compare_splits()
        for part in parts if stage != "predict" else ():
            if part != "train":
                self.check_labels(self.data, part)

    def make_network(self) -> Network:
        return checkpoints.make_network(self.config, self.head(), self.make_input())

    def initialize(self, resumed: bool, training: bool) -> None:
        """Change the new network before it is trained: weights from elsewhere, what is frozen.

        Args:
            resumed: its weights are going to come from a checkpoint.
            training: the network is going to be trained.
        """

    def record(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self.kept}
        return {"labels": self.labels, "head": self.head(), **kept}

    def take_record(self, record: dict[str, Any], processor: Processor) -> None:
        """Take from a checkpoint what the data say otherwise."""
        self.processor = processor
        self.config = checkpoints.config_of(record)
        self.labels = list(record["labels"])
        for name in self.kept:
            if name in record:  # those of lm's first versions have less
                setattr(self, name, record[name])

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """The task of a model, wherever it lies (see `open_model`), in evaluation mode, to use without a
        trainer."""
        return cls.of(open_model(path, device, check=False))

    @classmethod
    def of(cls, model: Model) -> Self:
        """The task of a model that is open, in evaluation mode; it lies where the model does."""
        try:
            task = cls(model.config)
            task.take_record(model.record, model.processor)
            task.net = task.make_network()
            model.shape(task.net)
            task.net.load_weights(model.weights, next(iter(model.weights.values())).device)
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{model.source} is damaged: its description is not whole ({error!r})") from error
        return task.eval()

    def configure_model(self) -> None:
        if self.device_mesh is not None and not self.shardable:
            raise UserError(
                f"{type(self).__name__} is not sharded over processes: use configs/trainer/ddp.yaml", status=2
            )
        super().configure_model()
