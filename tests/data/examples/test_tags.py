"""Tagged sentences: CoNLL's columns and tables with lists."""

import json
import zipfile
from collections import Counter

import pytest

from lm.data.examples import tags
from lm.data.examples.files import Read
from lm.data.examples.records import TagExample
from lm.errors import UserError


def read_tags(path, *args, **options):
    read = Read(tags.read_tags(path, *args, **options), path)
    assert read.examples
    return read


CONLL03 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
# SYM I-NP O

 \t
Peter NNP B-NP B-PER
"""
CONLLU = """# sent_id = 1
# text = Don't # it
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\t_\t_\t0\troot\t_\t_
2\tn't\tnot\tPART\t_\t_\t1\tadv\t_\t_
2.1\tghost\t_\tX\t_\t_\t_\t_\t_\t_
3\t#\t#\tSYM\t_\t_\t1\tobj\t_\t_
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="f.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_separated_by_spaces(write, end):
    path = write(CONLL03.replace("\n", end))
    expected = [TagExample(("EU", "#"), ("B-ORG", "O")), TagExample(("Peter",), ("B-PER",))]
    assert read_tags(path).examples == expected
    assert read_tags(path, 0, 1).examples[0].tags == ("NNP", "SYM")
    assert read_tags(path, 1, 0).examples[1] == TagExample(("NNP",), ("Peter",))
    assert read_tags(path, tag_column=None).examples[1] == TagExample(("Peter",), ())


def test_conllu(write):
    read = read_tags(write(CONLLU, "f.conllu"), 1, 3)
    assert read.examples == [TagExample(("Do", "n't", "#"), ("AUX", "PART", "SYM"))]


def test_a_hash_is_a_word_where_it_has_a_tag(write):
    assert read_tags(write("#\tO\n# x\tO\n")).examples[0].words == ("#", "# x")


def test_chinese_is_joined_by_nothing(write):
    assert read_tags(write("中\tB\n国\tI\nA\tO\n")).examples[0].joiner == ""
    assert read_tags(write("中国\tB\n人民\tI\n。\tO\n")).examples[0].joiner == " "
    assert read_tags(write("中\tB\n"), joiner="_").examples[0].joiner == "_"
    # A blank may be a character of the sentence.
    assert read_tags(write("中\tO\n\u3000\tO\n \tO\n国\tO\n")).examples[0].words == (
        "中",
        "\u3000",
        " ",
        "国",
    )
    assert read_tags(write("中 O\n\u3000 O\n")).examples[0].words == ("中", "\u3000")


def test_lists_in_tables(write):
    rows = [
        {"words": ["a", "b"], "tags": ["X", "O"]},
        {"tokens": ["中", "国"], "ner_tags": [1, 0]},
        {"words": []},
        {"words": ["c"]},
    ]
    read = read_tags(write("\n".join(map(json.dumps, rows)), "f.jsonl"))
    assert [(e.words, e.tags) for e in read.examples] == [
        (("a", "b"), ("X", "O")),
        (("中", "国"), ("1", "0")),
        (("c",), ()),
    ]
    assert read.skipped == {"no words": 1}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("f.txt", "a O\nb\n", r"f\.txt:2: the line has 1 column: 2 are needed"),
        ("f.txt", "a\tx\tO\n\nb\tO\n", r"f\.txt:3: the line has 2 columns: 3 are needed"),
        ("f.txt", "a\tx\t\n", r"f\.txt:1: the word 'a' has no tag"),
        ("f.txt", "\tx\tO\n", r"f\.txt:1: there is no word in column 0"),
        ("f.txt", "-DOCSTART- O\n\n", r"nothing can be used in .*f\.txt"),
        ("f.txt", "\n\n", r"f\.txt is empty"),
        ("f.jsonl", '{"words": ["a"], "tags": ["O", "O"]}', r"f\.jsonl:1: there are 1 words and 2 tags"),
        ("f.jsonl", '{"words": "a b", "tags": ["O", "O"]}', r"f\.jsonl:1: 'words' is not a list"),
        ("f.jsonl", '{"sentence": ["a"]}', r"no column 'words' in .*f\.jsonl:1: it has sentence"),
    ],
)
def test_broken_files_are_named_with_the_line(write, name, text, message):
    with pytest.raises(UserError, match=message):
        read_tags(write(text, name), 0, 2 if "\tx" in text else -1)


def test_word_and_tag_are_two_columns(write):
    path = write("a b\n")
    with pytest.raises(UserError, match="both 1"):
        read_tags(path, 1, 1)
    with pytest.raises(UserError, match=r"2 columns: 3 are needed"):
        read_tags(path, 0, -2)
    assert read_tags(path, -1, 0).examples == [TagExample(("b",), ("a",))]


def test_msra_inside_its_zip(sources, origin):
    path = sources / "msra-ner/dh_msra.zip"
    read = read_tags(str(path))
    assert (len(read.examples), read.skipped) == ({"own": 24, "real": 55_289}[origin], {})
    assert read.examples[0].joiner == ""
    # The same by counting in the bytes.
    with zipfile.ZipFile(path) as file:
        data = file.read("dh_msra.txt")
    tags = Counter(tag for example in read.examples for tag in example.tags)
    assert tags == {tag: data.count(f"\t{tag}\n".encode()) for tag in tags}
    assert sum(tags.values()) == data.count(b"\t")
    assert tags["B-LOC"] == {"own": 17, "real": 39_394}[origin]
