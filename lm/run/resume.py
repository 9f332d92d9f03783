"""The checkpoint that a run goes on from, or that is evaluated."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from lm import checkpoint as checkpoints
from lm.errors import UserError
from lm.processes import say
from lm.run.folder import differences
from lm.tasks import Task


@dataclass
class Resumed:
    """A checkpoint as far as a run has to look into it.

    Args:
        path: of the file.
        record: what it says of its model.
        step: optimizer steps it was trained for.
    """

    path: str
    record: dict[str, Any]
    step: int

    @classmethod
    def open(cls, path: str, training: bool) -> Self:
        """Look into a checkpoint.

        Args:
            training: whether it is to be trained on, and not only evaluated.

        Raises:
            UserError: it is none, or holds only what it takes to be used.
        """
        checkpoint = checkpoints.read(path)
        record = checkpoints.read_record(checkpoint, path)
        if training and record.get("quantised") and not record.get("adapter"):
            what = f"{path} is quantised, which can't be trained on"
            raise UserError(f"{what}: go on from the checkpoint that it was made of")
        if training and "optimizer_states" not in checkpoint:
            raise UserError(f"{path} holds weights to use, not a state to train on: take last.ckpt")
        return cls(path, record, checkpoint.get("global_step", 0))

    @classmethod
    def latest(cls, states: list[Path]) -> Self:
        """The latest of a run's states that is whole.

        Raises:
            UserError: none is.
        """
        for path, before in pairwise([*states, None]):
            try:
                return cls.open(str(path), training=True)
            except checkpoints.Damaged:
                if before is None:
                    raise
                say(f"warning: {path} is damaged: going on from {before}; what came after it is done again")
        raise AssertionError("a run has a state")

    @classmethod
    def best_of(cls, folder: Path) -> Self:
        """A run's best weights, or its last where there are none."""
        for path in (folder / "best.ckpt", folder / "last.ckpt"):
            if path.exists():
                return cls.open(str(path), training=False)
        raise UserError(f"no checkpoint in {folder}: train first, or give `ckpt_path` FILE")

    def check_model(self, model: Task, training: bool) -> None:
        """Look whether it is one of this model; Lightning would list every weight.

        Args:
            training: whether it is to be trained on; what is only evaluated may read longer or shorter
                sequences, where positions have no weights.
        """
        trained_by, name = self.record["task"].rpartition(".")[2], model.plain().__name__
        if trained_by != name:
            raise UserError(
                f"{self.path} is of {trained_by}, not of {name}: give its configuration, or start "
                f"from its weights by `model.init_from` {self.path}"
            )
        theirs = asdict(checkpoints.config_of(self.record))  # options it did not know yet, too
        ours = asdict(model.config)
        if not training and model.config.positions == "rotary":
            ours["max_seq_len"] = theirs.get("max_seq_len")
        changed = differences(ours, theirs, "backbone.")
        if changed:
            raise UserError(
                f"{self.path} is of another model: {', '.join(changed[:3])}. "
                "Give its configuration, which stands beside it in config.yaml"
            )

    def check_steps(self, last: Path, steps: int) -> None:
        """A checkpoint that another run has brought to its end leaves nothing to train.

        Args:
            last: the run's own, which may be at its end: killed before the last figures.
            steps: all that there are.
        """
        if self.step >= steps + (self.path == str(last)):
            raise UserError(
                f"{self.path} is at step {self.step} already: give more `trainer.max_steps`", status=2
            )
