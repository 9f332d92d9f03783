"""Reading shards: windows anywhere, and every kind of damage found."""

import json
import pickle

import numpy as np
import pytest

from lm.data.corpus.shards import MANIFEST, Corpus, ShardWriter
from lm.errors import UserError
from lm.files import write_atomically
from lm.tokenizer import train_tokenizer


@pytest.fixture
def documents() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(5, 280, size=size) for size in random.integers(2, 40, size=50)]


@pytest.fixture
def folder(tmp_path, documents):
    """A corpus of several shards, written with the parts that `prepare` uses."""
    tokenizer = train_tokenizer(["some text to learn from " * 9], 290)
    splits = {}
    for split, part in (("train", documents), ("val", documents[:3])):
        writer = ShardWriter(tmp_path, split, np.dtype("<u2"), shard_tokens=200)
        for ids in part:
            writer.add(ids, size=2 * len(ids))
        splits[split] = writer.close()
    write_atomically(tmp_path / "tokenizer.model", tokenizer.to_bytes())
    manifest = {"format": 1, "vocab_size": 290, "dtype": "uint16", "splits": splits}
    manifest["tokenizer_sha256"] = tokenizer.fingerprint
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def test_every_window_is_the_same_as_of_one_array(folder, documents):
    stream = Corpus.open(folder).split("train")
    flat = np.concatenate(documents)
    owners = np.repeat(np.arange(len(documents)), [len(ids) for ids in documents])
    assert len(stream) == len(flat) and stream.documents == 50 and stream.bytes == 2 * len(flat)
    assert len(list(folder.glob("train-*.bin"))) >= 4
    for start in range(len(flat)):
        for length in (1, 7, 300):
            if start + length <= len(flat):
                tokens, found = stream.window(start, length)
                assert (tokens == flat[start : start + length]).all() and tokens.dtype == np.int64
                assert (found == owners[start : start + length]).all() and found.dtype == np.int64
    tokens, found = stream.window(0, len(flat))
    assert (tokens == flat).all() and (found == owners).all()
    assert len(stream.window(5, 0)[0]) == 0


def test_a_window_beyond_the_ends_is_an_error(folder):
    stream = Corpus.open(folder).split("val")
    for start, length in ((-1, 2), (0, len(stream) + 1), (len(stream), 1)):
        with pytest.raises(IndexError):
            stream.window(start, length)


def test_a_stream_travels_to_a_worker_without_its_tokens(folder, documents):
    stream = Corpus.open(folder).split("train")
    data = pickle.dumps(stream)
    assert documents[0].astype("<u2").tobytes() not in data and len(data) < 2000
    again = pickle.loads(data)
    assert (again.window(3, 400)[0] == stream.window(3, 400)[0]).all()


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00001.idx", "val-00000.bin", "tokenizer.model"])
def test_damage_is_found_and_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (whole[:-2], whole + b"xx", bytes(flipped)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}.*delete the folder .* prepare the corpus again"):
            Corpus.open(folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        Corpus.open(folder)
    path.write_bytes(whole)
    Corpus.open(folder)


def test_a_large_corpus_is_hashed_once_for_each_state(folder, monkeypatch):
    monkeypatch.setattr("lm.data.corpus.shards._ALWAYS_HASHED", 0)
    Corpus.open(folder)
    path = folder / "train-00000.bin"
    state = path.stat()
    with monkeypatch.context() as patched:
        patched.setattr("hashlib.file_digest", None)  # would fail if it were hashed again
        Corpus.open(folder)
    flipped = bytearray(path.read_bytes())
    flipped[0] ^= 1
    path.write_bytes(bytes(flipped))
    assert path.stat().st_mtime_ns != state.st_mtime_ns
    with pytest.raises(UserError, match="is not what was written"):
        Corpus.open(folder)


def test_what_is_no_corpus_says_so(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for wrong in (empty, empty / "absent"):
        with pytest.raises(UserError, match="is not a prepared corpus"):
            Corpus.open(wrong)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="written by a newer lm"):
        Corpus.open(folder)
    for broken in ('{"format": 1', "[]", "{}", '{"format": 1}'):
        (folder / MANIFEST).write_text(broken)
        with pytest.raises(UserError, match=r"manifest\.json is broken"):
            Corpus.open(folder)
