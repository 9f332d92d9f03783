"""Loaders over windows: this rank's share of each global batch, resumable to the sample."""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from lm.data.windows import TrainingWindows, ValidationWindows


class Places(DistributedSampler, SequentialSampler):
    """What a dataset is asked for, one item a batch.

    The bases say only that this is sharded by rank and in order: any other sampler Lightning replaces by one
    of its own, the first in distributed runs and the second under `overfit_batches`.

    Args:
        items: the items; a loader may replace them before an iteration.
        length: how many a whole iteration has.
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
        dataset: the windows.
        rank, world_size: which share of each global batch.
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
        dataset: TrainingWindows,
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


class ResumableData(pl.LightningDataModule):
    """A datamodule whose training loader goes on where it was.

    Attributes:
        num_workers: processes that read ahead.
    """

    num_workers: int
    steps_per_epoch: int | None = None

    def has(self, split: str) -> bool:
        """Whether there are data of this split."""
        return split != "test"

    def __init__(self) -> None:
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._state: dict[str, int] = {}

    def training_loader(self, dataset: Dataset) -> ResumableLoader:
        """The batches of `dataset` from where the state says, else from the first epoch's start."""
        trainer = self.trainer
        progress = trainer.fit_loop.epoch_loop.batch_progress
        self._loader = ResumableLoader(
            dataset,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
            finished=lambda: progress.total.processed,
            repeat=bool(trainer.overfit_batches),
            num_workers=self.num_workers,
            pin_memory=self._on_cuda(),
        )
        if self._state:
            self._loader.load_state_dict(self._state)
        return self._loader

    def held_out_loader(self, dataset: Dataset) -> DataLoader:
        """All batches of `dataset`, shared out over the processes."""
        return validation_loader(
            dataset,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            num_workers=self.num_workers,
            pin_memory=self._on_cuda(),
        )

    def loader_state(self) -> dict[str, int]:
        """Where the training loader is. Lightning restores its own copy of it only in some of the cases."""
        return self._loader.state_dict() if self._loader is not None else self._state

    def _on_cuda(self) -> bool:
        return self.trainer.strategy.root_device.type == "cuda"


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
        "persistent_workers": num_workers > 0,
        "pin_memory": pin_memory,
        "generator": torch.Generator(),  # `iter` draws from it, and must not from the one of training
    }


def _as_it_is(batch: Any) -> Any:
    return batch
