"""What a report measures models on: a text that they foresee and write on, or a test file with labels."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from lm.errors import UserError
from lm.files import read_text
from lm.inference.batch import complete
from lm.inference.scoring import score, windows
from lm.tasks.table import writes_text

if TYPE_CHECKING:
    from lm.predictor import Predictor

_PROMPT, _TOKENS, _EXAMPLES = 16, 32, 32  # of a turn


def material(models: "Iterable[Predictor]", file: str) -> "HeldOut | Labelled":
    """What models are measured on, by what the first of them does.

    Raises:
        UserError: the first is a BERT that fills gaps, another does something else, the text is too short, or
            less than two examples have labels.
    """
    first, *others = models
    kind = HeldOut if writes_text(first.model.record) else Labelled
    return kind([first, *others], file)


class Scores(NamedTuple):
    """A model's figure, Σ values / Σ weights, example by example."""

    figure: str
    values: Any  # (n,)
    weights: Any  # (n,); None: 1 each
    clusters: Any  # n names: what hangs together has the same; None: nothing does
    higher: bool


class HeldOut:
    """A held-out text: models foresee it, and write on from where it begins."""

    unit = "tokens"

    def __init__(self, models: "Iterable[Predictor]", file: str) -> None:
        text, models = read_text(file), list(models)
        tokenizer = models[0].tokenizer
        room = min(model.config.max_seq_len for model in models)
        length, self.tokens = min(512, room), min(_TOKENS, room - _PROMPT)
        if not models[0].config.causal:
            said = "a report measures models that write, and what was fine-tuned for a task"
            raise UserError(f"{models[0].model.source} is a BERT, which fills gaps: {said}")
        for model in models:
            model.writer()
        ids = tokenizer.encode(text)
        if len(ids) < 4 * length:
            raise UserError(f"the text has {len(ids):,} tokens: a report wants {4 * length:,} at least")
        self.prompt, self.windows = ids[:_PROMPT], windows(ids, tokenizer.start_id, length)
        counts = [float(len(ids) - start) for ids, start in self.windows]
        self.counts = np.array(counts)  # tokens of each window
        self.bits_per_byte = self.counts.sum() / math.log(2) / len(text.encode())  # of a nat a token

    def network(self, model: "Predictor") -> nn.Module:
        return model.writer()

    def scores(self, model: "Predictor") -> Scores:
        """Nats of each window, by its tokens."""
        nats = [-each.total for each in score(model.writer(), self.windows)]
        return Scores("bits per byte", np.array(nats), self.counts, None, False)

    def work(self, model: "Predictor", batch: int) -> int:
        """Write texts side by side; how many tokens they have."""
        rows = complete(model.writer(), [self.prompt] * batch, self.tokens, [None], batch_size=batch)
        return sum(map(len, rows))


class Labelled:
    """A test file with labels, read as the first model's run read its own."""

    unit = "examples"

    def __init__(self, models: "Iterable[Predictor]", file: str) -> None:
        from lm.evaluation import command_of, test_examples

        first, *others = models
        self.command = command_of(first)
        for model in others:
            model.task(self.command)  # or it says what it is for
        examples, _ = test_examples(first.model.source, self.command, file)
        self.examples = [each for each in examples if each.labelled]
        if len(self.examples) < 2:
            raise UserError(
                f"{file} has {len(self.examples)} examples with labels: a report wants 2 at least"
            )
        step = max(1, len(self.examples) // _EXAMPLES)  # from all over the file
        self.timed = (self.examples[::step] * _EXAMPLES)[:_EXAMPLES]

    def network(self, model: "Predictor") -> nn.Module:
        return model.task(self.command).net

    def scores(self, model: "Predictor") -> Scores:
        """The last of the figures that `lm compare` knows, which is the one that people name: F1, where there
        is one."""
        from lm.evaluation import predicted, prediction_figures

        rows = list(predicted(model, self.command, self.examples))
        *_, (name, found) = prediction_figures(rows, str(model.model.source), "").items()
        several = found.clusters if found.clusters and len(set(found.clusters)) > 1 else None
        return Scores(name.strip(), found.values, found.weights, several, found.higher_is_better)

    def work(self, model: "Predictor", batch: int) -> int:
        """Look at examples, so many at once, from text to label."""
        from lm.evaluation import predicted

        chunks = (self.timed[start : start + batch] for start in range(0, _EXAMPLES, batch))
        return sum(len(list(predicted(model, self.command, chunk))) for chunk in chunks)
