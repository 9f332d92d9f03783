"""Kneser-Ney beside its definition, counted anew for each question."""

import itertools
import math
import pydoc_data.topics

import pytest
import torch

from lm.inference.ctc import Likeliest, beam_search
from lm.inference.ngrams import END, START, NGram, NGramScorer
from lm.metrics.chinese import apart

TEXTS = ["the cat sat", "the cat ran home", "a dog ran", "the dog sat on the cat", "on a cat", "the cat sat"]
ORDERS = [2, 3, 4]


def grams(texts: list[str], size: int) -> list[tuple[str, ...]]:
    lines = [(START, *text.split(), END) for text in texts]
    return [line[i : i + size] for line in lines for i in range(len(line) - size + 1)]


def count(gram: tuple[str, ...], order: int) -> int:
    """How often; of a shorter one than the longest, how many different things it stood behind."""
    if len(gram) == order or gram[0] == START:
        return grams(TEXTS, len(gram)).count(gram)
    return len({longer[0] for longer in grams(TEXTS, len(gram) + 1) if longer[1:] == gram})


def by_definition(context: tuple[str, ...], word: str, order: int) -> float:
    known = {gram[0] for gram in grams(TEXTS, 1)} - {START}
    lower = by_definition(context[1:], word, order) if context else 1 / (len(known) + 1)
    behind = [count((*context, each), order) for each in sorted(known)]
    total = sum(behind)
    if not total:
        return lower
    seen = [n for gram in set(grams(TEXTS, len(context) + 1)) - {(START,)} if (n := count(gram, order))]
    discount = seen.count(1) / (seen.count(1) + 2 * seen.count(2)) if seen.count(1) else 0.5
    return (
        max(count((*context, word), order) - discount, 0) + discount * sum(n > 0 for n in behind) * lower
    ) / total


@pytest.mark.parametrize("order", ORDERS)
def test_it_is_what_its_paper_says(order):
    model = NGram(TEXTS, order)
    known = ["the", "cat", "dog", "on", END, "never"]
    contexts = [
        (START,),
        (START, "the"),
        ("the", "cat"),
        ("on", "the", "cat"),
        ("a", "home"),
        ("never", "the"),
        (),
    ]
    for context, word in itertools.product(contexts, known):
        expected = by_definition(context[-(order - 1) :], word, order)
        assert math.exp(model.nats(context[-(order - 1) :], word)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one(order):
    model = NGram(TEXTS, order)
    for context in [(START,), (START, "the"), ("the", "cat"), ("zebra",)]:
        seen = context[-(order - 1) :]
        total = sum(math.exp(model.nats(seen, item)) for item in [*model.known, "never seen"])
        assert total == pytest.approx(1)


def test_longer_contexts_foresee_real_text_better():
    text = "\n".join(pydoc_data.topics.topics.values()).lower()
    lines = [" ".join(line.replace(" ", "_")) for line in text.splitlines()]  # each character a word
    held, learned = lines[::10], [line for number, line in enumerate(lines) if number % 10]
    losses = []
    for order in (2, 3, 5):
        model = NGram(learned, order)
        nats = items = 0
        for line in held:
            text = (START, *line.split(), END)
            for at in range(1, len(text)):
                nats -= model.nats(text[max(at - order + 1, 0) : at], text[at])
            items += len(text) - 1
        losses.append(nats / items / math.log(2))
    assert losses[0] > losses[1] > losses[2] and 1.5 < losses[2] < 2.5  # bits a character


def test_class_by_class_it_says_what_it_says_of_the_whole():
    model = NGram([*TEXTS, "今天天气很好", "a 天气 app"], 3)
    texts = ["", " ", "t", "he", "a", "c", "e", "at", " do", "g", "今", "天气", "pp"]
    scorer = NGramScorer(model, texts)
    for tokens in [
        (2, 3, 1, 5, 7),
        (2, 3, 1, 1, 5, 4, 2, 1),
        (4, 8, 9),
        (),
        (1, 1),
        (5, 9),
        (10, 11),
        (4, 11, 4, 12),
        (2, 3, 10, 1, 11, 1),
    ]:
        state, total = scorer.start(), 0.0
        for token in tokens:
            nats, state = scorer.extend(state, token)
            total += nats
        total += scorer.end(state)
        text = "".join(texts[token] for token in tokens)
        items = (START, *apart(text).split(), END)
        expected = sum(model.nats(items[max(at - 2, 0) : at], items[at]) for at in range(1, len(items)))
        letters = NGram((" ".join(word) for word in model.known - {END}), 4)
        for word in set(items[1:]) - model.known:
            spelt = (START, *word, END)
            each = (letters.nats(spelt[max(at - 3, 0) : at], spelt[at]) for at in range(1, len(spelt)))
            expected += items.count(word) * sum(each)
        assert total == pytest.approx(expected)


def test_what_begins_as_no_word_does_costs_at_once():
    """And how much is known before a word's end never falls short of what comes: p("th…") > p("the")."""
    model = NGram(TEXTS, 3)
    texts = ["", " ", *"abcdefghijklmnopqrstuvwxyz", " the", " do"]
    scorer = NGramScorer(model, texts)

    def said(text: str) -> float:
        state, total = scorer.start(), 0.0
        for char in text:
            nats, state = scorer.extend(state, texts.index(char))
            total += nats
        return total

    assert said("t") > said("th") > said("thx") + 3
    known = [word for word in model.known if word.startswith("ca")]
    assert math.exp(said("ca")) == pytest.approx(
        sum(math.exp(model.nats((), word)) for word in known), rel=0.05
    )
    assert said("t ") < said("the ") and said("thecat ") < said("the cat ")  # words are not run together
    nats, _ = scorer.extend(scorer.start(), texts.index(" the"))
    assert nats == pytest.approx(said("the"))


def test_a_word_without_end():
    scorer = NGramScorer(NGram([*TEXTS, "x" * 9000]), ["", " ", "a", "x"])
    for token, most in ((2, -1000), (3, -10)):
        state, total = scorer.start(), 0.0
        for _ in range(5000):
            nats, state = scorer.extend(state, token)
            total += nats
        assert -math.inf < total + scorer.end(state) < most
    assert len(scorer._begun) < 100  # not every beginning of the long one


def test_it_decides_between_what_sounds_alike():
    texts = ["", " ", *"abcdefghijklmnopqrstuvwxyz"]
    log_probs = torch.full((40, len(texts)), -9.0)
    for at, char in enumerate("the ?at sat"):
        frame = log_probs[2 * at]
        if char == "?":
            frame[texts.index("c")], frame[texts.index("k")] = math.log(0.45), math.log(0.55)
        else:
            frame[texts.index(char)] = -0.01
        log_probs[2 * at + 1, 0] = -0.01
    log_probs[22:, 0] = -0.01

    def heard(**how) -> str:
        return "".join(texts[token] for token in beam_search(Likeliest(log_probs), **how)[0].tokens)

    assert heard() == "the kat sat"
    assert heard(model=NGramScorer(NGram(TEXTS, 3), texts)) == "the cat sat"


def test_chinese_needs_no_spaces():
    """气 and 汽 sound alike: what stands before them decides, in a sentence that it never saw as a whole."""
    texts = ["", *"今天气汽车很好"]
    scorer = NGramScorer(NGram(["今天天气很好", "天气热", "汽车很好"], 3), texts)
    log_probs = torch.full((6, len(texts)), -9.0)
    log_probs[1::2, 0] = -0.01
    log_probs[0, texts.index("天")] = log_probs[4, texts.index("好")] = -0.01
    log_probs[2, texts.index("气")], log_probs[2, texts.index("汽")] = math.log(0.4), math.log(0.6)
    heard = [
        "".join(texts[t] for t in beam_search(Likeliest(log_probs), model=m)[0].tokens)
        for m in (None, scorer)
    ]
    assert heard == ["天汽好", "天气好"]


def test_an_order_of_one_is_none():
    with pytest.raises(ValueError, match="of order 1: it has to be at least 2"):
        NGram(TEXTS, 1)
