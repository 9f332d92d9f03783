"""Which examples of an evaluation stood in what a model was trained on, and the figures without them."""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm.data.corpus.provenance import origins
from lm.data.corpus.shards import Corpus
from lm.data.corpus.steps.contamination import Passages, strings
from lm.evaluation.records import Result


class Place(NamedTuple):
    """Where an example, or a part of it, stood."""

    document: str  # its id in the corpus
    source: str
    passage: str  # what both have, as it stands in the document


def contaminated(results: Sequence[Result], corpus: Corpus) -> None:
    """Say of each example which documents of a corpus's training part hold it, in its `contaminated` and in
    the result's `clean`: of each metric that is a mean, `value`, `stderr` and `examples` without those.

    An example is held where it shares 13 words in a row with a document (20 characters in Chinese), or a
    whole text of at least 8 words, as the corpus step `Contamination` sees it: questions, contexts and
    answers alike.
    """
    texts = [
        (number, text)
        for number, record in enumerate(each for result in results for each in result.records)
        for text in strings(record["doc"])
    ]
    places = _places(Passages(texts), corpus)
    # A passage belongs to the first example that has it: which others do is asked the other way round, of
    # short texts by whether they stand in it.
    reverse = Passages((number, place.passage) for number, place in enumerate(places))
    plain = [_words(place.passage) for place in places]
    held: dict[int, list[Place]] = defaultdict(list)
    for number, text in texts:
        held[number] += [places[hit] for _, _, hit in reverse.find(text)]
        if (words := _words(text)) and Passages([(0, text)]).numbers:
            held[number] += [place for place, own in zip(places, plain, strict=True) if words in own]
    number = 0
    for result in results:
        for record in result.records:
            record["contaminated"] = [place._asdict() for place in dict.fromkeys(held[number])]
            number += 1
        result.clean = _without(result)


def _words(text: str) -> str:
    """A text as it is compared: letters and digits of its words."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


def _places(passages: Passages, corpus: Corpus) -> list[Place]:
    stream, tokenizer = corpus.split("train"), corpus.tokenizer
    found = []
    for number, origin in enumerate(origins(corpus.folder, "train")):
        start, end = stream.document(number)
        text = tokenizer.decode(stream.window(start, end - start)[0].tolist())
        found += [
            Place(origin["id"], origin.get("source", ""), text[first:last])
            for first, last, _ in passages.find(text)
        ]
    return found


def _without(result: Result) -> dict[str, dict[str, Any]]:
    """The figures without what was held."""
    left = [record["metrics"] for record in result.records if not record["contaminated"]]
    found = {}
    for name, metric in result.metrics.items():
        values = [float(each[name]) for each in left if isinstance(each.get(name), int | float)]
        if metric["aggregation"] not in ("mean", "perplexity") or len(values) < 2:
            continue
        value, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
        if metric["aggregation"] == "perplexity":
            value = math.exp(-value)
            error *= value  # to the first order
        found[name] = {"value": value, "stderr": error, "examples": len(values)}
    return found
