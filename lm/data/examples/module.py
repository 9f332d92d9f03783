"""The datamodules of fine-tuning: files of examples, read, split, encoded by the task, put into batches."""

import glob
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lm.data.corpus.files import plain_name
from lm.data.corpus.sources import STDLIB, resolve
from lm.data.examples.batches import Collate, Encoded, Features, HeldOutExamples, TrainingExamples, length_of
from lm.data.examples.files import Known, Read, Skipped, source_files
from lm.data.examples.records import Example
from lm.data.examples.rows import Rows, RowWriter, code_of, kept, key_of
from lm.data.examples.splitting import chosen_by_number, content_hashes, held_out, overlap
from lm.data.loading import Data, ResumableLoader, at_least
from lm.engine.replicas import data_shard
from lm.errors import UserError
from lm.processes import say

# What decides neither how a file is read nor how an example is encoded.
_BESIDE = {"paths", "root", "data_dir", "batch_size", "eval_batch_size", "num_workers", "limit"}
_BESIDE |= {"val_fraction", "seed", "trainer", "processor", "augment"}
_SHAPE = ("max_seq_len", "causal", "segments")  # what of a backbone's shape a sequence depends on


def _exists(path: str) -> bool:
    """Whether a file, a folder, an archive before a `!`, or something under a glob lies there."""
    for place in (Path(name).expanduser() for name in (path, path.partition("!")[0])):
        if place.exists() or any(glob.iglob(str(place), recursive=True)):  # noqa: PTH207 - Path's knows no **
            return True
    return False


def _taken(examples: Sequence, numbers: np.ndarray) -> Sequence:
    """Some of the examples, in this order."""
    return examples.taken(numbers) if isinstance(examples, Rows) else [examples[i] for i in numbers.tolist()]


def _example(record: type[Example], facts: dict[str, Any], values: list) -> Example:
    return record.of(values).known(**facts)


class ExampleData(Data):
    """Examples from files. A subclass reads one kind of file.

    What was read, and what the task made of it, lies below `data_dir` and is read from there row by row: by
    every process, and again by the next command. It may be deleted at any time.

    Args:
        train: the file to learn from: a file, folder or glob, or `ARCHIVE!MEMBER`.
        val: the file that decides which weights are best; a part of `train` where it is null.
        test: the file for the figures of the end.
        root: folder that these names are looked for in where they don't lie in the one you work in.
        batch_size: examples in a batch, on each device.
        eval_batch_size: the same while evaluating.
        val_fraction: the part of `train` that is held out where there is no `val`.
        limit: learn from this many examples only, the same ones each time; null for all. What it is measured
            by stays whole.
        seed: decides the order of the examples.
        num_workers: processes that read ahead.
        data_dir: where what was read lies, in `examples`.

    Attributes:
        record: what one example is.
        predicting: whether `lm predict` is what the test part is for: then it needs no labels.
    """

    record: type[Example]
    draws = False  # whether batches to learn from have something random in them
    for_encoding: frozenset[str] = frozenset()  # fields that decide nothing before examples are encoded
    too_long = "longer than allowed"  # what is said of examples that are cut
    too_short = ""  # and why others can't be used at all

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str = "data",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        limit: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        data_dir: str = "data",
    ) -> None:
        super().__init__()
        at_least(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1))
        at_least(num_workers=(num_workers, 0), limit=(limit, 1))
        if not 0 < val_fraction < 1:
            raise UserError(f"`val_fraction` {val_fraction}: it must lie between 0 and 1", status=2)
        self.paths = {"train": train, "val": val, "test": test}
        self.root, self.data_dir, self.batch_size = root, data_dir, batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.val_fraction, self.limit, self.seed, self.num_workers = val_fraction, limit, seed, num_workers
        self.predicting = False
        self._examples: dict[str, Sequence] = {}
        self._whole: Sequence = []  # what `train` holds
        self._learned = np.array([], dtype=np.int64)  # which of them are not held out, whatever the limit
        self._features: dict[str, Encoded] = {}
        self._task: Any = None

    @abstractmethod
    def read(self, path: str, split: str) -> Iterable[Example | Skipped | Known]:
        """The examples of a file, one after another, and in its place each row that can't be used."""

    def group(self, example: Any) -> str | None:
        """Examples of one group never fall into two splits; None where each stands for itself."""
        return None

    def files(self, path: str) -> list[Path]:
        """The files on disk that `read` opens for a path."""
        return list(resolve(STDLIB)[0].files) if path == STDLIB else source_files(path)

    @property
    def source(self) -> str:
        return str(self.paths["train"])

    def located(self, path: str) -> str:
        """A path as it was given, where something lies there, else below `root`."""
        as_given = Path(path).expanduser()
        elsewhere = as_given.is_absolute() or as_given.parts[:1] == ("..",)
        return path if path == STDLIB or elsewhere or _exists(path) else str(Path(self.root) / path)

    def called(self, split: str) -> str:
        """A split's name in messages."""
        return self.paths[split] or "the held-out part"

    def has(self, split: str) -> bool:
        return split != "test" or self.paths["test"] is not None

    # From files to examples.

    def examples(self, split: str) -> Sequence:
        """The examples of `train`, `val` or `test`, read at the first call; an error where there are none."""
        if split not in self._examples:
            path = self.paths[split]
            if path is not None:
                self.put(split, self._read(path, split))
            elif split == "val":
                self.examples("train")
            else:
                raise UserError("there is no test part: give `data.test` FILE", status=2)
        return self._examples[split]

    def unchanged(self, split: str) -> Sequence:
        """The examples of a part as they were read."""
        return self.examples(split)

    def put(self, split: str, examples: Sequence[Example]) -> None:
        """Take these examples, such as a program has made, instead of a file's."""
        if split != "train":
            self._examples[split] = examples
            return
        held = np.zeros(len(examples), dtype=bool)
        if self.paths["val"] is None:
            held = self.hold_out(self._hashes(examples)[:, 1])
            if held.all() or not held.any():
                raise UserError(
                    f"none of {len(examples)} examples can be held out: they are too few, or all have one "
                    "question or document; give more, a larger `data.val_fraction`, or `data.val` FILE"
                )
            self._examples["val"] = _taken(examples, np.flatnonzero(held))
        self._whole, self._learned = examples, np.flatnonzero(~held)
        self._limit()

    def hold_out(self, hashes: np.ndarray) -> np.ndarray:
        """Which examples of `train` are held out, bool (n,), by the hashes of their groups."""
        return held_out(hashes, self.val_fraction)

    def _limit(self) -> None:
        numbers = self._learned
        if self.limit is not None and self.limit < len(numbers):
            numbers = numbers[chosen_by_number(len(numbers), self.limit)]
        self._examples["train"] = _taken(self._whole, numbers)

    def _read(self, path: str, split: str) -> Rows:
        place = self.located(path)
        here = place.removeprefix(f"{Path(self.root)}/")
        if here != place and not _exists(place):
            yours = f"; a file of your own goes by `data.{split}` FILE"
            raise UserError(f"no such file or folder: {here}, nor {place}{yours}")
        states = ((str(file.resolve()), file.stat()) for file in self.files(place))
        files = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
        folder = self._folder(place, split, files, self._options(self.for_encoding), code_of(type(self)))

        def fill(rows: RowWriter) -> dict[str, Any]:
            read = Read(self.read(place, split), place)
            for number, example in read:
                rows.add(example.values(), row=number)
            return {"skipped": read.skipped, "mended": read.mended, "known": read.known}

        facts = Rows(kept(folder, fill)).facts
        for kind in ("skipped", "mended"):
            for reason, count in facts[kind].items():
                say(f"{place} ({split}): {count:,} {kind}: {reason}")
        return Rows(folder, partial(_example, self.record, facts["known"]))

    def _options(self, without: Iterable[str] = ()) -> dict[str, Any]:
        """What a subclass was told, and may heed when it reads."""
        beside = _BESIDE.union(without)
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in beside}

    def _folder(self, path: str, split: str, *key: Any) -> Path:
        name = plain_name(Path(path)) or "examples"
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return Path(self.data_dir) / "examples" / f"{name}-{split}-{key_of(kind, path, split, *key)}"

    def _hashes(self, examples: Sequence) -> np.ndarray:
        compute = partial(content_hashes, group=self.group)
        return examples.column("hashes", compute) if isinstance(examples, Rows) else compute(examples)

    def row_number(self, index: int) -> int:
        # Rows that were skipped count, so that what is predicted can be put beside the file.
        examples = self.examples("test")
        return int(examples.column("row")[index]) if isinstance(examples, Rows) else index

    def setup(self, stage: str | None = None) -> None:
        """Read what a command needs: `fit` the training and held-out part, `validate` the latter, `test` and
        `predict` the test part; a second time does nothing."""
        self.predicting = stage == "predict"
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage or "fit", ("test",)):
            self.examples(split)

    def give_back_rare(self, labels_of: Callable[[Any], tuple[str, ...]]) -> None:
        """Where the held-out part was taken from `train`: learn from those of its examples that have a label
        which is nowhere else, and from the others of their groups."""
        if self.paths["val"] is not None or "val" not in self._examples:
            return
        # What is held out does not depend on the limit.
        known = {name for e in _taken(self._whole, self._learned) for name in labels_of(e)}
        numbers = np.setdiff1d(np.arange(len(self._whole)), self._learned)
        rare = np.array([not known.issuperset(labels_of(e)) for e in self._examples["val"]], dtype=bool)
        groups = self._hashes(self._whole)[numbers, 1]
        rare = np.isin(groups, groups[rare])
        if rare.any() and not rare.all():
            self._learned = np.concatenate((self._learned, numbers[rare]))
            self._examples["val"] = _taken(self._whole, numbers[~rare])
            self._limit()
            there = f"{rare.sum():,} held-out examples have labels that stand nowhere else"
            within = ", or are of a group with such" if len(np.unique(groups[rare])) < rare.sum() else ""
            say(f"{there}{within}: they are learned from")

    def compare_splits(self) -> None:
        """Say how many held-out examples, and how many of their groups, were learned from, if any were."""
        train = self._hashes(self.examples("train"))
        for split in filter(self.has, ("val", "test")):
            examples = self.unchanged(split)
            hashes = self._hashes(examples)
            if shared := overlap(train[:, 0], hashes[:, 0]):
                say(f"warning: {shared:,} examples of {self.called(split)} stand in {self.source} too")
            both = np.isin(hashes[:, 1], train[:, 1]) & (hashes[:, 0] != hashes[:, 1])
            if both.any():
                name = str(self.group(examples[int(both.argmax())]))[:40]
                groups = len(np.unique(hashes[both, 1]))
                say(f"warning: {groups:,} groups stand in train and {split}, such as {name}")

    # From examples to batches.

    def use(self, task: Any) -> None:
        """Say who encodes the examples and puts them into batches.

        Args:
            task: has `encode(example, training)`: an example's features, several where it is cut into
                windows, none where it is of no use; `cut` and `several` in the first of them are counted.
                `collate` turns a batch's features into tensors; it holds no network, as processes that read
                ahead are handed it. How it encodes is decided by `processor`, by what `config` says of a
                sequence, and by its other attributes, but for those in `beside`.
        """
        self.processor, self._task, self._features = task.processor, task, {}

    def features(self, split: str) -> Encoded:
        """The encoded examples of a split, encoded at the first call; each held-out one with the `index` of
        its example. Says how many were cut."""
        task = self._task
        if task is None:
            raise UserError(
                f"{type(self).__name__} has examples to fine-tune on: give a task for them, such as "
                "`model` lm.tasks.SequenceClassification",
                status=2,
            )
        if split not in self._features:
            examples = self.examples(split)
            if isinstance(examples, Rows):
                made_by = f"{type(task).__module__}.{type(task).__qualname__}"
                processor = None if task.processor is None else task.processor.fingerprint
                told = {k: v for k, v in vars(task).items() if k not in task.beside}
                shape = {name: getattr(task.config, name, None) for name in _SHAPE}
                key = (made_by, processor, shape, told, examples.fingerprint)
                code = code_of(type(self), type(task))
                folder = self._folder(self.called(split), split, "features", self._options(), code, *key)
                rows = Rows(kept(folder, lambda rows: self._encode(split, rows.add)))
                facts, found = rows.facts, Encoded(rows, rows.column("length"))
            else:
                listed: list[Features] = []
                facts = self._encode(split, lambda row, length: listed.append(row))
                found = Encoded(listed)
            for count, what in (facts["cut"], "cut"), (facts["several"], "read in several windows"):
                if count:
                    say(f"{count:,} of {len(examples):,} {split} examples are {self.too_long}: {what}")
            if facts["useless"]:
                useless = f"{facts['useless']:,} of {len(examples):,} {split} examples"
                say(f"{useless} can't be used{self.too_short}")
            self._features[split] = self.arrange(found) if split == "train" else found
        return self._features[split]

    def _encode(self, split: str, add: Callable[..., None]) -> dict[str, int]:
        """Hands over each example's features with their length; counts what was cut."""
        training = split == "train"
        facts = {"cut": 0, "several": 0, "useless": 0}
        used = False
        for index, example in enumerate(self.examples(split)):
            encoded = self._task.encode(example, training)
            for name in ("cut", "several"):
                facts[name] += sum(bool(features.pop(name, False)) for features in encoded[:1])
            facts["useless"] += not encoded
            for features in encoded:
                used = True
                add(features if training else {**features, "index": index}, length=length_of(features))
        if not used:
            raise UserError(f"no example of {self.called(split)} can be used")
        return facts

    def add_columns(self, split: str, columns: dict[str, np.ndarray]) -> None:
        """Put numbers, such as a model found once, beside the features: by name, one for each of them."""
        self.features(split).columns.update(columns)

    def arrange(self, features: Encoded) -> Encoded:
        """The features to learn from, put together otherwise; see `ChatData`."""
        return features

    @property
    def steps_per_epoch(self) -> int:
        return max(len(self.features("train")) // (self.batch_size * data_shard(self.trainer).size), 1)

    @property
    def identity(self) -> str:
        """A hash of the encoded training examples: equal for the same data."""
        return self.features("train").digest

    def _earlier(self) -> str:
        """What checkpoints had as `data`, before they had the identity as `rows`."""
        digest = hashlib.blake2b()
        for features in self.features("train"):
            plain = {k: v for k, v in features.items() if not k.startswith("reference")}
            if "spans" in plain:
                plain["spans"] = list(map(tuple, plain["spans"]))
            digest.update(repr(plain).encode())
        return digest.hexdigest()

    def train_dataloader(self) -> ResumableLoader:
        step = self.batch_size * self.trainer.accumulate_grad_batches * data_shard(self.trainer).size
        features, collate = self.features("train"), self.training_collate()
        made = TrainingExamples(features, self.batch_size, self.seed, collate, step, self.draws)
        return self.training_loader(made)

    def training_collate(self) -> Collate:
        """Makes the batches that are learned from."""
        return self._task.collate

    def _held_out(self, split: str) -> DataLoader:
        features = self.features(split)
        return self.held_out_loader(HeldOutExamples(features, self.eval_batch_size, self._task.collate))

    def val_dataloader(self) -> DataLoader:
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    predict_dataloader = test_dataloader

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.loader_state(), "rows": self.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            same = state["rows"] == self.identity if "rows" in state else state["data"] == self._earlier()
            if not same:
                raise UserError(f"{self.source} has changed since the run began: choose another `name`")
            self._state = dict(state["loader"])
