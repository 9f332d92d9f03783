"""Entities in tagged tokens, counted as the CoNLL script `conlleval` counts them, and the ways to write tags.

A tag is `O` or a letter, a hyphen and a type (`B-PER`; the type may hold hyphens). The letters:

- BIO (also IOB2): B begins an entity, I goes on with it.
- IOB1 (CoNLL-2003 as published): I throughout; B only where an entity follows another of the same type.
- BIOES: as BIO, with E at an entity's end and S for an entity of one token. M is read as I, L as E and U as
  S, so BMES and BILOU are read as well.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lm.errors import UserError
from lm.metrics.base import Sums, f1_from_counts, ratio

Span = tuple[str, int, int]

_SAME = {"M": "I", "L": "E", "U": "S"}
_LETTERS = {"auto": "BIES", "bio": "BI", "iob1": "BI", "bioes": "BIES"}


def _parts(tag: str, scheme: str = "auto") -> tuple[str, str]:
    """The letter and the type of a tag: `B-PER` is B and PER; `O` and a bare `I` have no type."""
    if scheme not in _LETTERS:
        raise ValueError(f"no tag scheme {scheme!r}: {', '.join(_LETTERS)}")
    letter, _, kind = tag.partition("-")
    if letter == "O":
        return "O", ""
    letter = _SAME.get(letter, letter)
    if letter not in tuple(_LETTERS[scheme]):
        letters = ", ".join(_LETTERS[scheme])
        raise UserError(f"the tag {tag!r} is neither O nor one of {letters} with a type, such as B-PER")
    return letter, kind


def spans(tags: Sequence[str], scheme: str = "auto") -> list[Span]:
    """The entities of a sentence, by the rules of `conlleval` (CoNLL-2000 and 2003; BIOES as in its ports).

    The rules give every sequence a meaning, also an ill-formed one: an entity goes on as long as the type
    stays the same and neither B, S nor O comes nor E or S came before. So I after O begins an entity, and so
    does I or E of another type. They read IOB1, BIO and BIOES without being told which.

    Args:
        tags: the tags of one sentence.
        scheme: `auto` takes the letters of all schemes; `bio`, `iob1` or `bioes` refuse those of others.

    Returns:
        Type, first token and the token after the last, in order.

    Raises:
        UserError: a tag that the scheme does not have.
        ValueError: no such scheme.
    """
    found: list[Span] = []
    start, before, before_kind = 0, "O", ""
    for place, (letter, kind) in enumerate([*(_parts(tag, scheme) for tag in tags), ("O", "")]):
        border = letter in "BSO" or before in "ESO" or kind != before_kind
        if border:
            if before != "O":
                found.append((before_kind, start, place))
            start = place
        before, before_kind = letter, kind
    return found


def _written(tags: Sequence[str], scheme: str, first: str, last: str, single: str) -> list[str]:
    """The same entities with these letters at their first, last and single tokens and I between."""
    written = ["O"] * len(tags)
    for kind, start, end in spans(tags, scheme):
        letters = [single] if end - start == 1 else [first, *["I"] * (end - start - 2), last]
        written[start:end] = [f"{letter}-{kind}" if kind else letter for letter in letters]
    return written


def to_bio(tags: Sequence[str], scheme: str = "auto") -> list[str]:
    """The tags of a sentence in BIO (IOB2). Arguments and errors as in `spans`."""
    return _written(tags, scheme, "B", "I", "B")


def to_bioes(tags: Sequence[str], scheme: str = "auto") -> list[str]:
    """The tags of a sentence in BIOES. Arguments and errors as in `spans`."""
    return _written(tags, scheme, "B", "E", "S")


def to_iob1(tags: Sequence[str], scheme: str = "auto") -> list[str]:
    """The tags of a sentence in IOB1. Arguments and errors as in `spans`."""
    written = _written(tags, scheme, "I", "I", "I")
    entities = spans(tags, scheme)
    for (kind, _, end), (next_kind, start, _) in pairwise(entities):
        if end == start and kind == next_kind:
            written[start] = f"B-{kind}" if kind else "B"
    return written


def tag_scheme(all_tags: Iterable[Sequence[str]]) -> str:
    """Which scheme sentences are tagged in: `bio`, `iob1` or `bioes`.

    Anything with E or S is `bioes`. Of the rest, `iob1` is what is written as IOB1 writes it throughout and
    is not well-formed BIO; what fits neither, and what has no entity, is `bio`.

    Raises:
        UserError: a tag of no scheme.
    """
    bio = iob1 = True
    for tags in all_tags:
        if any(_parts(tag)[0] in "ES" for tag in tags):
            return "bioes"
        bio = bio and to_bio(tags) == list(tags)
        iob1 = iob1 and to_iob1(tags) == list(tags)
    return "iob1" if iob1 and not bio else "bio"


class EntityScores(Sums):
    """Precision, recall and F1 as in `conlleval`: an entity is right if its type, start and end are.

    Args:
        types: the types of entities that get a figure of their own, such as PER. An entity of another type
            counts in the figures over all.
        scheme: how the tags are written, as in `spans`.
    """

    def __init__(self, types: Sequence[str], scheme: str = "auto") -> None:
        super().__init__()
        self.types = tuple(types)
        self.scheme = scheme
        self._rows = {kind: row for row, kind in enumerate(self.types)}
        # Hits, found and true: a row for each type, the last for all others.
        self.add_sum("entities", len(self.types) + 1, 3)
        for name in ("tokens", "right_tokens"):
            self.add_sum(name)

    def update(self, predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
        """Add sentences.

        Args:
            predicted: the tags of each sentence.
            gold: as many sentences with as many tags.

        Raises:
            ValueError: other numbers of sentences or tags.
            UserError: a tag that the scheme does not have.
        """
        if [len(tags) for tags in predicted] != [len(tags) for tags in gold]:
            raise ValueError("predicted and gold tags are not equally many in every sentence")
        entities = torch.zeros_like(self.entities, device="cpu")
        tokens = right = 0
        for guesses, truths in zip(predicted, gold, strict=True):
            found, true = (set(spans(tags, self.scheme)) for tags in (guesses, truths))
            for column, group in enumerate((found & true, found, true)):
                for kind, _, _ in group:
                    entities[self._rows.get(kind, -1), column] += 1
            tokens += len(truths)
            right += sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
        self.increase("entities", entities)
        self.increase("tokens", torch.tensor(tokens))
        self.increase("right_tokens", torch.tensor(right))

    def compute(self) -> dict[str, Tensor]:
        """In 0 to 1: `precision`, `recall`, `f1` of entities, `accuracy` of tokens, `f1_TYPE` of each type.

        Types without an entity in the gold tags have no figure. As in `conlleval`, precision is 0 where
        nothing was found and recall where there is nothing to find; without tokens all are not a number.
        """
        hits, found, true = self.entities.sum(dim=0)
        figures = {
            "precision": ratio(hits, found).nan_to_num(0.0),
            "recall": ratio(hits, true).nan_to_num(0.0),
            "f1": f1_from_counts(hits, found, true),
            "accuracy": ratio(self.right_tokens, self.tokens),
        }
        if not self.tokens:
            return {name: self.scalar(float("nan")) for name in figures}
        for kind, row in self._rows.items():
            if self.entities[row, 2]:
                figures[f"f1_{kind}"] = f1_from_counts(*self.entities[row])
        return figures
