"""What the model writes, at each validation."""

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.inference.fill import show_guesses
from lm.inference.generate import Sampling, generate_text


class Samples(Callback):
    """Sample texts on TensorBoard at each validation: what a GPT writes, what a BERT puts for masked pieces.

    Args:
        prompt: what a GPT goes on from; empty for the start of a document.
        tokens: pieces to write.
        seed: of the sampling, the same each time, so that samples can be compared.
        temperature: below 1 the likelier pieces are preferred.
        top_k: choose among this many likeliest pieces.
    """

    def __init__(
        self, prompt: str = "", tokens: int = 160, seed: int = 0, temperature: float = 0.7, top_k: int = 50
    ) -> None:
        self.prompt, self.tokens, self.seed = prompt, tokens, seed
        self.sampling = Sampling(temperature=temperature, top_k=top_k)
        self.latest = ""

    def sample(self, pl_module: LightningModule, trainer: Trainer) -> str:
        """A text by the model as it is now. Every rank takes part, for a sharded model needs them all."""
        net, tokenizer = pl_module.net, pl_module.tokenizer
        if pl_module.config.causal:
            return generate_text(net, tokenizer, self.prompt, self.tokens, self.sampling, seed=self.seed)
        tokens, _ = trainer.datamodule.corpus.split("val").window(0, min(64, pl_module.config.max_seq_len))
        return show_guesses(net, tokenizer, [int(t) for t in tokens])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a sample to the log."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.latest = self.sample(pl_module, trainer)
        if trainer.logger is not None and trainer.is_global_zero:
            fenced = "```\n" + self.latest.replace("```", "'''") + "\n```"
            trainer.logger.experiment.add_text("sample", fenced, trainer.global_step)
