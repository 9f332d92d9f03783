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
from lm.metrics import MeanLoss, PreferenceScores
from lm.tasks.base import IGNORED
from lm.tasks.finetuning import FineTuning
from lm.tokenizer import Tokenizer
from lm.tokenizer.chat import ChatFormat, chat_format, shortened, with_chat

SIDES = ("chosen", "rejected")


def answer_log_probability(net: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """log p(answer | chat) of each sequence (B,), in nats, from `tokens` and `targets` (B, T), which are
    negative outside the answer."""
    hidden = net.backbone(tokens)
    counted = targets >= 0
    logits = net.head(hidden[counted]).float()  # (answer pieces, V)
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
    reference found stays a list of numbers: a trainer in half precision rounds every tensor.

    Args:
        padding: see `collate`.
    """
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


class PreferenceTuning(FineTuning):
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
    needs_causal = True
    shardable = False
    usage = "chat {}"
    best_by = ("accuracy", "max")

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
        self.chat: ChatFormat | None = None

    def head(self) -> dict[str, Any]:
        """The language model's own."""
        return {"kind": "language"}

    def with_pieces(self, tokenizer: Tokenizer) -> tuple[Tokenizer, tuple[str, ...]]:
        """With the markers of a chat."""
        return with_chat(tokenizer)

    def prepare(self, data: ExampleData, record: dict[str, Any] | None = None, stage: str = "fit") -> None:
        """See `ExampleTask.prepare`; then the reference's log-probabilities."""
        if self.start is None:
            raise UserError(
                "PreferenceTuning compares with the model it starts from: give `model.init_from` PATH",
                status=2,
            )
        self._reference = fingerprint(self.start.weights)
        if record is not None and record.get("reference") != self._reference:
            raise UserError(f"{self.init_from} is no longer the model that this run began with")
        super().prepare(data, record, stage)
        splits = {"fit": ("train", "val", "test"), "validate": ("val",)}.get(stage, ("test",))
        for split in splits:
            if data.has(split):
                self._add_reference(data, split)

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
        for start in range(0, len(order), data.eval_batch_size):
            rows = order[start : start + data.eval_batch_size]
            batch = self.collate([features[i] for i in rows])
            with nullcontext() if plugin is None else plugin.forward_context():
                values = answer_log_probability(
                    self.net, batch["tokens"].to(device), batch["targets"].to(device)
                )
            for side, part in zip(SIDES, values.chunk(2), strict=True):
                found[f"reference_{side}"][rows] = part.float().cpu()
        data.add_columns(split, found)
        self.net.train()

    def record(self) -> dict[str, Any]:
        """Which reference it was compared with, too."""
        return {**super().record(), "reference": self._reference}

    def make_figures(self) -> None:
        """How often the better answer has the larger reward, and by how much."""
        self.chat = chat_format(self.tokenizer)
        self.loss, self.scores = MeanLoss(), PreferenceScores()

    def encode(self, example: PreferenceExample, training: bool) -> list[Features]:
        """Tokens and targets of both answers. The chat before them is the same, also where it had to be cut:
        see `InstructionTuning.encode`."""
        before = [(m.role, m.content) for m in example.messages]
        asked, _ = self.chat.render(before, answer_next=True)
        limit = self.config.max_seq_len + 1
        answers = {}
        for side in SIDES:
            ids, learned = self.chat.render([*before, ("assistant", getattr(example, side))])
            answers[side] = ids[len(asked) :], learned[len(asked) :]
        longest = max(len(ids) for ids, _ in answers.values())
        made: Features = {"cut": len(asked) + longest > limit}
        if made["cut"]:
            asked, *_ = shortened(self.chat, before, max(limit - longest, limit // 2))
        for side, (answer, learned) in answers.items():
            ids = (asked + answer)[:limit]
            keep = ([False] * len(asked) + learned)[:limit]  # the last answer alone
            targets = [i if one else IGNORED for i, one in zip(ids, keep, strict=True)][1:]
            made |= {f"{side}_tokens": ids[:-1], f"{side}_targets": targets}
        if any(all(t == IGNORED for t in made[f"{side}_targets"]) for side in SIDES):
            return []
        return [made]

    @property
    def collate(self) -> Collate:
        """See `collate_pairs`."""
        return partial(collate_pairs, padding=self.padding)

    def ratios(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """log π − log π_ref of the better and of the worse answers, (B,) each."""
        found = answer_log_probability(self.net, batch["tokens"], batch["targets"])
        chosen, rejected = found.chunk(2)
        chosen = chosen - chosen.new_tensor(batch["reference_chosen"])
        return chosen, rejected - rejected.new_tensor(batch["reference_rejected"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """See `Task.training_step`."""
        losses = preference_loss(*self.ratios(batch), self.beta, self.kind, self.label_smoothing)
        return self.outcome(losses.sum(), self.data.batch_size, len(losses))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add a batch to the figures."""
        counted = batch["index"] >= 0
        chosen, rejected = (r[counted] for r in self.ratios(batch))
        self.loss.update(preference_loss(chosen, rejected, self.beta, self.kind, self.label_smoothing))
        self.scores.update(self.beta * chosen, self.beta * rejected)

    def figures(self) -> dict[str, Tensor]:
        """The loss, how many pairs are the right way round, and the mean margin."""
        figures = {**self.loss.compute(), **self.scores.compute()}
        self.loss.reset()
        self.scores.reset()
        return figures

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """A row for each pair: its number and the reward of both answers."""
        chosen, rejected = self.ratios(batch)
        rows = zip(batch["index"].tolist(), chosen.tolist(), rejected.tolist(), strict=True)
        return [
            {"index": i, "chosen_reward": self.beta * c, "rejected_reward": self.beta * r}
            for i, c, r in rows
            if i >= 0
        ]
