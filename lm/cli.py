"""The `lm` command: a list of commands, each imported when it is asked for."""

import difflib
import importlib
import os
import sys

from lm import __version__
from lm.errors import UserError

# Command: (what it does, module that runs it, function there, which is given the words after the command).
COMMANDS = {
    "fit": ("pretrain or fine-tune; the same command again continues the run", "lm.commands.fit", "fit"),
    "validate": ("the figures on the held-out part", "lm.commands.fit", "validate"),
    "test": ("the figures on the test part", "lm.commands.fit", "test"),
    "predict": ("predictions of the test part, into a file", "lm.commands.fit", "predict"),
    "configs": ("list the configurations that ship, or print one", "lm.commands.configs", "main"),
    "prepare": ("turn text into a corpus of token shards, without training", "lm.commands.prepare", "main"),
    "data": ("look into a corpus: what is in it, where from, and what is not", "lm.commands.data", "main"),
    "generate": ("continue a prompt", "lm.commands.generate", "main"),
    "fill": ("guess what a <mask> hides", "lm.commands.fill", "main"),
    "chat": ("talk with a fine-tuned model", "lm.commands.chat", "main"),
    "classify": ("label texts, or rate them", "lm.commands.classify", "main"),
    "detect": ("find the things in pictures", "lm.commands.detect", "main"),
    "segment": ("say of every pixel what it shows", "lm.commands.segment", "main"),
    "transcribe": ("write down what is said", "lm.commands.transcribe", "main"),
    "tag": ("find the entities in sentences", "lm.commands.tag", "main"),
    "answer": ("find the answers to questions in texts", "lm.commands.answer", "main"),
    "eval": ("measure a model by tasks of lm-evaluation-harness", "lm.evaluation.command", "main"),
    "compare": ("say which of several models is better, if any", "lm.evaluation.comparison.command", "main"),
    "sweep": ("try options of a run within ranges, and say which are best", "lm.tuning.command", "main"),
    "compress": ("round a model's weights to 8 or 4 bits", "lm.compression.command", "main"),
    "audit": ("say what a model remembers, gives out and prefers", "lm.audit.command", "main"),
    "serve": ("let models answer over HTTP, as OpenAI's interface does", "lm.serving.command", "main"),
    "export": ("write a checkpoint as a Hugging Face folder", "lm.commands.export", "main"),
    "runs": ("list the runs of a folder: how far they are, and how good", "lm.commands.runs", "main"),
    "completion": ("print what makes a shell complete", "lm.commands.completion", "main"),
    "info": ("describe a model, a run or a corpus", "lm.commands.info", "main"),
}


def overview() -> str:
    """What `lm --help` prints."""
    lines = "\n".join(f"  {name:12}{what}" for name, (what, _, _f) in COMMANDS.items())
    return f"""lm {__version__}: from raw text to a language model that works

usage: lm COMMAND [options]

{lines}

Start here:  lm fit gpt-nano
Options of a command:  lm COMMAND --help
"""


def _command_first(argv: list[str]) -> list[str]:
    """`lm --config FILE fit` means `lm fit --config FILE`."""
    if not argv or not argv[0].startswith("-") or argv[0] in ("-h", "--help", "--version"):
        return argv
    at = next((i for i, word in enumerate(argv) if word in COMMANDS and argv[i - 1] != "--name"), None)
    return argv if at is None else [argv[at], *argv[:at], *argv[at + 1 :]]


def run(argv: list[str]) -> None:
    """Run one command: the words after `lm`."""
    argv = _command_first(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return
    if argv[0] == "--version":
        print(__version__)
        return
    name = argv[0]
    if name not in COMMANDS:
        from lm.run.configs import is_configuration

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        near = near or [f"fit {name}"] * is_configuration(name)
        hint = f"did you mean `lm {near[0]}`?" if near else "`lm --help` lists the commands"
        raise UserError(f"there is no command {name!r}: {hint}", status=2)
    _, module, function = COMMANDS[name]
    getattr(importlib.import_module(module), function)(argv[1:])


def _in_words(error: Exception) -> str:
    """What went wrong, for a person."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    # Nobody foresaw it: what kind of error, its first words, and how to see where.
    words = " ".join(str(error).split())
    words = words if len(words) <= 300 else words[:300] + " …"
    return f"{type(error).__name__}: {words}\n(LM_DEBUG=1 shows where)"


def main() -> None:
    """Entry point: turns what went wrong into a line and an exit status."""
    argv = sys.argv[1:]
    # torch asks Linux for large pages then, which takes a tenth off a step with a large vocabulary.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    name = next((f"lm {word}" for word in argv if word in COMMANDS), "lm")
    try:
        run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone, as with `lm generate … | head`. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("LM_DEBUG"):
            raise
        print(f"{name}: {_in_words(error)}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
