"""Loaders over windows: this rank's share of each global batch, resumable to the sample."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from lm.data.windows import TrainingWindows, ValidationWindows


class Places(DistributedSampler, SequentialSampler):
    """What a dataset is asked for, one item a batch.

    The bases say only that this is sharded by rank and in order: any other sampler Lightning replaces by its own,
    the first in distributed runs and the second under `overfit_batches`.

    Args:
        places: the items, iterable as often as needed.
    """

    def __init__(self, places: Iterable) -> None:
        self._places = places

    def __iter__(self) -> Iterator:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the loader's own state has the epoch, because Lightning's may come too late."""


class BatchLoader(DataLoader):
    """A DataLoader for datasets that give whole batches; it leaves torch's default random state alone.

    Args:
        dataset: gives a batch for each item of `sampler`.
        sampler: this rank's items, in order.
        num_workers: processes that read ahead; 0 reads in this one.
        pin_memory: whether batches lie in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self, dataset: Dataset, sampler: Iterable, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )


def _as_it_is(batch: Any) -> Any:
    return batch


class ResumableLoader(BatchLoader):
    """Training batches without end to their order: its whole state is {epoch, samples consumed}.

    Global batch g of an epoch is the samples from g·B·W on, for B samples on each of W ranks; this rank takes the
    r-th B of them. The state counts samples over all ranks, so it can be loaded on another number of them.

    `iter` goes on where the state is; at an epoch's end, with the next epoch. `len` is always that of a whole epoch,
    also after a resume: Lightning adds the batches that are already done itself.

    Args:
        dataset: the windows.
        rank, world_size: which share of each global batch.
        accumulate: an epoch's batches are a multiple of it, so that no optimizer step crosses epochs.
        finished: how many batches the trainer has finished so far, over all epochs. A batch that was handed out but
            not trained on, because the step failed, then counts as not consumed. None: each one handed out counts.
        repeat: every `iter` begins epoch 0 again: for `overfit_batches`.
        num_workers, pin_memory: as in `BatchLoader`.
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
        super().__init__(dataset, Places(_Remaining(self)), num_workers, pin_memory)
        self._rank = rank
        self._global_batch = dataset.batch_size * world_size
        self._batches = max(dataset.windows // self._global_batch // accumulate, 1) * accumulate
        self._finished = finished or (lambda: self._handed_out)
        self._repeat = repeat
        self._handed_out = 0
        self._begin(epoch=0, samples=0)

    def _begin(self, epoch: int, samples: int) -> None:
        """Counts from here on."""
        self._epoch, self._samples = epoch, samples
        self._finished_before = self._finished()

    def state_dict(self) -> dict[str, int]:
        """The epoch, and its samples that are consumed, over all ranks."""
        batches = self._finished() - self._finished_before
        return {"epoch": self._epoch, "samples": self._samples + batches * self._global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next `iter` goes on after these samples."""
        self._begin(state["epoch"], state["samples"])

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A generator, so that nothing happens before the first batch is asked for: Lightning may call `iter` twice.
        state = self.state_dict()
        if state["samples"] + self._global_batch > self._batches * self._global_batch:
            state = {"epoch": state["epoch"] + 1, "samples": 0}
        self._begin(**({"epoch": 0, "samples": 0} if self._repeat else state))
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def places(self) -> Iterator[tuple[int, int]]:
        """What is left of the epoch, as this rank's (epoch, first sample) of each batch."""
        for first in range(self._samples, (self._batches - 1) * self._global_batch + 1, self._global_batch):
            yield self._epoch, first + self._rank * self.dataset.batch_size


class _Remaining:
    """`places` of a loader that is not made yet when its sampler is."""

    def __init__(self, loader: ResumableLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._loader.places()

    def __len__(self) -> int:
        return len(self._loader)


def validation_loader(
    dataset: ValidationWindows, rank: int, world_size: int, num_workers: int = 0, pin_memory: bool = False
) -> BatchLoader:
    """This rank's batches of the held-out part: every world_size-th, as many on each rank."""
    batches = -(-dataset.windows // (dataset.batch_size * world_size))
    places = range(rank, batches * world_size, world_size)
    return BatchLoader(dataset, Places(places), num_workers, pin_memory)
