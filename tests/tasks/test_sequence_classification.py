"""Classifying texts: what is kept of a long one, which kinds of labels there are, what of wrong ones."""

import json

import pytest
import torch
from torch.nn import functional as F

from lm import checkpoint as checkpoints
from lm.data.examples.records import TextExample
from lm.errors import UserError
from lm.tasks import SequenceClassification

A, B = "parser add argument", "self return value"


def example(i: int, label) -> TextExample:
    return TextExample(f"{A} {i}", label=label)


@pytest.fixture
def task(ready, made, starts):
    def make(examples, val=None, test=None, start="bert", seq_len=16, verb="fit", record=None, **options):
        data = made(examples, val, test, seq_len=seq_len)
        return ready(
            SequenceClassification, data, record=record, verb=verb, init_from=starts[start], **options
        )

    return make


SINGLE = [example(i, "ab"[i % 2]) for i in range(8)]


@pytest.mark.parametrize(
    ("cut", "kept"), [("start", (14, 0)), ("end", (0, 14)), ("both", (3, 11))], ids=["start", "end", "both"]
)
def test_what_is_kept_of_a_long_text(task, cut, kept):
    tuned = task(SINGLE, cut=cut)
    text = " ".join(f"w{i}" for i in range(40))
    ids = tuned.tokenizer.encode(text)
    head, tail = kept
    expected, _ = tuned.tokenizer.frame(ids[:head] + ids[len(ids) - tail :])
    (found,) = tuned.encode(TextExample(text, label="a"), True)
    assert found["tokens"] == expected and len(expected) == 16
    assert (found["cut"], found["target"]) == (True, 0)
    (short,) = tuned.encode(TextExample(A, label="b"), True)
    assert short["tokens"] == tuned.tokenizer.frame(tuned.tokenizer.encode(A))[0]
    assert (short["cut"], short["target"]) == (False, 1)


@pytest.mark.parametrize("lengths", [(2, 4), (9, 3), (3, 9), (20, 3), (3, 20), (20, 20), (6, 7), (1, 40)])
@pytest.mark.parametrize("cut", ["start", "end", "both"])
def test_of_a_pair_the_longer_gives_way_first(task, lengths, cut):
    tuned = task(SINGLE, cut=cut)
    texts = ["x" * n if number else "=" * n for number, n in enumerate(lengths)]
    texts = [" ".join(text) for text in texts]
    ids = [tuned.tokenizer.encode(text) for text in texts]
    (found,) = tuned.encode(TextExample(*texts, label="a"), True)
    room = 16 - tuned.tokenizer.frame_size(True)
    # Taken away one at a time, always from the longer.
    left = [len(ids[0]), len(ids[1])]
    while sum(left) > room:
        left[left[1] > left[0]] -= 1
    assert len(found["tokens"]) == sum(left) + tuned.tokenizer.frame_size(True) <= 16
    segments = found["segments"]
    first = segments.index(1)
    specials = tuned.tokenizer.is_special
    kept = [sum(not specials(t) for t in part) for part in (found["tokens"][:first], found["tokens"][first:])]
    assert sorted(kept) == sorted(left) and sum(kept) == sum(left)
    assert found["cut"] is (sum(map(len, ids)) > room)


def test_the_loss_of_each_kind_by_hand(task):
    logits = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, -0.3]])
    labels = ["a", "a", "a", "b", "b", "c"]
    single = task(
        [example(i, x) for i, x in enumerate(labels)], class_weights="balanced", label_smoothing=0.2
    )
    target = torch.tensor([2, 0])
    weight = torch.tensor([6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1)])
    expected = F.cross_entropy(logits, target, weight=weight, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(single.losses(logits, target, training=True), expected)
    smooth = -(0.8 * logits.log_softmax(1)[:, 0] + 0.2 / 3 * logits.log_softmax(1).sum(1))
    plain = task([example(i, x) for i, x in enumerate(labels)], label_smoothing=0.2)
    torch.testing.assert_close(plain.losses(logits, torch.tensor([0, 0]), training=True), smooth)

    several = task([example(0, ("a", "b")), example(1, ()), example(2, ("c",))] * 2)
    assert (several.kind, several.labels) == ("multi", ["a", "b", "c"])
    batch = several.collate(several.data.features("train")[:3])
    assert batch["target"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    p = logits.sigmoid()
    chosen = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    by_hand = -(chosen * p.log() + (1 - chosen) * (1 - p).log()).sum(1)
    torch.testing.assert_close(several.losses(logits, chosen, training=True), by_hand)

    rating = task([example(i, float(i) / 2) for i in range(6)])
    assert (rating.kind, rating.labels, rating.net.head.out_features) == ("rating", [], 1)
    batch = rating.collate(rating.data.features("train"))
    assert batch["target"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    found = rating.losses(logits[:, :1], torch.tensor([1.0, 0.0]), training=True)
    torch.testing.assert_close(found, torch.tensor([0.25, 0.01]))


def test_which_figure_decides(task):
    assert task(SINGLE).best_by == ("accuracy", "max")
    assert task([example(i, ("a",) if i % 2 else ("b",)) for i in range(4)]).best_by == ("micro_f1", "max")
    assert task([example(i, float(i)) for i in range(4)]).best_by == ("mean_squared_error", "min")


def test_ratings_that_do_not_vary_have_a_best_all_the_same(lm, tmp_path, starts):
    """No correlation can be told from them."""
    for name, ratings in (("train", range(8)), ("val", [3] * 4)):
        rows = [json.dumps({"text": f"{A} {i}", "label": rating}) for i, rating in enumerate(ratings)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    result = lm(
        *("fit", "--data=lm.data.TextData", "--data.train=train.jsonl", "--data.val=val.jsonl"),
        *("--data.rating=true", "--data.seq_len=16", "--data.batch_size=4"),
        *("--model=lm.tasks.SequenceClassification", f"--model.init_from={starts['bert']}"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"),
        "--checkpoint.patience=1",
    )
    assert result.status == 0, result.err
    made = json.loads((tmp_path / "checkpoints/run/summary.json").read_text())
    assert made["val_pearson"] is None, "JSON has no NaN"
    assert made["best_val_mean_squared_error"] <= made["val_loss"] + 1e-5
    assert (tmp_path / "checkpoints/run/best.ckpt").exists()


def test_labels_that_are_numbers_are_in_their_order(task):
    assert task([example(i, str(i)) for i in range(12)]).labels == [str(i) for i in range(12)]
    assert task([example(i, x) for i, x in enumerate(["-1", "10", "2"])]).labels == ["-1", "2", "10"]


def test_padding_changes_nothing(task):
    """Each text alone and beside longer ones, for both kinds of backbone and each way of pooling."""
    texts = [TextExample(" ".join([A] * n), label="ab"[n % 2]) for n in (1, 2, 3)]
    for start, pooling in (
        ("bert", "mean"),
        ("bert", "first"),
        ("bert", "last"),
        ("gpt", "last"),
        ("gpt", "mean"),
    ):
        tuned = task(texts, start=start, pooling=pooling, seq_len=32)
        tuned.net.eval()
        features = tuned.data.features("train")
        assert len({len(f["tokens"]) for f in features}) == 3
        with torch.no_grad():
            together = tuned.logits(tuned.collate(features))
            alone = torch.cat([tuned.logits(tuned.collate([f])) for f in features])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_settings_that_can_not_be(task):
    with pytest.raises(UserError, match="pooling is first: a GPT"):
        task(SINGLE, start="gpt", pooling="first")
    with pytest.raises(UserError, match="label_smoothing is 1"):
        task(SINGLE, label_smoothing=1.0)
    several = [example(i, ("a",) if i % 2 else ("b",)) for i in range(4)]
    for options in ({"label_smoothing": 0.1}, {"class_weights": "balanced"}):
        with pytest.raises(UserError, match="one label a text"):
            task(several, **options)


@pytest.mark.parametrize(
    ("val", "said"),
    [
        ([example(0, "c"), example(1, "a")], r"val.x has 1 examples of labels .* 'c'; known are 'a', 'b'"),
        ([example(0, None), example(1, "a")], "1 of 2 examples of val.x have no label"),
        ([example(0, 3.0)], "has learned labels, not ratings"),
        ([example(0, ("c",))], "val.x has several labels a text; this model has learned one"),
    ],
    ids=["unknown", "missing", "rating", "several"],
)
def test_held_out_labels_that_were_never_learned(task, val, said):
    with pytest.raises(UserError, match=said):
        task(SINGLE, val)
    with pytest.raises(UserError, match=said.replace("val.x", "test.x")):
        task(SINGLE, test=val)


@pytest.mark.parametrize(
    ("labels", "limit", "said"),
    [
        ("abc", 1000, "'b'; raise `data.limit`"),
        ("123", None, "'2'; if it is a number to be predicted: `data.rating` true"),
        ("123", 1000, "'2'; if it is a number to be predicted: `data.rating` true; raise `data.limit`"),
        ("ab3", None, "'b'"),
    ],
)
def test_what_to_do_about_labels_that_were_never_learned(ready, made, starts, labels, limit, said):
    train = [example(i, labels[i % 2]) for i in range(8)]
    data = made(train, [example(0, labels[2])], seq_len=16, limit=limit)
    with pytest.raises(UserError) as caught:
        ready(SequenceClassification, data, init_from=starts["bert"])
    assert str(caught.value).endswith(f"'{labels[0]}', {said}")


def test_a_rating_is_not_measured_by_labels(task):
    with pytest.raises(UserError, match=r"`data\.rating` true"):
        task([example(i, float(i)) for i in range(4)], [example(0, "good")])


def test_one_label_is_nothing_to_learn(task):
    for label, said in (
        ("a", r"label only \('a'\)"),
        (("b", "a"), r"set of labels only \('a', 'b'\)"),
        ((), r"set of labels only \(none\)"),
    ):
        with pytest.raises(UserError, match=f"train.x has one {said}"):
            task([example(i, label) for i in range(4)])


def test_one_label_that_holds_or_not_is_learned(task):
    tuned = task([example(i, ("toxic",) if i % 2 else ()) for i in range(4)])
    assert (tuned.kind, tuned.labels, tuned.net.head.out_features) == ("multi", ["toxic"], 1)
    assert tuned.collate(tuned.data.features("train"))["target"].tolist() == [[0], [1], [0], [1]]
    assert tuned.row([0.7])["prediction"] == ["toxic"] and tuned.row([0.2])["prediction"] == []


def test_what_is_said_is_what_is_measured(task):
    """Probabilities that are alike once rounded, and one of exactly one half."""
    single, several = task(SINGLE), task([example(0, ("a", "b")), example(1, ())] * 2)
    close = torch.tensor([[0.49999996, 0.50000004]])
    half = torch.tensor([[0.5, 0.49999997]])
    for tuned, probabilities, target in (
        (single, close, torch.tensor([1])),
        (several, half, torch.tensor([[1, 0]])),
    ):
        row = tuned.row(probabilities[0].tolist())
        assert row["probabilities"] == {"a": 0.5, "b": 0.5}
        assert row["prediction"] == ("b" if tuned is single else ["a"])
        tuned.scores.update(probabilities, target)
        assert tuned.scores.compute()["accuracy"] == 1


@pytest.mark.parametrize("labels", ["ab", [("a",), ("b",)], [0.5, 1.5]], ids=["single", "multi", "rating"])
def test_what_has_no_label_or_an_unknown_one_can_be_labelled(task, labels):
    """A file to predict: some rows labelled, some with a label that was never learned, some not."""
    learned = task([example(i, labels[i % 2]) for i in range(4)])
    record = {**checkpoints.make_record("", learned.config, learned.processor), **learned.record()}
    test = [example(0, labels[0]), example(1, None), example(2, "never"), example(3, labels[1])]
    tuned = task(SINGLE, test=test, verb="predict", record=record)
    tuned.net.eval()
    with torch.no_grad():
        rows = tuned.predict_step(tuned.collate(tuned.data.features("test")), 0)
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert all(row["text"] == f"{A} {row['index']}" for row in rows)
    for row in rows:
        if tuned.kind == "rating":
            assert isinstance(row["prediction"], float)
        elif tuned.kind == "multi":
            assert row["prediction"] == [n for n, p in row["probabilities"].items() if p >= 0.5]
        else:
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert row["probabilities"][row["prediction"]] == max(row["probabilities"].values())
