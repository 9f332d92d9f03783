"""Questions: SQuAD's two versions and tables."""

import json

import pytest

from lm.data.examples import questions
from lm.data.examples.files import Read
from lm.errors import UserError


def read_questions(path, *args, **options):
    read = Read(questions.read_questions(path, *args, **options), path)
    assert read.examples
    return read


CONTEXT = "To be, or not to be: to be free."


def question(**fields):
    return {"id": "q", "question": "What?", "answers": [{"text": "to be", "answer_start": 14}]} | fields


@pytest.fixture
def squad(tmp_path):
    def write(*questions, title="Play"):
        paragraph = {"context": CONTEXT, "qas": list(questions)}
        path = tmp_path / "squad.json"
        articles = [{"title": title, "paragraphs": [paragraph]}, {"paragraphs": [paragraph]}]
        path.write_text(json.dumps({"version": "v2.0", "data": articles}, indent=1))
        return str(path)

    return write


@pytest.fixture
def table(tmp_path):
    def write(*rows):
        (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / "f.jsonl")

    return write


def test_squad_and_its_documents(squad):
    first, second = read_questions(squad(question())).examples
    assert (first.id, first.question, first.context) == ("q", "What?", CONTEXT)
    assert (first.answers, first.document) == ((("to be", 14),), "Play #1")
    assert second.document == "article #2"


@pytest.mark.parametrize(
    "start, found",
    [(14, 14), (0, 14), (15, 14), (18, 21), (21, 21), (22, 21), (999, 21), (-5, 14), (None, 14)],
)
def test_an_answer_elsewhere_is_found_at_the_nearest_place(squad, start, found):
    read = read_questions(squad(question(answers=[{"text": "to be", "answer_start": start}])))
    assert read.examples[0].answers == (("to be", found),)
    places = [place for place in range(len(CONTEXT)) if CONTEXT.startswith("to be", place)]
    assert abs(found - (start or 0)) == min(abs(place - (start or 0)) for place in places)


def test_answers_that_are_not_there(squad):
    lost = question(answers=[{"text": "to sleep", "answer_start": 0}])
    one_of_two = question(answers=[*lost["answers"], *question()["answers"], *question()["answers"]])
    read = read_questions(squad(lost, one_of_two))
    assert [example.answers for example in read.examples] == [(("to be", 14),)] * 2
    assert read.skipped == {"answer not in its context": 2}


def test_what_cannot_be_answered(squad):
    plausible = {"plausible_answers": [{"text": "to be", "answer_start": 14}]}
    impossible = question(answers=[], is_impossible=True, **plausible)
    read = read_questions(squad(impossible, question(answers=[]), question(is_impossible=False)))
    assert [len(example.answers) for example in read.examples[:3]] == [0, 0, 1]
    unknown = {"id": "u", "question": "Who?"}
    read = read_questions(squad(question(), unknown, question(question=" ")))
    assert read.skipped == {"no answers given": 2, "empty question or context": 2}
    assert len(read_questions(squad(unknown), labelled=False).examples) == 2


def test_tables(table):
    row = {"question": "What?", "context": CONTEXT}
    answers = [
        {"text": ["to be", "free"], "answer_start": [21, 27]},
        [{"text": "free", "answer_start": 27}],
        ["free"],
        "free",
        {"text": [], "answer_start": []},
        [],
        "",
    ]
    read = read_questions(table(*({**row, "answers": given, "title": "T"} for given in answers)))
    free = (("free", 27),)
    assert [e.answers for e in read.examples] == [(("to be", 21), *free), free, free, free, (), (), ()]
    assert {example.document for example in read.examples} == {"T"}
    assert len({example.id for example in read.examples}) == len(answers)
    read = read_questions(table({**row, "answers": []}, {**row, "context": "else", "answers": []}))
    assert len({example.document for example in read.examples}) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"context": None}, r"f\.jsonl:1: 'context' is not text"),
        ({"question": 3}, r"f\.jsonl:1: 'question' is not text"),
        ({"answers": 3}, r"f\.jsonl:1: 'answers' is not a list"),
        ({"answers": [{"answer": "x"}]}, r"f\.jsonl:1: an answer is not as"),
        ({"answers": [{"text": "x", "answer_start": "3"}]}, r"f\.jsonl:1: an answer is not as"),
        ({"answers": ["nowhere"]}, r"nothing can be used in .*: answer not in its context \(1\)"),
        ({"paragraphs": 3}, r"f\.jsonl:1: 'paragraphs' is not a list of objects"),
        ({"paragraphs": [{"context": "c"}]}, r"no column 'qas' in .*f\.jsonl:1, paragraph 1: it has context"),
    ],
)
def test_broken_rows_are_named(table, change, message):
    with pytest.raises(UserError, match=message):
        read_questions(table({"question": "What?", "context": CONTEXT, "answers": []} | change))
    with pytest.raises(UserError, match=r"no column 'question' in .*f\.jsonl:1: it has q, context"):
        read_questions(table({"q": "What?", "context": CONTEXT}))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_xquad(sources, origin, language):
    read = read_questions(str(sources / f"xquad/xquad.{language}.json"))
    articles, questions = {"own": (3, 18), "real": (48, 1190)}[origin]
    assert (len(read.examples), read.skipped) == (questions, {})
    assert len({example.document for example in read.examples}) == articles
    assert len({example.id for example in read.examples}) == questions
    for example in read.examples:
        assert all(example.context[start:].startswith(text) for text, start in example.answers)
