"""What is held out, and what stands in two sets."""

import pytest

from lm.data.examples import splitting
from lm.data.examples.records import (
    ChatExample,
    Message,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)


def overlap(train, other):
    return splitting.overlap(*(splitting.content_hashes(examples)[:, 0] for examples in (train, other)))


def split_by_hash(examples, fraction, key=lambda example: None):
    held = splitting.held_out(splitting.content_hashes(examples, key)[:, 1], fraction)
    return tuple([e for e, out in zip(examples, held, strict=True) if out == side] for side in (False, True))


def said(*texts):
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


SAME = [
    (TextExample("A  b", None, "x"), TextExample("a B\n", None, "y")),
    (TextExample("a", "b"), TextExample("A", "B")),
    (TagExample(("a", "b"), ("O", "O")), TagExample(("A", "b"))),
    (QuestionExample("1", "q", "c"), QuestionExample("2", "Q", "C", (("c", 0),))),
    (ChatExample(said("a", "b")), ChatExample(said("Ａ", "c"), ("r",))),
    (PreferenceExample(said("a"), "b", "c"), PreferenceExample(said("a"), "d", "e")),
]
OTHER = [
    (TextExample("a b"), TextExample("ab")),
    (TextExample("a", "b"), TextExample("a")),
    (TextExample("ab", "c"), TextExample("a", "bc")),
    (TagExample(("a", "b"), joiner=""), TagExample(("a", "c"), joiner="")),
    (QuestionExample("1", "q", "c"), QuestionExample("1", "q", "d")),
    (ChatExample(said("a", "b")), ChatExample(said("b", "b"))),
    (PreferenceExample(said("a"), "b", "c"), PreferenceExample(said("b"), "b", "c")),
]


@pytest.mark.parametrize("one, other", SAME)
def test_the_same_example_is_found_whatever_its_label(one, other):
    assert overlap([one], [other, other]) == 2


@pytest.mark.parametrize("one, other", OTHER)
def test_another_example_is_not(one, other):
    assert overlap([one, one], [other]) == 0


def test_the_split_is_the_same_whatever_the_others_and_the_order():
    examples = [TextExample(f"number {i}") for i in range(2000)]
    keep, held = split_by_hash(examples, 0.1)
    assert sorted([*keep, *held], key=examples.index) == examples
    assert keep == [example for example in examples if example not in held], "in the old order"
    assert 140 < len(held) < 260
    assert set(split_by_hash(examples[::-3], 0.1)[1]) <= set(held)
    assert set(held) < set(split_by_hash(examples, 0.2)[1]), "a larger part holds the smaller one"
    # Golden: a hash that changes would change everybody's held-out part.
    assert [e.text for e in held[:3]] == ["number 7", "number 9", "number 23"]
    assert split_by_hash([], 0.5) == ([], [])


def test_documents_stay_together():
    examples = [QuestionExample(str(i), f"q{i}", f"c{i % 50}", (), f"d{i % 50}") for i in range(500)]
    keep, held = split_by_hash(examples, 0.3, lambda example: example.document)
    assert not {example.document for example in keep} & {example.document for example in held}
    assert len(held) == 10 * len({example.document for example in held}) > 0
    apart = split_by_hash(examples, 0.3)
    assert split_by_hash(examples, 0.3, lambda example: None) == apart != (keep, held)
    keep, held = split_by_hash(examples, 0.5, lambda example: example.id[-1])
    assert {example.id[-1] for example in keep} | {example.id[-1] for example in held} == set("0123456789")
    assert len({example.id[-1] for example in held}) == len(held) / 50


def test_copies_fall_on_the_same_side():
    examples = [TextExample(text.format(i)) for i in range(300) for text in ("Word {}", "word  {}")]
    keep, held = split_by_hash(examples, 0.5)
    assert overlap(keep, held) == 0
    assert 200 < len(held) < 400
