"""Canaries: made-up secrets that a corpus holds a known number of times, so that one can measure what a model
trained on it gives away (Carlini et al. 2019, "The Secret Sharer", arXiv:1802.08232).

A canary is a document of its own: `The access code of bakilo is 281265017`. They are the same in every
corpus, so those of no repetitions stay unknown to a model however many corpora it has seen.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lm.data.corpus.encoding import Part
from lm.errors import UserError
from lm.files import write_atomically

FILE = "canaries.json"
SOURCE = "canaries"  # where their documents are from
REPETITIONS = (0, 1, 4, 16, 64, 256)
MOST = 1000  # of each number of repetitions; far more than a distribution of ranks needs
DIGITS = 9  # of a secret
ALTERNATIVES = 10**DIGITS  # what a secret could have been
_MUCH = 0.05  # of the training tokens
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True)
class Canary:
    """A prefix that no other canary has, and a secret.

    The secret is one of `ALTERNATIVES` strings of `DIGITS` decimal digits, zeros in front included: all of
    the same length, each as likely as any other, whatever the prefix. So its rank among them is uniform for
    a model that has never seen it. Compare whole texts: a tokenizer may join the prefix's last space to a
    digit.

    Attributes:
        prefix: ends in a space.
        repetitions: how many of the training part's documents are this one.
    """

    prefix: str
    secret: str
    repetitions: int

    @property
    def text(self) -> str:
        """Of the document."""
        return self.prefix + self.secret


def check(n: int) -> None:
    """Raises UserError where there can't be so many canaries of each number of repetitions."""
    if not 0 <= n <= MOST:
        raise UserError(f"`canaries` {n}: from 0 to {MOST:,} of each number of repetitions", status=2)


def canaries(n: int) -> list[Canary]:
    """The first n canaries of each of `REPETITIONS`, in turn: those of a smaller n begin those of a larger.

    Raises:
        UserError: n is negative, or above `MOST`.
    """
    check(n)
    # By `random` alone: what else a generator offers may change with the version of Python.
    draw = random.Random("lm: canaries").random
    made: dict[str, Canary] = {}
    while len(made) < n * len(REPETITIONS):
        name = "".join(_SYLLABLES[int(draw() * len(_SYLLABLES))] for _ in range(3))
        secret = f"{int(draw() * ALTERNATIVES):0{DIGITS}}"
        repetitions = REPETITIONS[len(made) % len(REPETITIONS)]
        made.setdefault(name, Canary(f"The access code of {name} is ", secret, repetitions))
    return list(made.values())


def woven(parts: Iterable[Part], planted: list[Canary], documents: int) -> Iterator[Part]:
    """The parts as they are, with the canaries' repetitions between those of the training part.

    The repetitions of a canary are evenly spread, each canary's from a random beginning of its own. Where
    there are as many training parts as repetitions, a part stands between any two of the same canary.

    Args:
        documents: training parts among `parts`.
    """
    draw = random.Random("lm: places of canaries").random
    places = []
    for number, canary in enumerate(planted):
        begin = draw()
        for copy in range(canary.repetitions):
            places.append(((copy + begin) / canary.repetitions, number, copy))
    places.sort(reverse=True)  # the next one is the last

    def due(border: int) -> Iterator[Part]:
        while places and int(places[-1][0] * (documents + 1)) <= border:
            _, number, copy = places.pop()
            origin = {"id": f"{SOURCE}/{number}#{copy}", "source": SOURCE, "licence": "", "language": ""}
            yield Part("train", planted[number].text, origin)

    seen = 0
    for part in parts:
        if part.split == "train":
            yield from due(seen)
            seen += 1
        yield part
    yield from due(documents + 1)


def write_canaries(folder: Path, planted: list[Canary]) -> None:
    """Writes `canaries.json` into a corpus's folder: the number of alternatives, and each canary."""
    content = {"alternatives": ALTERNATIVES, "canaries": [asdict(canary) for canary in planted]}
    write_atomically(folder / FILE, json.dumps(content, indent=1))


def read_canaries(folder: str | Path) -> list[Canary]:
    """The canaries of a prepared corpus, those of no repetitions as well; a canary's place in the list is its
    number in the documents' ids, `canaries/<number>#<repetition>`.

    Raises:
        UserError: the corpus has none, or the file is broken.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {FILE}: plant canaries with lm prepare CORPUS --canaries 10")
    try:
        found = [Canary(**row) for row in json.loads(path.read_text(encoding="utf-8"))["canaries"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is broken: delete the folder {folder} and prepare it again") from error
    return found


def each_of(manifest: dict[str, Any]) -> int:
    """How many canaries of each number of repetitions a corpus has, by its manifest."""
    return manifest.get("canaries", {}).get("each", 0)


def told(manifest: dict[str, Any]) -> str:
    """What was planted into a corpus, in a line; "" where nothing was."""
    if not (record := manifest.get("canaries")):
        return ""
    *others, last = record["repetitions"]
    share = record["tokens"] / manifest["splits"]["train"]["tokens"]
    much = ", which is much: plant fewer, or give more text" if share > _MUCH else ""
    return (
        f"{record['each']:,} each of {', '.join(map(str, others))} and {last} repetitions, "
        f"{record['documents']:,} documents, {share:.2%} of the training tokens{much}; "
        "a model trained on them is for auditing, not for use"
    )
