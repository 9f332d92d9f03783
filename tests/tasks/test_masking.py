"""Which tokens are masked: a pure function of the key, in fixed numbers, 80/10/10, whole words whole."""

import argparse
import inspect
import re

import pytest
import torch
from torch import Tensor

from lm.tasks.text.masking import mask_tokens, uniform, word_numbers
from lm.tokenizer import Tokenizer, train_tokenizer

MASK, V = 4, 500
WRAP = (1 << 64) - 1


def splitmix64(key: int, index: int, stream: int) -> float:
    """Number `8 · index + stream + 1` of splitmix64 (Steele et al. 2014) from seed `key`, in Python."""
    z = (key + (8 * index + stream + 1) * 0x9E3779B97F4A7C15) & WRAP
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WRAP
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WRAP
    return ((z ^ (z >> 31)) >> 11) / 2**53


def test_uniform_is_splitmix64():
    keys = [0, 1, -1, 1234567, 2**63 - 1, -(2**63), -987654321987654321]
    for stream in range(3):
        index = torch.arange(50)
        values = uniform(torch.tensor(keys)[:, None], index[None], stream)
        assert values.dtype == torch.float64
        for row, key in enumerate(keys):
            assert values[row].tolist() == [splitmix64(key & WRAP, i, stream) for i in range(50)]


def test_splitmix64_is_the_published_one():
    """The first outputs for seed 1234567, as Rosetta Code gives them."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    values = (
        uniform(torch.tensor(1234567), torch.tensor(0), 0),
        uniform(torch.tensor(1234567), torch.tensor(0), 1),
    )
    assert [v.item() for v in values] == [(n >> 11) / 2**53 for n in published[:2]]
    assert splitmix64(1234567, 0, 2) == (published[2] >> 11) / 2**53


def test_uniform_is_uniform_and_streams_are_independent():
    keys, index = (
        torch.arange(400)[:, None],
        torch.arange(500)[None],
    )  # keys that follow each other: the worst case
    streams = torch.stack([uniform(keys, index, stream).flatten() for stream in range(3)])
    n = streams.shape[1]
    assert streams.min() >= 0
    assert streams.max() < 1
    for values in streams:
        counts = torch.histc(values.float(), bins=100, min=0, max=1)
        chi_square = ((counts - n / 100).square() / (n / 100)).sum().item()
        assert 50 < chi_square < 160, "99 degrees of freedom: five standard deviations around 99"
    others = torch.cat((streams, streams[:1].roll(1, 1), streams[:1].roll(500, 1)))  # next index, next key
    off_diagonal = torch.corrcoef(others) - torch.eye(5)
    assert off_diagonal.abs().max() < 5 / n**0.5


def batch(rows: int, T: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of which 0 to 8 are special, keys, and what may be masked: no special tokens, no padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (rows, T), generator=generator)
    tokens[torch.rand(rows, T, generator=generator) < 0.1] = 2
    keys = torch.randint(-(2**62), 2**62, (rows,), generator=generator)
    maskable = tokens >= 9
    padding = torch.arange(T) >= torch.randint(1, T + 1, (rows, 1), generator=generator)
    return tokens, keys, maskable & ~padding


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_and_what_stays(rate, whole_words):
    tokens, keys, maskable = batch(400, 256)
    words = torch.arange(256).expand(400, 256) // 2 if whole_words else None
    inputs, targets = mask_tokens(tokens, keys, rate, MASK, maskable, V, words)
    chosen = targets != -100
    assert not (chosen & ~maskable).any(), "a special token or padding was chosen"
    assert torch.equal(targets[chosen], tokens[chosen])
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    numbers, budget = chosen.sum(1), (maskable.sum(1) * rate).round().long()
    if whole_words:
        assert (numbers <= budget).all()
        assert (numbers >= budget - 1).all(), "words have two tokens at most"
    else:
        assert torch.equal(numbers, budget)
    n = int(chosen.sum())
    masked, kept = inputs[chosen] == MASK, inputs[chosen] == tokens[chosen]
    random = ~masked & ~kept
    for share, count, expected in ((0.8, masked, 0.8), (0.1, kept, 0.1 + 0.1 / V), (0.1, random, 0.1)):
        spread = (share * (1 - share) / n) ** 0.5
        assert abs(count.sum().item() / n - expected) < 5 * spread
    pieces = torch.histc(inputs[chosen][random].float(), bins=10, min=0, max=V)
    assert ((pieces - pieces.mean()).abs() < 5 * pieces.mean().sqrt()).all(), "random tokens are not uniform"


def test_every_place_is_as_likely():
    tokens = torch.full((4000, 20), 100)
    chosen = mask_tokens(tokens, torch.arange(4000), 0.3, MASK, tokens > 0, V)[1] > 0
    assert ((chosen.float().mean(0) - 0.3).abs() < 5 * (0.21 / 4000) ** 0.5).all()
    together = torch.corrcoef(chosen.double().T) - torch.eye(20)
    # 6 of 20 without replacement: two places repel each other by -1 / 19.
    assert ((together[~torch.eye(20).bool()] + 1 / 19).abs() < 6 / 4000**0.5).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks_depend_on_the_key_alone(whole_words):
    tokens, keys, maskable = batch(8, 64)
    words = torch.arange(64).expand(8, 64) // 3 if whole_words else None

    def masks(rows: list[int]) -> tuple[Tensor, Tensor]:
        w = words[rows] if whole_words else None
        return mask_tokens(tokens[rows], keys[rows], 0.3, MASK, maskable[rows], V, w)

    inputs, targets = masks(list(range(8)))
    torch.manual_seed(123)  # no global generator takes part
    for rows in ([5], [7, 2, 5], [0, 0]):
        some_inputs, some_targets = masks(rows)
        assert torch.equal(some_inputs, inputs[rows])
        assert torch.equal(some_targets, targets[rows])
    other = mask_tokens(tokens, keys + 1, 0.3, MASK, maskable, V, words)
    assert not torch.equal(other[1], targets)


def test_tokens_are_not_written_over():
    tokens, keys, maskable = batch(4, 32)
    before = tokens.clone()
    mask_tokens(tokens, keys, 0.5, MASK, maskable, V)
    assert torch.equal(tokens, before)


def test_rows_with_little_or_nothing_to_mask():
    tokens = torch.full((3, 10), 100)
    maskable = torch.zeros(3, 10, dtype=torch.bool)
    maskable[1, 3] = True
    maskable[2, 2:8] = True
    inputs, targets = mask_tokens(tokens, torch.arange(3), 0.9, MASK, maskable, V)
    assert (targets >= 0).sum(1).tolist() == [0, 1, 5]  # rounded
    assert targets[1, 3] == 100
    assert torch.equal(inputs[0], tokens[0])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([inspect.getsource(argparse)], 500)


def test_whole_words_of_a_real_tokenizer(tokenizer):
    text = 20 * "The parser formats unrecognised arguments, and remembers every option_string2 it saw. "
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]])
    opens, closes = (torch.from_numpy(x) for x in tokenizer.word_boundaries())
    words = word_numbers(ids, opens, closes)
    by_number: dict[int, str] = {}
    for piece, word in zip(ids[0].tolist(), words[0].tolist(), strict=True):
        by_number[word] = by_number.get(word, "") + tokenizer.decode([piece])
    assert "".join(by_number.values()) == text
    found = [word.strip() for word in by_number.values() if re.fullmatch(r"\s*\w+", word)]
    assert found == re.findall(r"\w+", text)
    several = len(ids[0]) / len(by_number)
    assert several > 1.2, "hardly a word of several tokens: the test would say nothing"

    maskable = torch.from_numpy(tokenizer.byte_lengths() > 0)[ids]
    _, targets = mask_tokens(ids, torch.tensor([3]), 0.3, tokenizer.mask_id, maskable, len(tokenizer), words)
    chosen = targets[0] >= 0
    assert chosen.sum() > 0.25 * len(ids[0])
    for word in words[0].unique():
        assert chosen[words[0] == word].unique().numel() == 1, by_number[int(word)]


def test_word_numbers_by_hand():
    opens = torch.tensor([False, True, False, True])  # 1 opens, 2 closes, 3 does both, 0 goes on
    closes = torch.tensor([False, False, True, True])
    tokens = torch.tensor([[0, 0, 1, 0, 2, 0, 3, 3, 0, 1, 2], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
    expected = [[0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 6], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]]
    assert word_numbers(tokens, opens, closes).tolist() == expected
