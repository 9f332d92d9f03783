"""What the commands that use a model share: where it works, which one it is, what comes on standard input."""

import argparse
import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.errors import UserError, spelling
from lm.inference.lines import Line, read_lines, well_formed, write_rows
from lm.options import OptionParser
from lm.processes import say

if TYPE_CHECKING:
    from lm.predictor import SamplingOptions


MODEL = "a checkpoint, a run's folder, an adapter.ckpt, or a Hugging Face folder, such as checkpoints/{}"


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option that says where a model works."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The option that says in what a model writes."""
    words = "of the weights: bf16 is faster on GPUs, and on CPUs with instructions for it (%(default)s)"
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help=words)


def given_text(given: str | None, option: str) -> str:
    """An argument, or standard input where there is none."""
    if given is not None:
        return well_formed(given, option)
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(f"give {option}, or a text on standard input", status=2)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error}") from error


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """See that options are above 0."""
    for name in names:
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: it must be at least 1", status=2)


def add_sampling(parser: argparse.ArgumentParser, temperature: float, top_p: float) -> None:
    """The options that say how the next token is chosen, with these defaults."""
    add = parser.add_argument
    add(
        "--temperature",
        type=float,
        default=temperature,
        help="higher: more varied; 0: always the likeliest token (%(default)s)",
    )
    add("--top_k", type=int, default=50, help="sample among this many likeliest tokens; 0: all (%(default)s)")
    add(
        "--top_p",
        type=float,
        default=top_p,
        help="sample among the likeliest tokens that make up this probability (%(default)s)",
    )
    add(
        "--min_p",
        type=float,
        default=0.0,
        help="drop tokens less likely than this share of the likeliest one (%(default)s)",
    )
    add("--repetition_penalty", type=float, default=1.0, help="above 1: repeat less (%(default)s)")
    add(
        "--lookup",
        type=int,
        default=0,
        metavar="N",
        help="draft up to N tokens by looking up what followed the last time: the same text, sooner where "
        "it repeats itself; for one text (%(default)s)",
    )
    add("--seed", type=int, default=0, help="the same seed writes the same text (%(default)s)")


def sampling(args: argparse.Namespace) -> "SamplingOptions":
    """What was given of `add_sampling`'s options."""
    return {
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "lookup": args.lookup,
    }


def task_parser(command: str, description: str, run: str) -> OptionParser:
    """The options of a command that uses a fine-tuned task.

    Args:
        run: a run that has one, as an example.
    """
    parser = OptionParser(command, description)
    parser.add_argument("model", help=MODEL.format(run))
    parser.add_argument("--json", action="store_true", help="JSON Lines for what is given here, too")
    add_device(parser)
    return parser


def texts(given: Iterable[str]) -> list[Line]:
    """Arguments as lines."""
    return [Line(f"text {number}", {"text": text}) for number, text in enumerate(given, start=1)]


def _files(line: Line) -> Iterator[Line]:
    """An argument that names a file, or by a glob several, as a line each."""
    name = line.fields["text"]
    there = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    if not there:
        raise UserError(f"no such file: {name}")
    return (Line(each, {"path": each}) for each in there)


def use_task(
    args: argparse.Namespace,
    command: str,
    given: list[Line],
    example: str,
    column: str | None = "text",
    show: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Apply a task to what is given, or else to standard input, and write what it finds; of one among several
    that can't be used, why, and the command fails in the end.

    Args:
        args: of `task_parser`.
        given: what stands on the command line.
        example, column: see `read_lines`.
        show: the task's options for showing a result to a person.
        settings: for the task's `decode_with`.
        options: the task's options for reading a line.
    """
    for line in given:
        if not all(well_formed(str(text), line.where).strip() for text in line.fields.values()):
            raise UserError(f"{line.where} is empty", status=2)
    if not given and sys.stdin is not None and sys.stdin.isatty():
        what = "a text" if column else "--question and --context"
        raise UserError(f"give {what}, or lines on standard input such as {example}", status=2)
    from lm.predictor import load

    refused: list[UserError] = []

    def on_error(error: UserError) -> None:
        refused.append(error)
        say(str(error))

    with spelling(lambda: vars(args)):
        model = load(args.model, args.device)
        task = model.task(command)
        if settings:
            task.decode_with(**settings)
        if task.column == "path":
            given, example = [line for each in given for line in _files(each)], '{"path": "…"}'
            column = options.get("text", "path") if column else None
        lines = given or read_lines(column, example)
        several = task.column == "path" and len(given) != 1  # files, which may be damaged
        groups = model.apply(command, lines, on_error if several else None, **options)
        if not given or args.json:
            write_rows(groups)
        else:
            _show(task, [row for group in groups for row in group], show or {})
        if refused:
            raise UserError(f"{len(refused):,} of what was given could not be used, as said above")


def _show(task: Any, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Results for a person."""
    for number, row in enumerate(rows):
        if len(rows) > 1:
            print("\n" * (number > 0) + " ".join(row[task.column].split()))
        print(row["error"] if "error" in row else task.show(row, **options))
