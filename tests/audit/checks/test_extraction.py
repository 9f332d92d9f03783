"""Extraction counts how often a passage was seen wherever it stands, and says what came out of which."""

from types import SimpleNamespace

import numpy as np
import pytest

from lm.audit.checks import extraction
from lm.audit.checks.extraction import Extraction, _repeated, _times
from lm.audit.history import History, Run
from lm.audit.subject import Subject
from lm.data.corpus.shards import ShardWriter, TokenStream

LENGTH = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> SimpleNamespace:
    """Documents of 12 tokens at random; in the training part every fifth one is the same."""
    folder, rng = tmp_path_factory.mktemp("repeated"), np.random.default_rng(0)
    again, streams = rng.integers(0, 50, 12), {}
    for split in ("train", "val"):
        writer = ShardWriter(folder, split, np.dtype("<u2"), 5000)
        for number in range(100):
            repeated = split == "train" and number % 5 == 0
            writer.add(again if repeated else rng.integers(0, 50, 12), 12)
        paths = [folder / shard["file"] for shard in writer.close()["shards"]]
        streams[split] = TokenStream([(path, path.with_suffix(".idx")) for path in paths], np.dtype("<u2"), 0)
    return SimpleNamespace(folder=folder, identity="own", split=streams.__getitem__)


def history(corpus, epochs: int) -> History:
    return History(Run("own", "own", 24, 0, epochs, 0, 1), corpus)


def test_a_passage_was_seen_wherever_it_stands(corpus):
    known, rng = history(corpus, 2), np.random.default_rng(1)
    stream = known.stream
    starts = np.concatenate([_repeated(stream, LENGTH, 3, rng), rng.integers(0, 1190, 20)])
    passages = np.unique([stream.window(start, LENGTH)[0] for start in starts.tolist()], axis=0)
    found = _times(stream, known.times, passages)
    tokens = stream.window(0, len(stream))[0]
    for passage, times in zip(passages, found.tolist(), strict=True):
        places = [at for at in range(len(tokens) - LENGTH + 1) if (tokens[at : at + LENGTH] == passage).all()]
        assert times == sum(int(known.times[at + 1 : at + LENGTH].min()) for at in places)
    assert found.max() > 20, "20 documents are the same, and each was seen twice"


@pytest.mark.parametrize(("epochs", "least", "repeated"), [(1, "1", "17-32"), (4, "3-4", "65-128")])
def test_what_comes_out_is_counted_by_how_often_it_was_seen(corpus, monkeypatch, epochs, least, repeated):
    """The model goes on rightly with what it has seen more than 16 times. What it has seen seldom says most,
    and is there after any number of epochs."""
    known = history(corpus, epochs)
    model = SimpleNamespace(config=SimpleNamespace(max_seq_len=24), tokenizer=SimpleNamespace(vocab_size=50))
    subject, check = Subject(model, corpus, history=known), Extraction(3, 3, 100)
    passages = np.concatenate(list(check._drawn(subject, LENGTH).values()))
    often = _times(known.stream, known.times, passages)
    right = {tuple(row[:3]): row[3:] for row in passages[often > 16].tolist()}

    def greedy(network, prompts, tokens, vocab):
        return np.array([right.get(tuple(prompt), [-1] * tokens) for prompt in prompts])

    monkeypatch.setattr(Subject, "network", None)
    monkeypatch.setattr(extraction, "greedy", greedy)
    monkeypatch.setattr(extraction, "_shown", lambda *_: [])
    figures = check.run(subject).figures
    assert figures["seen_never"].value == 0 == figures[f"seen_{least}"].value
    assert figures[f"seen_{repeated}"].value == 1
    assert ("seen_1" in figures and figures["seen_1"].n >= 60) is (epochs == 1)
    assert figures["seen_least"].n == figures[f"seen_{least}"].n >= 60 and figures["seen_least"].high < 0.05
