"""A sweep: which options are tried, within what, and how long, as a YAML file says it."""

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lm.errors import UserError
from lm.options import no_such_option
from lm.run.configs import find
from lm.tuning.space import Range

_KINDS = ("tokens", "examples", "steps", "seconds")


@dataclass
class Budget:
    """How much each trial may learn from, the same for all; one of these, or what the configuration says.

    Args:
        tokens: of a corpus: the steps go by batch size and sequence length.
        examples: rows or windows: the steps go by the batch size.
        steps: of the optimizer.
        seconds: of training. The speed of each trial is measured first, and its steps go by it.
    """

    tokens: int | None = None
    examples: int | None = None
    steps: int | None = None
    seconds: float | None = None

    @property
    def given(self) -> tuple[str, float] | None:
        """Which one, and how much."""
        return next(((kind, getattr(self, kind)) for kind in _KINDS if getattr(self, kind) is not None), None)

    def __str__(self) -> str:
        return (
            f"{self.given[1]:,} {self.given[0]} each" if self.given else "as long as the configuration says"
        )


@dataclass
class Sweep:
    """A search for the options with which `lm fit` learns best.

    Args:
        name: of the study's folder under checkpoints/.
        config: what `lm fit` is given: a configuration's name or file, or several that are composed.
        space: the options that are tried, by their dotted names.
        options: further options, the same in every trial.
        trials: how many configurations are tried, the given one among them.
        budget: how much each may learn from.
        validations: how often a trial is measured, evenly over its budget: where a bad one can be ended.
        metric: the validation figure to go by; by default the task's own. Where that depends on the data (of
            ratings, several labels) it has to be given.
        direction: whether less or more of it is better; known for the figures that lm reports.
        sampler: how the next trial is chosen: tpe learns from those before, random doesn't, grid tries all.
        pruner: what ends bad trials early: median those worse than half of the others at the same time,
            from their middle on; hyperband most of them soon and the best ones late.
        seed: of the choice. The seed of the training is the configuration's, the same in every trial.
        workers: trials at once in this process; `lm sweep` again, elsewhere, is one more.
    """

    name: str
    config: str | list[str]
    space: dict[str, Range]
    options: dict[str, Any] = field(default_factory=dict)
    trials: int = 16
    budget: Budget = field(default_factory=Budget)
    validations: int = 4
    metric: str | None = None
    direction: Literal["min", "max"] | None = None
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise UserError(f"name: {self.name!r} is to be a folder's: letters, digits, . _ and -", status=2)
        if not self.space:
            raise UserError("space: there is nothing to choose from: give an option and its range", status=2)
        for name in ("trials", "validations", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} has to be at least 1", status=2)
        given = [kind for kind in _KINDS if getattr(self.budget, kind) is not None]
        if len(given) > 1:
            raise UserError(f"budget: give one of {' and '.join(given)}, not both", status=2)
        if given and not 0 < getattr(self.budget, given[0]) < math.inf:
            raise UserError(f"budget: {given[0]} has to be above 0", status=2)
        if self.metric is not None:
            self.metric = self.metric.removeprefix("val/")
        for name, values in self.space.items():
            values.check(name)
            if name in self.options:
                raise UserError(f"space: {name} stands in `options` too: take it out of one", status=2)
            if self.sampler == "grid" and values.count is None:
                raise UserError(f"space: {name}: a grid needs `choices` or a `step`", status=2)
        both = {"trainer.max_steps", "trainer.max_epochs"} & {*self.space, *self.options}
        if given and both:
            raise UserError(f"budget: {min(both)} says how long a trial is, too: take one of them", status=2)

    @property
    def configs(self) -> list[str]:
        """What `lm fit` is given, each."""
        return [self.config] if isinstance(self.config, str) else self.config

    @property
    def combinations(self) -> float:
        """How many different trials there are."""
        counts = [each.count for each in self.space.values()]
        return math.inf if None in counts else math.prod(count for count in counts if count)


def read(word: str, options: list[str] | None = None) -> tuple[Sweep, Path]:
    """A sweep from its file.

    Args:
        word: a YAML file, or the name of one that ships or lies in `configs/`.
        options: fields that go over those of the file: `--trials 32`.

    Returns:
        the sweep, and the file that was meant.

    Raises:
        UserError: there is no such file or field, or a value can't be.
    """
    from jsonargparse import ArgumentParser

    path = find(word)
    parser = ArgumentParser(prog="lm sweep", exit_on_error=False)
    parser.add_argument("--config-file", action="config")
    parser.add_class_arguments(Sweep)
    try:
        made = parser.instantiate_classes(parser.parse_args([f"--config-file={path}", *(options or [])]))
        return Sweep(**{name: made[name] for name in Sweep.__dataclass_fields__}), path
    except UserError as error:
        raise UserError(f"{path}: {error}", error.status) from error
    except Exception as error:
        raise UserError(f"{path}: {_in_a_line(error)}", status=2) from error


def _in_a_line(error: Exception) -> str:
    """What jsonargparse and YAML say, without what is theirs alone, and with what was probably meant."""
    text = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
    text = text.replace("Problems parsing config: ", "").replace("Parser key ", "")
    if found := re.search(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)", text):
        known = sorted({each.name for part in (Sweep, Budget, Range) for each in fields(part)})
        return str(no_such_option(found[1] or found[2], known, "docs/sweeps.md has all", typed=False))
    if found := re.search(r'"(\w+)" is required|required[^:]*: (?:--)?(\w+)', text):
        return f"{found[1] or found[2]}: it is missing"
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>|lm\.tuning\.\w+\.(\w+)", lambda m: m[1] or m[2], text)
    return text[:300]
