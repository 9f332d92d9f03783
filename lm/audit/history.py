"""What a model has learned from, exactly: which windows of which corpus, and how often each token.

A run's windows are a pure function of (seed, epoch, sample), and every checkpoint of it says which epoch and
sample it had come to. So nothing here is estimated.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lm import checkpoint as checkpoints
from lm.audit.private.per_sample import PoissonSamples
from lm.convert import located
from lm.data.corpus.shards import MANIFEST, Corpus
from lm.data.windows import TrainingWindows
from lm.errors import UserError

_PRETRAINING = "PretrainingData"


@dataclass(frozen=True)
class Run:
    """What a checkpoint of a pretraining says of its data.

    Attributes:
        corpus: what it was told to learn from, for people.
        identity: of the corpus's tokens.
        seq_len: tokens that a window predicts.
        seed: of the windows' order.
        epoch, samples: whole epochs that are done, and samples of the one that is not.
        step_samples: samples of an optimizer step; an epoch has as many whole ones as there are windows for.
        lots: whether each step has drawn its samples by lot, about so many, as private training does.
        start: the model that it went on from, which may have seen more; empty where it began anew.
    """

    corpus: str
    identity: str
    seq_len: int
    seed: int
    epoch: int
    samples: int
    step_samples: int
    lots: bool = False
    start: str = ""


class Unknown(UserError):
    """That nobody can know what a model has seen, whatever corpus is given."""


def _said(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The state of its data that a checkpoint of a pretraining holds, and its run's configuration."""
    where: Path = located(path)
    if where.is_dir() or where.suffix == ".onnx":
        raise Unknown(f"{where} does not say what it was trained on: only checkpoints of lm do")
    content = checkpoints.read(where, whole=False)
    record = checkpoints.read_record(content, where)
    state, whole = content.get(_PRETRAINING), checkpoints.configuration_of(record)
    if not isinstance(state, dict) or not whole:
        raise Unknown(f"{where} was not pretrained on a corpus of lm: what it has seen is not known")
    if "mixture" in state:
        raise UserError(f"{where} was pretrained on a mixture, which an audit can't follow yet")
    return state, whole, where


def corpus_of(path: str | Path) -> Corpus:
    """The corpus of a checkpoint's run: the one of the same tokens, where that run kept its corpora.

    Raises:
        UserError: see `run_of`; or there is none.
    """
    state, whole, path = _said(path)
    own = whole["data"]["init_args"]
    kept = Path(own.get("data_dir") or "data")
    # Where this is said from, and where the run was started: its folder is checkpoints/NAME there.
    places = [kept, path.absolute().parent.parent.parent / kept]
    given = Path(str(own["corpus"])).expanduser() / MANIFEST
    for manifest in [given, *(each for place in places for each in sorted(place.glob(f"*/{MANIFEST}")))]:
        if manifest.is_file() and Corpus.open(manifest.parent, verify=False).identity == state["corpus"]:
            return Corpus.open(manifest.parent)
    raise UserError(f"the corpus that {path} was trained on ({own['corpus']}) is no longer in {kept}")


def run_of(path: str | Path) -> Run:
    """What the run of a checkpoint has done, from what is said in it.

    Raises:
        Unknown: it is no checkpoint of lm, none of a pretraining, or of one that keeps its samples secret.
        UserError: it is of a pretraining on several corpora, or damaged.
    """
    state, whole, path = _said(path)
    try:
        own, trainer = whole["data"]["init_args"], whole["trainer"]
        step = state.get("step_samples")  # checkpoints that are older than it were of one process, or guessed
        step = step or own["batch_size"] * (trainer.get("accumulate_grad_batches") or 1)
        done = state["loader"]["epoch"], state["loader"]["samples"]
        named = [each for each in trainer.get("callbacks") or [] if isinstance(each, dict)]
        private = [each for each in named if str(each.get("class_path")).endswith("PrivateTraining")]
        if trainer.get("overfit_batches") or any(
            (each.get("init_args") or {}).get("secure") for each in private
        ):
            if private:
                raise Unknown(f"{path} does not say what it has seen: its samples are kept secret")
            raise UserError(f"{path} does not say what it has seen: it was shown the same batches again")
        seed, start = own.get("seed") or 0, (whole["model"].get("init_args") or {}).get("init_from")
        corpus = str(own["corpus"]), state["corpus"], own["seq_len"], seed
        return Run(*corpus, *done, step, bool(private), str(start or ""))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say how its data were read ({error!r})") from error


class History:
    """How often each token of a corpus's training part was learned from.

    Args:
        run: of the model.
        corpus: the one that the run was on.

    Raises:
        UserError: it is another one, or it has changed since.
    """

    def __init__(self, run: Run, corpus: Corpus) -> None:
        if corpus.identity != run.identity:
            raise UserError(
                f"{corpus.folder} is not what the model was trained on ({run.corpus}), or has changed since"
            )
        self.run, self.corpus, self.stream = run, corpus, corpus.split("train")
        self._windows = TrainingWindows(self.stream, run.seq_len, run.step_samples, run.seed)
        self._lots = PoissonSamples(self._windows, 1, run.seed) if run.lots else None

    @property
    def windows(self) -> int:
        """Windows that were learned from, each as often as it was."""
        if self._lots is not None:
            return len(self._drawn)
        return self.run.epoch * self._epoch + self.run.samples

    @property
    def _epoch(self) -> int:
        """Samples of an epoch: whole steps."""
        return max(self._windows.windows // self.run.step_samples, 1) * self.run.step_samples

    def starts(self, epoch: int) -> np.ndarray:
        """The first token of each window of an epoch that was learned from, int64 (n,), in their order."""
        samples = self._epoch if epoch < self.run.epoch else self.run.samples
        if self._lots is None:
            return self._windows.starts(epoch, np.arange(samples))
        first, size = epoch * self._epoch // self.run.step_samples, samples // self.run.step_samples
        steps = [self._lots.samples(step) for step in range(first, first + size)]
        return self._windows.starts(0, np.concatenate([np.empty(0, np.int64), *steps]))

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Of private training: the first tokens of all windows that were learned from, int64 (n,)."""
        return np.concatenate([self.starts(epoch) for epoch in range(self.run.epoch + 1)])

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """First tokens of windows that were learned from, int64 (count,), at random; one may come again."""
        if self._lots is not None:
            return rng.choice(self._drawn, count)
        epochs, samples = np.divmod(rng.integers(0, self.windows, count), self._epoch)
        starts = np.empty(count, np.int64)
        for epoch in np.unique(epochs).tolist():
            starts[epochs == epoch] = self._windows.starts(epoch, samples[epochs == epoch])
        return starts

    @cached_property
    def times(self) -> np.ndarray:
        """How often each token of the training part was a target, uint16 (tokens,)."""
        change = np.zeros(len(self.stream) + 1, dtype=np.int32)
        for epoch in range(self.run.epoch + (self.run.samples > 0)):
            starts = self.starts(epoch)
            np.add.at(change, starts + 1, 1)
            np.add.at(change, starts + 1 + self.run.seq_len, -1)
        np.cumsum(change, out=change)  # in place, and of 32 bits: a corpus may be large
        return np.minimum(change, np.iinfo(np.uint16).max, out=change)[:-1].astype(np.uint16)

    def seen(self, start: int, end: int) -> int:
        """How often all tokens from one on to before another were learned from."""
        return int(self.times[start:end].min(initial=np.iinfo(np.uint16).max)) if end > start else 0

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """All windows into which the last epoch has cut the training part, those among them that the run has
        not come to: their first tokens, int64 (n,), rising, and how often each was learned from, int64 (n,);
        −1 where some of its tokens were more often than others, as earlier epochs cut elsewhere.

        Which of them were learned from is drawn by lot. So with those that were not they have in common what
        documents they are from, where they begin, and how much of what stands beside them was learned from.
        """
        epoch = 0 if self._lots is not None else max(self.run.epoch - (self.run.samples == 0), 0)
        starts = np.sort(self._windows.starts(epoch, np.arange(self._windows.windows)))
        first, length = int(starts[0]) + 1, len(starts) * self.run.seq_len
        times = self.times[first : first + length].reshape(len(starts), self.run.seq_len)
        alike = times.min(axis=1) == times.max(axis=1)
        return starts, np.where(alike, times[:, 0].astype(np.int64), -1)
