"""How many bytes a token of one tokenizer or another stands for, by language, on a corpus's documents."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lm.data.corpus.provenance import origins
from lm.data.corpus.shards import Corpus
from lm.errors import UserError
from lm.tokenizer import Tokenizer, train_tokenizer

SIZES = tuple(2**n for n in range(9, 17))  # that are tried where none are asked for
SHAPES = ((128, 4), (384, 6), (768, 12), (2048, 24))  # hidden size, layers
_MEASURED, _LEARNED = 2_000_000, 10_000_000  # bytes of text


def sample(corpus: Corpus, split: str, most: int) -> Iterator[tuple[str, str]]:
    """Language ("" where nobody has looked) and text of documents, evenly spread over a split.

    Args:
        most: bytes of text, about.
    """
    stream = corpus.split(split)
    every = max(1, round(stream.bytes / most))
    for number, origin in enumerate(origins(corpus.folder, split)):
        if number % every == 0:
            start, end = stream.document(number)
            tokens, _ = stream.window(start, end - start)
            yield origin.get("language", ""), corpus.tokenizer.decode(tokens.tolist())


def trained(corpus: Corpus, sizes: Sequence[int] = ()) -> dict[int, Tokenizer]:
    """Tokenizers trained on the training part, each source and language by its share of it.

    Args:
        sizes: of them; those of `SIZES` for which there is enough text where none is named.

    Raises:
        UserError: there is too little text for one of those that were named.
    """
    texts = [text for _, text in sample(corpus, "train", _LEARNED)]
    found: dict[int, Tokenizer] = {}
    for size in sizes or SIZES:
        try:
            tokenizer = train_tokenizer(texts, size)
        except UserError:
            if sizes:
                raise
            continue  # fewer than its characters, or more than the text has pieces
        found[tokenizer.vocab_size] = tokenizer
    return found


def cheapest(bytes_per_token: Mapping[int, float]) -> dict[tuple[int, int], int]:
    """The vocabulary with which a model takes the least compute for a byte of text.

    More tokens make a text shorter and the output layer larger: a model of L layers and hidden size H spends
    2 (12 L H^2 + V H) operations a token, and so many over the bytes a token stands for on a byte.

    Args:
        bytes_per_token: by number of tokens (V).

    Returns:
        the best V for each of `SHAPES`.
    """

    def cost(size: int, hidden: int, layers: int) -> float:
        return (12 * layers * hidden**2 + size * hidden) / bytes_per_token[size]

    return {shape: min(bytes_per_token, key=lambda size: cost(size, *shape)) for shape in SHAPES}


def bytes_per_token(corpus: Corpus, tokenizers: Mapping[str, Tokenizer]) -> dict[str, dict[str, float]]:
    """Of each tokenizer on the held-out documents, by language and of all; not a number where it can't spell
    most of the documents."""
    texts = list(sample(corpus, "val", _MEASURED))
    found: dict[str, dict[str, float]] = {}
    for name, tokenizer in tokenizers.items():
        sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4, dtype=np.int64))
        for language, text in texts:
            ids = tokenizer.encode(text)
            lost = tokenizer.decode(ids) != text
            for key in {language, "all"}:
                sums[key] += (len(text.encode()), len(ids), lost, 1)
        found[name] = {
            key: math.nan if 2 * lost > documents else float(size / max(count, 1))
            for key, (size, count, lost, documents) in sums.items()
        }
    return found
