"""What the model writes, at each validation."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks.summary import log_text
from lm.errors import UserError
from lm.inference.fill import show_guesses
from lm.inference.generate import Sampling, generate, prompt_ids


class Samples(Callback):
    """Sample texts on TensorBoard at each validation: what a GPT writes, what a BERT puts for masked pieces.

    Args:
        prompt: what a GPT goes on from; the first words of the held-out text where it is null.
        tokens: pieces to write.
        seed: of the sampling, the same each time, so that samples can be compared.
        temperature: below 1 the likelier pieces are preferred.
        top_k: choose among this many likeliest pieces.
    """

    def __init__(
        self,
        prompt: str | None = None,
        tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.7,
        top_k: int = 50,
    ) -> None:
        self.prompt, self.tokens, self.seed = prompt, tokens, seed
        self.sampling = Sampling(temperature=temperature, top_k=top_k)
        self.latest = ""
        self.opening = ""  # the part of the latest that was given

    def sample(self, pl_module: LightningModule, trainer: Trainer) -> str:
        """A text by the model as it is now. Every rank takes part, for a sharded model needs them all. A task
        that has samples of its own shows those (`sample()`), and none where it has none to show."""
        self.opening = ""
        if not hasattr(trainer.datamodule, "corpus"):
            return pl_module.sample() if hasattr(pl_module, "sample") else ""
        net, tokenizer = pl_module.net, pl_module.tokenizer
        held_out = trainer.datamodule.corpus.split("val")
        if pl_module.config.causal:
            prompt = self.prompt
            if prompt is None:
                tokens, _ = held_out.window(0, min(24, len(held_out)))
                prompt = tokenizer.decode(tokens.tolist())
            self.opening = prompt
            given = prompt_ids(tokenizer, prompt)
            # To the last piece on every rank, ended or not: a sharded model needs them all.
            pieces = generate(
                net, given, self.tokens, self.sampling, seed=self.seed, vocab_size=len(tokenizer)
            )
            ids = [step[0] for step in pieces]
            ids = ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids
            return prompt + tokenizer.decode(ids)
        tokens, _ = held_out.window(0, min(64, pl_module.config.max_seq_len, len(held_out)))
        return show_guesses(net, tokenizer, tokens.tolist())

    def renew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make `latest` new. Compiled blocks run uncompiled: each length would be compiled anew."""
        try:
            with torch.compiler.set_stance("force_eager"):
                self.latest = self.sample(pl_module, trainer)
        except UserError as error:
            self.latest = f"(no sample: {error})"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a sample to the log."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.renew(trainer, pl_module)
        if self.latest:
            log_text(trainer, "sample", self.latest)
