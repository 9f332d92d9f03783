"""Questions on texts: SQuAD's JSON (1.1 and 2.0), or a table with a question in each row."""

import hashlib
from collections.abc import Iterator

from lm.data.examples.files import Skipped
from lm.data.examples.records import QuestionExample
from lm.data.examples.tables import Row, read_rows, value
from lm.errors import UserError

Answers = list[tuple[str, int | None]]


def read_questions(path: str, labelled: bool = True) -> Iterator[QuestionExample | Skipped]:
    """Questions in the file's order, each with its context and the answers in it. `document` is the article,
    in a table without titles the context.

    An answer that does not stand where its offset says is looked for: the place nearest to the offset counts.

    Args:
        path: SQuAD's JSON, or a table whose rows have `question`, `context`, perhaps `id` and `title`, and
            `answers`: a text, a list of texts, a list of `{"text": …, "answer_start": …}`, or
            `{"text": […], "answer_start": […]}`; empty where the context does not answer.
        labelled: whether a question without `answers`, or with none that is in its context, is skipped.

    Raises:
        UserError: a field is missing or is of another type; names file and line.
    """
    count = 0
    for number, (where, row) in enumerate(read_rows(path), start=1):
        if "paragraphs" in row:
            questions = _article(row, f"{row.get('title') or 'article'} #{number}", where)
        else:
            context = _text(row, "context", where)
            document = row.get("title") or hashlib.sha256(context.encode()).hexdigest()[:16]
            questions = iter([(row, context, str(document), where)])
        for question, context, document, place in questions:
            yield _question(str(count), question, context, document, place, labelled)
            count += 1


def _article(row: Row, document: str, where: str) -> Iterator[tuple[Row, str, str, str]]:
    for p, paragraph in enumerate(_objects(row["paragraphs"], f"{where}: 'paragraphs'"), start=1):
        place = f"{where}, paragraph {p}"
        context = _text(paragraph, "context", place)
        questions = _objects(value(paragraph, "qas", place), f"{place}: 'qas'")
        for q, question in enumerate(questions, start=1):
            yield question, context, document, f"{place}, question {q}"


def _question(
    number: str, row: Row, context: str, document: str, where: str, labelled: bool
) -> QuestionExample | Skipped:
    question = _text(row, "question", where)
    name = number if row.get("id") in (None, "") else str(row["id"])
    if not question.strip() or not context.strip():
        return Skipped("empty question or context")
    if row.get("is_impossible") is True:
        given: Answers = []
    elif row.get("answers") is None and labelled:
        return Skipped("no answers given")
    else:
        given = _answers(row.get("answers"), where)
    found = dict.fromkeys(place for text, start in given if (place := _placed(text, start, context)))
    if given and not found and labelled:
        return Skipped("answer not in its context")
    return QuestionExample(name, question, context, tuple(found), document)


def _placed(text: str, start: int | None, context: str) -> tuple[str, int] | None:
    """The answer where it stands in the context, nearest to where it should."""
    if not text:
        return None
    start = min(max(start or 0, 0), len(context))
    # Where it stands at its start, that is the nearest.
    around = context.rfind(text, 0, start + len(text)), context.find(text, start)
    places = [place for place in around if place >= 0]
    return (text, min(places, key=lambda place: abs(place - start))) if places else None


def _answers(found: object, where: str) -> Answers:
    if found is None or found == "":
        return []
    if isinstance(found, str):
        return [(found, None)]
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            found = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        else:
            found = [found]
    if not isinstance(found, list):
        raise UserError(f"{where}: 'answers' is not a list")
    pairs = []
    for one in found:
        answer = {"text": one} if isinstance(one, str) else one
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (0, 0)
        if not isinstance(text, str) or not isinstance(start, int | None):
            raise UserError(f'{where}: an answer is not as {{"text": "…", "answer_start": 0}}')
        pairs.append((text, start))
    return pairs


def _text(row: Row, name: str, where: str) -> str:
    found = value(row, name, where)
    if not isinstance(found, str):
        raise UserError(f"{where}: {name!r} is not text")
    return found


def _objects(found: object, what: str) -> list[Row]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{what} is not a list of objects")
    return found
