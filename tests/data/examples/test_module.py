"""What all example datamodules do: where files lie, what is held out, what is said, what stays the same."""

import json
import uuid
from functools import partial

import numpy as np
import pytest

from lm.data.examples.batches import collate
from lm.data.examples.kinds import (
    ChatData,
    PreferenceData,
    QuestionData,
    TagData,
    TextData,
)
from lm.data.examples.records import TextExample
from lm.errors import UserError


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(n: int, offset: int = 0) -> list[dict]:
    return [{"text": f"a text with number {i + offset}", "label": "ab"[i % 2]} for i in range(n)]


def ready(data, encode=None):
    """Ready to make features: a text is its characters, in windows of 10."""

    def by_characters(example, training):
        ids = [ord(char) for char in example.text]
        parts = [ids[i : i + 10] for i in range(0, len(ids), 10)]
        return [{"tokens": part, **({"cut": len(parts) > 1} if part is parts[0] else {})} for part in parts]

    class Characters:
        processor = config = None
        beside = frozenset()
        collate = partial(collate, padding={"tokens": 0})

        def __init__(self):
            self.told = uuid.uuid4().hex if encode else ""

        def encode(self, example, training):
            return (encode or by_characters)(example, training)

    data.use(Characters())
    return data


def test_files_are_looked_for_here_and_then_below_the_root(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/a.jsonl", texts(30))
    data = TextData("a.jsonl")
    assert data.located("a.jsonl") == "data/a.jsonl" and len(data.examples("train")) > 20
    write(tmp_path / "a.jsonl", texts(10, 1000))
    assert data.located("a.jsonl") == "a.jsonl"
    assert TextData("a.jsonl", root="elsewhere").located("b.jsonl") == "elsewhere/b.jsonl"
    assert TextData("stdlib").located("stdlib") == "stdlib"
    archive = TextData("a.zip!train.csv", root="data")
    assert archive.located("a.zip!train.csv") == "data/a.zip!train.csv"
    assert data.located("[ab].jsonl") == "[ab].jsonl" and len(TextData("[ab].jsonl").examples("train")) < 11
    assert data.located("**/*.csv") == "data/**/*.csv"
    with pytest.raises(UserError, match=r"no such file or folder: missing\.jsonl, nor data/missing\.jsonl"):
        TextData("missing.jsonl").examples("train")
    with pytest.raises(UserError, match=r"no such file or folder: /nowhere/missing\.jsonl$"):
        TextData("/nowhere/missing.jsonl").examples("train")
    write(tmp_path / "data/odd!name.jsonl", texts(30))
    assert len(TextData("odd!name.jsonl").examples("train")) > 20


def test_what_is_held_out_does_not_depend_on_the_others(tmp_path):
    path = write(tmp_path / "a.jsonl", texts(300))
    data = TextData(path, val_fraction=0.2)
    train, val = data.examples("train"), data.examples("val")
    assert len(train) + len(val) == 300 and 30 < len(val) < 90
    assert not {e.text for e in train} & {e.text for e in val}
    fewer = TextData(write(tmp_path / "b.jsonl", texts(150)), val_fraction=0.2)
    assert {e.text for e in fewer.examples("val")} == {e.text for e in val if int(e.text.split()[-1]) < 150}
    # Whichever is asked for first.
    again = TextData(path, val_fraction=0.2)
    assert again.examples("val") == val and again.examples("train") == train
    with pytest.raises(UserError, match=r"can be held out: they are too few"):
        TextData(write(tmp_path / "c.jsonl", texts(2)), val_fraction=0.01).examples("train")


def test_questions_on_a_document_stay_together(tmp_path):
    rows = [
        {"question": f"q{i}?", "context": f"context {i % 20}", "answers": ["context"], "title": f"t{i % 20}"}
        for i in range(200)
    ]
    data = QuestionData(write(tmp_path / "a.jsonl", rows), val_fraction=0.3)
    documents = [{e.document for e in data.examples(split)} for split in ("train", "val")]
    assert not documents[0] & documents[1] and len(documents[0] | documents[1]) == 20


def test_a_limit_takes_the_same_examples_each_time(tmp_path):
    path = write(tmp_path / "a.jsonl", texts(100))
    val = write(tmp_path / "v.jsonl", texts(20, 500))
    chosen = {n: TextData(path, val=val, limit=n).examples("train") for n in (5, 20, 100, 1000)}
    assert [len(examples) for examples in chosen.values()] == [5, 20, 100, 100]
    assert set(chosen[5]) < set(chosen[20]) < set(chosen[100])
    assert [e for e in chosen[100] if e in chosen[20]] == chosen[20], "in the file's order"
    assert chosen[20] != chosen[100][:20]
    assert len(TextData(path, val=val, limit=5).examples("val")) == 20


def test_a_limit_is_one_on_rare_labels_too(tmp_path, capsys):
    """A label that only the cut leaves out is nothing to learn from held-out examples."""
    rows = [{"text": f"a text with number {i}", "label": f"{i % 10}"} for i in range(300)]
    held = TextData(write(tmp_path / "a.jsonl", rows)).examples("val")
    alone = next(row for row in rows if row["text"] == held[3].text)
    alone["label"] = "rare"
    path = write(tmp_path / "b.jsonl", rows)
    found = {}
    for limit in (None, 3):
        data = TextData(path, limit=limit)
        data.setup("fit")
        data.give_back_rare(lambda example: (example.label,))
        assert "1 held-out examples have labels that stand nowhere else" in capsys.readouterr().err
        found[limit] = data.examples("train"), data.examples("val")
    assert found[None][0][-1].text == alone["text"] and len(found[None][1]) == len(held) - 1
    assert found[3][1] == found[None][1]
    assert len(found[3][0]) == 3 and set(found[3][0]) < set(found[None][0])


def test_examples_that_stand_in_both_are_said(tmp_path, capsys):
    train = write(tmp_path / "a.jsonl", texts(30))
    val = write(tmp_path / "v.jsonl", [{"text": "A Text  with number 7", "label": "b"}, *texts(5, 28)])
    test = write(tmp_path / "t.jsonl", texts(9, 900))
    TextData(train, val=val, test=test).compare_splits()
    assert capsys.readouterr().err == f"warning: 3 examples of {val} stand in {train} too\n"
    TextData(train).compare_splits()
    assert capsys.readouterr().err == ""


def test_windows_and_what_is_said_of_them(tmp_path, capsys):
    rows = [*texts(10), {"text": "short", "label": "a"}]
    path = write(tmp_path / "a.jsonl", rows)
    data = ready(TextData(path, val=path, seq_len=10))
    assert len(data.features("train")) == 10 * 2 + 1
    assert "10 of 11 train examples are longer than 10 tokens: cut" in capsys.readouterr().err
    assert all("cut" not in f and "index" not in f for f in data.features("train"))
    assert [f["index"] for f in data.features("val")] == [i for i in range(10) for _ in range(2)] + [10]
    assert data.features("val") is data.features("val"), "encoded once"
    capsys.readouterr()
    some = ready(data, lambda e, training: [{"tokens": [1]}] if e.text == "short" else [])
    assert len(some.features("train")) == 1
    assert "10 of 11 train examples can't be used" in capsys.readouterr().err
    with pytest.raises(UserError, match=rf"no example of {path} can be used"):
        ready(data, lambda e, training: []).features("train")


def test_the_identity_is_that_of_the_encoded_data(tmp_path):
    path = write(tmp_path / "a.jsonl", texts(30))
    val = write(tmp_path / "v.jsonl", texts(3, 500))
    first, same = (ready(TextData(path, val=val)) for _ in range(2))
    same.add_columns("train", {"reference_chosen": np.arange(30) / 3})  # what a model made of it
    assert same.features("train")[1] == {**first.features("train")[1], "reference_chosen": 1 / 3}
    assert first.identity == same.identity
    changed = write(tmp_path / "b.jsonl", [*texts(29), {"text": "a text with number 30", "label": "a"}])
    assert ready(TextData(changed, val=val)).identity != first.identity
    labels = np.zeros((2, 3000), dtype=np.float32)
    labels[1, 1500] = 1  # what repr() of a long array leaves out
    found = {
        ready(TextData(path, val=val), lambda e, training, row=row: [{"tokens": [1], "target": row}]).identity
        for row in labels
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seq_len": 7}, "`seq_len` 7 is too small: give at least 8"),
        ({"batch_size": 0}, "`batch_size` 0 is too small"),
        ({"eval_batch_size": 0}, "`eval_batch_size` 0 is too small"),
        ({"num_workers": -1}, "`num_workers` -1"),
        ({"limit": 0}, "`limit` 0 is too small"),
        ({"val_fraction": 1.0}, "`val_fraction` 1.0: it must lie between 0 and 1"),
    ],
)
def test_settings_that_can_not_be(options, said):
    with pytest.raises(UserError, match=said) as caught:
        TextData("a.jsonl", **options)
    assert caught.value.status == 2


def test_there_is_no_test_part(tmp_path):
    data = TextData(write(tmp_path / "a.jsonl", texts(30)))
    assert data.has("val") and not data.has("test")
    with pytest.raises(UserError, match=r"give `data\.test` FILE"):
        data.setup("test")


def test_what_a_command_needs_is_read_and_no_more(tmp_path):
    path = write(tmp_path / "a.jsonl", texts(30))
    data = TextData(str(tmp_path / "missing.jsonl"), val=str(tmp_path / "missing.jsonl"), test=path)
    data.setup("test")
    data.setup("predict")
    assert len(data.examples("test")) == 30
    with pytest.raises(UserError, match="no such file"):
        data.setup("validate")


def test_unlabelled_examples_are_skipped_in_training_only(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [*texts(20), {"text": "no label", "label": None}])
    data = TextData(path, val=path, test=path)
    assert len(data.examples("train")) == 20
    assert f"{path} (train): 1 skipped: no label" in capsys.readouterr().err
    assert data.examples("test")[-1] == TextExample("no label")


def test_questions_to_be_answered(tmp_path, capsys):
    """A file without answers is fine to answer, not to learn from."""
    rows = [{"question": f"q{i}?", "context": "a context"} for i in range(3)]
    path = write(tmp_path / "a.jsonl", rows)
    assert [e.answers for e in QuestionData(path, test=path).examples("test")] == [()] * 3
    with pytest.raises(UserError, match=r"nothing can be used in .*no answers given \(3\)"):
        QuestionData(path).examples("train")
    rows[1]["answers"] = ["not in it"]
    rows[2]["answers"] = ["context"]
    mixed = write(tmp_path / "b.jsonl", rows)
    assert len(QuestionData(mixed, val=mixed).examples("train")) == 1
    err = capsys.readouterr().err
    assert "1 skipped: no answers given" in err and "1 skipped: answer not in its context" in err


def test_every_question_is_answered_and_known_by_its_row(tmp_path, capsys):
    rows = [{"question": f"q{i}?", "context": "a context"} for i in range(4)]
    rows[0]["question"] = " "
    rows[2]["answers"] = ["context"]
    rows[3]["answers"] = ["not in it"]
    path = write(tmp_path / "a.jsonl", rows)
    for command, kept in (("test", [2]), ("predict", [1, 2, 3])):
        data = QuestionData(path, test=path)
        data.setup(command)
        found = data.examples("test")
        assert [e.question for e in found] == [f"q{i}?" for i in kept]
        assert [data.row_number(i) for i in range(len(found))] == kept
        assert [e.id for e in found] == [str(i) for i in kept], "as they have none of their own"
        assert "(test): 1 skipped: empty question or context" in capsys.readouterr().err


def test_rows_that_are_skipped_count(tmp_path):
    """Over all files of a glob, and in tables of words too."""
    for name in "ab":
        write(tmp_path / f"{name}.jsonl", [{"text": " "}, {"text": "x"}, {"text": "y"}])
    data = TextData("x", test=str(tmp_path / "*.jsonl"))
    assert [data.row_number(i) for i in range(4)] == [1, 2, 4, 5]
    data = TagData("x", test=write(tmp_path / "t.json", [{"words": w} for w in (["a"], [], ["b"])]))
    assert [data.row_number(i) for i in range(2)] == [0, 2]


def test_parallel_texts(tmp_path):
    (tmp_path / "train.en").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "train.de").write_text("eins\nzwei\n", encoding="utf-8")
    data = ChatData(str(tmp_path / "train"), val=str(tmp_path / "train"), parallel=("en", "de"))
    assert [[m.content for m in e.messages] for e in data.examples("train")] == [
        ["one", "eins"],
        ["two", "zwei"],
    ]
    with pytest.raises(UserError, match=r"has no \{source\} in it"):
        ChatData("x", prompt="translate this")


def test_the_vocabulary_is_known_before_anything_is_read(sources):
    """A Llama's tokenizer has no tokens for chats."""
    model = str(sources / "stories260K-hf/tokenizer.model")
    assert TextData("x", tokenizer=model).vocab_size == 512
    for kind in (ChatData, PreferenceData):
        data = kind("x", tokenizer=model)
        assert data.vocab_size == data.make_tokenizer().vocab_size == 516
    assert TextData("x", vocab_size=300).vocab_size == 300


def test_a_tokenizer_sees_all_texts_of_an_example(tmp_path):
    tags = write(tmp_path / "t.jsonl", [{"words": ["ab", "cd"], "tags": ["O", "B-X"]}] * 9)
    assert TagData(tags, val=tags).texts(TagData(tags, val=tags).examples("train")[0]) == ("ab cd",)
    pairs = write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad"}] * 3)
    data = PreferenceData(pairs, val=pairs)
    assert list(data.texts(data.examples("train")[0])) == ["q", "good", "bad"]
    two = write(tmp_path / "x.jsonl", [{"text": "a", "other": "b", "label": "c"}])
    data = TextData(two, val=two, pair="other")
    assert data.texts(data.examples("train")[0]) == ("a", "b")
