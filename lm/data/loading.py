"""Loaders over windows: this rank's share of each global batch, resumable to the sample."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from lm.data.corpus.shards import Corpus
from lm.data.windows import Samples, ValidationWindows
from lm.engine.lightning import finished_batches
from lm.engine.replicas import data_shard
from lm.errors import UserError
from lm.processes import end_with_parent
from lm.processors import Processor

_SMALL = 1 << 20  # bytes of a tensor
_AHEAD = 4  # batches that a process has ready, so that one that takes long is not waited for


class Places(DistributedSampler, SequentialSampler):
    """What a dataset is asked for, one item a batch: `items`, which a loader may replace before an iteration.

    The bases say only that this is sharded by rank and in order: any other sampler Lightning replaces by one
    of its own, the first in distributed runs and the second under `overfit_batches`.
    """

    def __init__(self, items: Iterable, length: int) -> None:
        self.items = items
        self._length = length

    def __iter__(self) -> Iterator:
        return iter(self.items)

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the loader has its own epoch, because on a resume Lightning's comes too late."""


class ResumableLoader(DataLoader):
    """Training batches whose whole state is {epoch, samples consumed}.

    Global batch g of an epoch is the samples from g·B·W on, for B samples on each of W ranks; rank r takes
    the r-th B of them. The state counts the samples of all ranks, so it can be loaded on another number of
    ranks.

    `iter` goes on where the state is; at an epoch's end, with the next epoch. `len` is always that of a whole
    epoch, also after a resume: Lightning itself takes off the batches that are done.

    Args:
        rank, world_size: which share of each global batch; see `lm.engine.replicas`.
        accumulate: an epoch's batches are a multiple of it, so that no optimizer step crosses epochs.
        finished: how many batches the trainer has finished so far, over all epochs. A batch that was handed
            out but not trained on, because the step failed, then counts as not consumed. None: each one
            handed out counts.
        repeat: every `iter` begins with epoch 0 again, for `overfit_batches`.
        num_workers: processes that read ahead; 0 reads in this one. The batches are the same.
        pin_memory: whether batches lie in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: Samples,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        finished: Callable[[], int] | None = None,
        repeat: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._global_batch = dataset.batch_size * world_size
        self._batches = max(dataset.windows // self._global_batch // accumulate, 1) * accumulate
        super().__init__(dataset, sampler=Places((), self._batches), **_options(num_workers, pin_memory))
        self._first = rank * dataset.batch_size
        self._trained = finished
        self._handed_out = 0
        self._repeat = repeat
        self.load_state_dict({"epoch": 0, "samples": 0})

    def _finished(self) -> int:
        return self._handed_out if self._trained is None else self._trained()

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its samples are consumed, over all ranks."""
        batches = self._finished() - self._finished_before
        return {"epoch": self._epoch, "samples": self._samples + batches * self._global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next `iter` goes on after these samples."""
        self._epoch, self._samples = state["epoch"], state["samples"]
        self._finished_before = self._finished()

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A generator: nothing happens before the first batch is asked for; Lightning may call `iter` twice.
        last = (self._batches - 1) * self._global_batch
        state = self.state_dict()
        if state["samples"] > last:
            state = {"epoch": state["epoch"] + 1, "samples": 0}
        self.load_state_dict({"epoch": 0, "samples": 0} if self._repeat else state)
        rest = range(self._samples + self._first, last + self._first + 1, self._global_batch)
        self.sampler.items = zip(repeat(self._epoch), rest, strict=False)
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch


class Data(LightningDataModule, ABC):
    """What a model learns from: a datamodule whose training loader goes on where it was.

    Attributes:
        batch_size: samples in a batch, on each replica.
        num_workers: processes that read ahead.
        processor: what turns the data into the network's input; None until it is known.
        corpus: whose windows are learned from; None of examples, and until it is open.
        mixed: the names of the corpora, where there are several.
    """

    batch_size: int
    num_workers: int
    processor: Processor | None = None
    corpus: Corpus | None = None
    mixed: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._state: dict[str, int] = {}
        self._arrange: Callable[[Samples], Dataset] | None = None

    @abstractmethod
    def shape(self) -> dict[str, int]:
        """What the data ask of the backbone, by its field: of text `vocab_size` and `max_seq_len`. Known as
        soon as the data are made, before anything is read."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the data come from, to be named in messages."""

    def has(self, split: str) -> bool:
        """Whether there is a part of its own for `train`, `val` or `test`."""
        return split != "test"

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches in an epoch, on each replica; None where training goes by steps, not by epochs."""
        return None

    def row_number(self, index: int) -> int:
        """The number of a test sample's row in its file, from 0, by its place among the samples."""
        return index

    def arranged_by(self, arrange: Callable[[Samples], Dataset] | None) -> None:
        """Learn from batches of what `arrange` makes of the training dataset, which has its `windows` and
        `batch_size`: for a callback, in its `setup`."""
        self._arrange = arrange

    def training_loader(self, dataset: Samples) -> ResumableLoader:
        """The batches of `dataset` from where the state says, else from the first epoch's start."""
        trainer = self.trainer
        if self._arrange is not None:
            dataset = self._arrange(dataset)
        self._loader = ResumableLoader(
            dataset,
            accumulate=trainer.accumulate_grad_batches,
            finished=finished_batches(trainer),
            repeat=bool(trainer.overfit_batches),
            **self._shared(),
        )
        if self._state:
            self._loader.load_state_dict(self._state)
        return self._loader

    def held_out_loader(self, dataset: Dataset) -> DataLoader:
        """All batches of `dataset`, shared out over the replicas."""
        return validation_loader(dataset, **self._shared())

    def loader_state(self) -> dict[str, int]:
        """Where the training loader is; Lightning restores its own copy of it only in some of the cases."""
        return self._loader.state_dict() if self._loader is not None else self._state

    def _shared(self) -> dict[str, Any]:
        """What both loaders are told."""
        shard, on_cuda = data_shard(self.trainer), self.trainer.strategy.root_device.type == "cuda"
        workers = {"num_workers": self.num_workers, "pin_memory": on_cuda}
        return {"rank": shard.rank, "world_size": shard.size, **workers}


def at_least(**settings: tuple[int | None, int]) -> None:
    """Checks settings, each given with the least that it may be; one that is None is left to its default.

    Raises:
        UserError: one is too small; names it.
    """
    for name, (value, least) in settings.items():
        if value is not None and value < least:
            raise UserError(f"`{name}` {value} is too small: give at least {least}", status=2)


def validation_loader(
    dataset: ValidationWindows, *, rank: int, world_size: int, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """This rank's batches of the held-out part: every world_size-th, equally many on each rank."""
    rounds = -(-dataset.windows // (dataset.batch_size * world_size))
    places = range(rank, rounds * world_size, world_size)
    return DataLoader(dataset, sampler=Places(places, rounds), **_options(num_workers, pin_memory))


def _options(num_workers: int, pin_memory: bool) -> dict[str, Any]:
    return {
        "batch_size": None,  # the datasets make whole batches at once
        "collate_fn": _as_it_is,
        "num_workers": num_workers,
        "worker_init_fn": _reads_ahead if num_workers else None,
        "prefetch_factor": _AHEAD if num_workers else None,
        "persistent_workers": num_workers > 0,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),  # `iter` draws from it, and must not from the one of training
    }


def _reads_ahead(worker: int) -> None:
    """Prepare a process that reads ahead.

    It is kept out of its parent's group: Ctrl-C, and what else is sent to the group, is for the run alone,
    which ends its step and saves. It still ends with its parent, also where this one was killed: at once, and
    not when it has handed over what nobody takes any more.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    ForkingPickler.register(Tensor, _handed_over)
    end_with_parent()


def _handed_over(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """How a tensor goes to the parent: a small one as a copy. For memory that both share, that one asks its
    reader for a descriptor, and waits until it has time."""
    if tensor.nbytes > _SMALL or tensor.dtype == torch.bfloat16:  # which NumPy does not have
        return reduce_tensor(tensor)
    return _taken, (tensor.numpy(),)


def _taken(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


def _as_it_is(batch: Any) -> Any:
    return batch
