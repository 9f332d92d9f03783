"""Windows that were seen are told from others by scores and areas that are counted here by hand."""

import json
import math
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lm.audit.checks import membership
from lm.audit.checks.membership import Membership, Sample, auc, caught, curve
from lm.audit.findings import share
from lm.audit.history import History, Run
from lm.audit.subject import Subject
from lm.backbone import BackboneConfig, LanguageModel
from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.data.corpus.shards import Corpus
from lm.errors import UserError

SEQ_LEN = 32


def sample(values, documents=None) -> Sample:
    values = np.asarray(values, dtype=float)
    return Sample(values, np.arange(len(values)) if documents is None else np.asarray(documents))


def test_the_area_is_what_pairs_say():
    rng = np.random.default_rng(0)
    seen, unseen = rng.integers(2, 12, 60), rng.integers(0, 10, 45)  # with many ties
    wins = (seen[:, None] > unseen) + (seen[:, None] == unseen) / 2
    found = auc(sample(seen), sample(unseen, np.arange(100, 145)), "")
    assert found.value == pytest.approx(wins.mean(), abs=1e-12) and found.n == 105
    # DeLong's variance, by the shares that each window wins against the others.
    variance = wins.mean(1).var() / 60 + wins.mean(0).var() / 45
    half = 2.0154 * math.sqrt(variance * 45 / 44)  # Student's t of 44 degrees
    assert (found.low, found.high) == pytest.approx((wins.mean() - half, wins.mean() + half), abs=1e-4)


def test_copies_of_a_document_add_no_certainty():
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(0.5, 1, 40), rng.normal(0, 1, 30)
    once = auc(sample(seen), sample(unseen, np.arange(100, 130)), "")
    documents = np.arange(40).repeat(9), np.arange(100, 130).repeat(9)
    many = auc(sample(seen.repeat(9), documents[0]), sample(unseen.repeat(9), documents[1]), "")
    assert (many.value, many.low, many.high) == pytest.approx((once.value, once.low, once.high))
    apart = auc(sample(seen.repeat(9)), sample(unseen.repeat(9), np.arange(1000, 1270)), "")
    assert (many.high - many.low) / (apart.high - apart.low) == pytest.approx(3, rel=0.07)
    assert auc(sample([1, 2], [7, 7]), sample([0, 3], [7, 7]), "").low is None, "one document says nothing"


def test_who_is_caught_at_one_in_a_hundred():
    unseen = sample(np.arange(1000) / 10, np.arange(1000))  # 10 of them may be false: those above 98.9
    seen = sample([98.9, 98.95, 99.5, 120, 3], np.arange(2000, 2005))
    found = caught(seen, unseen, "", np.random.default_rng(0))
    assert found.value == 3 / 5 and found.low < 3 / 5 < found.high
    points = dict(curve(seen, unseen))
    assert points[0.001] == 1 / 5 and points[0.01] == 3 / 5 and points[1.0] == 1
    assert min(curve(seen, sample(range(50))))[0] == 1 / 50, "less than one window can't be false"
    # Twins in one document double what chance can do, and the interval knows.
    rng = np.random.default_rng(1)
    seen, unseen = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    documents = np.arange(300).repeat(4), np.arange(300, 600).repeat(4)
    alone = caught(sample(seen.repeat(4)), sample(unseen.repeat(4), np.arange(5000, 6200)), "", rng)
    together = caught(sample(seen.repeat(4), documents[0]), sample(unseen.repeat(4), documents[1]), "", rng)
    assert together.value == alone.value
    assert (together.high - together.low) / (alone.high - alone.low) > 1.5


def subject_of(corpus: Corpus, samples: int, hidden: int = 16) -> Subject:
    """An untrained model that claims to have seen so many samples of an epoch."""
    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "num_layers": 2, "num_heads": 2, "max_seq_len": SEQ_LEN}
    net = LanguageModel(BackboneConfig(**shape, vocab_size=corpus.vocab_size)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
    model = SimpleNamespace(config=net.config, tokenizer=corpus.tokenizer, writer=lambda: net)
    run = Run(str(corpus.folder), corpus.identity, SEQ_LEN, 3, 0, samples, 4)
    return Subject(model, corpus, history=History(run, corpus))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """30 documents that are the same on every machine, no window of which stands in two places."""
    folder = tmp_path_factory.mktemp("documents")
    words = (str(number**3) for number in range(10_000))  # in letters: digits are a token each
    text = " ".join(words).translate(str.maketrans("0123456789", "abcdefghij"))
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text[at : at + 2000]}) for at in range(0, 60_000, 2000)))
    return Corpus.open(prepare(CorpusSettings(str(path), 400, data_dir=str(folder), val_fraction=0.2)))


@torch.no_grad()
def test_scores_are_those_of_the_papers_token_by_token(corpus):
    subject = subject_of(corpus, 8)
    train = corpus.split("train")
    border = train.document(1)[0]
    places = [5, border - 20, train.document(2)[0] - 1, train.document(3)[0]]
    found = Membership(k=0.2)._scores(subject, [(train, 1, at) for at in places], SEQ_LEN)
    for start, scores in zip(places, found, strict=True):
        tokens, documents = train.window(start, SEQ_LEN + 1)
        logs, zs = [], []
        for at in range(1, SEQ_LEN + 1):
            before = [int(t) for t, d in zip(tokens[:at], documents, strict=False) if d == documents[at]]
            if not before:
                continue  # a document's first token: nothing stands before it
            logits = subject.network(torch.tensor([before]))[0, -1].double().numpy()
            p = np.exp(logits - logits.max())
            p /= p.sum()
            centre = sum(each * math.log(each) for each in p)
            spread = math.sqrt(sum(each * (math.log(each) - centre) ** 2 for each in p))
            logs.append(math.log(p[tokens[at]]))
            zs.append((logs[-1] - centre) / spread)
        least = int(len(logs) * 0.2)
        assert len(logs) == SEQ_LEN - int(documents[-1] > documents[0]) and least == 6
        text = corpus.tokenizer.decode(tokens.tolist()).encode()
        expected = {
            "loss": sum(logs) / len(logs),
            "zlib": sum(logs) / len(zlib.compress(text)),
            "min_k": sum(sorted(logs)[:least]) / least,
            "min_k_plus": sum(sorted(zs)[:least]) / least,
        }
        assert scores == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def remembers(corpus, monkeypatch):
    """Makes of the subject's model one that takes a token to be e^`often` times as likely each time that it
    has seen it."""

    def make(subject: Subject, often: float) -> None:
        rng, known = np.random.default_rng(0), {}
        for split, times in (("val", None), ("train", subject.history.times)):
            stream = corpus.split(split)
            for at in range(len(stream) - SEQ_LEN):
                window = stream.window(at, SEQ_LEN + 1)[0].tobytes()
                known[window] = np.zeros(SEQ_LEN) if times is None else times[at + 1 : at + 1 + SEQ_LEN]

        def statistics(network, tokens, documents):
            seen = np.stack([known[row.tobytes()] for row in tokens])
            logs = torch.from_numpy(often * seen + rng.normal(-9, 1, seen.shape))
            return logs, torch.full_like(logs, -9), torch.ones_like(logs)

        monkeypatch.setattr(membership, "token_statistics", statistics)

    return make


@pytest.mark.parametrize("often", [0, 3])
def test_what_was_seen_is_told_where_it_is_likelier(corpus, remembers, often):
    subject = subject_of(corpus, 200)
    remembers(subject, often)
    found = Membership(windows=150).run(subject)
    assert not found.notes and [chart.title for chart in found.charts] == ["Told to be seen"]
    for attack in membership.ATTACKS:
        area, told = found.figures[f"auc/{attack}"], found.figures[f"caught/{attack}"]
        assert area.n == 300 and told.n == 150
        if often:
            least = (0.9, 0.3) if attack == "zlib" else (0.99, 0.9)  # texts pack differently
            assert area.value > least[0] and told.value > least[1]
        else:
            assert area.low < 0.5 < area.high and area.high - area.low < 0.2 and told.value < 0.1


def test_with_nothing_unseen_left_the_held_out_part_stands_for_it(corpus, remembers):
    subject = subject_of(corpus, 0)
    run = Run(str(corpus.folder), corpus.identity, SEQ_LEN, 3, 1, 100, 4)  # an epoch and a part of another
    subject._history = History(run, corpus)
    remembers(subject, 0.2)
    found = Membership(windows=150).run(subject)
    assert "held-out documents" in found.notes[0]
    chart = found.charts[1]
    assert chart.title == "By times seen" and [point[0] for point in chart.series["loss"]] == [1, 2]
    once, twice = (found.figures[f"auc/loss/seen_{times}"].value for times in (1, 2))
    assert 0.6 < once < found.figures["auc/loss"].value < twice, "likelier, the more often it was seen"


def test_a_model_that_has_seen_nothing_can_not_be_asked(corpus):
    with pytest.raises(UserError, match="two windows that it has seen"):
        Membership().run(subject_of(corpus, 0))


def test_options_that_can_not_be():
    for given in ({"windows": 1}, {"k": 0}, {"k": 1.1}):
        with pytest.raises(UserError, match="Membership: `windows` is 2 at least"):
            Membership(**given)


def test_none_caught_is_not_certainly_none():
    """However one draws documents anew, of none that is told none is; its bound is that of its documents."""
    rng = np.random.default_rng(0)
    seen = Sample(np.zeros(40), np.repeat(np.arange(20), 2))
    unseen = Sample(1 + rng.random(200), 100 + np.arange(200))
    found = caught(seen, unseen, "", rng)
    assert (found.value, found.low) == (0, 0) and found.high == pytest.approx(share(0, 20, "").high)
    found = caught(unseen, seen, "", rng)
    assert (found.value, found.high) == (1, 1) and found.low == pytest.approx(share(200, 200, "").low)
