"""Canaries stand in the training part exactly as often as is said, and change nothing else."""

import filecmp
import gzip
import hashlib
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lm.data.corpus.canaries import ALTERNATIVES, MOST, REPETITIONS, Canary, canaries, read_canaries, woven
from lm.data.corpus.encoding import Part
from lm.data.corpus.prepare import CorpusSettings, locate, prepare
from lm.data.corpus.provenance import find, origins
from lm.data.corpus.shards import FORMAT, Corpus
from lm.data.corpus.sources import Given, resolve
from lm.data.mixing import Share
from lm.data.pretraining import PretrainingData
from lm.errors import UserError
from tests.data.corpus.test_prepare import contents, texts, write_lines

TOTAL = 1 + 4 + 16 + 64 + 256  # copies of one of each


def settings(path: str, folder: Path, **more) -> CorpusSettings:
    return CorpusSettings(path, 400, data_dir=str(folder), **more)


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> str:
    return write_lines(tmp_path_factory.mktemp("lines") / "a.jsonl", texts(400))


@pytest.fixture(scope="module")
def plain(lines, tmp_path_factory) -> Corpus:
    return Corpus.open(prepare(settings(lines, tmp_path_factory.mktemp("data"))))


@pytest.fixture(scope="module")
def planted(lines, tmp_path_factory) -> Corpus:
    return Corpus.open(prepare(settings(lines, tmp_path_factory.mktemp("data"), canaries=2)))


def test_what_a_canary_is():
    made = canaries(MOST)
    assert made[0] == Canary("The access code of mudova is ", "031187142", 0)
    assert made[5] == Canary("The access code of voboko is ", "784537667", 256)
    assert made[0].text == "The access code of mudova is 031187142"
    assert Counter(each.repetitions for each in made) == dict.fromkeys((0, 1, 4, 16, 64, 256), MOST)
    assert len({each.prefix for each in made}) == len(made)
    assert canaries(3) == made[:18] and canaries(0) == []
    # Each of 10^9 secrets is as likely: in each place each digit, 600 times of 6000, ±23 at one sigma.
    assert ALTERNATIVES == 10**9
    for place in zip(*(each.secret for each in made), strict=True):
        counts = Counter(place)
        assert sorted(counts) == list("0123456789")
        assert all(abs(count - 600) < 5 * 23 for count in counts.values())
    for n in (-1, MOST + 1):
        with pytest.raises(UserError, match=f"`canaries` {n}: from 0 to 1,000"):
            canaries(n)


def test_each_stands_there_as_often_as_it_says(planted, plain):
    chosen = read_canaries(planted.folder)
    assert chosen == canaries(2) and len(chosen) == 12
    train = contents(planted, "train")
    counts = Counter(train)
    assert {each.text: counts[each.text] for each in chosen} == {
        each.text: each.repetitions for each in chosen
    }
    everything = "\n".join(train)
    assert all(everything.count(each.prefix) == each.repetitions for each in chosen), "nor within another"
    own = {each.text for each in chosen}
    assert [text for text in train if text not in own] == contents(plain, "train"), "the others as they were"


def test_nothing_else_changes(planted, plain):
    for name in ("tokenizer.model", "val-00000.bin", "val-00000.idx", "val-documents.jsonl.gz"):
        assert (planted.folder / name).read_bytes() == (plain.folder / name).read_bytes(), name
    ours, theirs = planted.manifest, plain.manifest
    assert ours["splits"]["val"] == theirs["splits"]["val"] and ours["sources"] == theirs["sources"]
    record = ours["canaries"]
    assert (record["each"], record["repetitions"], record["documents"]) == (2, list(REPETITIONS), 2 * TOTAL)
    for key in ("documents", "tokens", "bytes"):
        assert ours["splits"]["train"][key] - theirs["splits"]["train"][key] == record[key]
    assert record["bytes"] == sum(len(each.text) * each.repetitions for each in canaries(2))
    rows = list(origins(planted.folder, "train"))
    assert [row for row in rows if row["source"] != "canaries"] == list(origins(plain.folder, "train"))
    expected = {f"canaries/{k}#{i}" for k, each in enumerate(canaries(2)) for i in range(each.repetitions)}
    assert {row["id"] for row in rows if row["source"] == "canaries"} == expected
    _, number = find(planted.folder, "canaries/4#63")  # the row is the document's
    assert contents(planted, "train")[number] == canaries(2)[4].text
    assert rows[number]["sha256"] == hashlib.sha256(canaries(2)[4].text.encode()).hexdigest()


def test_without_them_a_corpus_is_what_it_was_before_there_were_any(lines, plain):
    """The folder's name as it was computed then, and no word of them in any file."""
    assert locate(settings(lines, plain.folder.parent, canaries=0)) == plain.folder
    then = {"corpus": None, "vocab_size": 400, "tokenizer": None, "text_field": "text", "data_dir": None}
    then |= {"val_fraction": None, "shard_tokens": 100_000_000, "format": FORMAT}
    words = json.dumps([then, Given(resolve(lines), "text").state()], sort_keys=True)
    assert plain.folder.name == f"a-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    files = {"manifest.json", "tokenizer.model"}
    files |= {f"{split}-00000.{end}" for split in ("train", "val") for end in ("bin", "idx")}
    files |= {f"{split}-documents.jsonl.gz" for split in ("train", "val")}
    assert {path.name for path in plain.folder.iterdir()} == files
    assert "canaries" not in (plain.folder / "manifest.json").read_text()
    with gzip.open(plain.folder / "train-documents.jsonl.gz", "rt") as rows:
        assert "canaries" not in rows.read()
    with pytest.raises(UserError, match=r"has no canaries\.json: .* lm prepare CORPUS --canaries"):
        read_canaries(plain.folder)


def test_equal_settings_give_equal_bytes_and_others_other_folders(lines, planted, tmp_path):
    again = prepare(settings(lines, tmp_path, canaries=2))
    assert again.name == planted.folder.name
    names = sorted(path.name for path in again.iterdir())
    assert names == sorted(path.name for path in planted.folder.iterdir())
    assert filecmp.cmpfiles(again, planted.folder, names, shallow=False)[0] == names
    assert locate(settings(lines, tmp_path, canaries=3)) != again


def test_they_are_spread_over_the_whole_stream(planted):
    train = contents(planted, "train")
    for each in canaries(2):
        places = [place for place, text in enumerate(train) if text == each.text]
        assert 1 not in [b - a for a, b in pairwise(places)], "no two beside each other"
        if each.repetitions >= 4:
            quarters = Counter(4 * place // len(train) for place in places)
            assert all(abs(quarters[q] - each.repetitions / 4) <= each.repetitions / 16 + 1 for q in range(4))
    begins = {train.index(each.text) for each in canaries(2) if each.repetitions in (1, 4)}
    assert len(begins) == 4, "not all at the same places"


def test_they_are_spread_however_much_is_held_out(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", texts(800, words=20))
    corpus = Corpus.open(prepare(settings(path, tmp_path, canaries=1, val_fraction=0.6)))
    assert 256 < corpus.split("train").documents - TOTAL < 400
    train = contents(corpus, "train")
    assert all(a != b for a, b in pairwise(train))


@pytest.mark.parametrize("documents", [0, 1, 19, 255, 256, 1000])
def test_however_many_documents_there_are(documents):
    parts = [Part("train", str(number)) for number in range(documents)]
    for number in range(documents // 3):  # held out: many in a row, and at the end
        parts.insert(documents // 2, Part("val", f"held out {number}"))
    parts.append(Part("val", "the end"))
    chosen = canaries(2)
    found = list(woven(parts, chosen, documents))
    assert [part for part in found if not part.origin] == parts
    more = [part for part in found if part.origin]
    assert {part.split for part in more} == {"train"}
    counts = Counter(part.text for part in more)
    assert counts == Counter({each.text: each.repetitions for each in chosen if each.repetitions})
    train = [part.text for part in found if part.split == "train"]
    if documents >= 255:  # 256 places
        assert all(a != b for a, b in pairwise(train))
    if documents:
        assert train[0] in counts and train[-1] in counts, "before the first as well as after the last"


@pytest.mark.parametrize("count", [1, 7])
def test_of_few_documents_the_text_stays_whole(tmp_path, count):
    rows = texts(count, words=700)
    path = write_lines(tmp_path / "a.jsonl", rows)
    corpus = Corpus.open(prepare(settings(path, tmp_path, canaries=1)))
    own = {each.text: each.repetitions for each in canaries(1) if each.repetitions}
    train, val = contents(corpus, "train"), contents(corpus, "val")
    counts = Counter(train)
    assert {text: counts[text] for text in own} == own
    rest = "".join(text for text in train if text not in own)
    assert rest + "".join(val) == "".join(rows) and len(rest) == int(0.9 * len("".join(rows)))
    assert sum(counts.values()) - TOTAL == count


def test_the_command(lm, lines, planted, plain):
    said = lm("prepare", lines, "--vocab_size", "400", "--canaries", "2")
    assert said.status == 0
    folder = Path(said.out.strip())
    assert folder.name == planted.folder.name
    (warning,) = (line for line in said.err.splitlines() if line.startswith("warning: "))
    assert warning.startswith("warning: canaries planted: 2 each of 0, 1, 4, 16, 64 and 256 repetitions, 682")
    share = planted.manifest["canaries"]["tokens"] / planted.manifest["splits"]["train"]["tokens"]
    assert share > 0.05 and f" {share:.2%} of the training tokens, which is much" in warning
    fact = warning.removeprefix("warning: canaries planted: ")
    assert json.loads(lm("info", folder, "--json").out)["canaries"] == fact
    assert lm("data", "show", folder).out.startswith(f"canaries: {fact}\n")
    assert "canaries" not in lm("info", plain.folder).out + lm("data", "show", plain.folder).out
    data = PretrainingData(lines, vocab_size=400, canaries=2)
    data.prepare_data()
    data.setup()
    assert data.corpus.folder == folder


def test_a_recipe_plants_them_behind_its_steps(lm, lines):
    """Duplicates would leave one of each."""
    pytest.importorskip("datatrove", reason="the extra `corpus` is not installed")
    source = {"class_path": "JsonLines", "init_args": {"path": lines, "name": "rows"}}
    recipe = {"name": "mixed", "sources": [source], "steps": ["Duplicates"], "vocab_size": 400}
    recipe["engine"] = {"class_path": "Local", "init_args": {"workers": 1}}
    Path("r.yaml").write_text(yaml.safe_dump(recipe | {"canaries": 1}))
    Path("plain.yaml").write_text(yaml.safe_dump(recipe))
    said = lm("prepare", "r.yaml")
    assert said.status == 0, said.err
    folder = Path(said.out.strip())
    assert "canaries planted: 1 each" in said.err
    corpus = Corpus.open(folder)
    counts = Counter(contents(corpus, "train"))
    assert [counts[each.text] for each in read_canaries(folder)] == [0, 1, 4, 16, 64, 256]
    assert corpus.split("train").documents + corpus.split("val").documents == 400 + TOTAL
    tokens = json.loads((folder / "report.json").read_text())["tokens"]
    assert tokens["canaries"][""][:2] == [TOTAL, corpus.manifest["canaries"]["tokens"]]
    # As an option, of either command.
    assert locate(CorpusSettings("plain.yaml", canaries=1)) == folder
    assert PretrainingData("plain.yaml", canaries=1).vocab_size == 400
    assert lm("prepare", "plain.yaml", "--canaries", "1").out.strip() == str(folder)
    without = Path(lm("prepare", "plain.yaml").out.strip())
    assert without != folder and "canaries" not in (without / "report.json").read_text()
    assert (without / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    refused = lm("prepare", "r.yaml", "--canaries", "-1")
    assert refused.status == 2 and "`canaries` -1: from 0 to 1,000" in refused.err


def test_bad_input(lm, lines, plain, planted):
    def refused(*words: str) -> str:
        said = lm(*words)
        assert (said.status, said.err.count("\n")) == (2, 1), said.err
        return said.err

    for n in ("-1", "1001"):
        assert f"--canaries {n}: from 0 to 1,000 of each" in refused("prepare", lines, "--canaries", n)
    assert "--canaries" in refused("prepare", lines, "--canaries", "many")
    fit = ("fit", "gpt-nano", "--data.corpus")
    line = refused(*fit, str(plain.folder), "--data.canaries", "5")
    assert "is prepared already, with no canaries" in line and "or give --data.canaries 0" in line
    assert "with 2 canaries of each kind" in refused(*fit, str(planted.folder), "--data.canaries", "5")
    PretrainingData(str(planted.folder), canaries=2)  # which says what is there
    mixture = {name: Share(lines, 1) for name in "ab"}
    with pytest.raises(UserError, match="`canaries` are planted into one corpus, not into a `mixture`"):
        PretrainingData(mixture=mixture, canaries=1)
    Path("canaries").write_text("\n".join(texts(30)))
    said = lm("prepare", "canaries", "--vocab_size", "300", "--canaries", "1")
    assert said.status == 1 and "a source is called canaries, as what --canaries plants" in said.err
    assert not [path for path in Path("data").iterdir() if path.suffix != ".lock"]


def test_a_broken_list_is_said(planted, tmp_path):
    whole = (planted.folder / "canaries.json").read_text()
    for broken in (whole[:-5], "[]", whole.replace("secret", "word")):
        (tmp_path / "canaries.json").write_text(broken)
        with pytest.raises(UserError, match=r"canaries\.json is broken: delete the folder"):
            read_canaries(tmp_path)
