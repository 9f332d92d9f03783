"""Rows on disk: what comes back, and when they are made anew."""

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lm.data.examples import rows as module
from lm.data.examples.batches import Encoded
from lm.data.examples.kinds import TextData
from lm.data.examples.records import (
    ChatExample,
    Message,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)
from lm.data.examples.rows import Rows, kept, key_of
from lm.errors import UserError

VALUES = [{"tokens": [1, 2]}, {"text": "第 \ud800", "x": 0.1 + 0.2, "n": None, "deep": {"a": [[1, 2], []]}}]


def write(folder, values, **facts):
    def fill(rows):
        for number, value in enumerate(values):
            rows.add(value, row=2 * number)
        return facts

    return Rows(kept(folder, fill))


def test_rows_come_back_as_they_were(tmp_path):
    rows = write(tmp_path / "a", VALUES, said="this")
    assert rows == VALUES and list(rows) == VALUES and rows[-1] == VALUES[1] and rows[:1] == VALUES[:1]
    assert rows != VALUES[:1] and rows != VALUES[::-1] and rows.facts["said"] == "this"
    assert rows.column("row").tolist() == [0, 2]
    with pytest.raises(IndexError):
        rows[2]
    turned = pickle.loads(pickle.dumps(rows.taken(np.array([1, 0, 1]))))
    assert turned == [VALUES[1], VALUES[0], VALUES[1]] and turned.column("row").tolist() == [2, 0, 2]
    assert len({rows.fingerprint, turned.fingerprint, rows.taken(np.array([0, 1])).fingerprint}) == 3
    assert len(pickle.dumps(write(tmp_path / "b", VALUES * 1000))) < 1000, "workers are handed a name"


def test_arrays_keep_their_type_and_shape(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (row,) = write(tmp_path / "a", [{"array": array, "number": np.int64(7)}])
    assert row["array"].dtype == np.float32 and np.array_equal(row["array"], array) and row["number"] == 7
    with pytest.raises(TypeError, match="set is no plain value"):
        write(tmp_path / "b", [{"x": {1}}])
    assert not (tmp_path / "b").exists()


SAID = (Message("user", "U"), Message("assistant", "A"))
EXAMPLES = [
    TextExample("a", "b", ("x", "y")),
    TextExample("a", None, 0.1),
    TagExample(("a", "b"), ("O", "B"), ""),
    QuestionExample("1", "q", "c", (("c", 0), ("d", 3)), "t"),
    ChatExample(SAID, ("r",)),
    PreferenceExample(SAID[:1], "good", "bad"),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_examples_come_back_with_their_tuples(example):
    back = type(example).of(json.loads(json.dumps(example.values())))
    assert back == example and hash(back) == hash(example) and repr(back) == repr(example)


def test_columns_are_computed_once_for_the_whole_folder(tmp_path):
    rows = write(tmp_path / "a", [[3], [4], [5]])
    some = rows.taken(np.array([2]))
    assert some.column("square", lambda all_: np.array([v[0] ** 2 for v in all_])).tolist() == [25]
    assert rows.column("square", lambda _: 1 / 0).tolist() == [9, 16, 25]


def test_many_at_once_make_them_once(tmp_path):
    begun, found = [], []

    def fill(rows):
        begun.append(1)
        rows.add([1])
        return {}

    threads = [
        threading.Thread(target=lambda: found.append(Rows(kept(tmp_path / "a", fill))[0])) for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), found) == (1, [[1]] * 4)


def test_what_fails_leaves_nothing_and_says_why(tmp_path):
    def fill(rows):
        rows.add([1])
        raise UserError("broken line")

    with pytest.raises(UserError, match="broken line"):
        kept(tmp_path / "a", fill)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.lock"}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a: .*give `data\.data_dir` a folder"):
        kept(tmp_path / "file" / "a", fill)


TASK = """
class Task:
    processor = config = collate = None
    beside = frozenset()
    calls = 0

    def __init__(self):
        self.labels = LABELS

    def encode(self, example, training):
        type(self).calls += 1
        return [{"tokens": [ord(char) + ADDED for char in example.text]}]"""


def load_task(folder, added=0, labels=()):
    path = folder / "task.py"
    path.write_text(TASK.replace("ADDED", str(added)).replace("LABELS", repr(labels)))
    spec = importlib.util.spec_from_file_location("task_of_rows", path)
    sys.modules["task_of_rows"] = found = importlib.util.module_from_spec(spec)
    exec(compile(path.read_text(), str(path), "exec"), found.__dict__)  # no stale bytecode
    module.code_of.cache_clear()
    return found.Task


def test_features_are_made_once_and_anew_where_anything_has_changed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(9)))

    def calls(task, setting=None, **options):
        before = task.calls
        data = TextData(str(path), val=str(path), **options)
        made = task()
        made.setting = setting
        data.use(made)
        features = data.features("train")
        assert isinstance(features, Encoded) and isinstance(features.rows, Rows)
        assert features[0]["tokens"][0] == task().encode(TextExample("text"), True)[0]["tokens"][0]
        return task.calls - before - 1

    assert calls(load_task(tmp_path)) == 9
    assert calls(load_task(tmp_path)) == 0, "the next command finds them"
    assert calls(load_task(tmp_path), batch_size=3) == 0
    assert calls(load_task(tmp_path, added=1)) == 9, "another encode"
    assert calls(load_task(tmp_path, labels=("a",))) == 9, "other labels"
    some = partial(calls, load_task(tmp_path))
    for setting in (2, {"b", "a", "c"}, {"a"}, Path("a"), np.arange(3), np.arange(4), Message("user", "U")):
        assert some(setting=setting) == 9, "another setting of the task"
    assert some(setting={"c", "a", "b"}) == some(setting=np.arange(3)) == some(setting=Path("a")) == 0
    assert some(setting=calls) == some(setting=calls) == 9, "one that can't be compared"
    assert calls(load_task(tmp_path), limit=5) == 5
    assert calls(load_task(tmp_path), seq_len=9) == 9
    os.utime(path, ns=(0, 1))
    assert calls(load_task(tmp_path)) == 0, "another time, but the same rows"
    path.write_text(path.read_text().replace("text 8", "text 9"))
    assert calls(load_task(tmp_path)) == 9


def test_a_state_of_before_rows_is_accepted_and_another_one_is_not(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(9)))
    data = TextData(str(path), val=str(path))
    data.use(load_task(tmp_path)())

    class Trainer:
        class state:  # noqa: N801
            fn = "fit"

    data.trainer = Trainer()
    place = {"epoch": 1, "samples": 8}
    # What the code of before made of these rows.
    before = hashlib.blake2b("".join(map(repr, data.features("train"))).encode()).hexdigest()
    for known in ({"data": before}, {"rows": data.identity}):
        data.load_state_dict({"loader": place, **known})
        assert data.loader_state() == place
    for other in ({"data": "another"}, {"rows": "another"}):
        with pytest.raises(UserError, match="has changed since the run began"):
            data.load_state_dict({"loader": place, **other})


def test_what_is_left_of_rows_is_made_anew(tmp_path):
    folder = tmp_path / "a"
    assert write(folder, VALUES) == VALUES
    (folder / "facts.json").unlink()  # as where deleting it was interrupted
    assert write(folder, VALUES) == VALUES
    shutil.rmtree(folder)
    assert write(folder, VALUES) == VALUES


def test_keys():
    assert key_of("a", {"b": 1, "c": 2}) == key_of("a", {"c": 2, "b": 1}) != key_of("a", {"b": 1, "c": 3})
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other), "else this shows nothing"
    assert key_of(one) == key_of(other) != key_of({0, 9})
    assert key_of(object()) != key_of(object())
