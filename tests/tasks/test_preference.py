"""Preference tuning: losses and gradients against a computation on whole logits; the reference stays."""

import json
import math

import pytest
import torch

from lm import checkpoint as checkpoints
from lm.data.examples.records import Message, PreferenceExample
from lm.errors import UserError
from lm.tasks import PreferenceTuning
from lm.tasks.adapters import Adapter

PAIRS = [
    PreferenceExample((Message("user", f"say {i}"),), "good " * (1 + i % 3), "bad" * (1 + i % 4))
    for i in range(5)
]
MULTI = PreferenceExample(
    (Message("user", "one"), Message("assistant", "two"), Message("user", "three?")), "four", "five six"
)
EXAMPLES = [*PAIRS, MULTI]
KINDS = [("dpo", 0.0), ("dpo", 0.2), ("ipo", 0.0)]


@pytest.fixture
def task(ready, made, starts):
    def make(examples=EXAMPLES, seq_len=48, batch_size=6, **options):
        data = made(examples, seq_len=seq_len, batch_size=batch_size)
        return ready(PreferenceTuning, data, init_from=starts["gpt"], **options)

    return make


def by_hand(net, chat, example: PreferenceExample, side: str) -> torch.Tensor:
    """log p(answer | chat), summed token by token from the logits of the whole chat, unpadded."""
    before = [(m.role, m.content) for m in example.messages]
    prompt, _ = chat.render(before, answer_next=True)
    answer = [*chat.tokenizer.encode(getattr(example, side)), chat.end_id]
    ids = [*prompt, *answer]
    logits = net(torch.tensor([ids]))[0]
    total = torch.zeros(())
    for place in range(len(prompt), len(ids)):
        total = total + torch.log_softmax(logits[place - 1], -1)[ids[place]]
    return total


def loss_by_hand(net, reference, chat, beta: float, kind: str, smoothing: float) -> torch.Tensor:
    total = torch.zeros(())
    for example in EXAMPLES:
        ratio = {}
        for side in ("chosen", "rejected"):
            with torch.no_grad():
                frozen = by_hand(reference, chat, example, side)
            ratio[side] = by_hand(net, chat, example, side) - frozen
        h = ratio["chosen"] - ratio["rejected"]
        if kind == "ipo":
            loss = (h - 1 / (2 * beta)) ** 2
        else:
            right, wrong = 1 / (1 + torch.exp(-beta * h)), 1 / (1 + torch.exp(beta * h))
            loss = -(1 - smoothing) * right.log() - smoothing * wrong.log()
        total = total + loss / len(EXAMPLES)
    return total


@pytest.mark.parametrize(("kind", "smoothing"), KINDS)
def test_loss_and_gradients_on_whole_logits(task, kind, smoothing, learn):
    tuned = task(kind=kind, label_smoothing=smoothing, beta=0.3)
    other = task(kind=kind, label_smoothing=smoothing, beta=0.3)
    batch = tuned.collate(tuned.data.features("train"))
    # IPO's square makes steps of DPO's size diverge, and what has diverged can't be compared; nor can
    # gradients of what DPO has learned whole.
    learn(tuned, [batch], count=2, lr=0.003 if kind == "dpo" else 1e-5)
    tuned.net.train()
    loss = tuned.training_step(batch, 0)["loss"]
    loss.backward()
    found = {name: p.grad.clone() for name, p in tuned.net.named_parameters()}
    tuned.net.zero_grad()
    expected = loss_by_hand(tuned.net, other.net.eval(), tuned.chat, 0.3, kind, smoothing)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    expected.backward()
    largest = max(gradient.abs().max() for gradient in found.values())
    assert largest > 1e-2
    for name, p in tuned.net.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_at_the_start_the_loss_is_that_of_a_coin(task):
    for kind, smoothing, expected in (
        ("dpo", 0.0, math.log(2)),
        ("dpo", 0.3, math.log(2)),
        ("ipo", 0.0, (1 / (2 * 0.1)) ** 2),
    ):
        tuned = task(kind=kind, label_smoothing=smoothing)
        loss = tuned.training_step(tuned.collate(tuned.data.features("train")), 0)["loss"]
        assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("adapter", [None, Adapter(rank=2), Adapter(kind="dora", rank=2)])
def test_the_reference_is_the_starting_model_computed_once(task, adapter, learn, monkeypatch):
    tuned, plain = task(adapter=adapter), task()
    for split, examples in (("train", EXAMPLES), ("val", EXAMPLES[:4])):
        for example, features in zip(examples, tuned.data.features(split), strict=True):
            for side in ("chosen", "rejected"):
                with torch.no_grad():
                    expected = by_hand(plain.net.eval(), plain.chat, example, side).item()
                assert features[f"reference_{side}"] == pytest.approx(expected, rel=1e-4)
    before = [dict(f) for f in tuned.data.features("train")]
    learn(tuned, [tuned.collate(tuned.data.features("train"))], count=2)
    assert [dict(f) for f in tuned.data.features("train")] == before
    calls = []
    monkeypatch.setattr(
        "lm.tasks.text.preference.answer_log_probability",
        lambda *args: calls.append(args) or torch.zeros(len(args[1])),
    )
    tuned.training_step(tuned.collate(tuned.data.features("train")), 0)
    assert len(calls) == 1, "the model alone, not the reference"


def test_the_reference_is_the_same_when_a_run_goes_on(task, ready, made, starts):
    """With other batches to evaluate: the data are still those that the run began with."""
    first = task()
    record = {**checkpoints.make_record("", first.config, first.processor), **first.record()}
    data = made(EXAMPLES, seq_len=48, batch_size=2, eval_batch_size=1)
    again = ready(PreferenceTuning, data, record=record, init_from=starts["gpt"])
    assert data.identity == first.data.identity
    for one, other in zip(first.data.features("train"), data.features("train"), strict=True):
        for side in ("chosen", "rejected"):
            assert one[f"reference_{side}"] == pytest.approx(other[f"reference_{side}"], rel=1e-5)
    assert again.net.training


def test_the_reference_has_no_dropout(task):
    tuned = task(dropout=0.5)
    plain = task()
    for one, other in zip(tuned.data.features("train"), plain.data.features("train"), strict=True):
        assert one["reference_chosen"] == pytest.approx(other["reference_chosen"], rel=1e-5)


def test_only_the_last_answer_counts_and_the_chat_is_the_same(task, tokenizer):
    tuned = task()
    (found,) = tuned.encode(MULTI, True)
    for side, text in (("chosen", "four"), ("rejected", "five six")):
        targets = [t for t in found[f"{side}_targets"] if t >= 0]
        assert targets == [*tokenizer.encode(text), tuned.chat.end_id]
    assert not found["cut"]


@pytest.mark.parametrize("lengths", [(1, 9), (9, 1), (5, 30), (30, 5), (60, 60), (100, 3)])
def test_the_chat_is_cut_alike_for_both_answers(task, tokenizer, lengths):
    tuned = task(seq_len=40)
    words = " ".join(f"x{i}" for i in range(50))
    answers = [("y " * n).strip() for n in lengths]
    (found,) = tuned.encode(PreferenceExample((Message("user", words),), *answers), True)
    assert found["cut"]
    prompts = []
    for side in ("chosen", "rejected"):
        tokens, targets = found[f"{side}_tokens"], found[f"{side}_targets"]
        assert len(tokens) == len(targets) <= 40
        begin = next(i for i, t in enumerate(targets) if t >= 0)
        prompts.append(tokens[: begin + 1])
        assert all(t >= 0 for t in targets[begin:])
        if max(lengths) < 10:
            answer = [*tokenizer.encode(answers[side == "rejected"]), tuned.chat.end_id]
            assert targets[begin:] == answer, "where there is room for an answer, all of it"
    assert prompts[0] == prompts[1]
    assert prompts[0][-1] == tokenizer.id("<|assistant|>")


def test_figures_and_predictions(task, monkeypatch):
    tuned = task(beta=0.5)
    features = tuned.data.features("val")
    batch = tuned.collate([*features, {**features[0], "index": -1}])
    ratios = torch.tensor([1.0, 2.0, -1.0, 0.0, 9.0]), torch.tensor([0.0, 4.0, -3.0, 0.5, 0.0])
    monkeypatch.setattr(type(tuned), "ratios", lambda self, batch: ratios)
    tuned.validation_step(batch, 0)
    figures = tuned.figures()
    assert float(figures["accuracy"]) == pytest.approx(2 / 4)
    margins = [0.5 * (c - r) for c, r in zip(*map(torch.Tensor.tolist, ratios), strict=True)][:4]
    loss = sum(math.log(1 + math.exp(-m)) for m in margins) / 4
    assert float(figures["loss"]) == pytest.approx(loss, rel=1e-5)
    rows = tuned.predict_step(batch, 0)
    assert rows[1] == {"index": 1, "chosen_reward": 1.0, "rejected_reward": 2.0}
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0.0}, "beta is 0.0: it must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "label_smoothing belongs to DPO"),
    ],
)
def test_settings_that_can_not_be(task, options, said):
    with pytest.raises(UserError, match=said):
        task(**options)


def test_without_a_start_there_is_no_reference(ready, made):
    with pytest.raises(UserError, match=r"give `model\.init_from` PATH") as caught:
        ready(PreferenceTuning, made(EXAMPLES))
    assert caught.value.status == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_in_half_precision_the_reference_is_the_model_too(lm, tmp_path, starts, precision):
    """Several batches, of the same pairs wherever they are made, and a step of no length: no pair is
    preferred."""
    pairs = [{"prompt": "say", "chosen": "a" + "b" * i, "rejected": "c" + "d" * i} for i in range(1, 9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    result = lm(
        *("fit", "--data=lm.data.PreferenceData", "--data.train=pairs.jsonl", "--data.val=pairs.jsonl"),
        *("--data.seq_len=32", "--data.batch_size=4", "--data.eval_batch_size=4"),
        *("--model=lm.tasks.PreferenceTuning", f"--model.init_from={starts['gpt']}", "--model.beta=1"),
        *("--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=0", "--model.dropout=0"),
        *("--trainer.max_steps=1", "--trainer.accelerator=cpu", f"--trainer.precision={precision}"),
    )
    assert result.status == 0, result.err
    made = json.loads((tmp_path / "checkpoints/run/summary.json").read_text())
    assert made["val_loss"] == pytest.approx(math.log(2), abs=1e-3)
