"""A study: the trials of a sweep, in one journal that several workers share, each trial one worker's."""

import itertools
import json
import math
import os
import random
import threading
import warnings
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from lm.errors import UserError
from lm.run.folder import RUNS, differences, identity
from lm.tuning.configuration import Configurations, Params
from lm.tuning.locks import JournalLock, held, take
from lm.tuning.sweep import Sweep

JOURNAL, LOCKS = "study.journal", ".locks"
BASELINE = "given"  # the mark of the trial that is the given configuration
STEPS, WHY = "steps", "why"  # what is kept with a trial: how long it is, and why it ended early
_MEANING = "sweep"
_COMPARED = ("accumulate_grad_batches", "limit_val_batches")
_TRIES = 30  # to find a configuration that was not tried before


@dataclass
class Claim:
    """A trial that is this worker's.

    Args:
        trial: as it lies in the journal.
        lock: of the trial: nobody else runs it as long as it is held.
    """

    trial: FrozenTrial
    lock: int


class Study:
    """The trials of a sweep.

    Args:
        sweep: the sweep.
        configurations: of its trials.

    Attributes:
        folder: checkpoints/<name>/, absolute; `shown` is the same as a person calls it.
        home: the folder that the command was typed in.

    Raises:
        UserError: what lies there is of another sweep, or is no journal.
    """

    def __init__(self, sweep: Sweep, configurations: Configurations) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sweep, self.configurations = sweep, configurations
        self.shown, self.home = RUNS / sweep.name, Path.cwd()
        # Absolute: while one worker parses a configuration, jsonargparse works in the configuration's folder.
        self.folder = self.shown.absolute()
        self.distributions = {name: each.distribution() for name, each in sweep.space.items()}
        self._locks = self.folder / LOCKS
        self._pruning = threading.Lock()
        if any((self.folder / name).exists() for name in ("config.yaml", "last.ckpt", "seeds.json")):
            raise UserError(f"{self.shown} is a run's folder: give the sweep another `name`")
        journal = self.folder / JOURNAL
        with self.alone():
            try:
                backend = JournalFileBackend(str(journal), JournalLock(self._locks / "journal", journal))
                self._storage = JournalStorage(backend)
                self._study = self._opened()
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise UserError(
                    f"{self.shown / JOURNAL} can't be read as a sweep's storage ({error})"
                ) from error

    def _opened(self) -> optuna.Study:
        """The study in the journal, which is made where there is none.

        Raises:
            UserError: it is another sweep's.
        """
        names = optuna.get_all_study_names(self._storage)
        if names and names != [self.sweep.name]:
            said = f"{self.shown / JOURNAL} is of the sweep {names[0]!r}, not of {self.sweep.name!r}"
            raise UserError(f"{said}: give it that `name`, or move the file away")
        study = optuna.create_study(
            study_name=self.sweep.name,
            storage=self._storage,
            direction=direction_of(self.configurations),
            load_if_exists=True,
            pruner=self._pruner(),
        )
        ours = json.loads(json.dumps(self._meaning()))
        theirs = study.user_attrs.get(_MEANING)
        if theirs is None and not study.trials:
            study.set_user_attr(_MEANING, ours)
        elif changed := differences(ours, theirs or {}):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"{self.shown / JOURNAL} is of another sweep: {', '.join(changed[:3])}{more}.\n"
                "Choose another `name`, delete the folder, or give the first sweep again."
            )
        return study

    def _meaning(self) -> dict[str, Any]:
        """What has to stay the same for a study to go on. More trials, workers, another sampler or pruner are
        no other study."""
        sweep = self.sweep
        meant: dict[str, Any] = {f"space.{name}": asdict(each) for name, each in sweep.space.items()}
        meant |= {f"budget.{kind}": amount for kind, amount in asdict(sweep.budget).items()}
        meant |= {"metric": self.configurations.metric, "direction": self.configurations.direction}
        meant |= {"validations": sweep.validations}
        # A run may change these and go on; trials that differ in them can't be compared.
        base = self.configurations.base
        meant |= {f"trainer.{name}": base["trainer"][name] for name in _COMPARED}
        meant["data.batch_size"] = (base["data"].get("init_args") or {}).get("batch_size")
        return meant | identity(base)

    def _pruner(self) -> optuna.pruners.BasePruner:
        if self.sweep.pruner == "median":
            some = max(2, min(5, self.sweep.trials // 4))
            # Not before the middle: what a high learning rate is worth shows as it decays.
            return optuna.pruners.MedianPruner(some, n_warmup_steps=self.sweep.validations // 2)
        if self.sweep.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(1, self.sweep.validations, reduction_factor=2)
        return optuna.pruners.NopPruner()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """That of a trial: its seed goes by the trial's number, so that neither a sweep that goes on nor
        another worker begins the same row of chances again."""
        seed = (self.sweep.seed * 1_000_003 + number) % (1 << 32)
        if self.sweep.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        some = max(4, min(10, self.sweep.trials // 3))
        return optuna.samplers.TPESampler(n_startup_trials=some, constant_liar=True, seed=seed)

    @property
    def limit(self) -> int:
        """How many trials there will be: those asked for, or as many as differ."""
        beside = len(self.configurations.given) < len(self.sweep.space)  # the given one is none of them
        return int(min(self.sweep.trials, self.sweep.combinations + beside))

    def alone(self) -> AbstractContextManager[None]:
        """Within, no other worker claims a trial or writes the results."""
        return held(self._locks / "study")

    def trials(self) -> list[FrozenTrial]:
        """All, by number."""
        return self._study.get_trials(deepcopy=False)

    def best(self) -> FrozenTrial | None:
        """The best of those that came to their end."""
        whole = [each for each in self.trials() if each.state == TrialState.COMPLETE]
        way = min if self.configurations.direction == "min" else max
        return way(whole, key=lambda trial: trial.value, default=None)  # type: ignore[type-var, arg-type, return-value]

    def claim(self) -> Claim | None:
        """A trial to run: one that a worker began that is no more, or else a new one; None where there is
        none left, or others run the last ones."""
        with self.alone():
            known = self.trials()
            for trial in known:
                if trial.state != TrialState.RUNNING:
                    continue
                lock = take(self._lock_of(trial.number), wait=False)
                if lock is None:
                    continue
                now = self._storage.get_trial(trial._trial_id)
                if now.state == TrialState.RUNNING:
                    return Claim(now, lock)
                os.close(lock)
            if len(known) >= self.limit:
                return None
            lock = take(self._lock_of(len(known)))
            assert lock is not None
            # Whole, in one line of the journal: a kill leaves no trial with half of its options.
            self._study.add_trial(self._next(known))
            return Claim(self.trials()[len(known)], lock)

    def _lock_of(self, number: int) -> Path:
        return self._locks / name_of(number)

    def _next(self, known: list[FrozenTrial]) -> FrozenTrial:
        """The trial that comes next: the given configuration first."""
        params = self._params(known) if known else self.configurations.given
        return create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions={name: self.distributions[name] for name in params},
            user_attrs={} if known else {BASELINE: True},
        )

    def _params(self, known: list[FrozenTrial]) -> Params:
        """Options that were not tried before: what the sampler says, or the first of a grid of all in an
        order by chance; where the sampler finds nothing new, few are left, and the grid has them."""
        tried = [each.params for each in known]
        for attempt in range(_TRIES if self.sweep.sampler != "grid" else 0):
            asked = self._ask(known, len(known) + attempt * 1_000)
            if asked not in tried or math.isinf(self.sweep.combinations):
                return asked
        space = self.sweep.space
        grid = [*itertools.product(*(each.values() for each in space.values()))]
        random.Random(self.sweep.seed).shuffle(grid)
        return next(each for row in grid if (each := dict(zip(space, row, strict=True))) not in tried)

    def _ask(self, known: list[FrozenTrial], seed: int) -> Params:
        """What the sampler would try after these, asked in memory, where asking again leaves no trace."""
        memory = optuna.create_study(
            study_name=self.sweep.name,
            direction=self._study.direction,
            sampler=self._sampler(seed),
            pruner=self._pruner(),
        )
        memory.add_trials(known)
        asked = memory.ask(self.distributions).params
        return {name: self.sweep.space[name].exact(value) for name, value in asked.items()}

    def note(self, trial: FrozenTrial, name: str, value: Any) -> None:
        """Keep a figure with a trial."""
        self._storage.set_trial_user_attr(trial._trial_id, name, value)

    def noted(self, trial: FrozenTrial, name: str) -> Any:
        """A figure that was kept; None where there is none."""
        return self._storage.get_trial(trial._trial_id).user_attrs.get(name)

    def report(self, trial: FrozenTrial, values: list[float]) -> bool:
        """Keep what the validations of a trial gave so far.

        Returns:
            whether it is to end early by the last of them. The given configuration never is: it is what the
            others are compared with.
        """
        kept = self._storage.get_trial(trial._trial_id).intermediate_values
        for number, value in enumerate(values, start=1):
            if number not in kept:
                self._storage.set_trial_intermediate_value(trial._trial_id, number, value)
        with self._pruning:  # Hyperband makes its brackets when it is first asked
            bad = self._study.pruner.prune(self._study, self._storage.get_trial(trial._trial_id))
        return bad and BASELINE not in trial.user_attrs

    def tell(self, trial: FrozenTrial, state: TrialState, value: float | None = None) -> None:
        """Write down how a trial ended."""
        self._study.tell(trial.number, value, state)


def direction_of(configurations: Configurations) -> optuna.study.StudyDirection:
    """Which way is better, in Optuna's terms."""
    ways = optuna.study.StudyDirection
    return ways.MINIMIZE if configurations.direction == "min" else ways.MAXIMIZE


def name_of(number: int) -> str:
    """Of a trial's folder."""
    return f"trial-{number:04d}"
