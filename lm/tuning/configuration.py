"""From a trial's options to the words of `lm fit`, checked before anything runs and cut to the budget."""

import math
import sys
import threading
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lm.data import PretrainingData
from lm.errors import UserError
from lm.run.machine import device_of
from lm.run.words import Words
from lm.tuning.space import plain, written
from lm.tuning.sweep import Sweep

LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "error")
REPORT = "--trainer.callbacks+=lm.tuning.callbacks.Report"
_TEST = "trainer.limit_test_batches"
Params = dict[str, Any]


class Configurations:
    """The configurations of a sweep's trials.

    Args:
        sweep: the sweep.

    Attributes:
        base: the given configuration in plain values.
        metric, direction: what is compared, and which way (min, max).
        given: of the swept options those whose given values lie in the space.

    Raises:
        UserError: the configuration, an option or a value can't be.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        # A parser works in the configuration's folder while it reads it, and the process has one folder.
        self._parsing = threading.Lock()
        sys.path.insert(0, str(Path.cwd()))  # a class of the person's own may lie there
        self._fixed = [*sweep.configs, *_options(sweep.options)]
        self.base = self._plain([])
        for name, values in sweep.space.items():
            for value in values.edges():
                self._plain(_options({name: value}), f"space: {name}: ")
        self.metric, self.direction = self._goal()
        found = {name: _at(self.base, name) for name in sweep.space}
        self.given = {n: sweep.space[n].exact(plain(v)) for n, v in found.items() if sweep.space[n].holds(v)}
        self.steps(self.base)  # whether the budget can be cut

    def _plain(self, words: list[str], where: str = "") -> dict[str, Any]:
        """A configuration in plain values.

        Args:
            words: that go over the given ones.
            where: they stand, for what is said.
        """
        try:
            with self._parsing, ExitStack() as held:
                return Words(["fit", *self._fixed, *words], held).plain()
        except UserError as error:
            raise UserError(f"{where}{error}", status=2) from error

    def _goal(self) -> tuple[str, str]:
        """The figure and the way."""
        module, _, name = self.base["model"]["class_path"].rpartition(".")
        figure, way = getattr(import_module(module), name).best_by
        metric = self.sweep.metric or figure
        if metric != figure:
            way = "min" if metric.endswith(LOWER_IS_BETTER) else "max"
        return metric, self.sweep.direction or way

    def tree(self, params: Params) -> dict[str, Any]:
        """A trial's configuration before it is cut to the budget."""
        return self._plain(_options(params))

    def steps(self, tree: dict[str, Any]) -> int | None:
        """The optimizer steps of a trial; None where they are counted by epochs, or have to be measured.

        Raises:
            UserError: the data are not counted in what the budget is.
        """
        given, most = self.sweep.budget.given, tree["trainer"]["max_steps"]
        if given is None:
            return most if most > 0 else None
        kind, amount = given
        if kind == "seconds":
            return None
        if kind == "steps":
            return int(amount)
        data = tree["data"].get("init_args") or {}
        each = data.get("batch_size", 1) * tree["trainer"]["accumulate_grad_batches"] * _replicas(tree)
        if kind == "tokens":
            module, _, name = tree["data"]["class_path"].rpartition(".")
            if not issubclass(getattr(import_module(module), name), PretrainingData):
                said = f"budget: rows of {name} have no fixed number of tokens: give examples or seconds"
                raise UserError(said, status=2)
            each *= data["seq_len"]
        return max(1, int(amount // each))

    def words(self, params: Params, steps: int | None) -> list[str]:
        """The words of `lm fit` for a trial, but for its name.

        Args:
            params: the options that are swept, in Optuna's terms.
            steps: how long it is; None: as the configuration says.
        """
        return [*self._fixed, *self._changes(params, steps)]

    def _changes(self, params: Params, steps: int | None) -> list[str]:
        """The words that are the trial's own."""
        words = _options(params)
        if steps is None:
            return words
        if self.sweep.budget.given:
            words.append(f"--trainer.max_steps={steps}")
        every, cut = "trainer.val_check_interval", "trainer.accumulate_grad_batches"
        if every not in self.sweep.options and every not in self.sweep.space:
            batches = steps * params.get(cut, self.base["trainer"]["accumulate_grad_batches"])
            words.append(f"--{every}={math.ceil(batches / self.sweep.validations)}")
        return words

    def measured(self) -> list[str]:
        """The words that keep a trial from the test part, unless the sweep says otherwise: who chooses by it
        has none left."""
        return [] if _TEST in self.sweep.options else [f"--{_TEST}=0"]

    def whole(self, params: Params, steps: int | None, name: str) -> dict[str, Any]:
        """A trial's whole configuration, under another name: what `lm fit` takes."""
        tree = self._plain([*self._changes(params, steps), f"--name={name}"])
        return {
            key: value for key, value in tree.items() if key not in ("ckpt_path", "weights_only", "seeds")
        }


def _options(values: Params) -> list[str]:
    return [f"--{name}={written(value)}" for name, value in values.items()]


def _at(tree: Any, name: str) -> Any:
    """The value of a dotted option; None where there is none."""
    for part in name.split("."):
        if not isinstance(tree, dict):
            return None
        inner = tree.get("init_args")
        tree = tree[part] if part in tree else inner.get(part) if isinstance(inner, dict) else None
    return tree


def _replicas(tree: dict[str, Any]) -> int:
    """How many processes learn at once, each from batches of its own."""
    trainer = tree["trainer"]
    devices, nodes = trainer["devices"], int(trainer["num_nodes"])
    if isinstance(devices, list):
        return len(devices) * nodes
    if str(devices).lstrip("-").isdecimal() and int(devices) > 0:
        return int(devices) * nodes
    kind = device_of(str(trainer["accelerator"])).type  # auto and -1: all that there are, of CPUs one
    return (torch.cuda.device_count() if kind == "cuda" else 1) * nodes
