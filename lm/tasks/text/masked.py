"""Pretraining a BERT: guess the masked tokens."""

from typing import Any

import torch
from torch import Tensor

from lm.backbone import BackboneConfig
from lm.errors import UserError
from lm.inference.fill import show_guesses
from lm.inference.generate import Sample, Sampling
from lm.tasks.text.masking import mask_tokens, word_numbers
from lm.tasks.text.pretraining import Example, Pretraining, several_documents


class MaskedPretraining(Pretraining):
    """Guess the tokens that were masked, from both sides.

    Args:
        backbone: the shape of the Transformer; `causal` must be false.
        mask_rate: part of the tokens to guess while training (arXiv:2202.08005 finds more than 15% better).
        eval_mask_rate: the same while evaluating; 15% is what others report.
        whole_words: mask all tokens of a word or none.
    """

    causal = False

    def __init__(
        self,
        backbone: BackboneConfig,
        mask_rate: float = 0.3,
        eval_mask_rate: float = 0.15,
        whole_words: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, rate in (("mask_rate", mask_rate), ("eval_mask_rate", eval_mask_rate)):
            if not 0 < rate < 1:
                raise UserError(f"{name} is {rate}: it must lie between 0 and 1", status=2)
        super().__init__(backbone, **kwargs)
        self.mask_rate, self.eval_mask_rate, self.whole_words = mask_rate, eval_mask_rate, whole_words
        for name in ("opens", "closes", "special"):
            table = torch.zeros(self.config.vocab_size, dtype=torch.bool)
            self.register_buffer(name, table, persistent=False)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.tokenizer.mask_id is None:
            raise UserError("the tokenizer has no <mask> token: train one with lm, or bring one that has")
        opens, closes = self.tokenizer.word_boundaries()
        self.opens[: len(opens)] = torch.from_numpy(opens)
        self.closes[: len(closes)] = torch.from_numpy(closes)
        self.special[: len(opens)] = self.byte_lengths[: len(opens)] == 0

    def example(self, batch: dict[str, Tensor], training: bool) -> Example:
        tokens, documents = batch["tokens"][:, :-1], batch["documents"][:, :-1]
        rate = self.mask_rate if training else self.eval_mask_rate
        words = word_numbers(tokens, self.opens, self.closes) if self.whole_words else None
        inputs, targets = mask_tokens(
            tokens,
            batch["key"],
            rate,
            self.tokenizer.mask_id,
            maskable=~self.special[tokens] & (documents >= 0),
            vocab_size=self.tokenizer.vocab_size,
            words=words,
        )
        expected = max(1, round(tokens.numel() * rate))
        return Example(inputs, targets, several_documents(documents), expected)

    def sample(self, prompt: str | None, tokens: int, seed: int, sampling: Sampling) -> Sample:
        return Sample(show_guesses(self.net, self.tokenizer, self.held_out(min(64, self.config.max_seq_len))))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[dict[str, str | int]]:
        """The best guess for each masked token of each window, beside the token that stood there."""
        example = self.example(batch, training=False)
        guesses = self.net(example.inputs, example.documents).argmax(-1)
        return [
            {
                "position": int(t),
                "token": self.tokenizer.piece(int(example.targets[b, t])),
                "guess": self.tokenizer.piece(int(guesses[b, t])),
            }
            for b, t in (example.targets >= 0).nonzero()
        ]
