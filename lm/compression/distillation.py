"""Knowledge distillation: a student learns a task from the data and from what a teacher says of them.

`Distillation` goes before any task: it listens to what the task asks its network, asks the teacher the same,
and adds how far the two are apart to the task's own loss. What comes of it is that task's model: its
checkpoints don't know of a teacher.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lm.backbone import BackboneConfig
from lm.checkpoint import Model
from lm.compression.distil_loss import hidden_distance, linear_soft_distance, soft_distance
from lm.compression.distil_teacher import Heard, listening, see_it_fits
from lm.compression.student import chosen, drop_layers, evenly, student_weights
from lm.convert.models import fingerprint, open_model
from lm.errors import UserError, some
from lm.processes import say
from lm.tasks.base import Task
from lm.tasks.examples import ExampleTask
from lm.tasks.text.finetuning import FineTuning

PROJECTION = "projection.weight"
# Attributes that decide nothing about how an example is encoded: see `Task.beside`.
_BESIDE = frozenset({"teacher", "keep_layers", "kept_layers", "temperature", "weight", "hidden"}) | {
    *("projection", "_kept_of", "_opened", "_teaching", "_teacher_fingerprint")
}


class Distillation(Task):
    """Learn from a teacher, too (arXiv:1503.02531). A subclass names the task behind it:
    `class DistilledX(Distillation, X)`; where the outputs of X are neither a language model's nor one
    distribution in each row, it says how far two are apart (`disagreement`).

    The loss is (1 - weight) · the task's own + weight · T² · KL(teacher ‖ student) over the same targets,
    with the same divisor, + hidden · the distance of the hidden states.

    Args:
        backbone: the student's shape; of fine-tuning with `init_from` it comes from there.
        teacher: a checkpoint, a run or a Hugging Face folder with the student's tokenizer and labels.
        temperature: T, by which the logits of both are divided: higher shows more of what the teacher thinks
            of the unlikely.
        weight: the teacher's part of the loss, from 0 to 1.
        hidden: weight of the distance between normalised hidden states of the student's layers and of layers
            of the teacher, through a learned projection where the widths differ (arXiv:1909.10351).
        keep_layers: begin as these layers of `init_from` (in pretraining of the teacher): how many, evenly
            spaced, or which, counted from 0. Null: begin as the task does.
    """

    _added: tuple[str, ...]  # FineTuning's

    def __init__(
        self,
        backbone: BackboneConfig,
        teacher: str | None = None,
        temperature: float = 2.0,
        weight: float = 0.5,
        hidden: float = 0.0,
        keep_layers: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if teacher is None:
            raise UserError("whom does the student learn from? Give `model.teacher` MODEL", status=2)
        if not temperature > 0:
            said = "it must be above 0; 1 leaves the teacher's probabilities as they are"
            raise UserError(f"temperature is {temperature}: {said}", status=2)
        if not 0 <= weight <= 1:
            raise UserError(f"weight is {weight}: it must be from 0 to 1", status=2)
        if not hidden >= 0:
            raise UserError(f"hidden is {hidden}: it must be at least 0", status=2)
        self.teacher, self.keep_layers = teacher, keep_layers
        self.kept_layers: list[int] | None = None  # the layers, once it is known whose
        self._kept_of = 0  # of how many
        self._opened: Model | None = None  # the teacher, until its network is at work
        self.before(backbone, kwargs)
        super().__init__(backbone, **kwargs)
        self.temperature, self.weight, self.hidden = temperature, weight, hidden
        self.projection: nn.Linear | None = None
        self._teaching: tuple[Any, ...] = ()  # no submodule: in no checkpoint, and trained by nobody
        self._teacher_fingerprint = ""

    def before(self, backbone: BackboneConfig, given: dict[str, Any]) -> None:
        """What has to be known of the teacher before the task itself is made of what was given."""
        if self.keep_layers is not None and given.get("init_from") is not None:
            raise UserError("keep_layers are the teacher's: give them or `init_from`, not both", status=2)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.beside = _BESIDE.union(*(vars(base).get("beside", ()) for base in cls.__mro__))

    @classmethod
    def plain(cls) -> type[Task]:
        """The task that is learned."""
        return next(b for b in cls.__mro__ if issubclass(b, Task) and not issubclass(b, Distillation))

    def disagreement(self, batch: dict[str, Any], student: Tensor, teacher: Tensor) -> Tensor:
        """How far a classifier's outputs are from the teacher's, summed over what its own loss sums: a
        scalar. Here every row is one distribution."""
        return soft_distance(student, teacher, self.temperature)

    # The teacher.

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and not self._teaching:
            self.take_teacher(self.checkpoint_record())

    def take_teacher(self, record: dict[str, Any] | None = None) -> None:
        """Look whether the teacher can teach this student, and keep its network.

        Args:
            record: of the checkpoint that the run goes on from; None: it begins.

        Raises:
            UserError: it can't, or it is no longer the one that the run began with.
        """
        teacher = self._open()
        see_it_fits(teacher, self, self.teacher)
        self._teacher_fingerprint = fingerprint(teacher.weights)
        if record is not None and record.get("teacher", {}).get("fingerprint") != self._teacher_fingerprint:
            raise UserError(f"{self.teacher} is no longer the teacher that this run began with")
        self.begin(teacher, anew=record is None)
        width, ours = teacher.config.hidden_size, self.config.hidden_size
        if self.hidden and width != ours:
            self.projection = nn.Linear(ours, width, bias=False)
        if self.weight or self.hidden:
            self._teaching = (teacher.network.requires_grad_(False),)
        self._opened = None

    def begin(self, teacher: Model, anew: bool) -> None:
        """Begin as the teacher's layers, where these are to be kept.

        Args:
            anew: the run begins, and does not go on.
        """
        if self.keep_layers is None:
            return
        kept = self._keep(self.keep_layers, teacher, self.teacher)
        weights = student_weights(teacher, self.config, kept)
        if anew:
            self.net.load_state_dict(weights, strict=False)  # a tied head is not among them
            say(f"starting from layers {some(kept, 12)} of {self.teacher}")

    def _keep(self, layers: int | list[int], model: Model, path: str) -> list[int]:
        self.kept_layers, self._kept_of = chosen(layers, model.config, path), model.config.num_layers
        return self.kept_layers

    def _open(self) -> Model:
        self._opened = self._opened or open_model(self.teacher)
        return self._opened

    def record(self) -> dict[str, Any]:
        teacher = {"source": self.teacher, "fingerprint": self._teacher_fingerprint}
        return {**super().record(), "teacher": teacher, "kept_layers": self.keep_layers}

    # What Lightning asks.

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise UserError(
                "distillation is not sharded over processes: use configs/trainer/ddp.yaml", status=2
            )
        super().configure_model()

    def on_train_start(self) -> None:
        for net in self._teaching:
            self.trainer.precision_plugin.convert_module(net).to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        if not self._teaching:
            return super().training_step(batch, batch_idx)  # type: ignore[safe-super]  # the task's
        (net,), layers = self._teaching, self.hidden > 0
        with listening(self.net, layers) as ours:
            made = super().training_step(batch, batch_idx)  # type: ignore[safe-super]
        language = self.head()["kind"] == "language"
        with torch.no_grad(), listening(net, layers) as theirs:
            (args, kwargs) = ours.backbone if language else ours.asked
            (net.backbone if language else net)(*args, **kwargs)
        loss = (1 - self.weight) * made["loss"]
        if self.weight:
            if language:
                apart = self._of_tokens(ours, theirs)
            else:
                apart = self.disagreement(batch, ours.outputs, theirs.outputs)
            loss = loss + self.weight * apart / made["divisor"]
        if self.hidden:
            loss = loss + self.hidden * self._of_layers(batch, ours, theirs)
        return {**made, "loss": loss}

    def _of_tokens(self, ours: Heard, theirs: Heard) -> Tensor:
        """How far two language models are apart where something is to be predicted."""
        nets: Any = (self.net, *self._teaching)
        asked = inspect.signature(self.net.forward).bind(*ours.asked[0], **ours.asked[1]).arguments
        counted = asked["targets"].flatten() >= 0
        own, teacher = (
            (net.head.prepare(heard.hidden.flatten(0, 1)[counted]), net.head.weight, net.head.bias)
            for net, heard in zip(nets, (ours, theirs), strict=True)
        )
        return linear_soft_distance(*own, teacher, self.temperature)

    def _of_layers(self, batch: dict[str, Any], ours: Heard, theirs: Heard) -> Tensor:
        """How far the hidden states are apart: every example weighs the same in whichever batch it stands."""
        count = len(theirs.layers)
        layers = self.kept_layers
        if layers is None or self._kept_of != count:
            # The last at the last, and the embeddings at the embeddings, which both have.
            layers = [n - 1 for n in evenly(count + 1, len(ours.layers) + 1)[1:]]
        project = self.projection or nn.Identity()
        pairs = [(project(each), theirs.layers[n]) for each, n in zip(ours.layers, layers, strict=True)]
        documents = batch.get("documents")  # of a window one more than is read
        real = None if documents is None else documents[:, : ours.hidden.shape[1]] >= 0
        task: Any = self
        data = task.data if isinstance(self, ExampleTask) else task.trainer.datamodule
        return hidden_distance(pairs, real) / data.batch_size

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = super().parameter_groups()
        if self.projection is not None:
            groups.append({"kind": "matrix", "params": [self.projection.weight]})
        return groups

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if "optimizer_states" not in checkpoint:  # to use, not to train on
            checkpoint.get("state_dict", {}).pop(PROJECTION, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.projection is None:
            checkpoint["state_dict"].pop(PROJECTION, None)
        else:
            checkpoint["state_dict"].setdefault(PROJECTION, self.projection.weight.detach())


class DistilledFineTuning(Distillation, FineTuning):
    """The same for fine-tuning, where `keep_layers` are those of `init_from`, and a student without one has
    the teacher's tokenizer. It goes before the task, as `Distillation` does."""

    def before(self, backbone: BackboneConfig, given: dict[str, Any]) -> None:
        if given.get("init_from") is None:
            if self.keep_layers is not None:
                raise UserError("keep_layers: of which model? Give `model.init_from` MODEL", status=2)
            # As large as it will be: see `FineTuning`.
            backbone.vocab_size = self.with_pieces(self._open().tokenizer)[0].vocab_size

    def begin(self, teacher: Model, anew: bool) -> None:
        """It begins as `init_from`, or from nothing."""

    def open_start(self, path: str) -> Model:
        start = super().open_start(path)
        if self.keep_layers is None or start.record.get("kept_layers") == self.keep_layers:
            return start  # the latter is what came of this run, which is evaluated
        kept = self._keep(self.keep_layers, start, path)
        start.notes.append(f"the student begins as layers {some(kept, 12)} of {path}")
        return drop_layers(start, kept)

    def make_processor(self, data: Any) -> Any:
        if self.start is not None:
            return super().make_processor(data)
        tokenizer, self._added = self.with_pieces(self._open().tokenizer)
        say(f"the student begins from nothing, with the tokenizer of {self.teacher}")
        return tokenizer
