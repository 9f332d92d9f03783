"""A run, put together: its words, its folder, the checkpoint it goes on from, data, model and trainer.

The folder `checkpoints/<name>/` is the run. `fit` continues what it finds there unfinished, leaves what is
finished alone, and refuses a folder that belongs to another configuration.
"""

from contextlib import ExitStack
from pathlib import Path

from lightning.pytorch import Callback, seed_everything

from lm.callbacks import CompileWhenWorthwhile, Progress, RandomState, RunCheckpoints, Summary
from lm.run.folder import claim, look, refuse_a_mixture
from lm.run.machine import decide, keep_memory
from lm.run.report import Opening
from lm.run.resume import Resumed
from lm.run.trainer import make_trainer
from lm.run.words import Words


class Run:
    """One command on one run.

    Args:
        words: what was typed.
        started: seconds since the epoch when that was.
        held: what has to be given back when the command ends.

    Attributes:
        folder: of the run.
        configuration: in plain values.
        resumed: the checkpoint that it goes on from, or that is evaluated.
        measured: where what is evaluated lies, as a person calls it.
        data, model, trainer: made from the configuration.
        monitor, samples, checkpoints, summary: the callbacks that have the figures.

    Raises:
        Finished: nothing is left to do.
        UserError: the folder or the checkpoint is another configuration's.
    """

    def __init__(self, words: Words, started: float, held: ExitStack) -> None:
        self.command, self.folder = words.command, words.folder
        training, config = words.command == "fit", words.config
        if config.seed_everything is not False:
            seed = None if config.seed_everything is True else config.seed_everything
            config.seed_everything = seed_everything(seed, workers=True)
        decide(config, self.folder)
        keep_memory()
        self.configuration = words.plain()
        self.resumed: Resumed | None = None
        states: list[Path] = []
        if training:
            refuse_a_mixture(self.folder, words.seed is not None)
            states = look(self.folder, self.configuration, words.completed)
            claim(self.folder, held)
        if states:
            self.resumed = Resumed.latest(states)
        elif config.ckpt_path is not None:
            self.resumed = Resumed.open(str(config.ckpt_path), training)
        elif not training:
            self.resumed = Resumed.best_of(self.folder)
        # It has all that the run took from `init_from`, which need not be there any more; but where the two
        # are compared it must.
        if self.resumed and not training and "reference" not in self.resumed.record:
            words.start_from(self.resumed.path)
        made = words.make()
        if words.given and words.given.model:
            options = {k: v for k, v in words.config.model.init_args.items() if k in words.given.typed}
            made.model = type(made.model)(words.given.model.config, **options)
        self.measured = words.given.path if words.given else self.resumed and self.resumed.path
        self.data, self.model, self.monitor, self.samples = made.data, made.model, made.monitor, made.sample
        self.checkpoints = RunCheckpoints(self.folder, **made.checkpoint)
        self.summary = Summary(self.folder, self.configuration, self.monitor, self.checkpoints, started)
        callbacks: list[Callback] = [Progress(self.monitor)]
        if training:
            opening = Opening(self.folder, self.configuration, self.resumed)
            callbacks = [self.monitor, CompileWhenWorthwhile(self.monitor), *callbacks]
            callbacks += [self.samples, self.summary, RandomState()]
            callbacks += [opening, self.checkpoints]
        step = self.resumed.step if self.resumed else 0
        self.trainer = make_trainer(made.trainer, callbacks, self.folder, self.configuration, step, training)
        if self.resumed is not None:
            self.resumed.check_model(self.model, training)
            self.trainer.ckpt_path = self.resumed.path  # where a task looks too, before it is loaded
