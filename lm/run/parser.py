"""What LightningCLI says, in fewer words."""

import logging
import re
import warnings

from lightning.pytorch.cli import LightningArgumentParser

from lm.errors import UserError
from lm.run.usage import explain


def our_own(error: BaseException | None) -> UserError | None:
    """What our own code said, somewhere inside another's error; null where it said nothing."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _in_words(message: str) -> str:
    """A message with what is wanted in place of Python's types: a list's spelling, a choice's names."""
    given = re.search(r"(?:Given|Got) value: ([^\[\]{}\n]+)$", message.strip())
    choices = ", ".join(re.findall(r"Expected a typing\.Literal\[(.*?)\]", message)).replace("'", "")
    choices = ", ".join(dict.fromkeys(choices.split(", ")))
    a_list = f"write a list as '[{given.group(1) if given else 'a,b'}]'"
    message = re.sub(r"Expected a <class '(?:list|tuple)'>", lambda _: a_list, message)
    return re.sub(r"Expected a typing\.Literal\[.*?\]", lambda _: f"must be one of {choices}", message)


class Parser(LightningArgumentParser):
    """Wrong usage becomes one or two lines."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise what jsonargparse found, in fewer words."""
        said = our_own(ex)
        if said is not None:
            raise said
        subparsers = [c for a in self._actions if isinstance(a.choices, dict) for c in a.choices.values()]
        options = [action.dest for parser in (self, *subparsers) for action in parser._actions]
        raise UserError(explain(_in_words(message), options), status=2) from ex


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
