"""Rows of tables of every format, and what is said about broken ones."""

import gzip
import io
import json

import pytest

from lm.data.examples.files import File
from lm.data.examples.tables import read_rows, rows_of
from lm.errors import UserError

ROWS = [{"text": 'a, "b"\n\tc', "label": "x"}, {"text": "第二 😀\u2028\x00", "label": ""}]


def rows(data, name="f.csv", columns=None):
    data = data.encode() if isinstance(data, str) else data
    return list(rows_of(File(name, name, io.BytesIO(data)), columns))


def values(*args, **options):
    return [row for _, row in rows(*args, **options)]


QUOTED = '"a, ""b""\n\tc"'
SAME = {
    "f.csv": f"text,label\n{QUOTED},x\n第二 😀\u2028\x00,\n",
    "windows.csv": f"text,label\r\n{QUOTED},x\r\n\r\n第二 😀\u2028\x00,\r\n",
    "semicolons.csv": f"text;label\n{QUOTED};x\n第二 😀\u2028\x00;\n",
    "f.tsv": f"text\tlabel\n{QUOTED}\tx\n第二 😀\u2028\x00\t\n",
    "f.txt": f"text\tlabel\n{QUOTED}\tx\n第二 😀\u2028\x00\t\n",
    "f.jsonl": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "ascii.ndjson": "\r\n".join(map(json.dumps, ROWS)) + "\r\n",
    "lines.json": "\n".join(map(json.dumps, ROWS)) + "\n",
    "f.json": json.dumps(ROWS, indent=1),
    "list.jsonl": json.dumps(ROWS, indent=1),
    "data.json": json.dumps({"version": "1", "data": ROWS}),
    "unknown": json.dumps(ROWS),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_format_holds_the_same_rows(name, mark):
    assert values(mark + SAME[name].encode(), name) == ROWS


def test_a_file_is_read_compressed_and_in_a_folder(tmp_path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "readme.md").write_text("not a table")
    assert [row for _, row in read_rows(str(tmp_path))] == [{"a": 1}, {"a": "1", "b": "2"}]
    assert next(read_rows(str(tmp_path / "b.csv.gz")))[0] == f"{tmp_path / 'b.csv.gz'}:2"


def test_a_compressed_file_cut_short_is_named(tmp_path):
    whole = gzip.compress("".join(f"{i},{i * i}\n" for i in range(5000)).encode())
    (tmp_path / "b.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"b\.csv\.gz is cut short or damaged"):
        list(read_rows(str(tmp_path / "b.csv.gz")))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = [{"text": "第\x00", "tags": ["a", "b"], "n": 3}, {"text": None, "tags": [], "n": None}]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "f.parquet")
    found = list(read_rows(str(tmp_path / "f.parquet")))
    assert [row for _, row in found] == table
    assert found[1][0] == f"{tmp_path / 'f.parquet'}, row 2"
    data = (tmp_path / "f.parquet").read_bytes()
    for broken in (data[:-20], b"nothing of the kind"):
        with pytest.raises(UserError, match=r"f\.parquet is not a Parquet file, or it is damaged"):
            rows(broken, "f.parquet")


def test_where_a_row_stands():
    assert [where for where, _ in rows('a,b\n"1\n2",3\n\n4,5\n')] == ["f.csv:2", "f.csv:5"]
    assert [where for where, _ in rows('a\tb\n"1"\t2\n3\t4', "f.tsv")] == ["f.tsv:2", "f.tsv:3"]
    assert [where for where, _ in rows('\n{"a": 1}\n\n{"a": 2}', "f.jsonl")] == ["f.jsonl:2", "f.jsonl:4"]
    assert [where for where, _ in rows("[{}, {}]", "f.json")] == ["f.json, item 1", "f.json, item 2"]


def test_columns_name_what_has_no_header():
    assert values("1\ta\n0\tb\n", "f.tsv", ["label", "text"]) == [
        {"label": "1", "text": "a"},
        {"label": "0", "text": "b"},
    ]


def test_quotes_in_plain_tsv_are_just_quotes():
    # As in GLUE: a quote that opens and is closed lines later, or never, is text.
    assert values('t\tl\n"so\t1\nthey" say\t0\n"x" y\t1\n', "f.tsv") == [
        {"t": '"so', "l": "1"},
        {"t": 'they" say', "l": "0"},
        {"t": '"x" y', "l": "1"},
    ]
    assert [row["t"] for row in values('t\tl\n"a\t0\nb"\t1\n', "f.tsv")] == ['"a', 'b"']
    assert values('t\tl\n"a ""b"" c"\t0\n', "f.tsv") == [{"t": 'a "b" c', "l": "0"}]


def test_a_field_may_be_very_long():
    long = "x" * 300_000
    assert values(f'a,b\n"{long}",1\n')[0]["a"] == long


def test_other_encodings_are_read_and_said(capsys):
    assert values("文本,标签\n今天的天气很好我们去公园散步吧,好\n".encode("gb18030"))[0]["标签"] == "好"
    assert "f.csv is not UTF-8; it was read as gb18030" in capsys.readouterr().err
    assert values("a,b\né,1\n".encode("utf-16"))[0]["a"] == "é"


def test_lone_surrogates_are_replaced():
    assert values(r'{"a": "x\ud83d", "b": ["\uDE00", "\ud83d\ude00"]}', "f.jsonl") == [
        {"a": "x\ufffd", "b": ["\ufffd", "😀"]}
    ]


BROKEN = [
    ("f.csv", "", "f.csv is empty"),
    ("f.json", " \n", "f.json is empty"),
    ("f.csv", "a,b\n", "f.csv has no rows"),
    ("f.json", "[]", "f.json has no rows"),
    ("f.csv", "a,b\n1,2\n3", "f.csv:3: the line has 1 of 2 columns"),
    ("f.csv", "a,b\n1,2\n3,4,5\n", "f.csv:3: the line has 3 of 2 columns"),
    ("f.csv", 'a,b\n1,2\n"3,4\n5,6\n', "f.csv:3: a quote is opened and never closed"),
    ("f.csv", 'a,b\n1,"2"3\n', "f.csv:2: "),
    ("f.csv", "a,a\n1,2\n", "f.csv has more than one column 'a'"),
    ("f.tsv", "a\tb\n1\t2\n3", "f.tsv:3: the line has 1 of 2 columns"),
    ("f.jsonl", '{"a": 1}\n{"a": "b', "f.jsonl:2: the last line is not whole: was the file cut short?"),
    ("f.jsonl", '{"a": 1}\n{"a": }\n{"a": 1}\n', "f.jsonl:2: the line is not JSON: Expecting value"),
    ("f.jsonl", '{"a": 1}\n[1]\n', "f.jsonl:2: this is not an object"),
    ("f.json", '{"a": 1}\n{"a": 1\n{"a": 1}\n', "f.json:2: the line is not JSON: "),
    ("f.json", '[{"a": 1},\n {"a": "b', "f.json:2: this is not JSON: it ends too early"),
    ("f.json", '[{"a": 1},\n', "f.json:[12]: this is not JSON: it ends too early"),
    ("f.json", '[{"a": 1},\n {"a": 1} {"a"]\n', "f.json:2: this is not JSON: Expecting ',' delimiter"),
    ("f.json", "[1]", "f.json, item 1: this is not an object"),
    ("f.json", '{\n"a": [1],\n"b": [2]}', "f.json is no list of objects"),
    ("f.json", "[" * 100_000, "f.json:1: this is not JSON: "),
    (
        "f.csv",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe" * 9,
        "f.csv is not text: it looks like a binary file",
    ),
    ("f.xyz", "some words", "f.xyz: what is in it"),
]


@pytest.mark.parametrize("name, data, message", BROKEN)
def test_broken_files_are_named_with_the_line(name, data, message):
    with pytest.raises(UserError, match=message) as error:
        rows(data, name)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)
