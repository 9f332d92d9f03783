"""Preference tuning: of two answers, make the better one likelier than a frozen copy of the model does."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import BackboneConfig, LanguageModel
from lm.convert.models import fingerprint
from lm.data.examples.batches import Collate, Features, collate
from lm.data.examples.module import ExampleData
from lm.data.examples.records import PreferenceExample
from lm.errors import UserError
from lm.inference.lines import pools
from lm.metrics import MeanLoss, PreferenceScores
from lm.tasks.text.chatting import ChatTask

SIDES = ("chosen", "rejected")


def answer_log_probability(net: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """log p(answer | chat) of each sequence (B,), in nats, from `tokens` and `targets` (B, T), which are
    negative outside the answer."""
    hidden = net.backbone(tokens)
    counted = targets >= 0
    logits = net.head(hidden[counted]).float()  # (answer tokens, V)
    nats = F.cross_entropy(logits, targets[counted], reduction="none")
    rows = counted.nonzero()[:, 0]
    return torch.zeros(len(tokens), device=nats.device, dtype=nats.dtype).index_add(0, rows, -nats)


def preference_loss(
    chosen: Tensor, rejected: Tensor, beta: float, kind: Literal["dpo", "ipo"], label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair (B,).

    Args:
        chosen: log π(y) − log π_ref(y) of the better answer (B,); `rejected` of the worse one.
        beta: how much the model may leave the reference; in DPO larger keeps it closer.
        kind: `dpo` (arXiv:2305.18290): −log σ(β·h) for h = chosen − rejected; `ipo` (arXiv:2310.12036):
            (h − 1/(2β))².
        label_smoothing: of DPO: how likely a pair is the wrong way round (conservative DPO).
    """
    h = chosen - rejected
    if kind == "ipo":
        return (h - 1 / (2 * beta)).square()
    return -(1 - label_smoothing) * F.logsigmoid(beta * h) - label_smoothing * F.logsigmoid(-beta * h)


def collate_pairs(features: Sequence[Features], padding: dict[str, int]) -> dict[str, Any]:
    """A batch of pairs, the better answers above the worse ones: `tokens` and `targets` (2B, T). What the
    reference found stays a list of numbers: a trainer in half precision rounds every tensor."""
    rows = [
        {"tokens": f[f"{side}_tokens"], "targets": f[f"{side}_targets"]} for side in SIDES for f in features
    ]
    made = collate(rows, padding)
    for name in ("reference_chosen", "reference_rejected"):
        if name in features[0]:
            made[name] = [f[name] for f in features]
    if "index" in features[0]:
        made["index"] = torch.tensor([f["index"] for f in features])
    return made


class PreferenceTuning(ChatTask):
    """Direct preference optimisation (arXiv:2305.18290). The reference is the starting point; its
    log-probabilities are computed once, before training.

    Args:
        backbone: the shape of the Transformer; with `init_from` it comes from there.
        beta: how much the model may leave the reference.
        kind: dpo or ipo (arXiv:2310.12036).
        label_smoothing: how likely a pair is the wrong way round (conservative DPO).
    """

    reads = PreferenceExample
    data_class = "lm.data.PreferenceData"
    shardable = False
    best_by = ("accuracy", "max")
    kept = ("reference",)
    beside = ChatTask.beside | {"beta", "kind", "label_smoothing", "reference"}

    def __init__(
        self,
        backbone: BackboneConfig,
        beta: float = 0.1,
        kind: Literal["dpo", "ipo"] = "dpo",
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if beta <= 0:
            raise UserError(f"beta is {beta}: it must be above 0", status=2)
        if not 0 <= label_smoothing < 0.5:
            raise UserError(f"label_smoothing is {label_smoothing}: it must be from 0 to below 0.5", status=2)
        if kind == "ipo" and label_smoothing:
            raise UserError("label_smoothing belongs to DPO: leave it out with kind ipo", status=2)
        self.beta, self.kind, self.label_smoothing = beta, kind, label_smoothing

    def prepare(self, data: ExampleData, record: dict[str, Any] | None = None, stage: str = "fit") -> None:
        if self.start is None:
            raise UserError(
                "PreferenceTuning compares with the model it starts from: give `model.init_from` PATH",
                status=2,
            )
        self.reference = fingerprint(self.start.weights)
        if record is not None and record.get("reference") != self.reference:
            raise UserError(f"{self.init_from} is no longer the model that this run began with")
        super().prepare(data, record, stage)

    def look_at(self, data: ExampleData, parts: list[str]) -> None:
        """Ask the reference, which the network is before it is trained."""
        for part in parts:
            self._add_reference(data, part)

    @torch.no_grad()
    def _add_reference(self, data: ExampleData, split: str) -> None:
        features = data.features(split)
        device, plugin = self.device, None
        if data.trainer is not None:
            device, plugin = data.trainer.strategy.root_device, data.trainer.precision_plugin
            # In the precision of training, or the two would differ before anything is learned.
            self.net = plugin.convert_module(self.net)
        self.net.to(device).eval()
        found = {f"reference_{side}": np.zeros(len(features)) for side in SIDES}
        order = sorted(range(len(features)), key=lambda i: len(features[i]["chosen_tokens"]))
        for rows in pools(order, data.eval_batch_size):
            batch = self.collate([features[i] for i in rows])
            with nullcontext() if plugin is None else plugin.forward_context():
                tokens, targets = batch["tokens"].to(device), batch["targets"].to(device)
                values = answer_log_probability(self.net, tokens, targets)
            for side, part in zip(SIDES, values.chunk(2), strict=True):
                found[f"reference_{side}"][rows] = part.float().cpu()
        data.add_columns(split, found)
        self.net.train()

    def make_figures(self) -> None:
        super().make_figures()
        self.loss, self.scores = MeanLoss(), PreferenceScores()

    def encode(self, example: PreferenceExample, training: bool) -> list[Features]:
        """Tokens and targets of both answers."""
        found = self.answered(example.messages, [getattr(example, side) for side in SIDES], earlier=False)
        if len(found) < len(SIDES):
            return []
        made: Features = {"cut": found[0]["cut"]}
        for side, one in zip(SIDES, found, strict=True):
            made |= {f"{side}_tokens": one["tokens"], f"{side}_targets": one["targets"]}
        return [made]

    @property
    def collate(self) -> Collate:
        return partial(collate_pairs, padding=self.padding)

    def ratios(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """log π − log π_ref of the better and of the worse answers, (B,) each."""
        found = answer_log_probability(self.net, batch["tokens"], batch["targets"])
        chosen, rejected = found.chunk(2)
        chosen = chosen - chosen.new_tensor(batch["reference_chosen"])
        return chosen, rejected - rejected.new_tensor(batch["reference_rejected"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        losses = preference_loss(*self.ratios(batch), self.beta, self.kind, self.label_smoothing)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        counted = batch["index"] >= 0
        chosen, rejected = (r[counted] for r in self.ratios(batch))
        self.loss.update(preference_loss(chosen, rejected, self.beta, self.kind, self.label_smoothing))
        self.scores.update(self.beta * chosen, self.beta * rejected)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """A row for each pair: its number and the reward of both answers."""
        chosen, rejected = self.ratios(batch)
        rows = zip(batch["index"].tolist(), chosen.tolist(), rejected.tolist(), strict=True)
        return [
            {"index": i, "chosen_reward": self.beta * c, "rejected_reward": self.beta * r}
            for i, c, r in rows
            if i >= 0
        ]
