"""`lm compare`: whether one model is better than another, as far as the figures say."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm.errors import UserError, some, spelling
from lm.evaluation.comparison.compare import LETTERS, Comparison, Figures, compare
from lm.evaluation.comparison.output import PICTURES, table, write_picture
from lm.evaluation.comparison.predictions import prediction_figures, read_predictions
from lm.evaluation.comparison.records import record_figures, record_files
from lm.evaluation.comparison.samples import read_prompts, side_by_side, written
from lm.options import OptionParser

_WIDTH = 100  # columns, where there is no terminal


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm compare`."""
    args = _parsed(argv)
    with spelling(lambda: vars(args)):
        models, notes = _measured(args)
        comparisons: list[Comparison] = []
        if any(models):
            comparisons, more = compare([_chosen(figures, args) for figures in models])
            notes += more
        prompts = read_prompts(args.prompts or [])
        texts = _texts(args, prompts) if prompts else []
        if args.picture:
            write_picture(args.picture, comparisons, args.models)
    if args.json:
        samples = [
            {"prompt": prompt, "texts": list(row)} for prompt, *row in zip(prompts, *texts, strict=True)
        ]
        shown = {"models": args.models, "comparisons": [each.values() for each in comparisons]}
        print(json.dumps({**shown, "samples": samples, "notes": notes}, indent=2, ensure_ascii=False))
        return
    if comparisons:
        print(table(comparisons, args.models))
    for note in notes:
        print(f"note: {note}")
    if prompts:
        if not comparisons:
            print("\n".join(f"{letter}  {name}" for letter, name in zip(LETTERS, args.models, strict=False)))
        print()
        width = shutil.get_terminal_size((_WIDTH, 24)).columns
        print("\n".join(side_by_side(prompts, texts, width)).rstrip())


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OptionParser(
        "compare",
        "Compare models on the same examples: by what `lm eval` or `lm predict` wrote of them, or on a text, "
        "a test set or prompts. One is called better only where the figures say so.",
    )
    add = parser.add_argument
    what = "records of `lm eval`, predictions of `lm predict`, a run's folder with such; or, by an option "
    add(
        "models", nargs="+", metavar="MODEL", help=f"{what}below, models. The first is what others are beside"
    )
    add(
        "--text",
        nargs="+",
        metavar="FILE",
        help="bits per byte of files, folders or globs, with any tokenizers",
    )
    add("--text_field", default="text", metavar="NAME", help="of JSON lines and Parquet (%(default)s)")
    add(
        "--test",
        nargs="?",
        const="",
        metavar="FILE",
        help="fine-tuned models on a test set; without FILE that of A's run. It stands after the models",
    )
    add(
        "--prompts",
        nargs="+",
        metavar="TEXT|FILE",
        help="what they write after the same prompts, side by side",
    )
    add("--tokens", type=int, default=60, help="to write at most after each (%(default)s)")
    add("--temperature", type=float, default=0.8, help="0: always the likeliest token (%(default)s)")
    add("--seed", type=int, default=0, help="of what they write (%(default)s)")
    add("--figures", nargs="+", metavar="NAME", help="only those whose names hold one of these")
    add("--device", default="cpu", help="where models work: cpu, cuda, mps (%(default)s)")
    add("--json", action="store_true", help="as JSON, for scripts")
    add("--picture", type=Path, metavar="FILE", help="draw the differences: a .png or .svg")
    args = parser.parse(argv)
    if not 2 <= len(args.models) <= len(LETTERS):
        raise UserError(f"{len(args.models)} given: name two models or more to compare", status=2)
    if args.tokens < 1:
        raise UserError(f"--tokens {args.tokens}: it must be at least 1", status=2)
    if args.picture and args.picture.suffix.lower() not in PICTURES:
        raise UserError(f"--picture {args.picture}: its name must end in {' or '.join(PICTURES)}", status=2)
    if args.picture and args.prompts and args.text is None and args.test is None:
        raise UserError("--picture draws differences: prompts have none", status=2)
    return args


def _chosen(figures: Figures, args: argparse.Namespace) -> Figures:
    """Those that `--figures` names."""
    if not args.figures:
        return figures
    found = {name: each for name, each in figures.items() if any(part in name for part in args.figures)}
    if not found:
        raise UserError(
            f"no figure's name holds {some(args.figures)}: there are {some(figures, 8)}", status=2
        )
    return found


def _measured(args: argparse.Namespace) -> tuple[list[Figures], list[str]]:
    """The figures of each model, and notes."""
    if args.text is None and args.test is None:
        if args.prompts:
            return [{} for _ in args.models], []
        found = [_written(path) for path in args.models]
        notes = [f"{LETTERS[n]}: {note}" for n, (_, notes) in enumerate(found) for note in notes]
        return [figures for figures, _ in found], list(dict.fromkeys(notes))
    models: list[Figures] = [{} for _ in args.models]
    notes = []
    if args.text is not None:
        figures, notes = _on_text(args)
        models = [{**model, **more} for model, more in zip(models, figures, strict=True)]
    if args.test is not None:
        models = [{**model, **more} for model, more in zip(models, _on_test(args), strict=True)]
    return models, notes


def _written(word: str) -> tuple[Figures, list[str]]:
    """The figures in files that `lm eval` and `lm predict` wrote."""
    path = Path(word)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    if path.is_dir():
        files, predictions = record_files(path), path / "predictions.jsonl"
        figures, notes = record_figures(files) if files else ({}, [])
        if predictions.is_file():
            figures |= prediction_figures(read_predictions(predictions), str(predictions))
        if not figures:
            raise UserError(
                f"{path} holds neither records of `lm eval` nor predictions of `lm predict`: make them, or "
                "give `text`, `test` or `prompts`"
            )
        return figures, notes
    if path.suffix == ".ckpt":
        raise UserError(
            f"{path} is a model: say on what to compare it, by `text`, `test` or `prompts`", status=2
        )
    if path.suffix == ".json":
        return record_figures([path])
    return prediction_figures(read_predictions(path), str(path)), []


def _on_text(args: argparse.Namespace) -> tuple[list[Figures], list[str]]:
    from lm.evaluation.comparison.text import block_size, left_to_right, read_text, text_figure, window_bytes
    from lm.predictor import load

    text, windows = read_text(args.text, args.text_field), []
    for path in args.models:  # all of them, before hours are spent on the first
        model = load(path, args.device)
        left_to_right(model)
        windows.append(window_bytes(model, text))
    size = block_size(text, max(windows))
    figures: list[Figures] = []
    notes = list(text.notes)
    for letter, path in zip(LETTERS, args.models, strict=False):
        with _progress(f"{letter} reads", text.total) as done:
            figure, more = text_figure(load(path, args.device), text, size, done)
        figures.append({f"{some([Path(name).name for name in args.text], 1)} bits per byte": figure})
        notes += more
    blocks = len(figure.ids)
    cut = "" if size is None else f", long ones cut into blocks of about {size:,} bytes: {blocks:,} in all"
    notes.append(f"{text.total:,} bytes; errors are by document{cut}")
    return figures, notes


def _on_test(args: argparse.Namespace) -> list[Figures]:
    from lm.evaluation.comparison.tested import command_of, predicted, test_examples
    from lm.predictor import load

    commands = {path: command_of(load(path, args.device)) for path in args.models}
    if len(set(commands.values())) > 1:
        told = ", ".join(f"{path} for `lm {command}`" for path, command in commands.items())
        raise UserError(f"these models have no task in common: {told}")
    command = commands[args.models[0]]
    examples, name = test_examples(args.models[0], command, args.test)
    figures = []
    for letter, path in zip(LETTERS, args.models, strict=False):
        rows: list[dict[str, Any]] = []
        with _progress(f"{letter} is tested", len(examples)) as done:
            for row in predicted(load(path, args.device), command, examples):
                rows.append(row)
                done(1)
        figures.append(prediction_figures(rows, path, name))
    return figures


def _texts(args: argparse.Namespace, prompts: list[str]) -> list[list[str]]:
    from lm.predictor import load

    return [
        written(load(path, args.device), prompts, args.tokens, args.temperature, args.seed)
        for path in args.models
    ]


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A share that rises, for a person at a terminal."""
    seen, shown, person = 0, -1, sys.stderr.isatty()

    def done(more: int) -> None:
        nonlocal seen, shown
        seen += more
        if person and (share := min(100, 100 * seen // max(total, 1))) != shown:
            shown = share
            print(f"\r{what}: {share}%", end="", file=sys.stderr, flush=True)

    try:
        yield done
    finally:
        if person and shown >= 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
