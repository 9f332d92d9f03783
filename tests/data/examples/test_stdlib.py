"""Examples from the standard library of the Python that runs."""

import ast
import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from lm.data.examples.files import Read
from lm.data.examples.splitting import content_hashes, overlap
from lm.data.examples.stdlib import (
    PACKAGES,
    SPLITS,
    _code,
    _first_sentence,
    _split_package,
    stdlib_chats,
    stdlib_texts,
)
from lm.errors import UserError


@pytest.fixture(scope="module")
def chats():
    return {split: Read(stdlib_chats(split), split).examples for split in SPLITS}


@pytest.fixture(scope="module")
def texts():
    return {split: Read(stdlib_texts(split), split).examples for split in SPLITS}


def test_functions_are_shown_without_their_docstring(chats):
    counts = {split: len(examples) for split, examples in chats.items()}
    assert counts["train"] > 3000
    assert min(counts["val"], counts["test"]) > 200
    for examples in chats.values():
        for example in examples:
            user, assistant = example.messages
            assert (user.role, assistant.role) == ("user", "assistant")
            assert 0 < len(user.content) <= 2000
            assert assistant.content.strip() == assistant.content != ""
            assert "\n" not in assistant.content
    every = {e.messages[0].content: e.messages[1].content for part in chats.values() for e in part}
    dumps = next(
        code for code in every if code.startswith("def gcd(") or code.startswith("def commonprefix(")
    )
    assert every[dumps] == "Given a list of pathnames, returns the longest common leading component"
    parsed = 0
    for code in list(every)[::10]:
        function = ast.parse(code).body[0]
        parsed += 1
        assert ast.get_docstring(function) != every[code]
    assert parsed > 300


def test_pieces_are_labelled_with_their_package(texts):
    names = {split: {example.label for example in examples} for split, examples in texts.items()}
    assert names["train"] == names["val"] == names["test"] <= set(PACKAGES)
    assert len(names["train"]) >= 15
    assert {"email", "asyncio", "json", "xml"} <= names["train"]
    counts = {split: Counter(example.label for example in examples) for split, examples in texts.items()}
    total = sum(counts["train"].values())
    assert total > 2500
    assert 0.05 * total < sum(counts["val"].values()) < 0.35 * total
    assert 0.05 * total < sum(counts["test"].values()) < 0.35 * total
    for examples in texts.values():
        assert all(3 <= len(example.text.split("\n")) <= 40 for example in examples)


def test_no_example_stands_in_two_parts(chats, texts):
    for parts in (chats, texts):
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            # Copies that differ in blanks or case only are very few.
            assert overlap(*(content_hashes(parts[name])[:, 0] for name in (one, other))) <= 3


def test_a_package_is_parted_by_modules():
    modules = {f"p/{i}.py": 10 + i for i in range(20)}
    splits = _split_package(modules)
    share = Counter()
    for module, split in splits.items():
        share[split] += modules[module] / sum(modules.values())
    assert 0.05 < share["val"] <= 0.15
    assert 0.05 < share["test"] <= 0.15
    assert splits == _split_package(dict(reversed(modules.items())))
    assert _split_package({"a": 90, "b": 60, "c": 70}) == {"a": "train", "b": "val", "c": "test"}
    assert _split_package({"a": 90, "b": 60}) == {}


def code(source):
    text = textwrap.dedent(source)
    function = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return _code(function, text.split("\n"), "m.py")


def test_the_docstring_is_cut_out():
    found = code('''
        class A:
            @property
            def f(self, x="""no docstring"""):
                """First part
                of it.  Second.

                More."""
                # why
                return "é"  # ñ
    ''')
    assert found.bare == '@property\ndef f(self, x="""no docstring"""):\n    # why\n    return "é"  # ñ'
    assert found.sentence == "First part of it."
    assert found.source.startswith("@property\ndef f(self") and '"""First part\n' in found.source
    assert code('def f():\n    """Only this."""\n').bare == ""
    assert code("def f():\n    return 1\n").sentence == ""


@pytest.mark.parametrize(
    "docstring, sentence",
    [
        ("Return x.", "Return x."),
        ("Return x, e.g. Yes. Then z.", "Return x, e.g. Yes."),
        ("Use os.path. It is good.", "Use os.path."),
        ("Version 3.11 is\n   new! See `x`.", "Version 3.11 is new!"),
        ("No end\n\nNext paragraph.", "No end"),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_the_first_sentence(docstring, sentence):
    assert _first_sentence(docstring) == sentence


def test_an_unknown_split_is_refused():
    for read in (stdlib_chats, stdlib_texts):
        with pytest.raises(UserError, match="no split 'dev': choose from train, val, test"):
            next(read("dev"))


# In parts of the library, to be quick.
PROGRAM = """
import dataclasses, hashlib
from lm.data.corpus.sources import resolve
from lm.data.examples import stdlib
from lm.data.examples.files import Read

(source,) = resolve("stdlib")
kept = [path for path in source.files if path.parent.name in ("json", "email", "logging")]
stdlib.resolve = lambda spec: [dataclasses.replace(source, files=tuple(kept))]
for read in stdlib.stdlib_chats, stdlib.stdlib_texts:
    for split in stdlib.SPLITS:
        print(hashlib.sha256(repr(Read(read(split), split).examples).encode()).hexdigest())
"""


def test_another_hash_seed_changes_nothing():
    outs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "7")
    ]
    assert outs[0] == outs[1]
    assert len(set(outs[0].split())) == 6
