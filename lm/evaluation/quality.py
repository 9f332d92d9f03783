"""How good a document is by a model of one's own: a step of a corpus's recipe.

steps:
  - class_path: lm.evaluation.ModelScore
    init_args: {model: checkpoints/good-or-bad, label: good, least: 0.6}
  - class_path: lm.evaluation.ModelScore
    init_args: {model: checkpoints/gpt-nano, most: 3.5}
"""

import math
import multiprocessing
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lm.data.corpus.documents import Document, Step
from lm.errors import SetupError, UserError

if TYPE_CHECKING:
    from lm.predictor import Predictor


class ModelScore(Step):
    """Leaves out documents that a model finds worse than a bound, or better.

    A classifier gives the probability of a label (FineWeb-Edu's way, arXiv:2406.17557), or a rating; a
    pretrained GPT bits per byte, of which too many are a sign of noise and too few of repetition (CCNet's
    perplexities, arXiv:1911.00359). It looks at the beginning of a document, as far as the model sees. The
    score stays with the document, as `score`.

    Args:
        model: a checkpoint, a run, an adapter, or a Hugging Face folder.
        label: whose probability the score is; a classifier needs it, unless it rates.
        least: documents with a lower score are left out.
        most: documents with a higher score are left out.

    Raises:
        UserError: there is no such model or label, or no bound.
    """

    def __init__(
        self, model: str, label: str | None = None, least: float | None = None, most: float | None = None
    ) -> None:
        if least is None and most is None:
            raise UserError("ModelScore has no bound: give `least` or `most`", status=2)
        if not Path(model).exists():
            raise UserError(f"ModelScore's `model` {model}: there is no such file or folder", status=2)
        self.model, self.label, self.least, self.most = model, label, least, most

    def title(self) -> str:
        return f"ModelScore {self.model}"

    def reads(self) -> list[Path]:
        path = Path(self.model)
        if path.is_dir() and (path / "best.ckpt").exists():
            path /= "best.ckpt"
        kinds = {".safetensors", ".json", ".model"}
        return [path] if path.is_file() else sorted(each for each in path.iterdir() if each.suffix in kinds)

    def __call__(self, document: Document) -> str | None:
        value = self._bits(document.text) if self._writes else self._rating(document.text)
        document.meta["score"] = round(value, 4)
        if self.least is not None and value < self.least:
            return f"score below {self.least:g}"
        if self.most is not None and value > self.most:
            return f"score above {self.most:g}"
        return None

    @cached_property
    def _predictor(self) -> "Predictor":
        return _opened(self.model)

    @cached_property
    def _writes(self) -> bool:
        from lm.tasks.table import writes_text

        predictor = self._predictor
        if writes_text(predictor.model.record):
            if not predictor.config.causal:
                raise SetupError(f"{self.model} is a BERT: ModelScore takes a GPT or a classifier")
            return True
        if predictor.labels and self.label not in predictor.labels:
            known = ", ".join(predictor.labels)
            raise SetupError(f"{self.model} has no label {self.label!r}: give one of {known} as `label`")
        return False

    def _rating(self, text: str) -> float:
        row = self._predictor.classify(text)
        return float(row["probabilities"][self.label] if self._predictor.labels else row["prediction"])

    def _bits(self, text: str) -> float:
        """Bits per byte of what the model sees of it."""
        from lm.inference.generate import prompt_ids
        from lm.inference.scoring import score

        network, tokenizer = self._predictor.writer(), self._predictor.tokenizer
        seen = network.config.max_seq_len
        # Of a long text no more than what can be needed: no token stands for less than a byte.
        ids = prompt_ids(tokenizer, text[: seen * max(tokenizer.byte_lengths())])[: seen + 1]
        if len(ids) < 2:
            return 0.0
        size = tokenizer.byte_lengths()[ids[1:]].sum()
        return -score(network, [(ids, 1)])[0].total / math.log(2) / max(float(size), 1.0)


@cache  # a process does many tasks of a corpus, each with a step of its own
def _opened(path: str) -> "Predictor":
    import torch

    from lm.predictor import load

    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the other cores are other processes'
    try:
        return load(path)
    except UserError as error:
        raise SetupError(str(error)) from error  # of the recipe, not of a document
