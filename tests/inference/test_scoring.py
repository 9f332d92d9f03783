"""Log-probabilities of given tokens: each by itself and by hand, whoever shares the batch."""

import math
import random

import pytest
import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.inference.scoring import pseudo_score, score, windows


def make(**changes) -> LanguageModel:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 97, "max_seq_len": 24}
    model = LanguageModel(BackboneConfig(**{**small, **changes}))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(5)
    return model.eval()


def texts(count: int, longest: int) -> list[tuple[list[int], int]]:
    choose = random.Random(0)
    rows = [[choose.randrange(97) for _ in range(choose.randint(2, longest))] for _ in range(count)]
    return [(row, choose.randint(1, len(row) - 1)) for row in rows]


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_each_token_is_asked_for_with_what_stands_before_it(batch_size):
    model, given = make(), texts(9, 25)
    first = given[0][0]
    given += [([*first[:-1], 5], len(first) - 1), ([*first[:-1], 6], 1)]  # share a row with the first one
    told = []
    for (ids, start), found in zip(given, score(model, given, batch_size, told.append), strict=True):
        logits = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
        expected = logits[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][start - 1 :]
        torch.testing.assert_close(found.log_probabilities, expected, atol=1e-5, rtol=0)
        assert torch.equal(found.likeliest, logits.argmax(-1)[start - 1 :] == torch.tensor(ids[start:]))
        assert found.total == pytest.approx(float(expected.sum()), abs=1e-4)
    assert sum(told) == len(given)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_a_bert_is_asked_for_one_token_at_a_time(batch_size):
    model, mask = make(causal=False), 3
    given = [(ids, [at for at in range(len(ids)) if at % 3 == 1]) for ids, _ in texts(6, 24)] + [([1, 2], [])]
    for (ids, positions), found in zip(given, pseudo_score(model, given, mask, batch_size), strict=True):
        expected = []
        for at in positions:
            masked = [*ids[:at], mask, *ids[at + 1 :]]
            expected.append(model(torch.tensor([masked]))[0, at].double().log_softmax(-1)[ids[at]])
        assert len(found.log_probabilities) == len(positions)
        assert found.total == pytest.approx(float(sum(expected)), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5, 9, 24])
def test_every_token_of_a_long_text_counts_once(length):
    ids = list(range(100, 123))
    counted = []
    for window, start in windows(ids, 7, length):
        assert len(window) <= length + 1 and 1 <= start < len(window)
        at = 0 if window[0] == 7 else ids.index(window[0]) + 1
        assert window == [7, *ids][at : at + len(window)]
        counted += window[start:]
    assert counted == ids
    assert len(windows(ids, 7, length)) == math.ceil(len(ids) / length)
