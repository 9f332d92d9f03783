"""`lm prepare`: documents to token shards, ahead of a run. `lm fit` with the same settings finds them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.data.corpus.prepare import CorpusSettings, prepare, prepare_recipe
from lm.data.corpus.recipe import RecipeFile, is_recipe
from lm.data.corpus.sources import STDLIB
from lm.errors import spelling
from lm.options import OptionParser


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares a corpus and prints its folder on stdout."""
    defaults = CorpusSettings()
    parser = OptionParser(
        "prepare",
        "Turns documents into token shards, once; `lm fit` with the same settings finds them.",
    )
    parser.add_argument(
        "corpus",
        nargs="*",
        metavar="CORPUS",
        help="text, Markdown or code files, JSON lines, Parquet (each plain or .gz, .bz2, .xz, .zst), "
        "folders or globs of them, or stdlib, the default: the standard library of the Python that runs; "
        "or a recipe (YAML), whose fields are the options then",
    )
    for name, kind, metavar, what in (
        ("vocab_size", int, "N", "tokens of the tokenizer that is trained (%(default)s)"),
        ("tokenizer", str, "FILE", "a SentencePiece model, or a model whose tokenizer is used instead"),
        ("text_field", str, "F", "the field or column with the text, in JSON lines and Parquet"),
        ("val_fraction", float, "X", "share held out (5%% of documents; of fewer than 20, 10%% of the text)"),
        ("canaries", int, "N", "plant N made-up secrets for each of 0, 1, 4 … 256 copies, for auditing (0)"),
        ("data_dir", str, "DIR", "where prepared corpora lie (%(default)s)"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, default=default, help=what)
    words = list(sys.argv[1:] if argv is None else argv)
    path = next((word for word in words if is_recipe(word)), None)
    if path is not None:  # whatever else is given are options of the recipe
        words.remove(path)
        folder = _by_recipe(path, words)
    else:
        options = vars(parser.parse(words))
        with spelling(lambda: options):
            folder = prepare(CorpusSettings(**options | {"corpus": options["corpus"] or STDLIB}))
    print(folder)
    return 0


def _by_recipe(path: str, words: list[str]) -> Path:
    """The folder that a recipe makes, with options as its fields are called: --engine.workers 4."""
    beside = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    beside.add_argument("--data_dir", default="data")
    args, options = beside.parse_known_args(words)
    sys.path.insert(0, "")  # classes of one's own lie here
    return prepare_recipe(RecipeFile(path, options), args.data_dir)


if __name__ == "__main__":
    raise SystemExit(main())
