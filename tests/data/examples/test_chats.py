"""Chats of every format, and what is skipped of them."""

import gzip
import json

import pytest

from lm.data.examples import chats
from lm.data.examples.files import Read
from lm.data.examples.records import ChatExample, Message
from lm.errors import UserError


def read_chats(path, *args, **options):
    read = Read(chats.read_chats(path, *args, **options), path)
    assert read.examples
    return read


ROLES = {"s": "system", "u": "user", "a": "assistant"}


def chat(**said):
    """A chat from `u="…", a="…"`; a second turn is `u2`."""
    return tuple(Message(ROLES[who[0]], text) for who, text in said.items())


@pytest.fixture
def table(tmp_path):
    def write(*rows, name="f.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    return write


def only(read):
    assert read.skipped == {}
    return [example.messages for example in read.examples]


def test_messages_and_sharegpt(table):
    said = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    expected = chat(s="S", u="U", a="A", u2="V", a2="B")
    messages = [{"role": role, "content": text} for role, text in said]
    turns = [{"from": names[role], "value": text} for role, text in said]
    assert only(read_chats(table({"messages": messages}))) == [expected]
    assert only(read_chats(table({"conversations": turns, "id": 1}))) == [expected]
    assert only(read_chats(table({"conversations": messages}))) == [expected], "keys of the one in the other"
    assert only(read_chats(table({"conversations": turns[1:], "system": "S"}))) == [expected]
    parts = [{"role": "user", "content": [{"type": "text", "text": "U"}]}, messages[2]]
    assert only(read_chats(table({"messages": parts}))) == [chat(u="U", a="A")]
    no_system = [{"role": "system", "content": " "}, *messages[1:]]
    assert only(read_chats(table({"messages": no_system}))) == [expected[1:]]


def test_alpaca(table):
    row = {"instruction": "I", "input": "", "output": "O"}
    assert only(read_chats(table(row))) == [chat(u="I", a="O")]
    assert only(read_chats(table(row | {"input": "N"}))) == [chat(u="I\nN", a="O")]
    assert only(read_chats(table({"instruction": "I", "output": "O"}))) == [chat(u="I", a="O")]
    whole = row | {"system": "S", "history": [["q", "r"], ["s", "t"]]}
    assert only(read_chats(table(whole))) == [chat(s="S", u="q", a="r", u2="s", a2="t", u3="I", a3="O")]
    read = read_chats(table(row, row | {"history": [["q", None]]}))
    assert (len(read.examples), read.skipped) == (1, {"empty message": 1})
    with pytest.raises(UserError, match=r"f\.jsonl:1: 'history' is not a list of pairs"):
        read_chats(table(row | {"history": ["q"]}))


def test_columns_prompt_and_instruction(table, tmp_path):
    path = table({"en": "cat {x}", "de": "Katze", "de2": ""}, {"en": "dog", "de": "Hund", "de2": "Köter"})
    read = read_chats(
        path, source="en", target=["de", "de2"], prompt="German: {source}!", instruction="Be brief"
    )
    assert read.examples == [
        ChatExample(chat(s="Be brief", u="German: cat {x}!", a="Katze")),
        ChatExample(chat(s="Be brief", u="German: dog!", a="Hund"), ("Köter",)),
    ]
    several = read_chats(table({"prompt": "p", "completion": ["a", "b"]}))
    assert several.examples == [ChatExample(chat(u="p", a="a"), ("b",))]
    (tmp_path / "f.tsv").write_text("cat\tKatze\n \tHund\nmouse\t\n")
    read = read_chats(str(tmp_path / "f.tsv"), source="en", target="de", columns=["en", "de"])
    assert [e.messages for e in read.examples] == [chat(u="cat", a="Katze")]
    assert read.skipped == {"empty source": 1, "empty target": 1}


def test_parallel_files(tmp_path):
    (tmp_path / "f.en.gz").write_bytes(gzip.compress("one\u2028\n\nthree\r\nfour".encode()))
    (tmp_path / "f.de").write_text("eins\nzwei\ndrei\n\n", encoding="utf-8")
    paths = str(tmp_path / "f.en.gz"), str(tmp_path / "f.de")
    read = read_chats(paths[0], target_path=paths[1])
    assert [e.messages for e in read.examples] == [chat(u="one\u2028", a="eins"), chat(u="three", a="drei")]
    assert read.skipped == {"empty source": 1, "empty target": 1}
    (tmp_path / "f.de").write_text("eins\nzwei\n")
    with pytest.raises(UserError, match=r"f\.en\.gz has 4 lines and .*f\.de has 2"):
        read_chats(paths[0], target_path=paths[1])


SKIPPED = {
    "roles out of order": ["uu", "au", "aua", "uas", "usa", "usaua", "ssua"],
    "last message not by the assistant": ["u", "su", "uau"],
    "no messages": ["", "s"],
}


@pytest.mark.parametrize("reason, orders", SKIPPED.items())
def test_what_is_out_of_order_is_skipped_and_counted(table, reason, orders):
    good = {"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]}
    rows = [{"messages": [{"role": ROLES[who], "content": "x"} for who in order]} for order in orders]
    read = read_chats(table(good, *rows))
    assert (len(read.examples), read.skipped) == (1, {reason: len(orders)})
    with pytest.raises(UserError, match=rf"nothing can be used in .*f\.jsonl: {reason} \({len(orders)}\)"):
        read_chats(table(*rows))


def test_empty_messages_and_unknown_roles_are_skipped_and_counted(table):
    def row(role, content):
        return {"messages": [{"role": role, "content": content}, {"role": "assistant", "content": "A"}]}

    picture = [{"type": "image_url", "image_url": "x"}]
    rows = (row("user", "U"), row("user", " \n"), row("user", None), row("tool", "T"), row("user", picture))
    read = read_chats(table(*rows))
    assert [e.messages for e in read.examples] == [chat(u="U", a="A")]
    assert read.skipped == {
        "empty message": 2,
        "unknown role 'tool'": 1,
        "a message that is not only text": 1,
    }


@pytest.mark.parametrize(
    "row, options, message",
    [
        (
            {"a": "x"},
            {},
            r"f\.jsonl:1: these columns are no known format: a: give `data.source` and `data.target`",
        ),
        ({"a": "x"}, {"source": "a"}, "give `data.source` and `data.target`"),
        ({"a": "x"}, {"source": "a", "target": "b"}, r"no column 'b' in .*f\.jsonl:1: it has a"),
        ({"a": "x"}, {"format": "messages"}, r"no column 'messages' in .*f\.jsonl:1"),
        ({"a": "x"}, {"format": "alpaca"}, r"no column 'output' in .*f\.jsonl:1"),
        ({"a": "x"}, {"format": "dialogsum"}, r"no column 'dialogue' in .*f\.jsonl:1"),
        ({"a": "x"}, {"format": "parallel"}, "give target_path"),
        ({"a": "x"}, {"format": "vicuna"}, "no format 'vicuna': choose from auto, "),
        ({"a": "x"}, {"prompt": "German"}, r"the prompt has no \{source\}"),
        ({"messages": "x"}, {}, r"f\.jsonl:1: 'messages' is not a list of messages"),
        ({"messages": [{"content": "x"}]}, {}, r"f\.jsonl:1: 'messages' holds a message that is not as"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            {},
            r"f\.jsonl:1: a message in 'messages' is not text",
        ),
    ],
)
def test_what_is_no_such_format_is_named(table, row, options, message):
    with pytest.raises(UserError, match=message):
        read_chats(table(row), **options)


@pytest.mark.parametrize(
    "part, own, real", [("train", 8, 29_000), ("val", 24, 1014), ("test_2016_flickr", 4, 1000)]
)
def test_multi30k(sources, origin, part, own, real):
    paths = [str(sources / f"multi30k/{part}.{language}.gz") for language in ("en", "de")]
    read = read_chats(paths[0], target_path=paths[1], prompt="Translate into German: {source}")
    assert (len(read.examples), read.skipped) == ({"own": own, "real": real}[origin], {})
    with gzip.open(paths[1], "rt", encoding="utf-8") as file:
        last = file.read().splitlines()[-1]
    assert read.examples[-1].messages[-1] == Message("assistant", last)


def test_dialogsum(sources, origin):
    for part, references, own in (("dev", 0, 3), ("test", 2, 8)):
        read = read_chats(str(sources / f"dialogsum/dialogsum.{part}.jsonl"), prompt="{source}\n\nSummary:")
        assert (len(read.examples), read.skipped) == ({"own": own, "real": 500}[origin], {})
        assert {len(example.references) for example in read.examples} == {references}
        assert all(example.messages[0].content.startswith("#Person") for example in read.examples)


@pytest.mark.parametrize(
    "name, own, real",
    [("alpaca_en", 4, 999), ("alpaca_zh", 3, 1000), ("kto_en", 2, 300)],
    ids=["en", "zh", "messages"],
)
def test_llamafactory(sources, origin, name, own, real):
    read = read_chats(str(sources / f"llamafactory-sft-dpo/{name}_demo.json"))
    assert (len(read.examples), read.skipped) == ({"own": own, "real": real}[origin], {})
