"""Preparing a corpus: what is held out, exact contents, and never half a corpus under the final name."""

import argparse
import inspect
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lm.commands.prepare import main
from lm.data.corpus import encoding
from lm.data.corpus.encoding import Part, encoded
from lm.data.corpus.prepare import CorpusSettings, locate, prepare
from lm.data.corpus.shards import Corpus
from lm.errors import UserError
from lm.tokenizer import train_tokenizer

WORDS = [word for word in inspect.getsource(argparse).split() if word.isalpha()]
COMMAND = [sys.executable, "-m", "lm.commands.prepare"]


def texts(count: int, words: int = 60) -> list[str]:
    """Documents of real words in a fixed random order, all different."""
    choose = random.Random(0)
    return [f"{number} " + " ".join(choose.choices(WORDS, k=words)) + "\r\n" for number in range(count)]


def write_lines(path: Path, rows: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return str(path)


def contents(corpus: Corpus, split: str) -> list[str]:
    """The documents of a split, decoded, after checking that each is `<s> ... </s>`."""
    stream, tokenizer = corpus.split(split), corpus.tokenizer
    tokens, owners = stream.window(0, len(stream))
    found = []
    for document in range(stream.documents):
        ids = tokens[owners == document].tolist()
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
        found.append(tokenizer.decode(ids))
    assert (
        corpus.tokenizer.byte_lengths()[tokens].sum() == stream.bytes == sum(len(t.encode()) for t in found)
    )
    return found


def make(corpus, tmp_path, **settings) -> Corpus:
    return Corpus.open(prepare(CorpusSettings(corpus, 400, data_dir=str(tmp_path / "data"), **settings)))


def test_many_documents_are_divided_by_their_text_alone(tmp_path):
    rows = texts(200)
    corpus = make(write_lines(tmp_path / "a.jsonl", rows), tmp_path)
    train, val = contents(corpus, "train"), contents(corpus, "val")
    assert sorted(train + val) == sorted(rows)
    assert 3 <= len(val) <= 25
    again = rows[100:] + rows[:100] + rows[:50]  # in another order and with duplicates
    other = make(write_lines(tmp_path / "b.jsonl", again), tmp_path)
    assert set(contents(other, "val")) == set(val)
    assert set(contents(other, "train")) == set(train)


@pytest.mark.parametrize("fraction", [1e-12, 1 - 1e-12])
def test_neither_side_is_empty_however_unlikely(tmp_path, fraction):
    corpus = make(write_lines(tmp_path / "a.jsonl", texts(20)), tmp_path, val_fraction=fraction)
    sizes = corpus.split("train").documents, corpus.split("val").documents
    assert sum(sizes) == 20 and min(sizes) == 1


def test_of_one_document_the_last_tenth_of_its_characters_is_held_out(tmp_path):
    text = "".join(texts(1, words=3000)) + "中文 😀\r\n" * 40
    (tmp_path / "book.txt").write_bytes(text.encode())
    corpus = make(str(tmp_path / "book.txt"), tmp_path)
    cut = int(0.9 * len(text))
    assert contents(corpus, "train") == [text[:cut]]
    assert contents(corpus, "val") == [text[cut:]]


def test_of_few_documents_the_last_tenth_of_the_text_is_held_out(tmp_path):
    rows = texts(19)
    corpus = make(write_lines(tmp_path / "a.jsonl", rows), tmp_path)
    train, val = "".join(contents(corpus, "train")), "".join(contents(corpus, "val"))
    assert train + val == "".join(rows)
    assert len(train) == int(0.9 * len(train + val))
    assert corpus.split("train").documents + corpus.split("val").documents == 20, (
        "one document across the cut"
    )


def test_the_tokenizer_learns_from_the_training_part_only(tmp_path):
    text = "".join(texts(1, words=2000))
    (tmp_path / "a.txt").write_text(text[:9000] + "ЖЖЖЖЖЖ" * 160)
    corpus = make(str(tmp_path / "a.txt"), tmp_path)
    assert corpus.tokenizer.id("Ж") is None
    train = (tmp_path / "a.txt").read_bytes().decode()
    train = train[: int(0.9 * len(train))]
    assert corpus.tokenizer.fingerprint == train_tokenizer([train], 400).fingerprint


def test_the_manifest_tells_what_is_there(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", texts(30))
    corpus = make(path, tmp_path, shard_tokens=1000)
    manifest = corpus.manifest
    size = Path(path).stat().st_size
    assert manifest["sources"] == [{"name": path, "files": 1, "bytes_on_disk": size, "documents": 30}]
    assert manifest["vocab_size"] == 400 and manifest["dtype"] == "uint16"
    assert manifest["tokenizer_sha256"] == corpus.tokenizer.fingerprint
    shards = manifest["splits"]["train"]["shards"]
    assert len(shards) > 1
    for key in ("tokens", "documents", "bytes"):
        assert sum(shard[key] for shard in shards) == manifest["splits"]["train"][key]
    assert sorted(p.suffix for p in corpus.folder.iterdir()).count(".idx") == len(shards) + 1


def test_a_brought_tokenizer_is_used_and_decides_the_dtype(tmp_path, monkeypatch):
    rows = texts(30)
    mine = train_tokenizer(rows[:3], 390)
    mine.save(tmp_path / "mine.model")
    path = write_lines(tmp_path / "a.jsonl", rows)
    corpus = make(path, tmp_path, tokenizer=str(tmp_path / "mine.model"))
    assert corpus.tokenizer.fingerprint == mine.fingerprint and corpus.vocab_size == 390
    # A vocabulary above 65,536 tokens needs four bytes an id; such a model is too large to train here.
    monkeypatch.setattr("lm.data.corpus.prepare.token_dtype", lambda size: np.dtype("<u4"))
    wide = make(path, tmp_path, tokenizer=str(tmp_path / "mine.model"), shard_tokens=500)
    assert wide.manifest["dtype"] == "uint32"
    assert sorted(contents(wide, "train")) == sorted(contents(corpus, "train"))


def test_the_same_inputs_are_found_and_changed_ones_are_not(tmp_path, capsys, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", texts(25))
    settings = CorpusSettings(path, 400, data_dir=str(tmp_path / "data"))
    folder = prepare(settings)
    assert folder == locate(settings) and "corpus prepared" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("lm.data.corpus.files.open_binary", None)  # nothing is read again
        assert prepare(settings) == folder
    assert capsys.readouterr().err.startswith("corpus found: 25 documents")
    for other in (
        CorpusSettings(path, 401, data_dir=settings.data_dir),
        CorpusSettings(path, 400, data_dir=settings.data_dir, val_fraction=0.1),
        CorpusSettings([path, path], 400, data_dir=settings.data_dir),
    ):
        assert locate(other) != folder
    os.utime(path, ns=(0, 1))
    changed = prepare(settings)
    assert changed != folder
    for name in ("train-00000.bin", "val-00000.bin", "tokenizer.model"):
        assert (changed / name).read_bytes() == (folder / name).read_bytes()


def test_progress_in_a_log_has_no_control_characters(tmp_path, capsys):
    make(write_lines(tmp_path / "a.jsonl", texts(25)), tmp_path)
    lines = capsys.readouterr().err
    assert "\r" not in lines and "\x1b" not in lines
    for stage in ("reading:", "training the tokenizer:", "encoding:", "bytes per token"):
        assert stage in lines


def test_several_processes_give_the_same_bytes(monkeypatch):
    rows = [Part("val" if number % 7 == 0 else "train", text) for number, text in enumerate(texts(60))]
    tokenizer = train_tokenizer([row.text for row in rows], 400)
    monkeypatch.setattr(encoding, "_BATCH", 3000)
    serial = list(encoded(rows, tokenizer, 0, processes=1))
    parallel = list(encoded(rows, tokenizer, 0, processes=2))
    assert [each._replace(ids=each.ids.tolist()) for each in serial] == [
        each._replace(ids=each.ids.tolist()) for each in parallel
    ]
    assert [each.ids.dtype for each in parallel] == [np.dtype("<u2")] * 60


def test_a_sample_of_a_large_corpus_trains_the_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr("lm.data.corpus.prepare._TRAINING_BYTES", 30_000)
    monkeypatch.setattr("lm.data.corpus.prepare._SAMPLED_CHUNK", 100)
    seen: list[str] = []
    train = train_tokenizer
    monkeypatch.setattr(
        "lm.data.corpus.prepare.train_tokenizer",
        lambda texts, size: train(seen.extend(texts) or seen, size),
    )
    rows = texts(200)
    make(write_lines(tmp_path / "a.jsonl", rows), tmp_path)
    assert 15_000 < sum(map(len, seen)) < 45_000
    everything = "".join(rows)
    assert any(chunk in everything[: len(everything) // 4] for chunk in seen)
    assert any(chunk in everything[-len(everything) // 4 :] for chunk in seen)


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_half_way_leaves_nothing_and_the_next_run_succeeds(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", texts(1000, words=300))
    arguments = [path, "--vocab_size", "400", "--data_dir", str(tmp_path / "data")]
    process = start(*arguments)
    for line in process.stderr:  # the pass over the text is done, the encoding is not
        if line.startswith("training the tokenizer"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path.name for path in (tmp_path / "data").iterdir()]
    assert any(name.endswith(".partial") for name in left), left
    assert all(name.endswith((".partial", ".lock")) for name in left), left
    folder = prepare(CorpusSettings([path], 400, data_dir=str(tmp_path / "data")))
    assert Corpus.open(folder).manifest["splits"]["train"]["documents"] > 800
    assert not list((tmp_path / "data").glob("*.partial"))


def test_two_processes_at_once_make_one_corpus(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", texts(400))
    arguments = [path, "--vocab_size", "400", "--data_dir", str(tmp_path / "data")]
    processes = [start(*arguments), start(*arguments)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folders = {out.strip() for out, _ in outputs}
    assert len(folders) == 1
    said = [err for _, err in outputs]
    assert sum("corpus prepared" in err for err in said) == 1
    assert sum("corpus found" in err for err in said) == 1
    Corpus.open(folders.pop())


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    path = write_lines(tmp_path / "a.jsonl", texts(400))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        with pytest.raises(UserError, match=r"cannot write the corpus to .*data.*: File too large"):
            make(path, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write the corpus to"):
        make(write_lines(tmp_path / "a.jsonl", texts(25)), tmp_path)


def test_a_broken_line_leaves_nothing(tmp_path):
    path = Path(write_lines(tmp_path / "a.jsonl", texts(25)))
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match=r"a\.jsonl:26"):
        make(str(path), tmp_path)
    assert not [p for p in (tmp_path / "data").iterdir() if p.suffix != ".lock"]


def test_settings_that_make_no_sense(tmp_path):
    for fraction in (0.0, 1.0, -0.1, 7):
        with pytest.raises(UserError, match="val_fraction"):
            CorpusSettings(val_fraction=fraction)
    with pytest.raises(UserError, match="vocab_size"):
        CorpusSettings(vocab_size=0)
    with pytest.raises(UserError, match="25 documents are the same text"):
        make(write_lines(tmp_path / "a.jsonl", ["same"] * 25), tmp_path)
    with pytest.raises(UserError, match="no text to learn from"):
        make(write_lines(tmp_path / "b.jsonl", ["x"]), tmp_path)


def test_the_command_prints_the_folder_that_the_settings_name(tmp_path, capsys):
    path = write_lines(tmp_path / "a.jsonl", texts(25))
    data = str(tmp_path / "data")
    assert main([path, "--vocab_size", "400", "--val_fraction", "0.2", "--data_dir", data]) == 0
    expected = locate(CorpusSettings(path, 400, val_fraction=0.2, data_dir=data))
    assert capsys.readouterr().out.strip() == str(expected)
    with pytest.raises(UserError, match=r" --vocab_size \d+ or less"):
        main([path, "--vocab_size", "60000", "--data_dir", data])


def test_the_help_needs_nothing_heavy():
    code = """
import sys
from lm.commands.prepare import main
try:
    main(["--help"])
except SystemExit:
    pass
assert not {"torch", "lightning"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "usage: lm prepare" in result.stdout


def test_a_book_in_chinese_comes_back_exactly(sources, origin, tmp_path):
    path = sources / "chinese-classics" / "西游记.txt"
    size = {"own": 600, "real": 6000}[origin]
    corpus = Corpus.open(prepare(CorpusSettings(str(path), size, data_dir=str(tmp_path))))
    assert corpus.folder.name.startswith("西游记-")
    text = path.read_bytes().decode()
    assert contents(corpus, "train") == [text[: int(0.9 * len(text))]]
    assert contents(corpus, "val") == [text[int(0.9 * len(text)) :]]
