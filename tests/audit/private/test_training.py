"""Private training: gradients of single samples, samples drawn by chance, noise, and what is said of it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.func import functional_call, grad, vmap

import lm.backbone.linear as products
from lm import checkpoint as checkpoints
from lm.audit.private.accounting import epsilon_of, noise_for
from lm.audit.private.per_sample import ClippedSum, PoissonSamples, seeded_noise, system_noise
from lm.audit.private.training import PrivateTraining
from lm.backbone import BackboneConfig, Classifier
from lm.data import PretrainingData
from lm.errors import UserError
from lm.tasks import CausalPretraining, MaskedPretraining
from tests.conftest import scalars
from tests.run.test_finetune import fit, said  # noqa: F401 - a fixture

opacus = pytest.importorskip("opacus")
PRIVATE = ("--trainer.callbacks+=lm.audit.private.training.PrivateTraining",)
SGD = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5", "--trainer.gradient_clip_val=null")


def options(**given: object) -> tuple[str, ...]:
    """The callback with these arguments."""
    return (*PRIVATE, *(f"--trainer.callbacks.{name}={value}" for name, value in given.items()))


def weights(name: str, file: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(f"checkpoints/{name}/{file}", weights_only=True)["state_dict"]


def apart(left: dict, right: dict) -> float:
    """How far two models' weights are apart at most."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


# Gradients of single samples, beside an independent implementation: torch.func's, of all samples at once.

SHAPES = {
    "rotary": {"qk_norm": True, "mlp": "relu2", "tie_embeddings": True},
    "learned": {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu", "num_kv_heads": 1},
    "bert": {
        "causal": False,
        "positions": "learned",
        "norm": "layer",
        "norm_position": "after",
        "bias": True,
    },
}


def windows_of(tokenizer, count: int, length: int) -> dict[str, torch.Tensor]:
    """A batch of windows, each with a border between documents."""
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, tokenizer.vocab_size, (count, length + 1), generator=random)
    documents = (torch.arange(length + 1)[None] >= torch.arange(3, 3 + count)[:, None]).int()
    return {"tokens": tokens, "documents": documents, "key": torch.arange(count) * 7919}


def compare(net: nn.Module, expected: dict[str, torch.Tensor], losses: list, max_norm: float) -> None:
    """The sum that is made of the samples' losses, beside gradients (n, …) by name."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    norms = torch.stack([expected[name].flatten(1).norm(dim=1) for name in names]).norm(dim=0)
    for number, loss in enumerate(losses):
        alone = ClippedSum(parameters, math.inf)
        assert alone.add(loss()) == pytest.approx(float(norms[number]), rel=1e-4)
        for name, found in zip(names, alone.sums, strict=True):
            torch.testing.assert_close(found, expected[name][number], atol=1e-5, rtol=1e-4)
    together = ClippedSum(parameters, max_norm)
    for loss in losses:
        together.add(loss())
    factors = (max_norm / norms).clamp(max=1)
    assert 0 < int((factors < 1).sum()) < len(losses), "some are clipped"
    for name, found in zip(names, together.sums, strict=True):
        torch.testing.assert_close(
            found, torch.einsum("n,n...->...", factors, expected[name]), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_each_sample_alone(shape, tokenizer, monkeypatch):
    torch.manual_seed(0)
    config = BackboneConfig(
        hidden_size=16, num_layers=2, num_heads=2, max_seq_len=12, vocab_size=tokenizer.vocab_size,
        **SHAPES[shape],
    )  # fmt: skip
    task = (CausalPretraining if config.causal else MaskedPretraining)(config)
    task.processor = tokenizer
    for parameter in task.net.parameters():  # some begin as zeros
        nn.init.normal_(parameter, std=0.3)
    batch = windows_of(tokenizer, 5, 12)
    example = task.example(batch, training=True)
    singles = [{name: part[i : i + 1] for name, part in batch.items()} for i in range(5)]
    losses = [lambda one=one: task.training_step(one, 0)["loss"] for one in singles]

    def loss(weights, inputs, targets, documents):
        logits = functional_call(task.net, weights, (inputs[None], documents[None]))[0]
        total = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        return total / (12 if config.causal else round(12 * task.mask_rate))

    plain = {name: p.detach() for name, p in task.net.named_parameters()}
    with monkeypatch.context() as patch:
        patch.setattr(products, "ONEDNN", False)
        expected = vmap(grad(loss), in_dims=(None, 0, 0, 0))(
            plain, example.inputs, example.targets, batch["documents"][:, :-1]
        )
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in expected.values()]).norm(dim=0)
    compare(task.net, expected, losses, float(norms.median()))


def test_gradients_of_a_classifier_with_weights_that_stay(monkeypatch):
    torch.manual_seed(0)
    config = BackboneConfig(hidden_size=16, num_layers=2, num_heads=2, max_seq_len=8, vocab_size=30)
    net = Classifier(config, 3, "mean")
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    net.backbone.embeddings.requires_grad_(False)
    tokens, targets = torch.randint(30, (6, 8)), torch.randint(3, (6,))
    trained = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    losses = [
        lambda i=i: F.cross_entropy(net(tokens[i : i + 1]), targets[i : i + 1], reduction="sum")
        for i in range(6)
    ]
    found = ClippedSum([p for p in net.parameters() if p.requires_grad], 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(products, "ONEDNN", False)
        expected = vmap(
            grad(lambda w, x, y: F.cross_entropy(functional_call(net, w, (x[None],)), y[None])),
            in_dims=(None, 0, 0),
        )(trained, tokens, targets)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in expected.values()]).norm(dim=0)
    for number, loss in enumerate(losses):
        assert found.add(loss()) == pytest.approx(float(norms[number]), rel=1e-4)
    for g, total in zip(expected.values(), found.sums, strict=True):
        clipped = torch.einsum("n,n...->...", (1 / norms).clamp(max=1), g)
        torch.testing.assert_close(total, clipped, atol=1e-5, rtol=1e-4)


def test_a_gradient_without_a_bound_is_left_out():
    weight = nn.Parameter(torch.ones(3))
    total = ClippedSum([weight], 1.0)
    total.add((weight * torch.tensor([math.inf, 0, 0])).sum())
    total.add((weight * 2).sum())
    assert float(total.sums[0].norm()) == pytest.approx(1, abs=1e-5)


# Noise.


def test_noise_is_as_large_as_it_should_be_and_a_function_of_seed_and_step():
    weights = [nn.Parameter(torch.zeros(50, 80)), nn.Parameter(torch.zeros(1001))]

    def released(noise) -> torch.Tensor:
        total = ClippedSum(weights, max_norm=2.0)
        total.release(noise, multiplier=1.5, expected=4)
        assert not any(s.any() for s in total.sums), "the next step begins anew"
        return torch.cat([w.grad.flatten() for w in weights])

    cpu = torch.device("cpu")
    first, again, later, other = (
        released(seeded_noise(seed, step, cpu)) for seed, step in ((5, 3), (5, 3), (5, 4), (6, 3))
    )
    assert torch.equal(first, again)
    for each in (first, later, other, released(system_noise), released(system_noise)):
        assert float(each.std()) == pytest.approx(1.5 * 2 / 4, rel=0.04)
        assert abs(float(each.mean())) < 4 * 0.75 / 5001**0.5
        assert abs(float((each**4).mean()) / 0.75**4 - 3) < 0.6, "a normal's"
    for each in (later, other, released(system_noise)):
        assert abs(float(torch.corrcoef(torch.stack((first, each)))[0, 1])) < 0.06


# Samples that come by chance.


def numbers(windows: int, batch_size: int) -> SimpleNamespace:
    """A dataset whose batches are the numbers of its samples and the draw."""
    chosen = lambda samples, draw: (*samples.tolist(), draw)  # noqa: E731
    return SimpleNamespace(windows=windows, batch_size=batch_size, chosen=chosen)


def test_each_sample_comes_with_the_same_chance_whatever_the_others_do():
    samples = PoissonSamples(numbers(200, 6), accumulate=2, seed=3)
    there = np.zeros((2000, 200))
    for step in range(2000):
        there[step, samples.samples(step)] = 1
    rate, sizes = 12 / 200, there.sum(1)
    assert samples.rate == rate
    assert sizes.mean() == pytest.approx(12, abs=4 * (12 * (1 - rate) / 2000) ** 0.5)
    assert sizes.var() == pytest.approx(12 * (1 - rate), rel=0.13), "a binomial's: 4 standard errors"
    often = there.sum(0)  # of each sample: also binomial
    assert abs(often.var() / (2000 * rate * (1 - rate)) - 1) < 0.4
    assert abs(often - 2000 * rate).max() < 4.5 * (2000 * rate * (1 - rate)) ** 0.5
    together = np.corrcoef(there.T)[~np.eye(200, dtype=bool)]  # of two samples
    after = [np.corrcoef(there[:-1, i], there[1:, i])[0, 1] for i in range(200)]  # of two steps
    for found in (together, np.array(after)):
        assert abs(found.mean()) < 0.005 and found.std() == pytest.approx(2000**-0.5, rel=0.2)


def test_what_comes_is_a_function_of_the_place_alone_however_a_step_is_cut():
    whole, cut = PoissonSamples(numbers(50, 8), 1, 3), PoissonSamples(numbers(50, 2), 4, 3)
    for epoch in (0, 7):
        for first in range(0, 48, 8):
            expected = whole[epoch, first]
            parts = [cut[epoch, first + micro] for micro in range(0, 8, 2)]
            assert sorted(each for part in parts for each in part) == sorted(expected)
            assert [each[1] for each in expected] == [epoch * 6 + first // 8] * len(expected), "the draw"
            assert PoissonSamples(numbers(50, 8), 1, 3)[epoch, first] == expected
    assert PoissonSamples(numbers(50, 8), 1, 4)[0, 0] != whole[0, 0] != whole[1, 0]
    assert len(PoissonSamples(numbers(8, 8), 1, 3)[0, 0]) == 8, "a rate of 1"


def test_windows_are_always_cut_alike_and_drawn_anew(code_text, tmp_path, monkeypatch):
    """A unit of privacy stays one; what is masked in it changes from step to step."""
    monkeypatch.chdir(tmp_path)
    data = PretrainingData(str(code_text), seq_len=16, batch_size=4, vocab_size=400)
    data.prepare_data()
    data.setup()
    windows = data.train_windows
    samples = PoissonSamples(windows, accumulate=windows.windows // 4, seed=0)
    assert samples.rate > 0.99
    first, later = samples.dataset.chosen(np.arange(windows.windows), 1), windows.chosen(np.array([7, 3]), 2)
    starts = np.sort(windows.starts(0, np.arange(windows.windows)))
    assert set(np.diff(starts)) == {16}, "no token but those on borders stands in two"
    assert torch.equal(first["tokens"][[7, 3]], later["tokens"])
    assert not torch.isin(later["key"], first["key"]).any()


# ε.


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_epsilon_is_opacus_s(accountant):
    counted = opacus.accountants.create_accountant(accountant)
    for step in range(60):
        counted.step(noise_multiplier=1.1 if step < 40 else 0.9, sample_rate=0.02)
    found = epsilon_of([(1.1, 0.02, 40), (0.9, 0.02, 20)], 1e-5, accountant)
    assert found == pytest.approx(counted.get_epsilon(delta=1e-5), rel=1e-6)
    noise = noise_for(3.0, 1e-5, 0.02, 300, accountant)
    assert 2.98 < epsilon_of([(noise, 0.02, 300)], 1e-5, accountant) <= 3.0
    if accountant == "rdp":  # the other takes seconds
        assert noise == opacus.accountants.utils.get_noise_multiplier(
            target_epsilon=3.0, target_delta=1e-5, sample_rate=0.02, steps=300, accountant=accountant
        )


def test_epsilon_of_one_step_on_everything_is_the_gaussian_mechanism_s():
    """The exact curve (Balle and Wang 2018, theorem 8)."""
    sigma, epsilon = 1.3, epsilon_of([(1.3, 1.0, 1)], 1e-5, "prv")
    below = lambda x: 0.5 * math.erfc(-x / 2**0.5)  # noqa: E731
    delta = below(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * below(-0.5 / sigma - epsilon * sigma)
    assert delta <= 1e-5 and delta > 0.9e-5
    assert epsilon_of([], 1e-5, "prv") == 0 and epsilon_of([(0.0, 0.1, 3)], 1e-5, "prv") == math.inf


# Runs.


def test_without_noise_and_clipping_a_step_on_everything_is_the_plain_one(lm, tiny_gpt, tmp_path, code_text):
    (tmp_path / "few.py").write_text(code_text.read_text()[:12_000])
    data = PretrainingData("few.py", seq_len=32, batch_size=1, vocab_size=400)
    data.prepare_data()
    data.setup()
    tokens = data.train_tokens
    length = next(n for n in range(32, 99) if (tokens - n) // n % 2 == 0)  # an even number of windows
    half = (tokens - length) // length // 2
    words = (*tiny_gpt, "--data.corpus=few.py", f"--data.seq_len={length}", "--trainer.max_steps=1", *SGD)
    words = (*words, f"--data.batch_size={half}", "--trainer.accumulate_grad_batches=2")
    words = (*words, "--model.optimizer.lr=1")  # a step that is seen, whatever this Python's source is
    first = lm("fit", *words, "--name=plain")
    assert first.status == 0, first.err
    other = lm("fit", *words, "--name=private", *options(noise_multiplier=0, max_grad_norm=1e9))
    assert other.status == 0, other.err
    assert "chance of 1;" in other.err and "ε = inf" in other.err
    start = lm("fit", *words, "--name=start", "--model.optimizer.lr=0")
    assert start.status == 0, start.err
    plain, private, before = weights("plain"), weights("private"), weights("start")
    assert apart(plain, private) < 1e-5 and apart(plain, before) > 1e-3
    record = json.loads(Path("checkpoints/private/summary.json").read_text())
    assert record["private"]["epsilon"] is None and record["tokens_seen"] == 2 * half * length


def test_a_run_says_what_it_has_spent_and_noise_comes_once_a_step(lm, tiny_gpt, tmp_path):
    """Cut into micro-batches it is the same training: the same samples, and noise once."""
    words = (*tiny_gpt, *options(epsilon=6, accountant="rdp", delta=1e-5), "--trainer.val_check_interval=3")
    done = lm("fit", *words, "--name=a")
    assert done.status == 0, done.err
    cut = ("--data.batch_size=1", "--trainer.accumulate_grad_batches=4", "--trainer.val_check_interval=12")
    assert lm("fit", *words, *cut, "--name=b").status == 0
    assert apart(weights("a"), weights("b")) < 1e-4
    summary = json.loads(Path("checkpoints/a/summary.json").read_text())["private"]
    steps, rate, noise = (summary[name] for name in ("steps", "sample_rate", "noise_multiplier"))
    assert steps == 6 and rate == 4 / summary["samples"] and summary["unit"] == "window of 32 tokens"
    expected = epsilon_of([(noise, rate, 6)], 1e-5, "rdp")
    assert summary["epsilon"] == expected and 5.99 <= expected <= 6
    assert f"private: ε = {expected:.3f} at δ = 1e-05 after 6 steps" in done.err
    logged = scalars(tmp_path / "checkpoints/a", "privacy/epsilon")
    assert logged == {step: pytest.approx(epsilon_of([(noise, rate, step)], 1e-5, "rdp")) for step in (3, 6)}
    for name in ("best", "last"):
        found = torch.load(f"checkpoints/a/{name}.ckpt", weights_only=True)["lm"]["private"]
        counted = found["steps"]
        assert found == {**summary, "steps": counted, "epsilon": found["epsilon"]}
        assert found["epsilon"] == epsilon_of([(noise, rate, counted)], 1e-5, "rdp")

    # On from there: for longer with noise of one's own, which is counted on; never with steps in the open.
    more = ("--ckpt_path=checkpoints/a/last.ckpt", "--trainer.max_steps=8", "--trainer.val_check_interval=8")
    refused = lm("fit", *words, *more, "--name=c")
    assert refused.status == 2 and "go on with a" in refused.err, refused.err
    longer = lm(
        "fit", *tiny_gpt, *more, *options(noise_multiplier=2, accountant="rdp", delta=1e-5), "--name=d"
    )
    assert longer.status == 0, longer.err
    spent = json.loads(Path("checkpoints/d/summary.json").read_text())["private"]
    assert spent["epsilon"] == epsilon_of([(noise, rate, 6), (2, rate, 2)], 1e-5, "rdp")
    assert lm("fit", *tiny_gpt, "--name=open").status == 0
    open_ = "--ckpt_path=checkpoints/open/last.ckpt"
    refused = lm("fit", *tiny_gpt, open_, "--trainer.max_steps=8", *options(epsilon=3), "--name=e")
    assert refused.status == 2 and "6 of the 6 steps before were not private" in refused.err, refused.err


# What the noise spends is a matter of the history alone, and Opacus takes seconds to be imported.
QUICK = """
import lm.audit.private.training

lm.audit.private.training.epsilon_of = lambda history, delta, accountant: 1.5
Private = lm.audit.private.training.PrivateTraining
"""


def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, tiny_gpt, tmp_path):
    (tmp_path / "quick.py").write_text(QUICK)
    words = (*tiny_gpt, "--model.backbone.dropout=0.1", "--trainer.callbacks+=quick.Private")
    words = (*words, "--trainer.callbacks.noise_multiplier=0.5")
    whole, killed = ends_alike_though_killed(*words, at="step 3/", saved=2)
    found = [json.loads((run / "summary.json").read_text())["private"] for run in (whole, killed)]
    assert found[0] == found[1] and found[0]["steps"] == 6 and found[0]["epsilon"] == 1.5
    states = [torch.load(run / "last.ckpt")["callbacks"]["PrivateTraining"] for run in (whole, killed)]
    assert states[0] == states[1] and states[0]["history"] == [[0.5, found[0]["sample_rate"], 6]]


@pytest.mark.parametrize("kind", ["texts", "tags", "questions", "chats", "preferences"])
def test_every_task_learns_privately(fit, kind):  # noqa: F811
    """One sample a step, so that some steps have none; an adapter, too."""
    more = ("--model.adapter.rank=2",) if kind == "chats" else ()
    secure = kind == "texts"
    given = options(noise_multiplier=0.7, accountant="rdp", secure=str(secure).lower())
    done = fit(kind, *more, "--data.batch_size=1", *given)
    assert done.status == 0, done.err
    assert ("comes from the run's seed" in done.err) is not secure
    found = json.loads(Path("checkpoints/a/summary.json").read_text())["private"]
    assert (
        found["steps"] == 4
        and found["samples"] == (31 if kind == "questions" else 26)
        and 0 < found["epsilon"] < 100
    )
    sizes = [len(PoissonSamples(numbers(found["samples"], 1), 1, 0).samples(step)) for step in range(4)]
    assert 0 in sizes, sizes
    assert found["unit"] == ("window of an example" if kind in ("tags", "questions") else "example")


def test_without_noise_a_step_on_all_examples_is_the_plain_one(fit):  # noqa: F811
    """Where a task's loss is divided by what a whole batch has, and rows are padded."""
    whole = ("--data.batch_size=13", "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=1")
    words = (
        *whole,
        "--model.optimizer.eps=1",  # or AdamW's first step is the sign of what may be rounded either way
        "--model.dropout=0",
        "--trainer.precision=32-true",
        "--trainer.val_check_interval=2",
    )
    assert fit("chats", *words, name="plain").status == 0
    private = fit("chats", *words, *options(noise_multiplier=0, max_grad_norm=1e9), name="private")
    assert private.status == 0, private.err
    assert apart(weights("plain"), weights("private")) < 1e-5
    assert checkpoints.read("checkpoints/private/last.ckpt")["lm"]["private"]["unit"] == "example"


def test_bad_input(lm, tiny_gpt, fit, monkeypatch):  # noqa: F811
    for given, why in (
        ({}, "one of the two"),
        ({"epsilon": 1, "noise_multiplier": 1}, "one of the two"),
        ({"epsilon": 0}, "`epsilon` 0: it must be above 0"),
        ({"epsilon": math.nan}, "must be above 0"),
        ({"noise_multiplier": -1}, "must be 0 or more"),
        ({"epsilon": 1, "delta": 1}, "between 0 and one"),
        ({"epsilon": 1, "max_grad_norm": 0}, "`max_grad_norm` 0: it must be above 0"),
    ):
        with pytest.raises(UserError, match=why) as raised:
            PrivateTraining(**given)
        assert raised.value.status == 2
    with monkeypatch.context() as patch:
        patch.setattr("lm.audit.private.training.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"needs opacus: pip install -e '.\[private\]'"):
            PrivateTraining(epsilon=1)

    task = BackboneConfig()  # anything
    task.plain = lambda: BackboneConfig
    usual = {"strategy": SingleDeviceStrategy(), "world_size": 1, "precision": "bf16-mixed"}
    usual |= {"overfit_batches": 0.0, "limit_train_batches": 1.0, "accumulate_grad_batches": 1}
    for given, why in (
        ({"strategy": DDPStrategy(), "world_size": 2}, "works on one device"),
        ({"precision": "16-mixed"}, "fp16 scales the loss"),
        ({"overfit_batches": 1}, "the same samples again"),
        ({"limit_train_batches": 1, "accumulate_grad_batches": 2}, "cut a step in two"),
    ):
        with pytest.raises(UserError, match=why) as raised:
            PrivateTraining(epsilon=1).setup(SimpleNamespace(**(usual | given)), task, "fit")
        assert raised.value.status == 2
    task.plain = lambda: CausalPretraining
    with pytest.raises(UserError, match="train with CausalPretraining"):
        PrivateTraining(epsilon=1).setup(SimpleNamespace(**usual), task, "fit")
    for given, more, why in (
        ({"delta": 0.01}, (), "`delta` 0.01 must be below one by the 1,"),
        ({}, ("--data.batch_size=5000",), "lower --data.batch_size"),
    ):
        refused = lm("fit", *tiny_gpt, *more, *options(noise_multiplier=1, **given))
        assert refused.status == 2 and why in said(refused), refused.err
    packed = fit("chats", "--data.packing=true", *options(noise_multiplier=1))
    assert packed.status == 2 and "leave --data.packing out" in said(packed), packed.err
