"""Contamination: planted passages are found, clean text stays, and what is cut is what was hit."""

import gzip
import json
import random
import re
import tarfile
import time

import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.steps import contamination
from lm.data.corpus.steps.contamination import Contamination
from lm.errors import UserError

QUESTION = "Which of the old captains was it who first saw the white whale again, and where was that?"
CHINESE = "话说周瑜被诸葛亮预先埋伏关公黄忠魏延三枝军马一击大败"  # 26 characters


@pytest.fixture
def quiz(tmp_path):
    path = tmp_path / "quiz.jsonl"
    rows = [
        {"question": QUESTION, "answer": "Ahab did, on the third day of the chase."},
        {"question": CHINESE},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def verdict(step: Contamination, text: str) -> str | None:
    return step(Document(text, "web/a#1"))


def test_thirteen_words_are_a_hit_and_twelve_are_none(quiz):
    step, words = Contamination(str(quiz)), QUESTION.split()
    for first in range(len(words) - 12):
        assert verdict(step, "He asked: " + " ".join(words[first : first + 13]) + " Nobody knew.")
        assert verdict(step, "He asked: " + " ".join(words[first : first + 12]) + " Nobody knew.") is None
    assert step.counts() == {"passages of quiz.jsonl": len(words) - 12}
    assert step.hits[0] == ("quiz.jsonl", " ".join(words[:13]), "web/a#1")


def test_case_punctuation_and_line_ends_hide_nothing(quiz):
    step = Contamination(str(quiz))
    text = QUESTION.upper().replace(",", " --").replace(" ", "\r\n")
    assert verdict(step, f"«{text}»") == "contaminated by quiz.jsonl"
    assert verdict(step, QUESTION.replace("white", "black")) is None


def test_chinese_goes_by_characters(quiz):
    step = Contamination(str(quiz))
    assert verdict(step, f"却说，{CHINESE[3:10]}，{CHINESE[10:23]}。后事如何") == "contaminated by quiz.jsonl"
    assert verdict(step, f"却说，{CHINESE[3:22]}。后事如何") is None


def test_a_shorter_text_counts_as_a_whole_if_it_has_eight_words(quiz):
    step = Contamination(str(quiz))
    assert (
        verdict(step, "I read: ahab did on the third day of the chase. The end")
        == "contaminated by quiz.jsonl"
    )
    assert verdict(step, "I read: ahab did on the third day of the") is None
    assert verdict(Contamination(str(quiz), shortest=10), "ahab did on the third day of the chase") is None


def test_fields_say_what_counts(quiz):
    step = Contamination(str(quiz), fields=["question"])
    assert verdict(step, "Ahab did, on the third day of the chase.") is None
    assert verdict(step, QUESTION)
    with pytest.raises(UserError, match=r"quiz\.jsonl has no text of 8 words"):
        verdict(Contamination(str(quiz), fields=["context"]), QUESTION)


def test_a_hit_is_cut_out_with_what_is_around_it(quiz):
    before, after = "b" * 50 + " " + "c" * 29 + " ", " " + "d" * 29 + " " + "e" * 50
    document = Document(before + QUESTION.rstrip("?") + after)
    assert Contamination(str(quiz), cut=30)(document) is None
    assert document.text == "b" * 50 + "\n\n" + "e" * 50
    document = Document("b" * 40 + " " + QUESTION + " " + "e" * 70)  # 11 letters are no document
    assert Contamination(str(quiz), cut=30)(document) is None
    assert document.text == "e" * 42  # the question mark is no part of the hit, so it is cut with the rest
    assert (
        Contamination(str(quiz), cut=200)(Document(before + QUESTION + after)) == "contaminated by quiz.jsonl"
    )
    many = Document((("word " * 30) + QUESTION + " ").join([""] * 13) + "word " * 30)
    assert Contamination(str(quiz), cut=30)(many) == "contaminated by quiz.jsonl"


@pytest.mark.parametrize("form", ["txt", "lines.txt", "json", "csv", "tsv", "jsonl.gz", "parquet"])
def test_every_kind_of_file(tmp_path, form):
    path, other = tmp_path / f"set.{form}", "Nothing to see"
    if form == "txt":
        path.write_text("\n\n".join([other, QUESTION.replace(" saw ", "\nsaw "), other]))
    elif form == "lines.txt":
        path.write_text(f"{other}\n{QUESTION}\n")
    elif form == "json":
        squad = {"data": [{"paragraphs": [{"context": other, "qas": [{"question": QUESTION, "id": 1}]}]}]}
        path.write_text(json.dumps({"version": 1.1} | squad))
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(json.dumps({"choices": [other, QUESTION]}).encode()))
    elif form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"q": [other, QUESTION]}), path)
    else:
        mark = "," if form == "csv" else "\t"
        path.write_text(f'id{mark}question\n1{mark}"{QUESTION}"\n')
    assert verdict(Contamination(str(tmp_path)), f"x {QUESTION} y") == f"contaminated by set.{form}"


def test_what_can_not_work_is_said(tmp_path, quiz):
    with pytest.raises(UserError, match="no evaluation set at"):
        Contamination(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="`shortest`"):
        Contamination(str(quiz), shortest=14)
    with pytest.raises(UserError, match="`cut`"):
        Contamination(str(quiz), cut=-1)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json is not JSON"):
        verdict(Contamination(str(tmp_path / "broken.json")), QUESTION)


def test_only_so_many_hits_are_kept(quiz, monkeypatch):
    monkeypatch.setattr(contamination, "_MOST_HITS", 3)
    step = Contamination([str(quiz)])
    for _ in range(5):
        assert verdict(step, QUESTION)
    assert len(step.hits) == 3 and step.counts() == {"passages of quiz.jsonl": 5}


def reviews(folder, count: int) -> list[str]:
    texts: list[str] = []
    with tarfile.open(folder / "imdb" / "aclImdb.tar.xz") as archive:
        for member in archive:
            if member.isfile() and re.search(r"/(neg|pos)/", member.name):
                texts.append(archive.extractfile(member).read().decode())
                if len(texts) == count:
                    return texts
    raise AssertionError(f"{len(texts)} reviews")


def strings(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in items for text in strings(item)]


@pytest.mark.real_data
@pytest.mark.parametrize("language", ["en", "zh"])
def test_planted_passages_are_found_and_nothing_else(real_data, language):
    xquad, choose = real_data / "xquad" / f"xquad.{language}.json", random.Random(0)
    found = strings(json.loads(xquad.read_text(encoding="utf-8")))
    if language == "en":
        sets = [xquad, *sorted((real_data / "eval-sets").glob("*.jsonl"))]
        for path in sets[1:]:
            found += [
                text
                for line in path.read_text(encoding="utf-8").splitlines()
                for text in strings(json.loads(line))
            ]
        hosts = reviews(real_data, 1500)
        texts = [text for text in found if len(re.findall(r"[^\W_]+", text)) >= 13]
    else:
        sets = [xquad]
        novel = (real_data / "chinese-classics" / "三国演义.txt").read_text(encoding="utf-8")
        hosts = [novel[at : at + 500] for at in range(0, len(novel), 500)]
        texts = [text for text in found if len(re.findall("[\u4e00-\u9fff]", text)) >= 20]
    step = Contamination([str(path) for path in sets])
    step(Document("reads the sets"))
    start = time.process_time()
    false = [text for text in hosts if verdict(step, text)]
    speed = sum(len(text.encode()) for text in hosts) / (time.process_time() - start) / 1e6
    assert len(false) == 0, step.hits
    assert speed > 1, "far below what it does on an idle core: 12 to 20 MB/s"

    planted = 0
    for text in choose.choices(texts, k=600):
        host = choose.choice(hosts)
        at = choose.randrange(len(host))
        planted += verdict(step, f"{host[:at]} {text.swapcase()} {host[at:]}") is not None
    assert planted >= 0.99 * 600


@pytest.mark.real_data
def test_the_same_documents_as_with_sets_of_words(real_data):
    squad = json.loads((real_data / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))
    contexts = [row["context"] for article in squad["data"] for row in article["paragraphs"]]
    choose = random.Random(0)

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[^\W_]+", text.lower())
        return {tuple(words[at : at + 13]) for at in range(len(words) - 12)}

    known = set().union(*(grams(context) for context in contexts))
    step, hits = Contamination(str(real_data / "xquad" / "xquad.en.json"), fields=["context"]), 0
    for context in contexts:  # every eighth word is another, on average: not all keep 13 in a row
        text = " ".join("other" if choose.random() < 1 / 8 else word for word in context.split())
        expected = bool(grams(text) & known)
        assert (verdict(step, text) is not None) == expected
        hits += expected
    assert 0.2 * len(contexts) < hits < len(contexts)
