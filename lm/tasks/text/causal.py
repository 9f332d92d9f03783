"""Pretraining a GPT: predict each next token."""

from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.inference.generate import Sample, Sampling, generate, prompt_ids
from lm.tasks.base import IGNORED
from lm.tasks.text.pretraining import Example, Pretraining, several_documents


class CausalPretraining(Pretraining):
    """Predict each next token of a document. Documents packed into one window don't see each other, and the
    first token of a document is not predicted from the one before it."""

    causal = True

    def example(self, batch: dict[str, Tensor], training: bool) -> Example:
        tokens, documents = batch["tokens"], batch["documents"]
        targets = tokens[:, 1:]
        same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
        targets = torch.where(same, targets, IGNORED)
        return Example(tokens[:, :-1], targets, several_documents(documents[:, :-1]), targets.numel())

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        if prompt is None:
            prompt = self.tokenizer.decode(self.held_out(24))
        # To the last token on every process, ended or not: a sharded model needs them all.
        pieces = generate(
            self.net,
            prompt_ids(self.tokenizer, prompt),
            tokens,
            sampling,
            seed=seed,
            vocab_size=self.tokenizer.vocab_size,
        )
        ids = takewhile(lambda id: id != self.tokenizer.eos_id, [step[0] for step in pieces])
        return Sample(prompt + self.tokenizer.decode(list(ids)), prompt)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, float]]:
        """How well the model foresees each window: its loss in nats per token, its tokens and bytes."""
        example = self.example(batch, training=False)
        logits = self.net(example.inputs, example.documents)
        nats = F.cross_entropy(
            logits.float().flatten(0, 1), example.targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        counted = example.targets >= 0
        rows = zip(
            nats.view_as(example.targets).sum(1).tolist(),
            counted.sum(1).tolist(),
            (self.byte_lengths[example.targets.clamp(min=0)] * counted).sum(1).tolist(),
            strict=True,
        )
        return [
            {"loss": nats / tokens, "tokens": tokens, "bytes": size} for nats, tokens, size in rows if tokens
        ]
