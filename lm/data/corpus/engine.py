"""What does the work of a stage: datatrove's executors, on this machine, on Slurm, or on Ray.

A stage is cut into tasks, which depend on the input alone, so that the result is the same whoever does them.
A task that is done is not done again: the same command goes on where it stopped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lm.errors import UserError, not_installed
from lm.processes import cores, end_with_parent

Task = Callable[[Any, int, int], Any]  # (nothing, number of the task, number of tasks)


def _executors() -> Any:
    try:
        import datatrove.executor as executors
    except ImportError as error:
        raise not_installed("preparing a corpus by a recipe", "datatrove", "corpus") from error
    return executors


class Engine(ABC):
    """Runs the tasks of a stage, each once."""

    @abstractmethod
    def run(self, task: Task, tasks: int, folder: Path, done: Callable[[int], object]) -> None:
        """Do all that is not done yet.

        Args:
            task: can be pickled.
            folder: for the executor's own notes, of which tasks are done among them.
            done: is told the number of each task that was done, where this process learns of it.

        Raises:
            UserError: a task failed.
        """


@dataclass
class Local(Engine):
    """Processes on this machine.

    Args:
        workers: how many; None: as many as there are cores.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"`workers` {self.workers}: it must be at least 1", status=2)

    def run(self, task: Task, tasks: int, folder: Path, done: Callable[[int], object]) -> None:
        executor = _executors().LocalPipelineExecutor([task], tasks=tasks, logging_dir=str(folder))
        left = executor.get_incomplete_ranks()
        workers = min(self.workers or cores(), len(left))
        if workers <= 1:
            for rank in left:
                _run(executor, rank)
                done(rank)
            return
        # Its own pool of processes waits for ever for one that was killed.
        with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) as pool:
            futures = {pool.submit(_run, executor, rank): rank for rank in left}
            try:
                for future in as_completed(futures):
                    future.result()
                    done(futures[future])
            except BrokenProcessPool as error:
                what = "a process of the preparation was killed, perhaps for want of memory"
                raise UserError(
                    f"{what}: the same command goes on where it stopped; fewer `workers` need less"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _run(executor: Any, rank: int) -> None:
    with redirect_stderr(StringIO()):  # what went wrong is in the task's file, and raised
        executor._run_for_rank(rank)


@dataclass
class Ray(Engine):
    """A Ray cluster: the one whose address is in RAY_ADDRESS, or this machine.

    Args:
        workers: tasks at once; -1 for all.
        cpus_per_task: cores that a task reserves.
    """

    workers: int = -1
    cpus_per_task: int = 1

    def run(self, task: Task, tasks: int, folder: Path, done: Callable[[int], object]) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("the engine Ray needs ray: pip install ray") from error
        executor = _executors().RayPipelineExecutor(
            [task],
            tasks=tasks,
            workers=self.workers,
            cpus_per_task=self.cpus_per_task,
            logging_dir=str(folder),
        )
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        with redirect_stderr(StringIO()):
            executor.run()
        _all_done(executor, folder, done)


@dataclass
class Slurm(Engine):
    """A Slurm cluster, whose nodes see the same files: each stage is an array of jobs, and this process waits
    for it.

    Args:
        partition: to submit to.
        time: limit of a task, as in 10:00:00.
        workers: tasks at once; -1 for all.
        cpus_per_task: cores of a task.
        mem_per_cpu_gb: memory of each.
        options: more of sbatch's, by name.
    """

    partition: str
    time: str = "10:00:00"
    workers: int = -1
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 2
    options: dict[str, str] = field(default_factory=dict)

    def run(self, task: Task, tasks: int, folder: Path, done: Callable[[int], object]) -> None:
        executor = _executors().SlurmPipelineExecutor(
            [task],
            tasks=tasks,
            time=self.time,
            partition=self.partition,
            workers=self.workers,
            cpus_per_task=self.cpus_per_task,
            mem_per_cpu_gb=self.mem_per_cpu_gb,
            sbatch_args={"wait": "", **self.options},
            job_name="lm-prepare",
            logging_dir=str(folder),
        )
        executor.run()
        _all_done(executor, folder, done)


def _all_done(executor: Any, folder: Path, done: Callable[[int], object]) -> None:
    left = len(executor.get_incomplete_ranks(skip_completed=True))
    if left:
        raise UserError(f"{left} of {executor.world_size} tasks are not done: {folder}/logs tells why")
    for rank in range(executor.world_size):
        done(rank)
