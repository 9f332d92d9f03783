"""How often a BERT would be right by always guessing the commonest token of the held-out text.

python tests/benchmarks/masked_baseline.py data/CORPUS
"""

import sys

import numpy as np

from lm.data.corpus.shards import Corpus


def main() -> None:
    """Print the share of the commonest token among the tokens that can be masked."""
    corpus = Corpus.open(sys.argv[1])
    stream = corpus.split("val")
    tokens, _ = stream.window(0, len(stream))
    text = tokens[corpus.tokenizer.byte_lengths()[tokens] > 0]
    ids, counts = np.unique(text, return_counts=True)
    best = counts.argmax()
    piece = corpus.tokenizer.piece(int(ids[best]))
    print(f"{counts[best] / len(text):.4f} are {piece!r}, of {len(text):,} tokens")


if __name__ == "__main__":
    main()
