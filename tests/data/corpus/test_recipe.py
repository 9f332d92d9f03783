"""A recipe from sources to a corpus: whoever does the work, and however often it is killed."""

import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.commands.data import main as data
from lm.commands.prepare import main
from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.data.corpus.provenance import removed
from lm.data.corpus.recipe import RecipeFile, is_recipe
from lm.data.corpus.shards import Corpus
from lm.data.corpus.vocabularies import cheapest
from lm.data.pretraining import PretrainingData
from lm.errors import UserError
from tests.data.corpus.test_prepare import contents, texts

pytest.importorskip("datatrove", reason="the extra `corpus` is not installed")

MINE = '''
import json, os, signal, zlib
import numpy as np
from lm.data.corpus.documents import Reduction, Source, Step
from lm.errors import UserError

class Lines(Source):
    suffixes = frozenset({".jsonl"})
    def read(self, path, warn):
        for number, line in enumerate(open(path, "rb"), start=1):
            try:
                yield json.loads(line)["text"], {"language": "en"}
            except ValueError as error:
                raise UserError(f"{path}:{number}: the line is not JSON") from error

class Long(Step):
    def __init__(self, least: int) -> None:
        self.least, self.seen = least, 0
    def __call__(self, document):
        self.seen += 1
        document.text = document.text.replace("argument", "ARGUMENT")
        return "too short" if len(document.text.split()) < self.least else None
    def counts(self):
        return {"seen": self.seen}

class Once(Reduction):
    def note(self, document):
        return np.array([zlib.crc32(document.text.encode())], dtype=np.uint64)
    def decide(self, notes):
        first, found = {}, []
        for number, note in enumerate(notes[:, 0].tolist()):
            if note in first:
                found.append((number, "exact duplicate", first[note]))
            first.setdefault(note, number)
        return found

class Killed(Step):
    """Ends its process, once: as one that takes too much memory is ended."""
    def __init__(self, note: str) -> None:
        self.note = note
    def __call__(self, document):
        if not os.path.exists(self.note):
            open(self.note, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
'''

RECIPE = """
name: mixed
sources:
  - class_path: mine.Lines
    init_args: {path: first, name: first, licence: MIT}
  - class_path: mine.Lines
    init_args: {path: second.jsonl}
steps:
  - class_path: mine.Long
    init_args: {least: 5}
  - class_path: mine.Once
  - class_path: mine.Long
    init_args: {least: 20}
vocab_size: 400
task_bytes: 20_000  # several tasks
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a recipe: 4 files of 60 documents and 20 that the first has, too; and one of 40 others,
    30 of them short."""
    rows = texts(280)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "first").mkdir()

    def lines(path: str, rows: list[str]) -> None:
        (tmp_path / path).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))

    for number in range(4):
        lines(f"first/{number}.jsonl", rows[number * 60 : number * 60 + 60] + rows[:20])
    short = [" ".join(row.split()[: 3 + number % 12]) for number, row in enumerate(rows[240:270])]
    lines("second.jsonl", short + rows[270:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def made(*options: str) -> Path:
    """The folder that the command makes and prints."""
    assert main(["r.yaml", *options]) == 0
    (folder,) = (path for path in Path("data").iterdir() if path.is_dir())
    return folder


def same(a: Path, b: Path) -> bool:
    """Whether two corpora are the same to the byte, all files of them."""
    names = sorted(path.name for path in a.iterdir())
    equal, _, _ = filecmp.cmpfiles(a, b, names, shallow=False)
    return names == sorted(path.name for path in b.iterdir()) == sorted(equal)


def test_what_comes_out(place, capsys):
    folder = made("--engine.workers", "1")
    out, err = capsys.readouterr()
    assert out.strip() == str(folder) and folder.name.startswith("mixed-")
    assert not list(Path("data").glob("*.work")), "nothing else is left"
    corpus = Corpus.open(folder)
    found = [
        text.replace("ARGUMENT", "argument") for part in ("train", "val") for text in contents(corpus, part)
    ]
    rows = texts(280)
    assert sorted(found) == sorted(rows[:240] + rows[270:])
    facts = json.loads((folder / "report.json").read_text())
    assert [step["step"] for step in facts["steps"]] == ["reading", "Long", "Once", "Long"]
    read, first, once, last = facts["steps"]
    assert read["out"]["first"][0] == 320 and read["out"]["second"][0] == 40
    assert first["reasons"] == {"too short": 6} and first["counts"] == {"seen": 360}
    assert once["reasons"] == {"exact duplicate": 80}
    assert last["reasons"] == {"too short": 24}
    assert [source["documents"] for source in facts["sources"]] == [240, 10]
    tokens = sum(corpus.manifest["splits"][part]["tokens"] for part in ("train", "val"))
    assert sum(by["en"][1] for by in facts["tokens"].values()) == tokens
    assert "exact duplicate (80)" in err and "report:" in err
    page = (folder / "report.html").read_text()
    assert "too short" in page and "MIT" in page


def test_each_document_tells_where_it_is_from(place, capsys):
    folder = str(made("--engine.workers", "1"))
    capsys.readouterr()
    data(["why", folder, "first/1.jsonl#60"])
    assert "left out by Once: exact duplicate, as first/0.jsonl#0 stays" in capsys.readouterr().out
    data(["why", folder, "second/second.jsonl#0"])
    assert "left out by Long: too short" in capsys.readouterr().out
    data(["why", folder, "second/second.jsonl#31"])
    assert "is in the corpus: document" in capsys.readouterr().out
    stream = Corpus.open(folder).split("train")
    for number in (0, stream.documents // 2, stream.documents - 1):
        start, end = stream.document(number)
        said = []
        for token in (start, end - 1):
            data(["where", folder, str(token)])
            said.append(capsys.readouterr().out.splitlines()[1])
        assert said[0] == said[1]
        identity = said[0].split()[1].rstrip(",")
        data(["why", folder, identity])
        assert f"document {number:,} of train, tokens {start:,} to {end - 1:,}" in capsys.readouterr().out
    data(["show", folder, "--sample", "3"])
    assert capsys.readouterr().out.count("---") == 3
    data(["tokens", folder, "--sizes", "300", "--against", f"{folder}/tokenizer.model"])
    head, own, small, again = capsys.readouterr().out.splitlines()
    assert head.split()[-2:] == ["en", "all"]
    assert own.split()[-1] == own.split()[-2] == again.split()[-1] > small.split()[-1]
    assert small.startswith("300 tokens, trained")
    for words, what in (
        (["why", folder, "nothing"], "knows no document nothing"),
        (["where", folder, "99999999"], "train has the tokens 0 to"),
        (["where", folder], "say of what"),
        (["show", "first"], "not a prepared corpus"),
    ):
        with pytest.raises(UserError, match=what):
            data(words)


def test_sources_count_by_their_weights_where_the_tokenizer_is_trained(place):
    """A tokenizer spells best what it has seen most of."""
    lines = "".join(json.dumps({"text": f"zyx qwv {n} zyx qwv jkzx qwvzyx " * 5}) + "\n" for n in range(60))
    (place / "second.jsonl").write_text(lines)
    pieces = {}
    for name, weight in {"none": 0, "half": 0.5, "all": 1, "many": 40}.items():
        options = ("--tokenizer_weights", json.dumps({"second": weight}), "--engine.workers", "1")
        assert main(["r.yaml", *options, "--data_dir", name]) == 0
        (folder,) = (path for path in Path(name).iterdir() if path.is_dir())
        tokenizer = Corpus.open(folder).tokenizer
        pieces[name] = len(tokenizer.encode("zyx qwv jkzx qwvzyx"))
    assert pieces["none"] > pieces["half"] >= pieces["all"] >= pieces["many"]
    for weights, what in (
        ({"third": 1}, "names the source 'third', which is not there: only first, second"),
        ({"first": -1}, "`tokenizer_weights` of first is to be 0 or more"),
        ({"first": 0, "second": 0}, "`tokenizer_weights` are all 0"),
    ):
        with pytest.raises(UserError, match=what):
            main(["r.yaml", "--tokenizer_weights", json.dumps(weights)])


def test_a_vocabulary_is_suggested(place, capsys):
    folder = str(made("--engine.workers", "1"))
    capsys.readouterr()
    data(["tokens", folder, "--sizes"])
    table, suggested = capsys.readouterr().out.split("\n\n")
    rows = [row.split() for row in table.splitlines()[2:]]
    assert rows[0][0] == "512" and len(rows) >= 2, "as many as the text has pieces for"
    assert [float(row[-1]) for row in rows] == sorted(float(row[-1]) for row in rows)
    sizes = [int(line.split()[0].replace(",", "")) for line in suggested.splitlines()[1:]]
    assert len(sizes) == 4 and sizes == sorted(sizes), "larger models want more"
    # 12 layers of 768: 85 M a token; twice the bytes a token pay for any head below that.
    assert cheapest({1000: 2.0, 50_000: 4.0})[768, 12] == 50_000
    assert cheapest({1000: 2.0, 50_000: 2.5})[768, 12] == 1000


def test_a_task_of_which_nothing_stays(place):
    """And a corpus of which nothing was left out."""
    lines = "".join(json.dumps({"text": "short"}) + "\n" for _ in range(3000))
    (place / "first" / "9.jsonl").write_text(lines)  # a task of its own
    folder = made("--engine.workers", "1")
    assert json.loads((folder / "report.json").read_text())["steps"][1]["out"]["first"][0] == 320
    (place / "r.yaml").write_text(RECIPE[: RECIPE.index("steps:")] + "vocab_size: 400")
    (place / "first" / "9.jsonl").unlink()
    assert main(["r.yaml", "--data_dir", "all", "--engine.workers", "1"]) == 0
    (folder,) = (path for path in Path("all").iterdir() if path.is_dir())
    assert list(removed(folder)) == []


def test_two_workers_give_the_same_bytes(place):
    one = made("--engine.workers", "1").rename("one")
    assert same(one, made("--engine.workers", "2"))


def test_killed_again_and_again(place):
    """At moments of every stage, with all its processes; the same command goes on."""
    one = made("--engine.workers", "1").rename("one")
    command = [sys.executable, "-m", "lm.commands.prepare", "r.yaml", "--engine.workers", "2"]
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - begun
    (folder,) = (path for path in Path("data").iterdir() if path.is_dir())
    folder.rename("two")
    assert same(one, Path("two"))
    choose = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=whole * choose.random())
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(command, check=True, capture_output=True)
    (folder,) = (path for path in Path("data").iterdir() if path.is_dir())
    assert same(one, folder)


def test_a_worker_that_is_killed_is_a_line_and_not_for_ever(place, capsys):
    (place / "r.yaml").write_text(
        RECIPE.replace("steps:\n", "steps:\n  - class_path: mine.Killed\n    init_args: {note: note}\n")
    )
    with pytest.raises(UserError, match="a process of the preparation was killed"):
        main(["r.yaml", "--engine.workers", "2"])
    assert main(["r.yaml", "--engine.workers", "2"]) == 0
    assert not list(Path("data").glob("*.work"))


def test_a_file_that_breaks_off_is_passed_over_and_listed(place, capsys):
    path = place / "first" / "2.jsonl"
    path.write_text(path.read_text()[:-10])
    folder = made("--engine.workers", "1")
    facts = json.loads((folder / "report.json").read_text())
    assert facts["steps"][0]["out"]["first"][0] == 319, "what came before it counts"
    assert facts["skipped"] == [["first/2.jsonl", "first/2.jsonl:80: the line is not JSON"]]
    assert "first/2.jsonl could not be read, or no further: first/2.jsonl:80" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"first/2\.jsonl:80"):
        main(["r.yaml", "--strict", "true", "--engine.workers", "1"])


def test_a_run_takes_a_recipe_and_its_vocabulary(place):
    assert is_recipe("r.yaml") and not is_recipe("mine.py")
    module = PretrainingData("r.yaml", seq_len=16, batch_size=2, vocab_size=999)
    assert module.vocab_size == 400
    module.prepare_data()
    module.setup()
    assert module.corpus.manifest["sources"][0]["licence"] == "MIT"
    assert prepare(CorpusSettings("r.yaml")) == module.corpus.folder


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("mine.Lines", "mine.Nothing"), "r.yaml: .*mine.Nothing"),
        (("least: 5", "lest: 5"), "r.yaml: .*lest"),
        (("mine.Once", "Duplicate"), "there is no class Duplicate: did you mean Duplicates?"),
        (("vocab_size", "vocabulary_size"), "r.yaml: .*vocabulary_size"),
        (("{path: second.jsonl}", "{path: second.jsonl, name: first}"), "two sources are called 'first'"),
        (("path: second.jsonl", "path: nothing.jsonl"), "no such file or folder: nothing.jsonl"),
        (("path: first,", "path: [],"), "the source first names no file"),
        (("name: mixed", "name: [mixed"), "r.yaml"),
    ],
)
def test_a_recipe_that_makes_no_sense(place, change, what):
    (place / "r.yaml").write_text(RECIPE.replace(*change))
    with pytest.raises(UserError, match=what) as error:
        RecipeFile("r.yaml").build().sources[1].files()
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_no_space_is_left(place):
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limit[1]))
        with pytest.raises(UserError, match=r"cannot write the corpus to .*File too large"):
            main(["r.yaml", "--engine.workers", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert main(["r.yaml", "--engine.workers", "1"]) == 0, "and goes on when there is some"


def test_a_folder_that_holds_something_else_is_left_alone(place, capsys):
    """Another recipe of the same name makes another corpus beside; what is no corpus stays as it is."""
    folder = made("--engine.workers", "1")
    (place / "second.jsonl").write_text(json.dumps({"text": "other words " * 30}) + "\n")
    assert main(["r.yaml", "--engine.workers", "1"]) == 0
    other = next(path for path in Path("data").iterdir() if path.is_dir() and path != folder)
    assert Corpus.open(folder).manifest["splits"] != Corpus.open(other).manifest["splits"]
    (other / "manifest.json").unlink()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there and holds no corpus: move it away"):
        main(["r.yaml", "--engine.workers", "1"])
    assert (other / "mine.txt").read_text() == "mine"
