"""CTC's searches beside all paths there are, language models beside their definitions."""

import itertools
import math
import tracemalloc
from collections import defaultdict

import pytest
import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.inference.ctc import (
    Gpt,
    Hypothesis,
    Label,
    Likeliest,
    Word,
    align,
    beam_search,
    greedy,
    rescore,
    words_of,
)
from lm.inference.scoring import score
from lm.tokenizer import train_tokenizer

EVERYTHING = {"width": 10**6, "top": 10**6, "least": 0}


def frames(length: int, classes: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    logits = torch.randn(length, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (spread * logits).log_softmax(dim=-1)


def kept(log_probs: torch.Tensor) -> Likeliest:
    """All of them."""
    return Likeliest(log_probs, log_probs.shape[1])


def spelled(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def all_paths(log_probs: torch.Tensor, blank: int):
    """Every path, what it spells, and its log-probability."""
    length, classes = log_probs.shape
    rows = log_probs.tolist()
    for path in itertools.product(range(classes), repeat=length):
        yield path, spelled(path, blank), sum(row[token] for row, token in zip(rows, path, strict=True))


class Fixed:
    """A language model that likes rises: it is given by a table."""

    nats = torch.randn(5, 5, generator=torch.Generator().manual_seed(9)).log_softmax(-1).tolist()

    def start(self) -> int:
        return 4

    def extend(self, state: int, token: int) -> tuple[float, int]:
        return self.nats[state][token], token

    def end(self, state: int) -> float:
        return self.nats[state][4]

    def whole(self, tokens: tuple[int, ...]) -> float:
        return sum(self.nats[a][b] for a, b in itertools.pairwise((4, *tokens, 4)))


@pytest.mark.parametrize(
    ("length", "classes", "blank"), [(1, 2, 0), (4, 3, 0), (6, 3, 2), (5, 4, 1), (8, 2, 0)]
)
@pytest.mark.parametrize("model", [None, Fixed()])
def test_the_search_counts_all_paths(length, classes, blank, model):
    log_probs = frames(length, classes, seed=length)
    expected = defaultdict(float)
    for _, tokens, nats in all_paths(log_probs, blank):
        expected[tokens] += math.exp(nats)
    found = beam_search(kept(log_probs), blank, model=model, alpha=0.7, beta=0.3, **EVERYTHING)
    assert {each.tokens for each in found} == set(expected)
    assert sum(math.exp(each.log_probability) for each in found) == pytest.approx(1)
    for tokens, nats, total in found:
        assert math.exp(nats) == pytest.approx(expected[tokens], rel=1e-9)
        language = 0.7 * model.whole(tokens) if model else 0
        assert total == pytest.approx(nats + language + 0.3 * len(tokens), rel=1e-9)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_search_and_torch_s_loss_agree(seed):
    log_probs = frames(11, 3, seed)
    best, *others = beam_search(kept(log_probs), **EVERYTHING)
    for tokens, nats, _ in (best, *others[:5]):
        targets = torch.tensor([tokens])
        loss = torch.nn.functional.ctc_loss(
            log_probs[:, None], targets, torch.tensor([11]), torch.tensor([len(tokens)]), reduction="sum"
        )
        assert nats == pytest.approx(-loss.item(), rel=1e-9)


def test_a_narrow_search_finds_what_is_clear():
    log_probs = frames(60, 30, spread=6)
    wide = beam_search(kept(log_probs), width=200, top=30, least=0)[0]
    narrow = beam_search(kept(log_probs), width=8)[0]
    assert narrow.tokens == wide.tokens and narrow.log_probability == pytest.approx(
        wide.log_probability, abs=0.1
    )
    assert len(beam_search(kept(log_probs), width=3)) == 3


def test_many_paths_together_beat_the_likeliest():
    """Hannun's own point: the blank is likeliest in each frame, yet "a" is likelier than nothing."""
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy(kept(log_probs)) == []
    best = beam_search(kept(log_probs))[0]
    assert best.tokens == (1,) and math.exp(best.log_probability) == pytest.approx(0.64)


@pytest.mark.parametrize("blank", [0, 3])
def test_greedy_is_the_likeliest_path(blank):
    for seed in range(50):
        log_probs = frames(9, 4, seed)
        path = tuple(log_probs.argmax(dim=1).tolist())
        found = greedy(kept(log_probs), blank)
        assert tuple(label.token for label in found) == spelled(path, blank)
        again = [blank] * 9
        for token, first, last in found:
            again[first : last + 1] = [token] * (last + 1 - first)
        assert tuple(again) == path
    assert greedy(kept(torch.zeros(0, 4))) == []


@pytest.mark.parametrize("tokens", [(), (1,), (1, 1), (1, 2, 1), (2, 2, 1)])
def test_the_alignment_is_the_likeliest_path_that_spells_it(tokens):
    for seed in range(10):
        log_probs = frames(7, 3, seed)
        path = max((nats, path) for path, said, nats in all_paths(log_probs, 0) if said == tokens)[1]
        found = align(kept(log_probs), tokens)
        places = iter(enumerate(path))
        runs = [
            (token, [at for at, _ in run]) for token, run in itertools.groupby(places, key=lambda x: x[1])
        ]
        assert found == [Label(token, at[0], at[-1]) for token, at in runs if token]


def test_too_few_frames_to_align():
    with pytest.raises(ValueError, match="2 frames can't spell 2 classes"):
        align(kept(frames(2, 3)), (1, 1))
    with pytest.raises(ValueError, match="1 frames can't spell 3 classes"):
        align(kept(frames(1, 3)), (1, 2, 1))
    assert align(kept(frames(2, 3)), (1, 2)) == [Label(1, 0, 0), Label(2, 1, 1)]


def test_an_alignment_holds_a_byte_for_each_frame_and_place():
    tokens = (1, 2, 3) * 300
    log_probs = frames(2000, 4)
    align(kept(log_probs[:9]), (1,))  # what is loaded at first
    tracemalloc.start()
    found = align(kept(log_probs), tokens)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [label.token for label in found] == list(tokens)
    assert most < 1.5 * 2000 * (2 * len(tokens) + 1)


def test_the_likeliest_classes_are_kept_and_no_other_is_less_likely():
    log_probs = torch.randn(40, 300).log_softmax(-1)
    parts = [Likeliest(log_probs, 20), Likeliest(log_probs[:7], 20)]
    found = Likeliest.joined(parts, [slice(3, None), slice(None, 5)])
    wanted, everything = torch.cat([log_probs[3:], log_probs[:5]]), range(300)
    assert len(found) == len(wanted) and torch.equal(found.classes[:, 0].long(), wanted.argmax(1))
    least = wanted.topk(20).values[:, -1:]
    assert torch.equal(found.of(everything), wanted.maximum(least))
    assert torch.equal(found[2:9].of(everything), wanted[2:9].maximum(least[2:9]))
    assert torch.equal(found.of([7, 290, 3]), wanted.maximum(least)[:, [7, 290, 3]])
    assert torch.equal(Likeliest(log_probs, 400).of(everything), log_probs)


def test_of_thousands_of_classes_few_are_looked_at():
    """A search and an alignment, as if the others were as likely as the last that is kept."""
    log_probs = (4 * torch.randn(300, 8000, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    few = Likeliest(log_probs)
    whole = few.of(range(8000))
    beam_search(few[:9]), align(few[:9], (1,))  # what is loaded at first
    tracemalloc.start()
    best = beam_search(few, width=2, top=3)[0]
    aligned = align(few, best.tokens[:50])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4e6  # all of them are 19 MB as fp64
    assert aligned == align(kept(whole), best.tokens[:50])
    assert best == beam_search(kept(whole), width=2, top=3)[0]


def test_words_and_their_times():
    texts = ["", " ", "a", "b", " ca", "好"]
    labels = [
        Label(2, 3, 4),
        Label(3, 6, 6),
        Label(1, 8, 8),
        Label(4, 10, 11),
        Label(2, 12, 12),
        Label(5, 20, 29),
    ]
    found = words_of([*labels, Label(5, 30, 30), Label(2, 40, 41)], texts, 0.5)
    assert found == [
        Word("ab", 1.5, 3.5),
        Word("caa", 5.0, 6.5),
        Word("好", 10.0, 15.0),
        Word("好", 15.0, 15.5),
        Word("a", 20.0, 21.0),
    ]
    assert words_of([], texts, 0.5) == words_of([Label(1, 0, 0)], texts, 0.5) == []


def test_a_gpt_of_its_own_chooses(code_text):
    tokenizer = train_tokenizer([code_text.read_text(encoding="utf-8")[:20000]], 300)
    torch.manual_seed(0)
    config = BackboneConfig(
        hidden_size=32, num_layers=1, num_heads=4, vocab_size=len(tokenizer), max_seq_len=16
    )
    model = LanguageModel(config).eval()
    gpt, texts = Gpt(model, tokenizer), ["def main", "", "x", "import " * 9]
    found = gpt.nats(texts)
    assert found[1] == 0
    for text, nats in zip(texts[:3], found, strict=False):
        ids = [tokenizer.start_id, *tokenizer.encode(text)]
        if len(ids) > 1:
            assert nats == pytest.approx(score(model, [(ids, 1)])[0].total, abs=1e-4)
    assert len(tokenizer.encode(texts[3])) > 16 and found[3] < found[2]
    given = [Hypothesis((number,) * (number + 1), -float(number), 0.0) for number in range(4)]
    ordered = rescore(given, lambda tokens: texts[tokens[0]], gpt, alpha=0.5, beta=2.0)
    assert [each.score for each in ordered] == sorted((each.score for each in ordered), reverse=True)
    for tokens, nats, total in ordered:
        assert total == pytest.approx(nats + 0.5 * found[tokens[0]] + 2 * len(tokens), abs=1e-4)
    assert [each.tokens[0] for each in ordered][-1] == 3
