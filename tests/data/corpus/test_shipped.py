"""Shipped readers with shipped steps, through the command."""

import json
from pathlib import Path

import pytest

from lm.commands.prepare import main
from lm.data.corpus.prepare import CorpusSettings, locate
from lm.data.corpus.provenance import origins, removed
from lm.errors import UserError
from tests.data.corpus.test_recipe import same

for package in ("datatrove", "trafilatura", "py3langid", "phonenumbers"):
    pytest.importorskip(package, reason="the extra `corpus` is not installed")

GERMAN = "Der Hund läuft heute durch den Garten, und die Katze schläft noch immer auf dem warmen Dach. " * 5
ENGLISH = "The dog runs through the garden today, and the cat is still asleep on the warm roof. " * 5
NOTICE = " ".join(f"word{number}" for number in range(120))


def prepared(recipe: str, *options: str) -> Path:
    """The folder of a recipe's corpus."""
    Path("r.yaml").write_text(recipe, encoding="utf-8")
    assert main(["r.yaml", "--engine.workers", "1", *options]) == 0
    (folder,) = (path for path in Path("data").iterdir() if path.is_dir() and not path.name.endswith(".work"))
    return folder


def facts(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pages_and_wikis_are_no_code():
    """Whatever their files are called."""
    Path("pages").mkdir()
    for number, text in enumerate([GERMAN] * 10 + [ENGLISH] * 10):
        page = f"<html><body><article><h1>{number}</h1><p>{text}{number}</p></article></body></html>"
        Path(f"pages/{number}.html").write_text(page, encoding="utf-8")
    wiki = "".join(
        f"<page><title>{n}</title><ns>0</ns><id>{n}</id><revision><text>{text} {n}</text></revision></page>"
        for n, text in enumerate([GERMAN] * 10 + [ENGLISH] * 10)
    )
    Path("dump.xml").write_text(f"<mediawiki>{wiki}</mediawiki>", encoding="utf-8")
    folder = prepared("""
name: web
sources:
  - {class_path: Html, init_args: {path: pages, name: pages}}
  - {class_path: MediaWiki, init_args: {path: dump.xml, name: wiki}}
steps:
  - {class_path: Language, init_args: {keep: [en]}}
vocab_size: 300
""")
    step = facts(folder)["steps"][1]
    assert step["reasons"] == {"another language": 20}
    assert step["out"]["pages"][0] == step["out"]["wiki"][0] == 10


def test_a_column_called_code_switches_nothing_off():
    rows = [{"text": f"{GERMAN} {n}", "code": 200} for n in range(10)]
    rows += [{"text": f"{ENGLISH} {n}", "code": True} for n in range(10)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = prepared("""
name: rows
sources:
  - {class_path: JsonLines, init_args: {path: a.jsonl}}
steps:
  - {class_path: Language, init_args: {keep: [en]}}
vocab_size: 300
""")
    assert facts(folder)["steps"][1]["reasons"] == {"another language": 10}


def lines(path: str, texts: list[str], broken: int | None = None) -> None:
    rows = [json.dumps({"text": text}) for text in texts]
    if broken is not None:
        rows[broken] = rows[broken][:20]
    Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")


PLAIN = """
name: plain
sources:
  - {class_path: JsonLines, init_args: {path: a.jsonl}}
vocab_size: 300
"""


def test_a_broken_line_is_one_line():
    lines("a.jsonl", [f"{ENGLISH} {n}" for n in range(100)], broken=10)
    found = facts(prepared(PLAIN))
    assert found["steps"][0]["out"]["a"][0] == 99 and found["skipped"] == []
    assert found["warnings"] == 1 and found["warned"][0].startswith("a.jsonl:11: the line is not JSON")
    with pytest.raises(UserError, match=r"a\.jsonl:11: the line is not JSON"):
        prepared(PLAIN, "--strict", "true")


def test_a_field_of_another_name_ends_the_preparation():
    lines("a.jsonl", [ENGLISH] * 30)
    with pytest.raises(UserError, match="there is no field 'content', only 'text'"):
        prepared(PLAIN.replace("a.jsonl}", "a.jsonl, text_field: content}"))


def test_a_source_without_documents_ends_it():
    lines("a.jsonl", [f"{ENGLISH} {n}" for n in range(30)])
    Path("b.jsonl").write_text("\n")
    source = "  - {class_path: JsonLines, init_args: {path: b.jsonl}}\nvocab"
    with pytest.raises(UserError, match="the source b gives no document"):
        prepared(PLAIN.replace("vocab", source))


def test_a_file_name_that_is_no_text():
    Path("texts").mkdir()
    for number in range(25):
        (Path("texts") / f"{number}.txt").write_text(f"{ENGLISH} {number}")
    (Path("texts") / "\udcff.txt").write_text(ENGLISH)
    folder = prepared(PLAIN.replace("JsonLines", "Texts").replace("a.jsonl", "texts"))
    assert any("\ufffd.txt" in origin["id"] for part in ("train", "val") for origin in origins(folder, part))


def test_repeated_passages_and_masked_excerpts():
    """A reduction of passages through the stages, the same by two processes; what is left out before the
    personal data are masked shows none either."""
    rows = [f"{ENGLISH} number {n} {NOTICE} and the end of {n}." for n in range(40)]
    rows += [f"write to someone{n}@company-{n}.com" for n in range(5)]
    lines("a.jsonl", rows)
    recipe = """
name: passages
sources:
  - {class_path: JsonLines, init_args: {path: a.jsonl}}
steps:
  - {class_path: Quality, init_args: {rules: [gopher_quality]}}
  - {class_path: RepeatedPassages}
  - {class_path: PersonalData}
vocab_size: 300
task_bytes: 3000
"""
    folder = prepared(recipe)
    found = facts(folder)
    assert found["steps"][2]["counts"]["bytes cut"] > 20_000
    texts = [row["text"] for row in removed(folder) if row["step"] == "Quality"]
    assert len(texts) == 5 and all(text == "write to <EMAIL>" for text in texts)
    assert "company-3" not in (folder / "report.html").read_text(encoding="utf-8")
    folder.rename("one")
    assert main(["r.yaml", "--engine.workers", "2"]) == 0
    (again,) = (path for path in Path("data").iterdir() if path.is_dir())
    assert same(Path("one"), again)


def test_settings_of_the_tokenizer_clean_nothing_anew():
    lines("a.jsonl", [f"{ENGLISH} {n}" for n in range(30)])
    with pytest.raises(UserError, match="or less"):
        prepared(PLAIN.replace("300", "60000"))
    (work,) = Path("data").glob("*.work")
    before = (work / "stage-0" / "tally-00000.json").stat().st_mtime_ns
    Path("r.yaml").write_text(PLAIN)
    assert locate(CorpusSettings("r.yaml")).name.startswith("plain-")
    tally = work / "stage-0" / "tally-00000.json"
    assert tally.stat().st_mtime_ns == before
    prepared(PLAIN)
    assert not list(Path("data").glob("*.work")), "it was used, and is gone"


@pytest.mark.parametrize(
    ("change", "what"),
    [(("name: plain", "name: ../plain"), "a folder's"), (("sources:", "source:"), "r.yaml: ")],
)
def test_what_a_recipe_can_not_be(change, what):
    lines("a.jsonl", [ENGLISH] * 30)
    with pytest.raises(UserError, match=what):
        prepared(PLAIN.replace(*change))
