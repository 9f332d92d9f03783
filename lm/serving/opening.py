"""From what the command was told to a house of models, each looked at before anybody can ask it."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lm.errors import UserError
from lm.processes import say

if TYPE_CHECKING:
    from lm.checkpoint import Model
    from lm.serving.house import House


def open_house(
    args: argparse.Namespace, paths: dict[str, str], look: "Callable[[str, Model], None] | None" = None
) -> "House":
    """Read models.

    Args:
        args: of `lm serve`.
        paths: of models by the names that they are served under.
        look: is given each as it was read; otherwise what its audit says is said.

    Raises:
        UserError: one can't be read or asked, or has not passed the audit that it needs.
    """
    import torch

    from lm.predictor import load
    from lm.serving.house import House, Served

    models = []
    for name, path in paths.items():
        model = load(path, args.device)
        if look:
            look(name, model.model)
        else:
            say(audited(model.model, args))
        if args.dtype == "bf16":
            model.model.to(torch.bfloat16)
        models.append(Served(name, model, args.slots, args.queue))
        if not models[-1].abilities:
            raise UserError(f"{path} has nothing that could be asked over HTTP")
    return House(models)


def log_to_stderr() -> None:
    """Have the server's own lines written, and of others only what is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lm.serving").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that have gone


def audited(model: "Model", args: argparse.Namespace) -> str:
    """What an audit says of these very weights.

    Raises:
        UserError: one is required, and there is none, or the model has failed it.
    """
    try:
        from lm.audit import verdict
    except ImportError:  # of those who have taken that wing out
        good, words = False, f"{model.source} has no audit: this lm makes none"
    else:
        good, words = verdict(model, [Path(each) for each in args.audit])
    if args.require_audit and not good:
        raise UserError(f"{words} (--require-audit)")
    return words if good else f"warning: {words}"
