"""The datamodule of pretraining: a corpus or a mixture of several, as batches of token windows."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from lm.data.corpus.canaries import each_of
from lm.data.corpus.prepare import CorpusSettings, locate, prepare
from lm.data.corpus.recipe import RecipeFile, is_recipe
from lm.data.corpus.shards import MANIFEST, TOKENIZER, Corpus
from lm.data.corpus.sources import STDLIB
from lm.data.loading import Data, ResumableLoader, at_least
from lm.data.mixing import MixedValidation, MixedWindows, Share, Stage, check, mixed_windows, plain, seed_of
from lm.data.tokenizers import open_tokenizer
from lm.data.windows import TrainingWindows, ValidationWindows
from lm.engine.replicas import data_shard
from lm.errors import UserError
from lm.tokenizer import Tokenizer


class PretrainingData(Data):
    """Windows of tokens from a corpus or several, which are prepared on first use.

    Batches are dicts: `tokens` int64 and `documents` int32, both `(batch_size, seq_len + 1)`, and `key` int64
    `(batch_size,)`; see `lm.data.windows`. Held-out batches of a mixture also say which `corpus` they are
    from, int64 `()`.

    Args:
        corpus: what to learn from: "stdlib" (the standard library of the Python that runs), a text, code,
            JSON lines or Parquet file, a folder or a glob of them, a list of these, a corpus that `lm
            prepare` made, or the recipe of one (YAML), whose own vocabulary and held-out share count.
        mixture: several corpora instead, by name, each with a `corpus` as above, a `weight` and at will
            `repeats`. All need the same tokenizer: files take that of the first prepared corpus, else of the
            first recipe, else of the first files.
        stages: other weights of the mixture from an optimizer step on: a list of `step` and `weights`.
        seq_len: tokens that a window predicts.
        batch_size: windows in a batch, on each device.
        vocab_size: tokens of the tokenizer that is trained on the corpus.
        tokenizer: a SentencePiece model, a Hugging Face folder or a checkpoint whose tokenizer is used
            instead, by default that of `model.init_from`; vocab_size is then its own.
        text_field: the field or column that holds the text, in JSON lines and Parquet.
        val_fraction: the share held out for validation; by default 5% of the documents, or, of fewer than 20
            documents, the last 10% of the text.
        seed: decides the order of the windows, and what is masked in them.
        num_workers: processes that read ahead; reading is fast enough for none on most machines.
        data_dir: where prepared corpora lie.
        canaries: made-up secrets to plant into the training part, so many for each of 0, 1, 4, 16, 64 and 256
            repetitions. A model trained on them is for auditing.

    Attributes:
        corpus: the one that is learned from, of a mixture the first; after `setup`.
        mixed: the names of a mixture's corpora, in their order; empty where there is one corpus.
    """

    def __init__(
        self,
        corpus: str | list[str] = STDLIB,
        mixture: dict[str, Share] | None = None,
        stages: list[Stage] | None = None,
        seq_len: int = 256,
        batch_size: int = 16,
        vocab_size: int = 4096,
        tokenizer: str | None = None,
        text_field: str = "text",
        val_fraction: float | None = None,
        seed: int = 0,
        num_workers: int = 0,
        data_dir: str = "data",
        canaries: int = 0,
    ) -> None:
        super().__init__()
        at_least(seq_len=(seq_len, 1), batch_size=(batch_size, 1), num_workers=(num_workers, 0))
        self.seq_len, self.batch_size, self.seed, self.num_workers = seq_len, batch_size, seed, num_workers
        self.mixture, self.stages = mixture, stages or []
        if mixture is not None:
            if corpus != STDLIB:  # the default, which shipped configurations spell out
                raise UserError("give `corpus` or `mixture`, not both", status=2)
            check(mixture, self.stages)
        elif self.stages:
            raise UserError("`stages` change the weights of a `mixture`, and there is none", status=2)
        if canaries and mixture is not None:  # its weights and repeats would say how often one is seen
            what = "`canaries` are planted into one corpus, not into a `mixture`"
            raise UserError(f"{what}: plant them with lm prepare, and name its folder there", status=2)
        self.mixed = tuple(mixture or ())
        corpora = {name: share.corpus for name, share in (mixture or {"": Share(corpus, 1)}).items()}
        self.settings = {
            name: CorpusSettings(
                given, vocab_size, tokenizer, text_field, val_fraction, data_dir, canaries=canaries
            )
            for name, given in corpora.items()
        }
        self.corpora: dict[str, Corpus] = {}
        self._begun = 0  # samples of a step of the run that goes on
        self._folders = {name: Path(c).expanduser() for name, c in corpora.items() if _is_prepared(c)}
        recipes = [c for c in corpora.values() if is_recipe(c)]
        if self._folders:
            first = Corpus.open(next(iter(self._folders.values())), verify=False)
            if canaries and canaries != (there := each_of(first.manifest)):
                what = f"{first.folder} is prepared already, with {there or 'no'} canaries of each kind"
                raise UserError(f"{what}: prepare its documents anew, or give `canaries` 0", status=2)
            self.vocab_size = first.vocab_size
        elif recipes:
            options = ["--tokenizer", tokenizer] if tokenizer else []
            self.vocab_size = RecipeFile(str(recipes[0]), options).vocab_size
        else:
            self.vocab_size = open_tokenizer(tokenizer).vocab_size if tokenizer else vocab_size

    def shape(self) -> dict[str, int]:
        return {"vocab_size": self.vocab_size, "max_seq_len": self.seq_len}

    @property
    def source(self) -> str:
        """The corpus's folder, or those of the mixture; before they are known, what they are made of."""
        found = {name: str(self._folders.get(name, s.corpus)) for name, s in self.settings.items()}
        return ", ".join(f"{name}: {where}" if name else where for name, where in found.items())

    @property
    def corpus(self) -> Corpus | None:
        return next(iter(self.corpora.values()), None)

    @property
    def processor(self) -> Tokenizer:
        """The corpus's tokenizer; after `setup`."""
        return self._opened().tokenizer

    tokenizer = processor

    @property
    def train_tokens(self) -> int:
        """Tokens of the training parts; after `setup`."""
        return sum(len(windows.stream) for windows in self._windows)

    def prepare_data(self) -> None:
        """Prepares the corpora, on one process; quick where that is done."""
        self._folders = self._found(prepare)

    def _found(self, find: Callable[[CorpusSettings], Path]) -> dict[str, Path]:
        """Each corpus's folder: its own, or what `find` says. What comes first decides the tokenizer."""

        def precedence(name: str) -> int:
            return 0 if name in self._folders else 1 if is_recipe(self.settings[name].corpus) else 2

        found: dict[str, Path] = {}
        for name in sorted(self.settings, key=precedence):
            settings = self.settings[name]
            if found and settings.tokenizer is None:
                settings = replace(settings, tokenizer=str(next(iter(found.values())) / TOKENIZER))
            found[name] = self._folders.get(name) or find(settings)
        return {name: found[name] for name in self.settings}

    def setup(self, stage: str | None = None) -> None:
        """Opens and checks the corpora, on every process; a second time does nothing.

        Raises:
            UserError: a corpus is damaged, or smaller than one window; or two have different tokenizers.
        """
        if self.corpora:
            return
        folders = self._found(locate)  # another process may have prepared them
        corpora = {name: Corpus.open(folder) for name, folder in folders.items()}
        self._folders = folders
        self._check_tokenizers(corpora)
        self._windows = []
        for name, corpus in corpora.items():
            train = corpus.split("train")
            if len(train) < self.seq_len + 1:
                raise UserError(
                    f"the corpus {f'{name} ' if name else ''}has {len(train)} training tokens, too few for "
                    f"one window of {self.seq_len} + 1: "
                    f"give more text, or a `seq_len` of {max(len(train) - 1, 1)} or less"
                )
            seed = seed_of(name, self.seed) if self.mixed else self.seed
            self._windows.append(TrainingWindows(train, self.seq_len, self.batch_size, seed))
        parts = [ValidationWindows(c.split("val"), self.seq_len, self.batch_size) for c in corpora.values()]
        self.val_windows = MixedValidation(parts) if self.mixed else parts[0]
        self.corpora = corpora

    def _check_tokenizers(self, corpora: dict[str, Corpus]) -> None:
        (first, ours), *others = corpora.items()
        for name, corpus in others:
            if corpus.manifest["tokenizer_sha256"] != ours.manifest["tokenizer_sha256"]:
                raise UserError(
                    f"{first} ({ours.folder}) and {name} ({corpus.folder}) have different tokenizers: "
                    f"prepare {name} again with {first}'s, --tokenizer {ours.folder / TOKENIZER}"
                )

    def _opened(self) -> Corpus:
        if self.corpus is None:
            raise RuntimeError("call prepare_data() and setup() first")
        return self.corpus

    @property
    def train_windows(self) -> TrainingWindows | MixedWindows:
        """What is learned from; of a mixture, once there is a trainer."""
        if not self.mixture:
            return self._windows[0]
        steps = self.trainer.max_steps
        return mixed_windows(self._windows, self.mixture, self.stages, self.seed, self._step_samples, steps)

    @property
    def _step_samples(self) -> int:
        """Samples of an optimizer step when the run began: `stages` count in these."""
        here = self.batch_size * self.trainer.accumulate_grad_batches * data_shard(self.trainer).size
        return self._begun or here

    def train_dataloader(self) -> ResumableLoader:
        return self.training_loader(self.train_windows)

    def val_dataloader(self) -> DataLoader:
        return self.held_out_loader(self.val_windows)

    # There is one held-out part.
    test_dataloader = predict_dataloader = val_dataloader

    def state_dict(self) -> dict[str, Any]:
        state = {"loader": self.loader_state(), "corpus": self._identity()}
        state["step_samples"] = self._step_samples
        if self.mixture:
            state["mixture"] = plain(self.mixture, self.stages)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            if state["corpus"] != self._identity():
                raise UserError(
                    f"the corpus has changed since the run began ({self.source} holds other tokens): "
                    "choose another `name` to begin anew"
                )
            if self.mixture and state["mixture"] != plain(self.mixture, self.stages):
                raise UserError(
                    "the mixture has changed since the run began (other weights, `repeats` or `stages`): "
                    "choose another `name` to begin anew"
                )
        self._begun = state.get("step_samples", 0)
        self._state = dict(state["loader"])

    def _identity(self) -> str:
        """Of the tokens that are learned from; of a mixture, by the corpora's names."""
        if not self.mixed:
            return self._opened().identity
        words = "".join(f"{name} {corpus.identity}\n" for name, corpus in self.corpora.items())
        return hashlib.sha256(words.encode()).hexdigest()


def _is_prepared(corpus: str | list[str]) -> bool:
    return isinstance(corpus, str) and (Path(corpus).expanduser() / MANIFEST).is_file()
