"""`lm prepare`: documents to token shards, ahead of a run. `lm fit` with the same settings finds them."""

import argparse
from collections.abc import Sequence

from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.data.corpus.sources import STDLIB
from lm.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares a corpus and prints its folder on stdout.

    Args:
        argv: the command line without `lm prepare`; None takes the process's own.

    Returns:
        the exit status, 0.

    Raises:
        UserError: what `prepare` raises.
    """
    defaults = CorpusSettings()
    parser = argparse.ArgumentParser(
        prog="lm prepare",
        description="Turns documents into token shards, once; `lm fit` with the same settings finds them.",
    )
    parser.add_argument(
        "corpus",
        nargs="*",
        metavar="CORPUS",
        help="text, Markdown or code files, JSON lines, Parquet (each plain or .gz, .bz2, .xz, .zst), "
        "folders or globs of them, or stdlib, the default: the standard library of the Python that runs",
    )
    parser.add_argument(
        "--vocab_size",
        type=int,
        default=defaults.vocab_size,
        metavar="N",
        help="pieces of the tokenizer that is trained (%(default)s)",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a SentencePiece model to use instead of training one"
    )
    parser.add_argument(
        "--text_field",
        default=defaults.text_field,
        metavar="F",
        help="the field or column with the text, in JSON lines and Parquet (%(default)s)",
    )
    parser.add_argument(
        "--val_fraction",
        type=float,
        metavar="X",
        help="share held out (5%% of the documents; of fewer than 20, the last 10%% of the text)",
    )
    parser.add_argument(
        "--data_dir",
        default=defaults.data_dir,
        metavar="DIR",
        help="where prepared corpora lie (%(default)s)",
    )
    options = vars(parser.parse_args(argv))
    try:
        folder = prepare(CorpusSettings(**options | {"corpus": options["corpus"] or STDLIB}))
    except UserError as error:
        # The messages name the options of `lm fit`; here they have no prefix.
        raise UserError(str(error).replace("--data.", "--"), error.status) from error
    print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
