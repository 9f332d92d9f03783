"""Texts as a report may show them, which may be published: without what identifies people."""

from functools import cache

from lm.data.corpus.documents import Document
from lm.data.corpus.steps import PersonalData
from lm.errors import UserError


@cache
def _mask() -> PersonalData | None:
    """The corpus step's recognisers; None where their packages are not installed."""
    try:
        return PersonalData()
    except UserError:
        return None


def masked(*texts: str) -> list[str] | None:
    """Texts with e-mail addresses, numbers and keys masked; None where nothing here could mask them: then
    they are not for showing."""
    mask, found = _mask(), []
    if mask is None:
        return None
    for text in texts:
        mask(document := Document(text))
        found.append(document.text)
    return found
