"""What fine-tuning tasks share, on whatever they work: where they start from, and what is trained."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig, Network
from lm.backbone.quantised import described
from lm.checkpoint import Model
from lm.checkpoint.model import Uninitialized
from lm.convert.models import GROWING, fingerprint, open_model
from lm.data.examples.module import ExampleData
from lm.errors import UserError
from lm.optim import parameter_groups
from lm.processes import say
from lm.tasks.adapters import Adapter, inject
from lm.tasks.examples import ExampleTask

Pooling = Literal["auto", "first", "mean", "last"]


class TransferTask(ExampleTask):
    """A task that may start from a trained model. A subclass says which head it needs, how an example is
    encoded, and its loss. With `init_from`, the backbone's shape comes from there.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        init_from: where to start from: a checkpoint, or a Hugging Face folder (config.json, safetensors, and
            what turns raw things into numbers). None: from nothing.
        dropout: instead of the starting point's.
        adapter: train small matrices beside the frozen ones (LoRA, DoRA) instead of everything. Those of a
            model that `lm compress` has made stay integers (QLoRA, arXiv:2305.14314).
        freeze_layers: the embeddings and this many of the lowest layers stay as they are.
        layer_decay: the learning rate of each layer is this many times that of the one above it.
        backbone_scale: the learning rates of the backbone are this many times what they are without: below 1,
            a new head learns fast on what is changed with care.
    """

    beside = ExampleTask.beside | {
        *("start", "init_from", "adapter", "freeze_layers", "layer_decay", "backbone_scale", "expected"),
        *("_base", "_base_processor", "_base_rows", "_fresh"),
    }
    column = "text"  # what a line is that a person gives: a text, or the `path` of a file
    needs_causal: bool | None = None  # whether the backbone has to be causal; None: either will do

    def __init__(
        self,
        backbone: BackboneConfig,
        init_from: str | None = None,
        dropout: float | None = None,
        adapter: Adapter | None = None,
        freeze_layers: int = 0,
        layer_decay: float = 1.0,
        backbone_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        start: Model | None = None
        self.adapter = adapter
        if init_from is not None:
            start = self.open_start(init_from)
            self.fit_shape(start, backbone)
            # Rates for trained weights are as they are given: how those were once found is the past.
            start.config.base_width = None
            backbone = start.config
        if dropout is not None:
            backbone.dropout = dropout
        if not 0 < layer_decay <= 1:
            raise UserError(f"layer_decay is {layer_decay}: it must be above 0, at most 1", status=2)
        if backbone_scale <= 0:
            raise UserError(f"backbone_scale is {backbone_scale}: it must be above 0", status=2)
        if not 0 <= freeze_layers <= backbone.num_layers:
            wanted = f"from 0 to {backbone.num_layers}"
            raise UserError(f"freeze_layers is {freeze_layers}: it must be {wanted}", status=2)
        if self.needs_causal is not None and backbone.causal != self.needs_causal:
            wanted, there = ("a GPT", "a BERT") if self.needs_causal else ("a BERT", "a GPT")
            known = f"give one by `model.init_from`, or set causal to {str(self.needs_causal).lower()}"
            said = f"but {init_from} is {there}" if start else known
            raise UserError(f"{type(self).__name__} needs {wanted}: {said}", status=2)
        super().__init__(backbone, **kwargs)
        if adapter is not None and start is None:
            raise UserError("an adapter stands beside trained weights: give `model.init_from`", status=2)
        self.start, self.init_from = start, init_from
        if adapter is not None:
            self._base = {"source": str(init_from), "fingerprint": fingerprint(start.weights)}
            self._base_processor = start.processor.fingerprint
            self._base_rows = {name: len(t) for name, t in start.weights.items() if GROWING.fullmatch(name)}
        self.freeze_layers, self.layer_decay, self.backbone_scale = freeze_layers, layer_decay, backbone_scale

    def open_start(self, path: str) -> Model:
        """The model to start from: integers stay so beside an adapter, and become floats to be trained."""
        return open_model(path, integers=self.adapter is not None)

    @property
    def writes(self) -> bool:
        """Whether it has a language model's head."""
        return self.head()["kind"] == "language"

    def fit_shape(self, start: Model, wanted: BackboneConfig) -> None:
        """Change the starting point's shape to what the data ask for (`wanted`)."""

    def grown(self, start: Model, name: str, theirs: Tensor, ours: Tensor) -> Tensor | None:
        """The starting point's weight of a name in the shape of ours; None where it has nothing to do with
        it."""
        return None

    def count_targets(self, data: ExampleData, parts: list[str]) -> None:
        """How many targets a batch has on average: what the loss of a task with many an example is divided
        by, so that each weighs the same in whichever batch it stands. For `look_at`."""
        if "train" not in parts:
            return
        features = data.features("train")
        targets = sum(t >= 0 for f in features for t in f["targets"])
        self.expected = max(targets / len(features) * data.batch_size, 1)

    def prepare(self, data: ExampleData, record: dict[str, Any] | None = None, stage: str = "fit") -> None:
        if record is not None and stage != "fit" and not record.get("adapter"):
            self.adapter = None  # what is measured has it in its weights: `lm compress` has made it of a run
        super().prepare(data, record, stage)

    def make_network(self) -> Network:
        if self.start is None or not self.start.record.get("quantised"):
            return super().make_network()
        with Uninitialized():  # what is never written takes no memory: the floats where integers will be
            net = super().make_network()
        self.start.shape(net)
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        net.initialize()
        return net

    def initialize(self, resumed: bool, training: bool) -> None:
        if self.start is not None:
            self._take_over(self.start, talk=not resumed)
        self._choose_parameters(talk=training)
        self.start = None  # its weights are in the network now

    def _take_over(self, start: Model, talk: bool) -> None:
        """Put the starting point's weights into the network: all that fit; say what does not."""
        notes = [*start.notes, *self.growth(start)]
        ours = self.net.state_dict()
        if self.writes and self.config.tie_embeddings:
            del ours["head.weight"]
        theirs = {name: self._fitting(start, name, value) for name, value in ours.items()}
        self._fresh = [name for name, value in theirs.items() if value is None]
        missing = [name for name in self._fresh if name.startswith("backbone.")]
        if missing:
            raise UserError(f"{self.init_from} lacks {', '.join(missing[:3])}: it is no starting point")
        self.net.load_state_dict({n: t for n, t in theirs.items() if t is not None}, strict=False)
        new = ", ".join(sorted({name.split(".")[0] for name in self._fresh}))
        made = start.record.get("quantised")
        kept = f", whose layers stay integers of {made['bits']} bits" if made else ""
        notes.append(f"starting from {self.init_from}{kept}" + (f"; new: {new}" if new else ""))
        for note in notes if talk else ():
            say(note)

    def growth(self, start: Model) -> list[str]:
        """What a person should know of how the starting point grows, a sentence each."""
        return []

    def _same_head(self, start: Model) -> bool:
        """Whether the head of the starting point says the same things about the same labels."""
        theirs = start.record.get("head") or {"kind": "language"}
        alike = all(theirs.get(name) == self.head()[name] for name in ("kind", "outputs"))
        return alike and list(start.record.get("labels", ())) == self.labels

    def _fitting(self, start: Model, name: str, ours: Tensor) -> Tensor | None:
        """The starting point's weight of a name, as `grown` where shapes differ; None where it has none, or
        one that has nothing to do with ours, as a head for other labels."""
        theirs, head = start.weights.get(name), name.startswith("head.")
        if theirs is None or (head and not (start.has_head if self.writes else self._same_head(start))):
            return None
        return theirs if theirs.shape == ours.shape else self.grown(start, name, theirs, ours)

    def _choose_parameters(self, talk: bool) -> None:
        backbone = self.net.backbone
        if self.freeze_layers:
            for module in (backbone.embeddings, *backbone.blocks[: self.freeze_layers]):
                module.requires_grad_(False)
        if self.adapter is not None:
            heads = () if self.writes else ("head", "pooler", "query", "mix")
            names = [name for name, _ in self.net.named_parameters() if name.split(".")[0] in heads]
            inject(self.net, self.adapter, self.freeze_layers, {*names, *self._fresh})
        trained = sum(p.numel() for p in self.net.parameters() if p.requires_grad)
        total = self.net.num_parameters()
        if talk and trained < total:
            say(f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})")

    def parameter_groups(self) -> list[dict[str, Any]]:
        layers, width_scale = self.config.num_layers, self.config.width_scale
        return parameter_groups(self.net, self.layer_decay, layers, width_scale, self.backbone_scale)

    def record(self) -> dict[str, Any]:
        made = {**super().record(), "init_from": self.init_from}
        if self.adapter is not None:
            made["adapter"] = {**asdict(self.adapter), "layers": list(self.adapter.layers)}
            made["quantised"] = described(self.net)
        return made

    def save_beside(self, folder: Path) -> None:
        """Write what was trained beside a frozen base, alone: a file of megabytes."""
        if self.adapter is None or not self.trainer.is_global_zero:
            return
        trained = {f"net.{n}": p.detach().cpu() for n, p in self.net.named_parameters() if p.requires_grad}
        made: dict[str, Any] = {}
        self.on_save_checkpoint(made)
        if self.processor.fingerprint == self._base_processor:
            made["lm"].pop("processor")  # the base has it
        made["lm"]["base"] = self._base
        # What the base's tables were lengthened by: new tokens, more positions.
        weights = self.net.state_dict()
        rows = {
            name: weights[name][count:].cpu().clone()
            for name, count in self._base_rows.items()
            if name in weights and name not in self._fresh and len(weights[name]) > count
        }
        checkpoints.write({**made, "state_dict": trained, "rows": rows}, folder / "adapter.ckpt")

    def configure_model(self) -> None:
        if self.device_mesh is not None and self.adapter is not None:
            raise UserError("adapters are not sharded over processes: use configs/trainer/ddp.yaml", status=2)
        super().configure_model()
