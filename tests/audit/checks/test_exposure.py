"""The exposure of secrets: of a model whose probabilities are known, one that knows nothing, a real run."""

import gzip
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lm.audit.checks.exposure import CHANCE, Exposure, _seen, exposure, log2_above, rank_correlation
from lm.audit.checks.membership import Membership
from lm.audit.history import History, Run
from lm.audit.subject import Subject
from lm.backbone import BackboneConfig, LanguageModel
from lm.data.corpus.canaries import Canary, canaries, read_canaries, write_canaries
from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.data.corpus.shards import Corpus
from lm.errors import UserError
from lm.predictor import load

SEQ_LEN = 64


@pytest.fixture(scope="module")
def corpus(code_text, tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("data")
    return Corpus.open(prepare(CorpusSettings(str(code_text), 400, data_dir=str(folder), canaries=10)))


def subject_of(corpus: Corpus, net: LanguageModel) -> Subject:
    """A model that has seen nothing."""
    model = SimpleNamespace(config=net.config, tokenizer=corpus.tokenizer, writer=lambda: net)
    run = Run(str(corpus.folder), corpus.identity, SEQ_LEN, 0, 0, 0, 4)
    return Subject(model, corpus, history=History(run, corpus))


def model(vocab: int, hidden: int = 32) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "num_layers": 1, "num_heads": 2, "max_seq_len": SEQ_LEN}
    config = BackboneConfig(**shape, vocab_size=vocab, residual_init="zero", tie_embeddings=False)
    return LanguageModel(config).eval()


def test_bits_are_log2_of_the_rank():
    others = np.arange(1023.0)
    assert exposure(1023.5, others, 30) >= 10, "above all: 10 bits at least"
    assert exposure(1021.5, others, 30) == 9 and exposure(1019.5, others, 30) == 8
    assert exposure(-1, others, 30) == 0
    assert exposure(1022, others, 30) == pytest.approx(math.log2(1024 / 1.5)), "an equal is half above it"
    assert exposure(1e6, others, 12.5) == 12.5, "there are no more secrets than that"
    # Ranks of a secret that is like the others are uniform: 1.44 bits.
    values = np.random.default_rng(0).normal(size=(4000, 201))
    found = [exposure(row[0], row[1:], 30) for row in values]
    assert np.mean(found) == pytest.approx(CHANCE, abs=3 * CHANCE / 4000**0.5)


def test_beyond_the_others_it_is_the_tail_of_their_distribution():
    rng = np.random.default_rng(0)
    normal = rng.normal(-20, 2, 200_000)
    normal = np.concatenate([normal, -40 - normal])  # without any skewness
    for z in (2, 5, 8):
        expected = float(torch.special.log_ndtr(torch.tensor(-z, dtype=torch.float64))) / math.log(2)
        assert log2_above(-20 + z * normal.std(), normal) == pytest.approx(expected, rel=1e-4)
    skewed = -rng.gamma(8, 2, 200_000)  # a long tail to the left, as log p has
    above = math.log2((skewed > -4).mean())
    assert log2_above(-4, skewed) == pytest.approx(above, abs=0.7)
    assert log2_above(5, np.zeros(9)) == 0, "what does not vary has no tail"


def test_the_tail_is_scipy_s_skew_normal_s():
    stats = pytest.importorskip("scipy.stats")
    for shape in (-3.0, 1.5):
        values = stats.skewnorm.rvs(shape, loc=-20, scale=3, size=400_000, random_state=0)
        skew, spread = float(stats.skew(values)), float(values.std())
        ratio = (2 * abs(skew) / (4 - math.pi)) ** (1 / 3)  # Azzalini's moment estimate, as he writes it
        size = ratio / math.sqrt(1 + ratio**2)
        delta = math.copysign(size / math.sqrt(2 / math.pi), skew)
        scale = spread / math.sqrt(1 - size**2)
        place = values.mean() - math.copysign(scale * size, skew)
        fitted = stats.skewnorm(delta / math.sqrt(1 - delta**2), place, scale)
        for z in (1, 3, 4):
            at = values.mean() + z * spread
            assert log2_above(at, values) == pytest.approx(fitted.logsf(at) / math.log(2), rel=2e-3)


def test_ranks_correlate():
    found = rank_correlation([0, 1, 1, 4, 9], [0.1, 3.0, 2.0, 2.5, 8.0])
    # Ranks 1, 2.5, 2.5, 4, 5 and 1, 4, 2, 3, 5: Σ xy = 51, both means 3.
    expected = (51 - 45) / math.sqrt((54.5 - 45) * (55 - 45))
    assert found.value == pytest.approx(0.0 + (1 + 10 + 5 + 12 + 25 - 45) / math.sqrt(9.5 * 10))
    assert expected < found.value and found.low < found.value < found.high and found.n == 5
    assert rank_correlation([0] * 9, list(range(9))) is None and rank_correlation([1, 2], [1.0, 2.0]) is None


@torch.no_grad()
def test_a_secret_has_the_rank_that_its_probability_says(corpus, tmp_path):
    """A model of pairs of tokens: after a digit comes the same one half of the time, and 0 to 9 are ever less
    likely. All 1,000 secrets of 3 digits can be asked."""
    tokenizer = corpus.tokenizer
    net = model(vocab := tokenizer.vocab_size, hidden=400)
    digits = [tokenizer.encode(f"is {digit}")[-1] for digit in range(10)]
    likely = torch.full((vocab, vocab), 1e-6)
    for at in range(vocab):
        likely[at, digits] = torch.tensor([0.9 - 0.08 * digit for digit in range(10)]) / 20
    for digit in digits:
        likely[digit, digit] += 0.5
    likely /= likely.sum(1, keepdim=True)
    net.backbone.embeddings.tokens.weight.zero_()
    net.backbone.embeddings.tokens.weight[:, :vocab].fill_diagonal_(1)
    net.head.weight.zero_()
    net.head.weight[:, :vocab] = likely.log().T / math.sqrt(400)  # the norm makes √400 of the 1
    space = tokenizer.encode("The access code of bo is 0")[-2]
    table = likely.double().log().tolist()

    def log_p(secret: str) -> float:
        path = [space, *(digits[int(digit)] for digit in secret)]
        return sum(table[a][b] for a, b in pairwise(path))

    every = sorted((f"{number:03}" for number in range(1000)), key=log_p, reverse=True)
    ranks = (0, 50, 200, 800)
    chosen = [Canary(f"The access code of b{'o' * n} is ", every[rank], 0) for n, rank in enumerate(ranks)]
    write_canaries(tmp_path, chosen)
    subject = subject_of(corpus, net)
    subject._corpus = SimpleNamespace(folder=tmp_path)
    (tmp_path / "train-documents.jsonl.gz").write_bytes(gzip.compress(b""))
    found = Exposure(alternatives=2000).run(subject)
    rows = {row["canary"]: row for row in found.examples}
    for canary, rank in zip(chosen, ranks, strict=True):
        own = log_p(canary.secret)
        above = sum(log_p(each) > own + 1e-9 for each in every)
        alike = sum(abs(log_p(each) - own) < 1e-9 for each in every) - 1
        assert float(rows[canary.text]["bits"]) == pytest.approx(
            math.log2(1000 / (1 + above + alike / 2)), abs=0.3
        ), rank
        assert rows[canary.text]["written"].startswith(canary.prefix + "000"), "the likeliest one"
    assert chosen[0].secret == "000" and found.figures["extracted_0"].value == 1 / 4


def test_a_model_that_knows_nothing_has_the_exposure_of_chance(corpus):
    subject = subject_of(corpus, model(corpus.vocab_size))
    found = Exposure(alternatives=100).run(subject)
    bits = [found.figures[f"exposure_{times}"].value for times in (0, 1, 4, 16, 64, 256)]
    assert np.mean(bits) == pytest.approx(
        CHANCE, abs=3 * CHANCE / 60**0.5
    )  # of 60; the deviation is the same 1.44
    assert all(found.figures[f"extracted_{times}"].value == 0 for times in (0, 256))
    assert "rank_correlation" not in found.figures, "it has seen none of them"


def test_what_has_to_be_there(corpus, trained, code_text, tmp_path):
    plain = Corpus.open(prepare(CorpusSettings(str(code_text), 400, data_dir=str(tmp_path))))
    gpt, bert = (load(trained / "checkpoints" / name) for name in ("gpt", "bert"))
    check = Exposure(alternatives=10)
    own = Subject(gpt, plain, history=SimpleNamespace(corpus=plain))
    assert check.unfit(own) == f"{plain.folder} has no canaries: lm prepare … --canaries 5"
    # Of another corpus than the model's nothing follows: a threshold is not kept by naming one.
    other = Corpus.open(prepare(CorpusSettings(str(code_text), 350, data_dir=str(tmp_path))))
    assert check.unfit(Subject(gpt, other)) is None
    with pytest.raises(UserError, match=r"has no canaries\.json"):
        check.run(Subject(gpt, other))
    assert check.unfit(Subject(gpt, corpus)) is None
    assert (
        check.unfit(Subject(bert, corpus)) == Membership().unfit(Subject(bert, corpus)) == "it does not write"
    )
    assert check.unfit(Subject(gpt)) is None
    with pytest.raises(UserError, match="its corpus was not given"):
        check.run(Subject(gpt))
    with pytest.raises(UserError, match="is not what the model was trained on"):
        Membership().run(Subject(gpt, corpus))
    small = subject_of(corpus, model(corpus.vocab_size))
    small.model.config = SimpleNamespace(causal=True, max_seq_len=20)
    with pytest.raises(UserError, match=r"a canary has [0-9]+ tokens, and the model sees 20"):
        check.run(small)
    with pytest.raises(UserError, match="10 at least"):
        Exposure(alternatives=9)


def test_an_audit_of_a_run_with_canaries(lm, tiny_gpt, corpus, tmp_path):
    words = [word for word in tiny_gpt if "corpus" not in word and "seq_len" not in word]
    words += [f"--data.corpus={corpus.folder}", f"--data.seq_len={SEQ_LEN}", "--name", "planted"]
    words += ["--trainer.max_steps=40", "--trainer.val_check_interval=40", "--data.batch_size=8"]
    assert (done := lm("fit", *words)).status == 0, done.err
    checkpoint = tmp_path / "checkpoints/planted/last.ckpt"
    config = tmp_path / "audit.yaml"
    checks = ("Exposure, init_args: {alternatives: 20}", "Membership, init_args: {windows: 100}")
    lines = ["checks:", *(f"- {{class_path: {each}}}" for each in checks)]
    config.write_text("\n".join([*lines, "thresholds:", "  exposure.extracted_256: {most: 0.5}"]))
    words = ["audit", checkpoint, "--corpus", corpus.folder, "--config", config, "--json"]
    done = lm(*words)
    assert done.status == 0, done.err
    exposed, members = json.loads(done.out)["checks"]
    assert exposed["state"] == members["state"] == "done"
    assert exposed["figures"]["exposure_0"]["n"] == 10 and 0.3 < members["figures"]["auc/loss"]["value"] < 0.7
    # How often each was seen: wherever its tokens stand in the training part.
    subject = Subject(load(checkpoint), corpus)
    planted = read_canaries(corpus.folder)
    assert planted == canaries(10)
    ids = [[corpus.tokenizer.bos_id, *corpus.tokenizer.encode(each.text)] for each in planted]
    first = [len(corpus.tokenizer.encode(each.prefix)) + 1 for each in planted]
    found = _seen(subject, planted, [(len(row), at) for row, at in zip(ids, first, strict=True)])
    stream, times = subject.history.stream, subject.history.times
    tokens = stream.window(0, len(stream))[0]
    for row, at, count in zip(ids, first, found, strict=True):
        places = np.flatnonzero(
            (np.lib.stride_tricks.sliding_window_view(tokens, len(row)) == row).all(axis=1)
        )
        assert count == sum(int(times[place + at : place + len(row)].min()) for place in places)
    assert 0 < sum(found) < sum(each.repetitions for each in planted) and found[0] == 0
