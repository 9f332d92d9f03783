"""Entities in tagged tokens, counted as the CoNLL script `conlleval` counts them.

A tag is `O` or a letter, a hyphen and a type (`B-PER`; the type may hold hyphens). The letters:

- BIO (also IOB2): B begins an entity, I goes on with it.
- IOB1 (CoNLL-2003 as published): I throughout; B only where an entity follows another of the same type.
- BIOES: as BIO, with E at an entity's end and S for an entity of one token. M is read as I, L as E and U as
  S, so BMES and BILOU are read as well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.errors import UserError
from lm.metrics.base import Sums, f1_from_counts, ratio

Span = tuple[str, int, int]

_SAME = {"M": "I", "L": "E", "U": "S"}
_LETTERS = tuple("BIES") + tuple(_SAME)


def _parts(tag: str) -> tuple[str, str]:
    """The letter and the type of a tag: `B-PER` is B and PER; `O` and a bare `I` have no type."""
    letter, _, kind = tag.partition("-")
    if letter == "O":
        return "O", ""
    if letter not in _LETTERS:
        raise UserError(f"the tag {tag!r} is neither O nor one of B, I, E, S with a type, such as B-PER")
    return _SAME.get(letter, letter), kind


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, by the rules of `conlleval` (CoNLL-2000 and 2003; BIOES as in its ports).

    The rules give every sequence a meaning, also an ill-formed one: an entity goes on as long as the type
    stays the same and neither B, S nor O comes nor E or S came before. So I after O begins an entity, and so
    does I or E of another type. They read IOB1, BIO and BIOES without being told which.

    Returns:
        Of each entity of the sentence type, first token and the token after the last, in order.

    Raises:
        UserError: a tag of no scheme.
    """
    found: list[Span] = []
    start, before, before_kind = 0, "O", ""
    for place, (letter, kind) in enumerate([*map(_parts, tags), ("O", "")]):
        border = letter in "BSO" or before in "ESO" or kind != before_kind
        if border:
            if before != "O":
                found.append((before_kind, start, place))
            start = place
        before, before_kind = letter, kind
    return found


def are_entities(labels: Sequence[str]) -> bool:
    """Whether a tagger's labels are those of entities, typed or not, and no parts of speech, say.

    Raises UserError where some are, as `B-PER`, and some are not.
    """
    try:
        for label in labels:
            _parts(label)
    except UserError:
        if any(label[:1] in _LETTERS and label[1:2] == "-" for label in labels):
            raise
        return False
    return True


class EntityScores(Sums):
    """Precision, recall and F1 as in `conlleval`: an entity is right if its type, start and end are.

    Args:
        types: the types of entities that get a figure of their own, such as PER. An entity of another type
            counts in the figures over all.
    """

    def __init__(self, types: Sequence[str]) -> None:
        super().__init__()
        self.types = tuple(types)
        self._rows = {kind: row for row, kind in enumerate(self.types)}
        # Hits, found and true: a row for each type, the last for all others.
        self.add_sums("entities", shape=(len(self.types) + 1, 3))
        self.add_sums("tokens", "right_tokens")

    def update(self, predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
        """Add sentences, of which both give the tags.

        Raises:
            ValueError: not equally many sentences and tags.
            UserError: a tag of no scheme.
        """
        if [len(tags) for tags in predicted] != [len(tags) for tags in gold]:
            raise ValueError("predicted and gold tags are not equally many in every sentence")
        entities = torch.zeros_like(self.entities, device="cpu")
        tokens = right_tokens = 0
        for guesses, truths in zip(predicted, gold, strict=True):
            found, true = (set(spans(tags)) for tags in (guesses, truths))
            for column, group in enumerate((found & true, found, true)):
                for kind, _, _ in group:
                    entities[self._rows.get(kind, -1), column] += 1
            tokens += len(truths)
            right_tokens += sum(guess == truth for guess, truth in zip(guesses, truths, strict=True))
        self.increase(entities=entities, tokens=tokens, right_tokens=right_tokens)

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
            return dict.fromkeys(figures, self.scalar(float("nan")))
        for kind, row in self._rows.items():
            if self.entities[row, 2]:
                figures[f"f1_{kind}"] = f1_from_counts(*self.entities[row])
        return figures
