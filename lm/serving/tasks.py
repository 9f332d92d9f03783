"""`/v1/classify`, `/v1/tag`, `/v1/answer`, `/v1/fill`: what fine-tuned models and BERTs find in texts, those
of a request in one batch, in the model's own thread."""

from base64 import b64decode
from collections.abc import Iterable
from typing import Any

from lm.serving import limits
from lm.serving.errors import APIError
from lm.serving.house import Served
from lm.serving.schemas import Answer, Classify, Fill, Tag


def classify(served: Served, body: Classify) -> dict[str, Any]:
    if served.files:
        return response(served, served.model.classify(files("input", body.input)))
    texts, pairs = _list("input", body.input), None if body.pair is None else _list("pair", body.pair)
    if max(map(len, texts)) > limits.TEXT:  # which files may have
        raise APIError(400, f"`input`: a text has at most {limits.TEXT} characters", "input")
    if pairs is not None:
        _alike(input=texts, pair=pairs)
    return response(served, served.model.classify(texts, pairs))


def tag(served: Served, body: Tag) -> dict[str, Any]:
    return response(served, served.model.tag(_list("input", body.input)))


def answer(served: Served, body: Answer) -> dict[str, Any]:
    questions, contexts = _list("question", body.question), _list("context", body.context)
    _alike(question=questions, context=contexts)
    return response(served, served.model.answer(questions, contexts))


def fill(served: Served, body: Fill) -> dict[str, Any]:
    guesses = served.model.fill(_list("input", body.input), body.best)
    masks = [
        [[{"text": text, "probability": share} for text, share in mask] for mask in each] for each in guesses
    ]
    return response(served, [{"masks": each} for each in masks])


def _list(field: str, texts: str | list[str]) -> list[str]:
    """One text or several as several.

    Raises:
        APIError: one is empty.
    """
    several = [texts] if isinstance(texts, str) else texts
    if not all(map(str.strip, several)):
        raise APIError(400, f"`{field}`: a text is empty", field)
    return several


def files(field: str, given: str | list[str]) -> list[bytes]:
    """Files as a request brings them along: never a name, which would open one of the server's own.

    Raises:
        APIError: one is not in base64, or empty; they are too many.
    """
    several = [given] if isinstance(given, str) else given
    if len(several) > limits.FILES:  # where a text could stand, a request may have more
        raise APIError(400, f"`{field}`: send at most {limits.FILES} files at once", field)
    try:
        found = [b64decode(each.rpartition(";base64,")[2], validate=True) for each in several]
    except ValueError as error:
        message = f"`{field}`: give the bytes of a file in base64, or as a data: URL"
        raise APIError(400, message, field) from error
    if not all(found):
        raise APIError(400, f"`{field}`: a file is empty", field)
    return found


def _alike(**columns: list[str]) -> None:
    first, second = columns
    if len(columns[first]) != len(columns[second]):
        raise APIError(400, f"`{second}`: give as many as of `{first}`", second)


def response(served: Served, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    data = [{"index": index, **row} for index, row in enumerate(rows)]
    return {"object": "list", "model": served.name, "data": data}
