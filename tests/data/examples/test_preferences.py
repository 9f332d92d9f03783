"""Pairs of a better and a worse answer."""

import json

import pytest

from lm.data.examples import preferences
from lm.data.examples.files import Read
from lm.data.examples.records import Message, PreferenceExample
from lm.errors import UserError


def read_preferences(path, *args, **options):
    read = Read(preferences.read_preferences(path, *args, **options), path)
    assert read.examples
    return read


USER, SYSTEM = Message("user", "Hi"), Message("system", "Be brief")
EXPECTED = PreferenceExample((USER,), "Good", "Bad")


def human(role, text):
    return {"from": role, "value": text}


def message(role, text):
    return {"role": role, "content": text}


@pytest.fixture
def table(tmp_path):
    def write(*rows):
        (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / "f.jsonl")

    return write


ASKED, GOOD, BAD = message("user", "Hi"), message("assistant", "Good"), message("assistant", "Bad")
FORMS = {
    "hh-rlhf": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Good",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Bad\n",
    },
    "LLaMA-Factory": {
        "conversations": [human("human", "Hi")],
        "chosen": human("gpt", "Good"),
        "rejected": human("gpt", "Bad"),
    },
    "strings": {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
    "instruction": {"instruction": "Hi", "input": "", "chosen": "Good", "rejected": "Bad"},
    "lists": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "whole dialogues": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "the prompt twice": {"prompt": "Hi", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "the prompt twice, as texts": {
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "chosen": "\n\nHuman: Hi\n\nAssistant: Good",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Bad",
    },
    "a plain prompt twice": {
        "prompt": "Hi ",
        "chosen": "\n\nHuman: Hi\n\nAssistant: Good",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Bad",
    },
    "hh-rlhf's prompt": {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Good", "rejected": "Bad"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(table, form):
    read = read_preferences(table(FORMS[form]))
    assert read.skipped == {}
    (example,) = read.examples
    assert [(m.role, m.content.strip()) for m in example.messages] == [("user", "Hi")]
    assert (example.chosen, example.rejected) == ("Good", "Bad")


def test_what_the_system_says_is_kept(table):
    system = message("system", "Be brief")
    for row in (
        {"prompt": "Hi", "system": "Be brief", "chosen": "Good", "rejected": "Bad"},
        {"prompt": [system, ASKED], "chosen": [ASKED, GOOD], "rejected": [system, ASKED, BAD]},
        {"chosen": [system, ASKED, GOOD], "rejected": [system, ASKED, BAD]},
    ):
        assert read_preferences(table(row)).examples == [PreferenceExample((SYSTEM, USER), "Good", "Bad")]


def test_the_chat_is_what_both_share(table):
    shared = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: Human\nd"
    row = {"chosen": f"{shared}\n\nAssistant: x", "rejected": f"{shared}\n\nAssistant: y"}
    (example,) = read_preferences(table(row)).examples
    said = [("user", "a"), ("assistant", "b"), ("user", "c: Human\nd")]
    assert [(m.role, m.content) for m in example.messages] == said
    assert (example.chosen, example.rejected) == ("x", "y")


def test_what_cannot_be_compared_is_skipped_and_counted(table):
    def dialogue(text):
        names = {"H": "Human", "A": "Assistant"}
        return "".join(f"\n\n{names[who]}: {said}" for who, said in text)

    pairs = {
        "chosen and rejected don't share their beginning": [
            (["Ha", "Ax"], ["Hb", "Ay"]),
            (["Ha", "Ax"], ["Ha"]),
        ],
        "chosen and rejected are the same": [(["Ha", "Ax"], ["Ha", "Ax"])],
        "roles out of order": [(["Ha", "Hb", "Ax"], ["Ha", "Hb", "Ay"])],
        "empty message": [(["Ha", "A "], ["Ha", "Ay"]), (["Ha", "Ax"], ["Ha", "A "])],
        "last message not by the assistant": [(["Ha"], ["Hb"])],
    }
    rows = [
        {"chosen": dialogue(chosen), "rejected": dialogue(rejected)}
        for several in pairs.values()
        for chosen, rejected in several
    ]
    read = read_preferences(table(FORMS["strings"], *rows))
    assert read.examples == [EXPECTED]
    assert read.skipped == {reason: len(several) for reason, several in pairs.items()}
    for other in (
        {"prompt": "Ho", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {**FORMS["the prompt twice, as texts"], "prompt": "Ho"},
    ):
        with pytest.raises(UserError, match=r"nothing can be used.*don't go on from their prompt \(1\)"):
            read_preferences(table(other))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "Hi", "chosen": "Good"}, r"no column 'rejected' in .*f\.jsonl:1: it has prompt, chosen"),
        ({"chosen": "Good", "rejected": "Bad"}, r"f\.jsonl:1: 'chosen' is not a dialogue that begins with"),
        ({"prompt": {}, "chosen": "Good", "rejected": "Bad"}, r"f\.jsonl:1: the column 'prompt' is not text"),
        (
            {"prompt": "Hi", "chosen": {}, "rejected": "Bad"},
            r"f\.jsonl:1: 'chosen' holds a message that is not",
        ),
    ],
)
def test_broken_rows_are_named(table, row, message):
    with pytest.raises(UserError, match=message):
        read_preferences(table(row))


def test_hh_rlhf(sources, origin):
    read = read_preferences(str(sources / "hh-rlhf/test.jsonl.gz"))
    assert len(read.examples) + sum(read.skipped.values()) == {"own": 6, "real": 2312}[origin]
    assert read.skipped == {
        "chosen and rejected don't share their beginning": {"own": 1, "real": 5}[origin],
        "roles out of order": {"own": 1, "real": 4}[origin],
        "empty message": {"own": 1, "real": 4}[origin],
    }
    assert all(example.messages[-1].role == "user" for example in read.examples)


@pytest.mark.parametrize("language, own", [("en", 3), ("zh", 2)])
def test_llamafactory_dpo(sources, origin, language, own):
    read = read_preferences(str(sources / f"llamafactory-sft-dpo/dpo_{language}_demo.json"))
    assert (len(read.examples), read.skipped) == ({"own": own, "real": 300}[origin], {})
    assert {example.messages[0].role for example in read.examples} == {"system", "user"}
