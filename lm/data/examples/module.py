"""The datamodules of fine-tuning: files of examples, read, split, encoded by the task, put into batches."""

import glob
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lm.data.examples.batches import Collate, Features, HeldOutExamples, TrainingExamples
from lm.data.examples.files import Read
from lm.data.examples.splitting import overlap, split_by_hash
from lm.data.loading import ResumableData, ResumableLoader
from lm.errors import UserError
from lm.processes import say
from lm.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

Encode = Callable[[Any, bool], list[Features]]


def _exists(path: str) -> bool:
    """Whether a file, a folder, an archive before a `!`, or something under a glob lies there."""
    for place in (Path(name).expanduser() for name in (path, path.partition("!")[0])):
        if place.exists() or any(glob.iglob(str(place), recursive=True)):  # noqa: PTH207 - Path's knows no **
            return True
    return False


class ExampleData(ResumableData, ABC):
    """Examples from files. A subclass reads one kind of file.

    Args:
        train: the file to learn from: a file, folder or glob, or `ARCHIVE!MEMBER`.
        val: the file that decides which weights are best; a part of `train` where it is null.
        test: the file for the figures of the end.
        root: folder that these names are looked for in where they don't lie in the one you work in.
        seq_len: longest sequence, in pieces; longer ones are cut or read in several windows, and it is said
            how many.
        batch_size: examples in a batch, on each device.
        eval_batch_size: the same while evaluating.
        vocab_size: pieces of the tokenizer that is trained on the examples where the model brings none.
        tokenizer: a tokenizer to use instead, where the model brings none.
        val_fraction: the part of `train` that is held out where there is no `val`.
        limit: learn from this many examples only, the same ones each time; null for all.
        seed: decides the order of the examples.
        num_workers: processes that read ahead.

    Attributes:
        predicting: whether `lm predict` is what the test part is for: then it needs no labels.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str = "data",
        seq_len: int = 256,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        vocab_size: int = 8000,
        tokenizer: str | None = None,
        val_fraction: float = 0.1,
        limit: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("seq_len", seq_len, 8),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", 1 if eval_batch_size is None else eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("limit", 1 if limit is None else limit, 1),
        ):
            if value < least:
                raise UserError(f"--data.{name} {value} is too small: give at least {least}", status=2)
        if not 0 < val_fraction < 1:
            raise UserError(f"--data.val_fraction {val_fraction}: it must lie between 0 and 1", status=2)
        self.paths = {"train": train, "val": val, "test": test}
        self.root = root
        self.seq_len, self.batch_size = seq_len, batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.tokenizer_path = tokenizer
        self.vocab_size = self.open_tokenizer().vocab_size if tokenizer else vocab_size
        self.val_fraction, self.limit, self.seed, self.num_workers = val_fraction, limit, seed, num_workers
        self.tokenizer: Tokenizer | None = None
        self.predicting = False
        self._examples: dict[str, list] = {}
        self._uncut: list = []  # what there is to learn from, without the limit
        self._test: Read | None = None
        self._features: dict[str, list[Features]] = {}
        self._encode: Encode | None = None
        self._make: Collate | None = None
        self._identity: str | None = None

    def shape(self) -> dict[str, int]:
        """What the model's backbone takes from the data."""
        return {"vocab_size": self.vocab_size, "max_seq_len": self.seq_len}

    @abstractmethod
    def read(self, path: str, split: str) -> Read:
        """The examples of a file, and what was skipped."""

    @abstractmethod
    def texts(self, example: Any) -> Iterable[str]:
        """The texts of an example that a tokenizer should know."""

    def group(self, example: Any) -> str | None:
        """Examples of one group never fall into two splits; null where each stands for itself."""
        return None

    @property
    def corpus_folder(self) -> str:
        """Where the examples come from, to be named in messages."""
        return str(self.paths["train"])

    def located(self, path: str) -> str:
        """A path as it was given, where something lies there, else below `root`."""
        as_given = Path(path).expanduser()
        elsewhere = as_given.is_absolute() or as_given.parts[:1] == ("..",)
        return path if path == "stdlib" or elsewhere or _exists(path) else str(Path(self.root) / path)

    def called(self, split: str) -> str:
        """A split, to be named in messages."""
        return self.paths[split] or "the held-out part"

    def has(self, split: str) -> bool:
        """Whether there are examples of this split."""
        return split != "test" or self.paths["test"] is not None

    def examples(self, split: str) -> list:
        """The examples of `train`, `val` or `test`, read at the first call.

        Raises:
            UserError: there is no such file, or nothing in it.
        """
        if split not in self._examples:
            path = self.paths[split]
            if path is not None:
                place = self.located(path)
                here = place.removeprefix(f"{Path(self.root)}/")
                if here != place and not _exists(place):
                    raise UserError(f"no such file or folder: {here}, nor {place}")
                found = self._read(place, split)
                if split == "train":
                    if self.paths["val"] is None:
                        found, self._examples["val"] = self._split(found)
                    self._uncut, found = found, self._limited(found)
                self._examples[split] = found
            elif split == "val":
                self.examples("train")
            else:
                raise UserError("there is no test part: give --data.test FILE", status=2)
        return self._examples[split]

    def _read(self, path: str, split: str) -> list:
        read = self.read(path, split)
        for reason, count in read.skipped.items():
            say(f"{path} ({split}): {count:,} skipped: {reason}")
        if not read.examples:
            raise UserError(f"there are no examples in {path}")
        if split == "test":
            self._test = read
        return read.examples

    def row_number(self, index: int) -> int:
        """The number of a test example's row in its file, from 0: rows that were skipped count, so that what
        is predicted can be put beside the file.

        Args:
            index: the example's place in `examples("test")`.
        """
        self.examples("test")
        return self._test.row_number(index)

    def _split(self, examples: list) -> tuple[list, list]:
        keep, held = split_by_hash(examples, self.val_fraction, self.group)
        if not keep or not held:
            raise UserError(
                f"none of {len(examples)} examples can be held out: they are too few, or all ask the same "
                "or are of one document; give more, or --data.val FILE"
            )
        return keep, held

    def _limited(self, examples: list) -> list:
        if self.limit is None or self.limit >= len(examples):
            return examples
        # By a hash, so that a smaller limit is a part of a larger one, whatever the file's order.
        order = sorted(range(len(examples)), key=lambda i: hashlib.blake2b(str(i).encode()).digest())
        return [examples[i] for i in sorted(order[: self.limit])]

    def setup(self, stage: str | None = None) -> None:
        """Read what a command needs: `fit` the training and held-out part, `validate` the latter, `test` and
        `predict` the test part; a second time does nothing."""
        self.predicting = stage == "predict"
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage or "fit", ("test",)):
            self.examples(split)

    def give_back_rare(self, labels_of: Callable[[Any], tuple[str, ...]]) -> None:
        """Where the held-out part was taken from `train`: learn from those of its examples that have a label
        which is nowhere else."""
        if self.paths["val"] is not None or "val" not in self._examples:
            return
        # What is held out does not depend on the limit.
        known = {name for example in self._uncut for name in labels_of(example)}
        held, rare = [], []
        for example in self._examples["val"]:
            (held if known.issuperset(labels_of(example)) else rare).append(example)
        if rare and held:
            self._uncut, self._examples["val"] = [*self._uncut, *rare], held
            self._examples["train"] = self._limited(self._uncut)
            say(f"{len(rare):,} held-out examples have labels that stand nowhere else: they are learned from")

    def compare_splits(self) -> None:
        """Say how many held-out examples were learned from, if any were."""
        for split in ("val", "test"):
            if split == "test" and self.paths["test"] is None:
                continue
            shared = overlap(self.examples("train"), self.examples(split))
            if shared:
                say(
                    f"warning: {shared:,} examples of {self.called(split)} stand in {self.paths['train']} too"
                )

    def open_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for."""
        return load_tokenizer(self.tokenizer_path)

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer that was asked for, or one trained on the examples to learn from."""
        if self.tokenizer_path:
            return self.open_tokenizer()
        texts = (text for example in self.examples("train") for text in self.texts(example))
        try:
            return train_tokenizer(texts, self.vocab_size)
        except UserError as error:
            hint = "or start from a model, which brings a tokenizer: --model.init_from PATH"
            raise UserError(f"{error}; {hint}") from error

    def use(self, tokenizer: Tokenizer, encode: Encode, make: Collate) -> None:
        """Say how examples become batches.

        Args:
            encode: an example's features, several where it is cut into windows, none where it is of no use;
                its second argument tells whether they are to learn from.
            make: a batch of features.
        """
        self.tokenizer, self._encode, self._make = tokenizer, encode, make
        self._features, self._identity = {}, None

    def features(self, split: str) -> list[Features]:
        """The encoded examples of a split, encoded at the first call; each held-out one with the `index` of
        its example. Says how many were cut."""
        if self._encode is None:
            raise UserError(
                f"{type(self).__name__} has examples to fine-tune on: give a task for them, such as "
                "--model lm.tasks.SequenceClassification",
                status=2,
            )
        if split not in self._features:
            examples = self.examples(split)
            training = split == "train"
            found, cut, several, useless = [], 0, 0, 0
            for index, example in enumerate(examples):
                encoded = self._encode(example, training)
                cut += sum([f.pop("cut", False) for f in encoded[:1]])
                several += sum([f.pop("several", False) for f in encoded[:1]])
                useless += not encoded
                found += encoded if training else [{**f, "index": index} for f in encoded]
            for count, what in (cut, "cut"), (several, "read in several windows"):
                if count:
                    long = f"{count:,} of {len(examples):,} {split} examples are longer"
                    say(f"{long} than {self.seq_len} pieces: {what}")
            if useless:
                say(f"{useless:,} of {len(examples):,} {split} examples can't be used at this --data.seq_len")
            if not found:
                raise UserError(f"no example of {self.called(split)} can be used")
            self._features[split] = self.arrange(found) if training else found
        return self._features[split]

    def arrange(self, features: list[Features]) -> list[Features]:
        """The features to learn from, put together otherwise; see `ChatData`."""
        return features

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, on each of the trainer's processes."""
        return max(len(self.features("train")) // (self.batch_size * self.trainer.world_size), 1)

    @property
    def identity(self) -> str:
        """A hash of the encoded training examples: equal for the same data."""
        if self._identity is None:
            digest = hashlib.blake2b()
            for features in self.features("train"):
                # What a model made of them is rounded otherwise on another device.
                plain = {k: v for k, v in features.items() if not k.startswith("reference")}
                lists = {k: v.tolist() for k, v in plain.items() if isinstance(v, np.ndarray)}
                digest.update(repr({**plain, **lists}).encode())
            self._identity = digest.hexdigest()
        return self._identity

    def train_dataloader(self) -> ResumableLoader:
        """The training examples from where `load_state_dict` says, else from the first epoch's start."""
        trainer = self.trainer
        step = self.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        features = self.features("train")
        return self.training_loader(TrainingExamples(features, self.batch_size, self.seed, self._make, step))

    def _held_out(self, split: str) -> DataLoader:
        dataset = HeldOutExamples(self.features(split), self.eval_batch_size, self._make)
        return self.held_out_loader(dataset)

    def val_dataloader(self) -> DataLoader:
        """The held-out examples, each once."""
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader:
        """The test examples, each once."""
        return self._held_out("test")

    def predict_dataloader(self) -> DataLoader:
        """The test examples, labelled or not."""
        return self._held_out("test")

    def state_dict(self) -> dict[str, Any]:
        """Where the training loader is, and in which data."""
        return {"loader": self.loader_state(), "data": self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The training loader goes on from there.

        Raises:
            UserError: the examples are not those that the run began with.
        """
        if self.trainer.state.fn == "fit":
            if state["data"] != self.identity:
                raise UserError(
                    f"{self.paths['train']} has changed since the run began: choose another --name"
                )
            self._state = dict(state["loader"])
