"""What each reader makes of real files, and of broken ones."""

import bz2
import gzip
import io
import json
import lzma
import random
import re
import sys
import tarfile
import time
import tracemalloc
from collections import Counter

import pytest

from lm.data.corpus.readers import (
    Csv,
    Gutenberg,
    Html,
    Hub,
    Imdb,
    Json,
    JsonLines,
    MediaWiki,
    ParquetRows,
    Texts,
    Warc,
)
from lm.data.corpus.readers.mediawiki import _pages
from lm.data.corpus.readers.wikitext import plain
from lm.errors import UserError

LARGE = 20_000_000


def read(source, warned=None):
    """All (text, meta) of a source; each text is what a document may be."""
    documents = []
    for path in source.files():
        for text, meta in source.read(path, (warned if warned is not None else []).append):
            text.encode()
            assert text and not text.isspace()
            json.dumps(meta, allow_nan=False)
            documents.append((text, meta))
    return documents


def before_error(source, match):
    """The documents that come before a UserError."""
    documents = []
    with pytest.raises(UserError, match=match):
        for path in source.files():
            for document in source.read(path, print):
                documents.append(document)
    return documents


def texts(source, warned=None):
    return [text for text, _ in read(source, warned)]


# Texts ---------------------------------------------------------------------------------------------------


def test_a_file_is_a_document_in_any_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("第一\r\nline".encode())
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("naïve café".encode("cp1252")))
    (tmp_path / "c.py").write_bytes(b"")
    (tmp_path / "d.txt").write_bytes(b" \n\n")
    (tmp_path / "e.txt").write_bytes(bytes(range(256)))
    (tmp_path / "f.bin").write_bytes(b"not asked for")
    warned = []
    assert texts(Texts(str(tmp_path)), warned) == ["第一\r\nline", "naïve café"]
    assert any("cp1252" in warning for warning in warned) and any("e.txt" in warning for warning in warned)
    with pytest.raises(UserError, match=r"e\.txt is not text"):
        read(Texts(str(tmp_path / "e.txt")))


def test_documents_within_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\r\n<|end|>\r\n\r\n<|end|>\r\nthree")
    assert texts(Texts(str(path), separator="<|end|>")) == ["one\r\ntwo\r\n", "three"]
    path.write_text("one\ntwo\n\n \n\nthree\n")
    assert texts(Texts(str(path), separator="\n")) == ["one\ntwo\n", "three\n"]
    path.write_text("before\n = A = \n a\n = = B = = \n b\n = C = \n")
    assert texts(Texts(str(path), heading=" = [^=]+ = $")) == [
        "before\n",
        " = A = \n a\n = = B = = \n b\n",
        " = C = \n",
    ]
    with pytest.raises(UserError, match="`heading` is no regular expression"):
        Texts(str(path), heading="(")


def test_a_large_file_is_read_bit_by_bit_and_a_long_line_is_no_trouble(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("字".encode() * (LARGE // 3) + b"\n---\nafter \xff\n")
    start = time.process_time()
    first, second = texts(Texts(str(path), separator="---"))
    assert time.process_time() - start < 5
    assert len(first) == LARGE // 3 + 1 and second == "after \ufffd\n"


@pytest.mark.real_data
def test_wikitext_by_headings(real_data):
    documents = texts(Texts(str(real_data / "wikitext-2/valid.txt"), heading=" = [^=]+ = $"))
    assert len(documents) == 60
    assert all(re.match(r" = [^=]+ = \n", text) for text in documents)


# Rows ----------------------------------------------------------------------------------------------------


def test_json_lines_with_what_is_beside_the_text(tmp_path):
    rows = [
        {"text": "one\ud83d", "url": "u", "n": 3, "nan": float("nan"), "list": [1], "long": "x" * 5000},
        {"text": ""},
        {"text": None},
        {"text": "two\x00", "language": "English"},
        {"text": "三", "language": "zh", "date": "\udc00"},
    ]
    path = tmp_path / "a.jsonl.bz2"
    path.write_bytes(bz2.compress("\n".join(map(json.dumps, rows)).encode()))
    assert read(JsonLines(str(path))) == [
        ("one\ufffd", {"url": "u", "n": 3}),
        ("two\x00", {}),
        ("三", {"language": "zh", "date": "\ufffd"}),
    ]


def test_a_broken_line_is_named_and_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, what in (
        ('{"text": "two"', r"a\.jsonl:3: the line is not JSON"),
        ("[1]", r"a\.jsonl:3: not an object"),
        ('{"body": "two"}', r"a\.jsonl:3: there is no field 'text', only 'body'"),
    ):
        path.write_text(f'{{"text": "one"}}\n\n{line}\n{{"text": "three"}}\n')
        said: list[str] = []
        assert [text for text, _ in JsonLines(str(path)).read(path, said.append)] == ["one", "three"]
        assert len(said) == 1 and re.match(f".*{what}", said[0])
    path.write_text('{"body": "one"}\n{"text": "two"}\n')  # the first row: that of a whole file, then
    assert before_error(JsonLines(str(path)), r"a\.jsonl:1: there is no field 'text', only 'body'") == []


def test_fields_within_fields_and_several_of_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": {"b": ["x", "y"]}, "a.c": "z", "title": "T"}\n')
    assert read(JsonLines(str(path), text_field=["title", "a.b", "a.c"]))[0][0] == "T\nx\ny\nz"
    with pytest.raises(UserError, match=r"the field 'a' is not text"):
        read(JsonLines(str(path), text_field="a"))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"content": ["one", None, "", "four"], "score": [0.5, 1.0, 2.0, float("inf")]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    source = ParquetRows(str(path), text_field="content")
    assert read(source) == [("one", {"score": 0.5}), ("four", {})]
    path.write_bytes(path.read_bytes()[:-20])
    assert before_error(source, "is not a Parquet file") == []


def test_csv_and_tsv(tmp_path):
    path = tmp_path / "a.csv.xz"
    content = '\ufefftext;label\r\n"one; ""1""\ntwo";pos\r\n\r\nbroken\r\nthree;neg\r\n'
    path.write_bytes(lzma.compress(content.encode()))
    warned = []
    assert read(Csv(str(path)), warned) == [
        ('one; "1"\ntwo', {"label": "pos"}),
        ("three", {"label": "neg"}),
    ]
    assert warned == [f"skipped a row, {path}:5: it has 1 fields, the header 2"]
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Not closed\n2\tnext\n')
    assert read(Csv(str(path))) == [('"Not closed', {"id": "1"}), ("next", {"id": "2"})]
    with pytest.raises(UserError, match=r"a\.tsv:2: there is no field 'body', only 'id', 'text'"):
        read(Csv(str(path), text_field="body"))
    with pytest.raises(UserError, match="`delimiter` is"):
        Csv(str(path), delimiter="::")
    path.write_text("text\n" + "x" * LARGE + "\n")
    assert [len(text) for text in texts(Csv(str(path)))] == [LARGE]


def test_json_arrays_objects_and_sequences(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"text": f"text {n} ]}}" * 9, "n": n} for n in range(12_000)]  # more than is read at once
    for content in (json.dumps(rows), "\n".join(map(json.dumps, rows)), json.dumps(rows, indent=1)):
        path.write_text(content)
        assert read(Json(str(path))) == [(row["text"], {"n": row["n"]}) for row in rows]
    path.write_text('{"text": "alone"}')
    assert texts(Json(str(path))) == ["alone"]
    for content, match in (
        ('[{"text": "one"}, {"text": "tw', "not JSON after object 1: was the file cut short"),
        ('[{"text": "one"}', "not JSON after object 1: was the file cut short"),
        ('[{"text": "one"}, {text: 1}' + " " * 99 + "]", "not JSON after object 1: Expecting property name"),
        ('[{"text": "one"}, ' + "[" * 100_000, "not JSON after object 1|not an object"),
    ):
        path.write_text(content)
        assert before_error(Json(str(path)), match) == [("one", {})]
    for content in ("", "[]", " \n"):
        path.write_text(content)
        assert read(Json(str(path))) == []


def test_a_large_json_value_takes_linear_time(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a\n" * (LARGE // 2)}, {"text": "b"}]))
    start = time.process_time()
    assert [len(text) for text in texts(Json(str(path)))] == [LARGE, 1]
    assert time.process_time() - start < 5


@pytest.mark.real_data
def test_chinese_poetry(real_data):
    source = Json(str(real_data / "chinese-poetry"), text_field="paragraphs")
    documents = read(source)
    assert len(documents) > 5000
    poem = next(text for text, meta in documents if meta["title"] == "橫吹曲辭 洛陽陌")
    assert poem == "白玉誰家郎，回車渡天津。\n看花東上陌，驚動洛陽人。"


# Gutenberg -----------------------------------------------------------------------------------------------

NEW = """The Project Gutenberg eBook of A Tale
This eBook is for the use of anyone anywhere.

Title: A Tale
Author: An Author

*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***

Produced by Several People
and https://example.org

A TALE

It began.
*** it went on
*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***
Updated editions will replace the previous one.
"""
OLD = """***The Project Gutenberg Etext of A Tale, by An Author***

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*

A TALE

It began.
*** it went on
End of The Project Gutenberg Etext of A Tale
"""


@pytest.mark.parametrize(
    "content", [NEW, OLD, NEW.replace("THE PROJECT", "THIS PROJECT").replace("*** ", "***")]
)
def test_gutenberg_licences_are_cut(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content.replace("\n", "\r\n").encode())
    ((text, meta),) = read(Gutenberg(str(path)))
    assert text.replace("*** it", "***it") == "A TALE\r\n\r\nIt began.\r\n***it went on"
    assert meta == {"title": "A Tale", "author": "An Author"}


def test_gutenberg_without_licence_and_with_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Just a text.\n")
    assert read(Gutenberg(str(path))) == [("Just a text.", {})]
    path.write_text(NEW.partition("Produced")[0])
    assert read(Gutenberg(str(path))) == []


@pytest.mark.real_data
def test_gutenberg_books(real_data):
    warned = []
    source = Gutenberg(str(real_data / "gutenberg"))
    books = {meta["title"]: text for text, meta in read(source, warned)}
    assert len(books) == 13 and len(warned) == 2  # two are Latin-1
    assert not any("Project Gutenberg" in text for text in books.values())
    ball = books["The Ball and The Cross"]
    assert "SMALL PRINT" not in ball and 440_000 < len(ball) < 450_000
    assert len(books["Moby Dick"]) > 1_200_000


# Imdb ----------------------------------------------------------------------------------------------------

REVIEWS = {
    "aclImdb/train/pos/0_9.txt": b"Good.<br /><br />Very.",
    "aclImdb/train/unsup/1_0.txt": b"No label.",
    "aclImdb/test/neg/2_1.txt": b"caf\xe9 na\xefve",
    "aclImdb/test/neg/3_1.txt": b"",
    "aclImdb/train/urls_pos.txt": b"http://example.org",
    "aclImdb/README": b"read me",
}


@pytest.mark.parametrize("ending", ["", ".tar.gz", ".tar.xz", ".tar", ".tgz"])
def test_imdb_as_a_folder_and_as_an_archive(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    for name, data in REVIEWS.items():
        file = tmp_path / "a" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if ending:
        packing = {".tgz": "gz", ".tar": ""}.get(ending, ending[-2:])
        with tarfile.open(path, f"w:{packing}") as archive:
            archive.add(tmp_path / "a/aclImdb", "aclImdb")
    documents = sorted(read(Imdb(str(path))), key=lambda document: document[0])
    assert documents == [
        ("Good.\n\nVery.", {"part": "train", "label": "pos", "rating": 9}),
        ("No label.", {"part": "train"}),
        ("café naïve", {"part": "test", "label": "neg", "rating": 1}),
    ]
    assert texts(Imdb(str(path), parts=["train/unsup"])) == ["No label."]
    assert len(read(Imdb(str(path), parts=["train"]))) == 2


def test_imdb_with_an_archive_cut_short_or_none_or_no_review(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("train/pos/0_9.txt", "train/pos/1_9.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3000
            archive.addfile(info, io.BytesIO(b"word " * 600))
    path.write_bytes(path.read_bytes()[:5000])
    assert len(before_error(Imdb(str(path)), r"a\.tar is cut short")) == 1
    path.write_bytes(b"no archive" * 1000)
    assert before_error(Imdb(str(path)), r"a\.tar is cut short, damaged or no archive") == []
    (tmp_path / "b").mkdir()
    (tmp_path / "b/readme.txt").write_text("x")
    with pytest.raises(UserError, match="no review in"):
        Imdb(str(tmp_path / "b")).files()


@pytest.mark.real_data
def test_imdb_archive(real_data):
    (path,) = Imdb(str(real_data / "imdb"), parts=["test"]).files()
    labels = Counter()
    for number, (text, meta) in enumerate(Imdb(str(path), parts=["test"]).read(path, print)):
        assert "<br" not in text and (meta["rating"] > 5) == (meta["label"] == "pos")
        labels[meta["label"]] += 1
        if number == 13_000:
            break
    assert labels == {"neg": 12_500, "pos": 501}


# MediaWiki -----------------------------------------------------------------------------------------------

MARKUP = """{{Infobox|a=[[x]]|b={{nested|{{{1|}}}}}
|}}'''Bold''' ({{lang|x}}) is a [[link]] of [[target|some words]]<ref name="a">gone {{x}}</ref><ref name=b />.
[[File:A.jpg|thumb|A [[caption]] here]]<!-- gone [[ {{ -->
== History ==
{|
| cell
{| nested
|}
|}
=== Early ''days'' ===
* item [http://example.org/x label] and [http://example.org]
:<math>x^{{2}} < y</math> &amp; <nowiki>[[kept]]</nowiki><br/>next <b>b</b>
== Empty ==
{{reflist}}
[[Category:Gone]] [[de:Fort]] [[:Category:Kept]]
=== Also empty ===
"""
PLAIN = """Bold is a link of some words.

History

Early days

item label and
x^{{2}} < y & [[kept]]
next b

Empty

Category:Kept"""


def dump(*pages, head=""):
    spaces = '<siteinfo><namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo>'
    body = "".join(
        f"<page><title>{title}</title><ns>{space}</ns><id>{number}</id>{more}<revision><id>99</id>"
        f"<text>{text}</text></revision></page>"
        for number, (title, space, more, text) in enumerate(pages)
    )
    return f'{head}<mediawiki xmlns="http://www.mediawiki.org/xml/">{spaces}{body}</mediawiki>'.encode()


PAGES = [
    ("One &amp; only", 0, "", "Text [[Datei:X.png|gone]]of one."),
    ("Moved", 0, '<redirect title="One" />', "#REDIRECT [[One]]"),
    ("Talk:One", 1, "", "Talk."),
    ("Hollow", 0, "", "{{only a template}}"),
    ("Two", 0, "", "Text of two."),
]
ARTICLES = [
    ("Text of one.", {"title": "One & only", "id": "0"}),
    ("Text of two.", {"title": "Two", "id": "4"}),
]


def test_markup_to_text():
    assert plain(MARKUP) == PLAIN
    assert plain("a [[b|c]] {{ not closed [[d]] '' e }} f ]] g") == "a c  f  g".replace("  ", " ")
    assert plain("a&#xE000;7&#xE001;") == "a"
    assert plain("&#xD800; &lt;b&gt; \x00") == "\ufffd <b> \x00"


@pytest.mark.parametrize(
    "part", ["{{", "}}", "[[a|", "<ref>", "<!--", "<math>", "( ", "[//x  ", "\n{|", "{{[[", "<a "]
)
def test_markup_that_is_never_closed_takes_linear_time(part):
    start = time.process_time()
    plain(part * 100_000)
    plain("[[a" * 30_000 + "]]" * 30_000)
    assert time.process_time() - start < 3


def zst(data):
    return pytest.importorskip("backports.zstd").compress(data)


PACKERS = {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zst}


@pytest.mark.parametrize("ending", PACKERS)
def test_a_dump_of_mediawiki(tmp_path, ending):
    (tmp_path / f"wiki.xml-p1p2{ending}").write_bytes(PACKERS[ending](dump(*PAGES)))
    assert read(MediaWiki(str(tmp_path))) == ARTICLES
    assert texts(MediaWiki(str(tmp_path), namespaces=[1])) == ["Talk."]


def test_a_dump_that_breaks_off_or_is_none(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(dump(*PAGES)[:-60])
    assert before_error(MediaWiki(str(path)), r"a\.xml is no XML or breaks off .*line 1") == ARTICLES[:1]
    path.write_bytes(dump(*PAGES).replace(b"of two", b"\x00"))
    assert before_error(MediaWiki(str(path)), r"a\.xml is no XML or breaks off") == ARTICLES[:1]
    path.write_bytes(b"")
    assert before_error(MediaWiki(str(path)), "no element found") == []
    path.write_bytes(b"<html>x</html>")
    assert before_error(MediaWiki(str(path)), "is no dump of MediaWiki") == []
    cut = tmp_path / "a.xml.bz2"
    cut.write_bytes(bz2.compress(dump(*PAGES))[:-20])
    before_error(MediaWiki(str(cut)), "is cut short")


def test_entities_that_grow_are_refused(tmp_path):
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    head = f'<!DOCTYPE mediawiki [<!ENTITY a0 "lol">{entities}]>'
    path = tmp_path / "a.xml"
    path.write_bytes(dump(("Bomb", 0, "", "&a9;"), head=head))
    assert before_error(MediaWiki(str(path)), "document type") == []


def test_a_dump_is_read_in_little_memory(tmp_path):
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(dump(*[("Page", 0, "", "word " * 4000)] * 250)))  # 5 MB
    tracemalloc.start()
    (path,) = MediaWiki(str(path)).files()
    assert sum(1 for _ in MediaWiki(str(path)).read(path, print)) == 250
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_500_000


def test_a_huge_page_takes_linear_time(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(dump(("Huge", 0, "", "word " * (LARGE // 5)), *PAGES))
    start = time.process_time()
    documents = read(MediaWiki(str(path)))
    assert len(documents[0][0]) == LARGE - 1 and [text for text, _ in documents[1:]] == [
        "Text of one.",
        "Text of two.",
    ]
    assert time.process_time() - start < 5


@pytest.mark.real_data
def test_real_articles_have_the_words_that_another_parser_finds(real_data):
    parser = pytest.importorskip("mwparserfromhell")
    source = MediaWiki(str(real_data / "enwiki-xml"))
    documents = read(source)
    assert len(documents) == 106
    whole = "\n".join(text for text, _ in documents)
    assert not re.search(r"\[\[|\]\]|\{\||''|^=|<ref|&nbsp;|thumb\||^\s*\|", whole, re.M)
    ours = {meta["title"]: Counter(re.findall(r"\w+", text)) for text, meta in documents}
    pages = [
        page for page in _pages(source.files()[0], set()) if page["title"] in ("Autism", "Achilles", "A")
    ]
    assert len(pages) == 3
    for page in pages:
        parsed = parser.parse(page["text"])
        for tag in parsed.filter_tags(matches=lambda tag: tag.tag in ("ref", "gallery")):
            parsed.remove(tag) if parsed.contains(tag) else None
        theirs = Counter(re.findall(r"\w+", parsed.strip_code()))
        found = ours[page["title"]]
        assert (found & theirs).total() > 0.995 * found.total(), "no word of our own"
        assert (found & theirs).total() > 0.85 * theirs.total(), (
            "what is more there is captions, tables, files"
        )


# Html and Warc -------------------------------------------------------------------------------------------

SENTENCE = (
    "Un café très agréable se trouve près de la vieille gare, et chaque matin on y sert du pain frais. "
)


def page(text=SENTENCE * 6, head="<title> A \n title </title>"):
    return (
        f"<html><head>{head}</head><body><nav><a href='/'>Menu entry</a></nav>"
        f"<article><h1>Heading</h1><p>{text}</p><p>{text[::-1]}</p></article></body></html>"
    )


def answer(url, body, status="200 OK", content_type="text/html", more=""):
    http = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{more}\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


@pytest.fixture(scope="module")
def trafilatura():
    return pytest.importorskip("trafilatura", exc_type=ImportError)


def test_html_in_every_encoding(tmp_path, trafilatura):
    meta = '<meta charset="{}"><title>A title</title>'
    chinese = "这家小咖啡馆就在老火车站的旁边，每天早上都有新鲜的面包和热腾腾的咖啡供应给来往的客人。" * 6
    for number, data in enumerate(
        (
            page().encode(),
            page().encode("utf-16"),
            page().encode("latin-1"),
            page(head=meta.format("iso-8859-15")).encode("iso-8859-15"),
            page(head=meta.format("nonsense")).encode("cp1252"),
        )
    ):
        (tmp_path / f"{number}.html").write_bytes(data)
    documents = read(Html(str(tmp_path)))
    assert len(documents) == 5
    for text, said in documents:
        assert SENTENCE.strip() in text and "Menu" not in text and said == {"title": "A title"}
    path = tmp_path / "zh.htm"
    path.write_bytes(page(chinese, meta.format("gb2312")).encode("gb18030"))
    assert chinese in texts(Html(str(path)))[0]


def test_html_that_is_none(tmp_path, trafilatura):
    for number, data in enumerate(
        (
            b"",
            b"\0" * 100,
            b"<html></html>",
            b"<" * 10_000,
            b"<div>" * 50_000,
            b"\x89PNG\r\n\x1a\n\0\xff",
        )
    ):
        (tmp_path / f"{number}.html").write_bytes(data)
    broken = page(head='<meta charset="utf-8">').replace("</p>", "\0&#xD800;&#55357;</p>")
    (tmp_path / "9.html").write_bytes(broken.encode() + b"\xff")
    ((text, _),) = read(Html(str(tmp_path)))
    assert SENTENCE.strip()[::-1] in text, "what stands behind the broken bytes"


def test_warc(tmp_path, trafilatura):
    pytest.importorskip("fastwarc")
    records = [
        b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 5\r\n\r\nabcde\r\n\r\n",
        answer("http://a", page().encode("latin-1"), content_type="text/html; charset=ISO-8859-1"),
        answer("http://b", page().encode(), status="404 Not Found"),
        answer("http://c", b"{}", content_type="application/json"),
        answer("http://d", gzip.compress(page().encode()), more="Content-Encoding: gzip\r\n"),
        answer("http://e", b""),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    documents = read(Warc(str(tmp_path)))
    assert [meta["url"] for _, meta in documents] == ["http://a", "http://d"]
    assert all(SENTENCE.strip() in text for text, _ in documents)
    assert documents[0][1] == {"url": "http://a", "date": "2024-01-02T03:04:05Z", "title": "A title"}


def test_broken_records_of_a_warc_are_passed_over(tmp_path, trafilatura):
    pytest.importorskip("fastwarc")
    good, path = answer("http://a", page().encode()), tmp_path / "a.warc"
    for broken in (
        b"garbage\r\n" * 50,
        good.replace(b"Content-Length", b"Content-Nothing"),
        good.replace(b"Content-Length: ", b"Content-Length: -"),
        good.replace(b"Content-Length: 2", b"Content-Length: "),
    ):
        path.write_bytes(good + broken + answer("http://b", page().encode()))
        urls = [meta["url"] for _, meta in read(Warc(str(path)))]
        assert urls[0] == "http://a" and urls[-1] == "http://b"
    warned = []
    path.write_bytes(good + good.replace(b"HTTP/1.1 200 OK", b"\xff\x00") + good)
    assert read(Warc(str(path)), warned) and warned
    packed = tmp_path / "a.warc.gz"
    image = answer("http://c", random.Random(0).randbytes(500_000), content_type="image/png")
    packed.write_bytes(gzip.compress(good) + gzip.compress(image) + gzip.compress(good)[:-300])
    assert len(before_error(Warc(str(packed)), r"a\.warc\.gz is cut short")) == 1
    for nothing in (b"", b"no records here\n" * 100):
        path.write_bytes(nothing)
        assert before_error(Warc(str(path)), "is no WARC file") == []


# Hub -----------------------------------------------------------------------------------------------------


def test_a_local_data_set_and_one_that_cannot_be_had(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text('{"text": "one", "n": 1}\n{"text": "two", "n": 2}\n')
    assert read(Hub(str(tmp_path))) == [("one", {"n": 1}), ("two", {"n": 2})]
    assert before_error(Hub(str(tmp_path), split="nothing"), "split nothing .*Parquet or JSON Lines") == []

    def without_network(*_, **__):
        raise ConnectionError("Couldn't reach it\nand more")

    monkeypatch.setattr(datasets, "load_dataset", without_network)
    assert (
        before_error(Hub("someone/something"), "data set someone/something.*reach it.*is there a network")
        == []
    )


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.html").write_text(page())
    assert before_error(Html(str(tmp_path)), r"needs trafilatura.*\[corpus\]") == []
    assert before_error(Hub("someone/something"), r"needs datasets.*\[corpus\]") == []
    with pytest.raises(UserError, match="no such file or folder"):
        read(Texts(str(tmp_path / "nothing.txt")))
