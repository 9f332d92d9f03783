"""What was probably meant by an option that there is not."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from lm.errors import UserError

# Other projects' words for options of ours, by the last part of the name.
HABITS = {
    "accumulation_steps": "accumulate_grad_batches",
    "bf16": "precision",
    "block_size": "seq_len",
    "checkpoint_dir": "name",
    "context_length": "seq_len",
    "dataset": "corpus",
    "epochs": "max_epochs",
    "eval_interval": "val_check_interval",
    "eval_steps": "val_check_interval",
    "fp16": "precision",
    "gradient_accumulation_steps": "accumulate_grad_batches",
    "grad_clip": "gradient_clip_val",
    "learning_rate": "lr",
    "length": "tokens",
    "max_grad_norm": "gradient_clip_val",
    "max_iters": "max_steps",
    "max_length": "seq_len",
    "max_new_tokens": "tokens",
    "max_seq_length": "seq_len",
    "max_tokens": "tokens",
    "model_name_or_path": "init_from",
    "n_embd": "hidden_size",
    "n_head": "num_heads",
    "n_layer": "num_layers",
    "num_samples": "samples",
    "num_train_epochs": "max_epochs",
    "out_dir": "name",
    "output_dir": "name",
    "per_device_train_batch_size": "batch_size",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "run_name": "name",
    "save_steps": "every_n_steps",
    "seed": "seed_everything",
    "steps": "max_steps",
    "temp": "temperature",
    "train_file": "train",
    "warmup_iters": "warmup",
    "warmup_steps": "warmup",
}


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option that was probably meant: the one that ends so, another project's word for it, or the one
    that is spelt most like it.

    Args:
        name: as it was typed, without dashes.
        options: those that there are, dotted; the first of several that would do is taken.
    """
    whole = list(options)
    last: dict[str, str] = {}
    for option in whole:
        last.setdefault(option.rpartition(".")[2], option)
    path, _, word = name.replace("-", "_").rpartition(".")
    for known in (word, HABITS.get(word)):
        if known in last:
            return last[known]
    if near := difflib.get_close_matches(name, whole, n=1, cutoff=0.85 if path else 1):
        return near[0]
    near = difflib.get_close_matches(word, last, n=1, cutoff=0.7)
    return last[near[0]] if near else None


def no_such_option(name: str, options: Iterable[str], otherwise: str, typed: bool = True) -> UserError:
    """The error that says what was probably meant.

    Args:
        name: as it was typed, without dashes.
        options: those that there are.
        otherwise: what helps where none is near.
        typed: whether it stands on the command line, and not in a file.
    """
    near, spelt = nearest(name, options), "--{}" if typed else "{!r}"
    hint = f"did you mean {spelt.format(near)}?" if near else otherwise
    return UserError(f"there is no option {spelt.format(name)}: {hint}", status=2)


class OptionParser(argparse.ArgumentParser):
    """A command's options: each is written out, and wrong usage is one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"lm {command}", description=description, allow_abbrev=False)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The values; words may stand before, between and after the options.

        Raises:
            UserError: an option is none, or its value can't be.
        """
        args, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            option = next((word for word in unknown if word.startswith("-")), None)
            if option is None:
                self.error(f"one word too many: {unknown[0]!r}")
            options = [string[2:] for action in self._actions for string in action.option_strings]
            name = str(option).lstrip("-").partition("=")[0]
            raise no_such_option(name, filter(None, options), f"`{self.prog} --help` lists them")
        return args

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        raise UserError(f"{message} (`{self.prog} --help`)", status=2)
