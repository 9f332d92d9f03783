"""What an option may be in a sweep: between two numbers, or one of several values."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass
class Range:
    """The values that an option may have: from `low` to `high`, or `choices`.

    Args:
        low: the lowest number; where it and `high` are whole, so is every number between.
        high: the highest number, which may be tried too.
        log: as many trials between 0.001 and 0.01 as between 0.01 and 0.1.
        step: only `low`, `low` + `step`, `low` + 2 × `step` …
        choices: whatever the option takes: numbers, words, lists.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    choices: list[Any] | None = None

    def check(self, name: str) -> None:
        """See that there is something to choose from.

        Args:
            name: of the option, for what is said.

        Raises:
            UserError: there is not.
        """
        said = self._wrong()
        if said:
            raise UserError(f"space: {name}: {said}", status=2)

    def _wrong(self) -> str | None:
        """What is wrong with it."""
        if self.choices is not None:
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                return "give `choices`, or `low` and `high`, not both"
            if len({written(each) for each in self.choices}) < max(2, len(self.choices)):
                return f"`choices` {self.choices} is an empty range: give two or more different values"
            return None
        if self.low is None or self.high is None:
            return "give `low` and `high`, or `choices`"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            return f"from {self.low} to {self.high} is an empty range: `low` has to be below `high`"
        if self.log and self.low <= 0:
            return f"`low` {self.low}: with `log` it has to be above 0"
        if self.log and self.step is not None:
            return "`log` and `step` don't go together: give one of them, or `choices`"
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            return f"`step` {self.step} leaves nothing but `low`: it has to be above 0 and within the range"
        return None

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 1))

    @property
    def count(self) -> int | None:
        """How many values there are; None: a continuum."""
        if self.choices is not None:
            return len(self.choices)
        assert self.low is not None and self.high is not None
        if self.step is None and not self.whole:
            return None
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def holds(self, value: Any) -> bool:
        """Whether a value is among its own."""
        if self.choices is not None:
            return written(value) in map(written, self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-9

    def edges(self) -> list[Any]:
        """Values that show whether the option takes such ones."""
        return self.choices if self.choices is not None else [self.low, self.high]

    def values(self) -> list[Any]:
        """Each of them, in Optuna's terms; only where there is a `count`."""
        if self.choices is not None:
            return [plain(each) for each in self.choices]
        assert self.low is not None and self.count is not None
        return [self.exact(self.low + number * (self.step or 1)) for number in range(self.count)]

    def exact(self, value: Any) -> Any:
        """One of its values as a person writes it: 0.6 where adding steps made 0.6000000000000001 of it."""
        return round(value, 12) if self.step is not None else value

    def distribution(self) -> "BaseDistribution":
        """The same in Optuna's terms."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution([plain(each) for each in self.choices])
        assert self.low is not None and self.high is not None
        high = self.high if self.step is None else self.values()[-1]
        if self.whole:
            return IntDistribution(int(self.low), int(high), self.log, int(self.step or 1))
        return FloatDistribution(float(self.low), float(high), self.log, self.step)


def plain(value: Any) -> Any:
    """A value as Optuna keeps it: of lists and trees their JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def written(value: Any) -> str:
    """A value as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)
