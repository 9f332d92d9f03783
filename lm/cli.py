"""The `lm` command: a list of commands, each imported when it is asked for."""

import difflib
import importlib
import os
import sys
import time

from lm import __version__
from lm.errors import UserError

# Command: (what it does, module that runs it, function there).
COMMANDS = {
    "fit": ("pretrain or fine-tune; the same command again continues the run", "lm.run.run", "main"),
    "validate": ("the figures on the held-out part", "lm.run.run", "main"),
    "test": ("the figures on the test part", "lm.run.run", "main"),
    "predict": ("predictions of the test part, into a file", "lm.run.run", "main"),
    "prepare": (
        "make a corpus of token shards from text, without training",
        "lm.commands.prepare",
        "main",
    ),
    "generate": ("write on from a prompt", "lm.commands.inference", "generate"),
    "fill": ("guess what stands under a <mask>", "lm.commands.inference", "fill"),
    "chat": ("talk with a fine-tuned model", "lm.commands.inference", "chat"),
    "classify": ("put labels on texts, or rate them", "lm.commands.apply", "classify"),
    "tag": ("find the entities of sentences", "lm.commands.apply", "tag"),
    "answer": ("find the answers to questions in texts", "lm.commands.apply", "answer"),
    "export": ("write a checkpoint as a Hugging Face folder", "lm.commands.export", "main"),
    "info": ("say what a checkpoint, a run or a corpus is", "lm.commands.info", "main"),
}
TRAINER_COMMANDS = tuple(name for name, (_, module, _f) in COMMANDS.items() if module == "lm.run.run")


def overview() -> str:
    """What `lm --help` prints."""
    lines = "\n".join(f"  {name:10}{what}" for name, (what, _, _f) in COMMANDS.items())
    return f"""lm {__version__}: from raw text to a language model that works

usage: lm COMMAND [options]

{lines}

Start here:  lm fit --config configs/pretrain/gpt-nano.yaml
Options of a command:  lm COMMAND --help
"""


def _command_first(argv: list[str]) -> list[str]:
    """`lm --config FILE fit` means `lm fit --config FILE`."""
    if not argv or not argv[0].startswith("-") or argv[0] in ("-h", "--help", "--version"):
        return argv
    at = next((i for i, word in enumerate(argv) if word in COMMANDS and argv[i - 1] != "--name"), None)
    return argv if at is None else [argv[at], *argv[:at], *argv[at + 1 :]]


def run(argv: list[str], started: float) -> None:
    """Run one command.

    Args:
        argv: the words after `lm`.
        started: seconds since the epoch when the process began.
    """
    argv = _command_first(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return
    if argv[0] == "--version":
        print(__version__)
        return
    name = argv[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `lm {near[0]}`?" if near else "`lm --help` lists the commands"
        raise UserError(f"there is no command {name!r}: {hint}", status=2)
    _, module, function = COMMANDS[name]
    target = getattr(importlib.import_module(module), function)
    if name in TRAINER_COMMANDS:
        target(argv, started)
    else:
        target(argv[1:])


def main() -> None:
    """Entry point: turns what went wrong into a line and an exit status."""
    started = time.time()
    argv = sys.argv[1:]
    name = next((word for word in argv if word in COMMANDS), "")
    try:
        run(argv, started)
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("LM_DEBUG"):
            raise
        print(f"lm {name}: {error}".replace("lm :", "lm:"), file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print(f"\nlm {name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone, as with `lm generate … | head`. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if os.environ.get("LM_DEBUG"):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"lm {name}: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        # Nobody foresaw it: what kind of error, its first words, and how to see where.
        if os.environ.get("LM_DEBUG"):
            raise
        words = " ".join(str(error).split())
        words = words if len(words) <= 300 else words[:300] + " …"
        print(f"lm {name}: {type(error).__name__}: {words}\n(LM_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
