"""What LightningCLI says, in fewer words."""

import logging
import warnings

from lightning.pytorch.cli import LightningArgumentParser

from lm.errors import UserError
from lm.usage import explain


def our_own(error: BaseException | None) -> UserError | None:
    """What our own code said, somewhere inside another's error; null where it said nothing."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


class Parser(LightningArgumentParser):
    """Wrong usage becomes one or two lines."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise what jsonargparse found, in fewer words."""
        said = our_own(ex)
        if said is not None:
            raise said
        subparsers = [c for a in self._actions if isinstance(a.choices, dict) for c in a.choices.values()]
        options = [action.dest for parser in (self, *subparsers) for action in parser._actions]
        raise UserError(explain(message, options), status=2) from ex


def quiet() -> None:
    """Keep Lightning from talking over the run; what goes wrong is still said."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*Checkpoint directory.*exists.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*It is recommended to use `self.log.*sync_dist.*",  # the metric has summed over all processes
        ".*already configured with model summary.*",
        ".*Skipping device.*",
        ".*callbacks used to create the checkpoint.*",
    ):
        warnings.filterwarnings("ignore", message=message)
