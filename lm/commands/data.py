"""`lm data`: what is in a corpus, where a token is from, and why a document is not there."""

import random
from collections.abc import Sequence

from lm.data.corpus.canaries import told
from lm.data.corpus.provenance import find, origins, removed
from lm.data.corpus.shards import SPLITS, Corpus
from lm.data.corpus.vocabularies import bytes_per_token, cheapest, trained
from lm.errors import UserError
from lm.options import OptionParser
from lm.tokenizer import load_tokenizer

_SHOWN = 300  # characters of a document


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm data`."""
    parser = OptionParser(
        "data",
        "Look into a prepared corpus: `show CORPUS` some of its documents, `where CORPUS TOKEN` is from, "
        "`why CORPUS DOCUMENT` is not in it, `tokens CORPUS`: bytes that a token stands for, by language.",
    )
    add = parser.add_argument
    add("what", choices=("show", "where", "why", "tokens"), help="what to tell")
    add("corpus", metavar="CORPUS", help="the folder of a prepared corpus")
    add("of", metavar="TOKEN|DOCUMENT", nargs="?", help="the index of a token, or a document's id")
    add("--sample", type=int, default=5, metavar="N", help="documents to show (%(default)s)")
    add("--seed", type=int, default=0, help="decides which (%(default)s)")
    add("--against", nargs="+", default=[], metavar="TOKENIZER", help="others to compare its tokens with")
    add("--sizes", nargs="*", type=int, metavar="N", help="and vocabularies trained on it: 512 to 65536")
    add("--split", choices=SPLITS, default="train", help="part that show and where look at (%(default)s)")
    args = parser.parse(argv)
    corpus = Corpus.open(args.corpus, verify=False)
    if args.what == "show":
        _show(corpus, args.split, args.sample, args.seed)
    elif args.what == "tokens":
        if args.of is not None:
            raise UserError(f"one word too many: {args.of!r}", status=2)
        _tokens(corpus, args.against, args.sizes)
    elif args.of is None:
        of = "TOKEN" if args.what == "where" else "DOCUMENT"
        raise UserError(f"say of what: lm data {args.what} {args.corpus} {of}", status=2)
    elif args.what == "where":
        _where(corpus, args.split, args.of)
    else:
        _why(corpus, args.of)


def _text(corpus: Corpus, split: str, start: int, end: int) -> str:
    tokens, _ = corpus.split(split).window(start, end - start)
    return corpus.tokenizer.decode(tokens.tolist())


def _tokens(corpus: Corpus, against: list[str], sizes: list[int] | None) -> None:
    tokenizers = {f"{corpus.vocab_size:,} tokens, its own": corpus.tokenizer}
    own = {} if sizes is None else trained(corpus, sizes)
    tokenizers |= {f"{size:,} tokens, trained": tokenizer for size, tokenizer in own.items()}
    tokenizers |= {
        f"{(other := load_tokenizer(path)).vocab_size:,} tokens, {path}": other for path in against
    }
    found = bytes_per_token(corpus, tokenizers)
    languages = sorted({key for by in found.values() for key in by} - {"all", ""})
    columns = [*languages, *[""] * any("" in by for by in found.values() if languages), "all"]
    width = max(map(len, found))
    print("bytes a token".ljust(width), *(f"{name or '–':>6}" for name in columns))
    for name, by in found.items():
        figures = (f"{by[key]:6.2f}".replace("   nan", " lossy") if key in by else " " * 6 for key in columns)
        print(name.ljust(width), *figures)
    if len(own) < 2:
        return
    print("\nleast compute a byte of text:")
    best = cheapest({size: found[f"{size:,} tokens, trained"]["all"] for size in own})
    for (hidden, layers), size in best.items():
        body = 12 * layers * hidden**2 / 1e6
        model = f"a model of hidden size {hidden:,}, {layers} layers ({body:,.1f} M)"
        print(f"{size:>8,} tokens{' or more' if size == max(own) else ''} for {model}")


def _show(corpus: Corpus, split: str, sample: int, seed: int) -> None:
    if planted := told(corpus.manifest):
        print(f"canaries: {planted}\n")
    stream = corpus.split(split)
    chosen = set(random.Random(seed).sample(range(stream.documents), min(max(sample, 0), stream.documents)))
    for number, origin in enumerate(origins(corpus.folder, split)):
        if number not in chosen:
            continue
        start, end = stream.document(number)
        licence = f", {origin['licence']}" if origin.get("licence") else ""
        text = _text(corpus, split, start, min(end, start + _SHOWN)).strip()
        print(f"--- {origin['id']} ({origin['source']}{licence}; {end - start:,} tokens)\n{text[:_SHOWN]}\n")


def _where(corpus: Corpus, split: str, index: str) -> None:
    stream = corpus.split(split)
    if not index.lstrip("-").isdecimal() or not 0 <= int(index) < len(stream):
        raise UserError(f"{index}: {split} has the tokens 0 to {len(stream) - 1:,}", status=2)
    at = int(index)
    number = stream.document_of(at)
    start, end = stream.document(number)
    origin = next(row for place, row in enumerate(origins(corpus.folder, split)) if place == number)
    print(f"token {at:,} of {split}: {_text(corpus, split, at, at + 1)!r}")
    print(f"document  {origin['id']}, its tokens {start:,} to {end - 1:,}")
    print(f"source    {origin['source']}" + (f", {origin['licence']}" if origin.get("licence") else ""))
    print(f"sha256    {origin['sha256']}")
    print(f"text      … {_text(corpus, split, max(start, at - 20), min(end, at + 20))} …")


def _why(corpus: Corpus, document: str) -> None:
    row = next((row for row in removed(corpus.folder) if row["id"] == document), None)
    if row is not None:
        stands = f", as {row['kept']} stays" if row.get("kept") else ""
        print(f"{document} was left out by {row['step']}: {row['reason']}{stands}\n{row['text']}")
        return
    split, number = find(corpus.folder, document)
    start, end = corpus.split(split).document(number)
    print(f"{document} is in the corpus: document {number:,} of {split}, tokens {start:,} to {end - 1:,}")
