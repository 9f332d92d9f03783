"""`lm prepare`: documents to token shards, ahead of a run. `lm fit` with the same settings finds them."""

from collections.abc import Sequence

from lm.data.corpus.prepare import CorpusSettings, prepare
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
        "folders or globs of them, or stdlib, the default: the standard library of the Python that runs",
    )
    for name, kind, metavar, what in (
        ("vocab_size", int, "N", "tokens of the tokenizer that is trained (%(default)s)"),
        ("tokenizer", str, "FILE", "a SentencePiece model to use instead of training one"),
        ("text_field", str, "F", "the field or column with the text, in JSON lines and Parquet"),
        ("val_fraction", float, "X", "share held out (5%% of documents; of fewer than 20, 10%% of the text)"),
        ("data_dir", str, "DIR", "where prepared corpora lie (%(default)s)"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, default=default, help=what)
    options = vars(parser.parse(argv))
    with spelling(lambda: options):
        folder = prepare(CorpusSettings(**options | {"corpus": options["corpus"] or STDLIB}))
    print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
