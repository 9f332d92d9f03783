"""Differentially private training: DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with whatever optimizer the
run has, which sees nothing but clipped sums with noise."""

import math
import os
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lm.audit.private.accounting import History, epsilon_of, noise_for
from lm.audit.private.per_sample import ClippedSum, PoissonSamples, seeded_noise, system_noise
from lm.callbacks.logs import log_figures
from lm.data.windows import Samples
from lm.errors import UserError, not_installed
from lm.processes import say
from lm.tasks.base import Work
from lm.tasks.text.windowed import WindowedTask


class PrivateTraining(Callback):
    """Trains so that hardly anything can be learned from the weights of whether one sample was among those
    that they come of: (ε, δ)-differential privacy of adding or removing one. Needs Opacus, for the
    accountant.

        lm fit gpt-nano --trainer.callbacks+=lm.audit.PrivateTraining --trainer.callbacks.epsilon 8

    A sample is a window of `seq_len` tokens in pretraining, an example in fine-tuning; with what stands in k
    of them ε grows k-fold, and δ more (group privacy). Each is in a step by chance (`PoissonSamples`); its
    gradient is that of its own loss: the sum over its targets by as many as a sample has on average, which is
    a constant. `trainer.gradient_clip_val` clips what the noise has been added to, which tells no more.

    What it does not cover: the tokenizer, the labels and that constant, which come from the data; losses on
    the training part in the logs; the choice of settings by trying; a model that `init_from` names. The noise
    is drawn from the run's seed, so that a run can be repeated and goes on exactly: whoever knows the seed
    can take it away again.

    Args:
        epsilon: what the whole run may spend; the noise follows from it.
        noise_multiplier: instead of it, the noise's standard deviation in `max_grad_norm`.
        delta: how likely ε may not hold, below one by the samples; by default a tenth of that.
        max_grad_norm: what a sample's gradient is clipped to.
        accountant: prv (arXiv:2106.02848) or rdp (arXiv:1702.07476), which allows less.
        secure: draw samples and noise from the operating system's random numbers: for weights that are given
            away. A run that goes on does so with others.

    Raises:
        UserError: an argument can't be; when work begins: the model, the data or the trainer don't allow it.
    """

    changes_training = True

    def __init__(
        self,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        delta: float | None = None,
        max_grad_norm: float = 1.0,
        accountant: Literal["prv", "rdp"] = "prv",
        secure: bool = False,
    ) -> None:
        if (epsilon is None) == (noise_multiplier is None):
            raise _refused("give `epsilon` or `noise_multiplier`, one of the two")
        if epsilon is not None and not 0 < epsilon < math.inf:
            raise _refused(f"`epsilon` {epsilon}: it must be above 0")
        if noise_multiplier is not None and not 0 <= noise_multiplier < math.inf:
            raise _refused(f"`noise_multiplier` {noise_multiplier}: it must be 0 or more")
        if delta is not None and not 0 < delta < 1:
            raise _refused(f"`delta` {delta}: it must lie between 0 and one by the number of samples")
        if not max_grad_norm > 0:
            raise _refused(f"`max_grad_norm` {max_grad_norm}: it must be above 0")
        if find_spec("opacus") is None:
            raise not_installed("PrivateTraining", "opacus", "private")
        self.epsilon, self.noise_multiplier, self.delta = epsilon, noise_multiplier, delta
        self.max_grad_norm, self.accountant, self.secure = max_grad_norm, accountant, secure
        self.history: History = []  # of the steps that were done
        self._seed: int | None = None  # of the noise
        self._found: list[Any] = []  # what the noise was found for, and the noise
        self._samples: PoissonSamples | None = None
        self._sum: ClippedSum | None = None
        self._unit = ""
        self._spent: tuple[int, float] = (-1, 0.0)  # steps, and their epsilon

    @property
    def steps(self) -> int:
        """Optimizer steps that were done."""
        return sum(count for _, _, count in self.history)

    def state_dict(self) -> dict[str, Any]:
        return {"history": [list(part) for part in self.history], "seed": self._seed, "found": self._found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [tuple(part) for part in state_dict["history"]]
        self._seed, self._found = state_dict["seed"], list(state_dict["found"])

    # Before the first step.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        given: Any = trainer
        task: Any = pl_module
        plain = task.plain()
        single = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.world_size == 1
        for wrong, why in (
            (not single, "it works on one device, without a strategy: `trainer.devices` 1"),
            (
                str(trainer.precision).startswith("16"),
                "fp16 scales the loss: take `trainer.precision` 32-true",
            ),
            (given.overfit_batches, "`trainer.overfit_batches` shows it the same samples again"),
            (
                repr(trainer.limit_train_batches) != "1.0" and trainer.accumulate_grad_batches > 1,
                "`trainer.limit_train_batches` may cut a step in two: leave it out",
            ),
            (plain is not type(task), f"of a teacher it says nothing: train with {plain.__name__}"),
        ):
            if wrong:
                raise _refused(why)
        data: Any = given.datamodule
        data.arranged_by(lambda dataset: self._arrange(trainer, data, dataset))

    def _arrange(self, trainer: Trainer, data: Any, dataset: Samples) -> PoissonSamples:
        if dataset.bound:
            raise _refused(dataset.bound)
        expected, there = dataset.batch_size * trainer.accumulate_grad_batches, dataset.windows
        if expected > there:
            raise _refused(f"a step has {expected} samples, and there are {there}: lower `data.batch_size`")
        seed = int.from_bytes(os.urandom(8)) if self.secure else data.seed
        self._samples = PoissonSamples(dataset, trainer.accumulate_grad_batches, seed)
        if self.delta is None:
            self.delta = 1 / (10 * there)
        if self.delta >= 1 / there:
            raise _refused(
                f"`delta` {self.delta} must be below one by the {there:,} samples, {1 / there:.2g}"
            )
        return self._samples

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        samples = self._samples
        if samples is None:
            raise _refused("the data choose their training samples themselves")
        for name, module in task.named_modules():
            if isinstance(module, _BatchNorm):
                raise _refused(f"{name} normalises over a batch, which mixes samples: use another norm")
        if self.steps != trainer.global_step:
            without = f"{trainer.global_step - self.steps} of the {trainer.global_step} steps before"
            raise _refused(f"{without} were not private: begin anew, or give that model as `model.init_from`")
        steps = trainer.max_steps
        self.noise_multiplier = noise = self._noise(samples.rate, steps)
        if self._seed is None:
            self._seed = torch.initial_seed()
        unit = samples.dataset.unit
        self._unit = f"window of an {unit}" if isinstance(task, WindowedTask) else unit
        end = epsilon_of(
            [*self.history, (noise, samples.rate, max(steps - self.steps, 1))], self._delta, self.accountant
        )
        say(
            f"private: each of {samples.windows:,} samples ({self._unit}) is in a step with a chance of "
            f"{samples.rate:.3g}; noise {noise:.3g} x {self.max_grad_norm:g}; "
            f"ε = {end:.2f} at δ = {self.delta:.2g} after {steps} steps"
        )
        if not self.secure and noise:
            say("private: the noise comes from the run's seed; for weights to give away add `secure` true")
        trained = [p for p in task.parameters() if p.requires_grad]
        self._sum = ClippedSum(trained, self.max_grad_norm)
        self._take_over(task, samples)
        if self.described not in task.additions:
            task.additions.append(self.described)

    @property
    def _delta(self) -> float:
        assert self.delta is not None
        return self.delta

    def _noise(self, rate: float, steps: int) -> float:
        if self.epsilon is None:
            assert self.noise_multiplier is not None
            return self.noise_multiplier
        wanted = [self.epsilon, self._delta, rate, steps, self.accountant]
        if self._found[:-1] != wanted:
            if self.history:
                spent = f"the {self.steps} steps before had noise for another length or `epsilon`"
                raise _refused(f"{spent}: go on with a `noise_multiplier` instead")
            self._found = [*wanted, noise_for(self.epsilon, self._delta, rate, steps, self.accountant)]
        return self._found[-1]

    def _take_over(self, task: Any, samples: PoissonSamples) -> None:
        """Let the task learn from a list of batches of one, and leave Lightning nothing to differentiate."""
        assert self._sum is not None
        learn, work, gradients = task.training_step, task.work, self._sum
        one, two = (_look(task, samples.dataset, copies) for copies in (1, 2))
        # A task divides by the targets that its batch should have, or by those of a whole one.
        scale = samples.batch_size if float(two["divisor"]) < 1.5 * float(one["divisor"]) else 1
        unit = work(samples.dataset.chosen(np.zeros(1, dtype=np.int64), 0)).unit

        def training_step(batch: list[Any], batch_idx: int) -> dict[str, Tensor]:
            made = {name: torch.zeros_like(value) for name, value in one.items()}
            for sample in batch:
                found = learn(sample, batch_idx)
                gradients.add(found["loss"] * scale)
                for name, value in found.items():
                    made[name].add_(value.detach())
            return {**made, "divisor": one["divisor"]}

        def work_of(batch: Any) -> Work:
            parts = batch if isinstance(batch, list) else [batch]
            return Work(sum(work(part).amount for part in parts), unit)

        task.training_step, task.work = training_step, work_of
        task.backward = lambda *_, **__: None

    # At each step.

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put the step's gradient in place: once, however many micro-batches it has."""
        assert self._sum is not None and self._samples is not None
        assert self._seed is not None and self.noise_multiplier is not None
        seeded = seeded_noise(self._seed, trainer.global_step, pl_module.device)
        noise = system_noise if self.secure else seeded
        self._sum.release(noise, self.noise_multiplier, self._samples.expected)
        now = self.noise_multiplier, self._samples.rate
        if self.history and self.history[-1][:2] == now:
            self.history[-1] = (*now, self.history[-1][2] + 1)
        else:
            self.history.append((*now, 1))

    def spent(self) -> float:
        """The ε of the steps that were done."""
        if self._spent[0] != self.steps:
            self._spent = self.steps, epsilon_of(self.history, self._delta, self.accountant)
        return self._spent[1]

    def described(self) -> dict[str, Any]:
        """What the checkpoint's record and the run's summary say of it; of infinite ε nothing."""
        assert self._samples is not None
        spent = self.spent()
        return {
            "private": {
                "epsilon": spent if math.isfinite(spent) else None,
                "delta": self.delta,
                "noise_multiplier": self.noise_multiplier,
                "max_grad_norm": self.max_grad_norm,
                "sample_rate": self._samples.rate,
                "samples": self._samples.windows,
                "steps": self.steps,
                "accountant": self.accountant,
                "unit": self._unit,
                "secure": self.secure,
            }
        }

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self._sum is not None and math.isfinite(self.spent()):
            log_figures(trainer, {"privacy/epsilon": self.spent()})

    # At the end.

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back(pl_module)
        say(f"private: ε = {self.spent():.3f} at δ = {self.delta:.2g} after {self.steps} steps")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back(pl_module)

    def _give_back(self, task: Any) -> None:
        for name in ("training_step", "backward", "work"):
            vars(task).pop(name, None)


def _look(task: Any, dataset: Any, copies: int) -> dict[str, Tensor]:
    """What the task says of a batch of so many copies of the first sample; nothing is drawn."""
    devices = [task.device] if task.device.type == "cuda" else []
    strategy = task.trainer.strategy
    batch = strategy.batch_to_device(dataset.chosen(np.zeros(copies, dtype=np.int64), 0))
    with torch.random.fork_rng(devices), torch.no_grad(), strategy.precision_plugin.train_step_context():
        return task.training_step(batch, 0)


def _refused(why: str) -> UserError:
    return UserError(f"PrivateTraining: {why}", status=2)
