"""How many bytes a token of one tokenizer or another stands for, by language, on a corpus's documents."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from lm.data.corpus.provenance import origins
from lm.data.corpus.shards import Corpus
from lm.tokenizer import Tokenizer, train_tokenizer

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


def trained(corpus: Corpus, sizes: list[int]) -> dict[str, Tokenizer]:
    """Tokenizers of these sizes, trained on the training part, each source and language by its share of it.

    Raises:
        UserError: there is too little text for one of them.
    """
    texts = [text for _, text in sample(corpus, "train", _LEARNED)]
    return {f"{size:,} tokens, trained": train_tokenizer(texts, size) for size in sizes}


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
