"""What the model writes, at each validation."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks.logs import log_text
from lm.errors import UserError
from lm.inference.generate import Sample, Sampling


class Samples(Callback):
    """Sample texts for the loggers at each validation: what a GPT writes, what a BERT puts for masked tokens.

    Args:
        prompt: what a GPT goes on from; the first words of the held-out text where it is None.
        tokens: tokens to write.
        seed: of the sampling, the same each time, so that samples can be compared.
        temperature: below 1 the likelier tokens are preferred.
        top_k: choose among this many likeliest tokens.
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
        self.latest = Sample()

    def renew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make `latest` new. Compiled blocks run uncompiled: each length would be compiled anew."""
        try:
            with torch.compiler.set_stance("force_eager"):
                self.latest = pl_module.sample(self.prompt, self.tokens, self.seed, self.sampling)
        except UserError as error:
            self.latest = Sample(f"(no sample: {error})")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.renew(trainer, pl_module)
            if self.latest.text:
                log_text(trainer, "sample", self.latest.text)
