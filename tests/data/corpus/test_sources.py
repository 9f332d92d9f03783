"""Documents from files of every kind, and what is said about files that are broken."""

import bz2
import gzip
import json
import lzma
import sys

import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.files import decode
from lm.data.corpus.sources import Warnings, documents, resolve
from lm.errors import UserError

TEXTS = ["first\r\nline  \n", "第二 😀", "third\x00\u2028"]


def read(spec, **options) -> list[str]:
    return [document.text for document in documents(resolve(spec), **options)]


def zst(data: bytes) -> bytes:
    return pytest.importorskip("backports.zstd").compress(data)


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst}


def test_the_standard_library_is_there_and_sorted():
    sources = resolve("stdlib")
    names = [path.as_posix() for path in sources[0].files]
    assert len(names) > 500
    assert not any("/test/" in name or "/site-packages/" in name or "pydoc_data" in name for name in names)
    assert any(name.endswith("/argparse.py") for name in names)
    texts = read("stdlib")
    assert sum(map(len, texts)) > 8_000_000
    assert any(text.startswith('The "with" statement') for text in texts), "the language reference"


def test_a_folder_is_read_in_order_without_hidden_and_unknown_files(tmp_path):
    files = {"b.txt": "b", "a/z.md": "az", "a/a.PY": "aa", ".git/x.txt": "-", "c.bin": "-", ".h.txt": "-"}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert read(str(tmp_path)) == ["aa", "az", "b"]
    assert read(str(tmp_path / "**" / "*.md")) == ["az"]
    assert read([str(tmp_path / "b.txt"), str(tmp_path / "c.bin")]) == ["b", "-"]
    assert next(documents(resolve(str(tmp_path)))) == Document("aa", f"{tmp_path}/a/a.PY#0", str(tmp_path))


@pytest.mark.parametrize("ending", PACKERS)
def test_text_and_json_lines_plain_and_compressed(tmp_path, ending):
    (tmp_path / f"a.txt{ending}").write_bytes(PACKERS[ending](TEXTS[0].encode()))
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n\n" for text in TEXTS)
    (tmp_path / f"b.jsonl{ending}").write_bytes(PACKERS[ending](b"\xef\xbb\xbf" + lines.encode()))
    assert read(str(tmp_path)) == [TEXTS[0], *TEXTS]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_cut_short_or_damaged_is_named(tmp_path, ending):
    whole = PACKERS[ending](bytes(range(256)) * 2000)
    path = tmp_path / f"a.txt{ending}"
    for data in (whole[: len(whole) // 2], b"this was never compressed"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.txt.* is cut short or damaged"):
            read(str(path))


def test_zst_frames_one_after_another_are_all_read(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(zst(b"one ") + zst(b"") + zst(b"two" * 100_000))
    assert read(str(tmp_path / "a.txt.zst")) == ["one " + "two" * 100_000]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_parquet(tmp_path, ending):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"content": [*TEXTS, None, ""], "text": [1, 2, 3, 4, 5]})
    parquet.write_table(table, tmp_path / "plain")
    path = tmp_path / f"a.parquet{ending}"
    path.write_bytes(PACKERS[ending]((tmp_path / "plain").read_bytes()))
    assert read(str(path), text_field="content") == TEXTS
    with pytest.raises(UserError, match=r"a\.parquet.*there is no column 'body', only 'content', 'text'"):
        read(str(path), text_field="body")
    with pytest.raises(UserError, match="the column 'text' is not text"):
        read(str(path))


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match=r"a\.parquet"):
        read(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("module", "file", "extra"), [("pyarrow", "a.parquet", "parquet"), ("backports.zstd", "a.txt.zst", "zst")]
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module, file, extra):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"needs {module}: pip install -e '\.\[{extra}\]'"):
        read(str(tmp_path / file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "unfinished', r"a\.jsonl:3: the line is not JSON"),
        (b'{"content": "x", "id": 1}', r"a\.jsonl:3: there is no field 'text', only 'content', 'id'"),
        (b'{"text": 7}', r"a\.jsonl:3: the field 'text' is not text"),
        (b'["text"]', r"a\.jsonl:3: the line is not an object"),
        (b'{"text": "\xff"}', r"a\.jsonl:3: the line is not UTF-8"),
    ],
)
def test_a_broken_json_line_is_named_with_its_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        read(str(tmp_path / "a.jsonl"))


def test_half_a_surrogate_pair_in_json_becomes_a_replacement_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}')
    assert read(str(tmp_path / "a.jsonl")) == ["a\ufffdb 😀"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "plain ascii and 中文\r\n"),
        ("utf-16-le", "中 \U0001f600"),
        ("utf-16-be", "中 \U0001f600"),
        ("utf-32-le", "x\n"),
        ("gb18030", "话说天下大势，分久必合，合久必分。" * 5),
        ("cp1252", "“été”"),
        ("cp1252", "it’s a “naïve café” – €5 " * 3),
        ("gb18030", "id,text,label\n" + "7,The room was clean and the staff were kind to us,很不错\n" * 9),
        ("gb18030", "Nothing but English. " * 99 + "北京！！！！！！ and English. "),
        ("cp1252", "niño señor mañana corazón l'élève fenêtre garçon für größte Bäume schön "),
        ("cp1252", "L'été, à Noël : où êtes-vous ? Der Fluß. ¿Dónde está? "),
        ("cp1252", "AÇÕES CONDIÇÕES CRÉÉE HYVÄÄ " + "and no more than that " * 9),
        ("cp1252", "Chapter 1 ········ 5\nWhat is this ¿¿¿¿\n"),
        ("gb18030", "話說天下大勢，分久必合，合久必分：周末七國分爭，并入於秦。" * 5),
        ("latin-1", "caf\xe9 \x81\x8d " * 3),
    ],
)
def test_encodings_are_recognised(encoding, text):
    mark = "\ufeff".encode(encoding) if encoding.startswith(("utf-16", "utf-32")) else b""
    assert decode(mark + text.encode(encoding)) == (text, encoding)


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert decode(b"\xef\xbb\xbfabc") == ("abc", "utf-8")


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", bytes(range(256)), b"\xff\xfe\x00\xd8\x00\xd8"]
)
def test_binary_data_is_no_text(tmp_path, data):
    assert decode(data) is None
    (tmp_path / "picture.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"picture\.txt is not text"):
        read(str(tmp_path / "picture.txt"))
    (tmp_path / "a.txt").write_text("text")
    said: list[str] = []
    assert read(str(tmp_path), warn=said.append) == ["text"]
    assert len(said) == 1 and "picture.txt" in said[0] and "skipped" in said[0]


def test_a_file_in_another_encoding_is_read_with_a_warning(tmp_path):
    (tmp_path / "old.txt").write_bytes("“été”".encode("cp1252"))
    said: list[str] = []
    assert read(str(tmp_path / "old.txt"), warn=said.append) == ["“été”"]
    assert len(said) == 1 and "old.txt" in said[0] and "cp1252" in said[0]


def test_warnings_do_not_flood():
    said: list[str] = []
    warn = Warnings(said.append)
    for number in range(100):
        warn(str(number))
    warn.finish()
    assert len(said) == 6 and "95 more" in said[-1]


def test_what_names_nothing_is_an_error(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for spec, message in {
        "absent.txt": "no such file or folder: .*absent.txt",
        "*.absent": "absent matches no file",
        "empty.txt": "nothing to read in .*empty.txt",
        "empty": "nothing to read in .*empty",
        "empty.jsonl": "nothing to read in .*empty.jsonl",
    }.items():
        with pytest.raises(UserError, match=message):
            read(str(tmp_path / spec))
    with pytest.raises(UserError, match="names no file"):
        read([])


def test_files_of_many_kinds(sources, origin):
    path = sources / "chinese-classics" / "西游记.txt"
    (classic,) = read(str(path))
    assert "\r\n" in classic and classic.encode() == path.read_bytes()
    said: list[str] = []
    books = read(str(sources / "gutenberg"), warn=said.append)
    assert (len(books), len(said)) == {"own": (3, 1), "real": (13, 2)}[origin]
    assert all("cp1252" in line for line in said)
    assert len(read(str(sources / "llamafactory-lm" / "c4_demo.jsonl"))) == {"own": 4, "real": 300}[origin]
    with pytest.raises(UserError, match=r"c4_demo\.jsonl:1: there is no field 'content', only 'text'"):
        read(str(sources / "llamafactory-lm" / "c4_demo.jsonl"), text_field="content")
    characters = sum(map(len, read(str(sources / "chinese-poetry"))))
    assert characters > {"own": 40, "real": 500_000}[origin]


def test_a_file_cut_inside_a_character_is_still_utf8():
    """One broken byte at the end must not turn the rest into another encoding's nonsense."""
    whole = "却说行者引着众人，径入深山。" * 400
    text, encoding = decode(whole.encode()[:-1])
    assert text == whole[:-1] + "\ufffd"
    assert encoding == "UTF-8 with its broken bytes replaced"
