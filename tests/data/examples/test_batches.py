"""Batches of examples: everything once, in an order by seed and epoch alone, with little padding."""

import numpy as np
import pytest
import torch

from lm.data.examples.batches import HeldOutExamples, TrainingExamples, collate, length_of, pad
from lm.data.loading import ResumableLoader, validation_loader


def features(n: int, seed: int = 0) -> list[dict]:
    """Examples of uneven lengths, each of them its number again and again."""
    lengths = np.random.default_rng(seed).integers(1, 60, n).tolist()
    return [{"tokens": [i] * length} for i, length in enumerate(lengths)]


def numbers(chosen: list[dict]) -> dict:
    """A batch that tells who is in it."""
    return {"who": [f["tokens"][0] for f in chosen], "index": [f.get("index", 0) for f in chosen]}


def epoch(source: TrainingExamples, number: int) -> list[list[int]]:
    """The whole batches of an epoch."""
    starts = range(0, source.windows - source.batch_size + 1, source.batch_size)
    return [source[number, start]["who"] for start in starts]


@pytest.mark.parametrize(("n", "size"), [(64, 8), (1000, 4), (8, 8), (12, 1), (640, 8)])
def test_every_example_once_an_epoch(n, size):
    source = TrainingExamples(features(n), size, 3, numbers)
    for number in range(3):
        found = [who for batch in epoch(source, number) for who in batch]
        assert sorted(found) == list(range(n))


def test_the_order_is_a_function_of_seed_and_epoch():
    rows = features(100)
    first, again, other = (TrainingExamples(rows, 4, seed, numbers) for seed in (1, 1, 2))
    orders = [epoch(first, number) for number in range(4)]
    assert [epoch(again, number) for number in (3, 1, 0, 2)] == [orders[i] for i in (3, 1, 0, 2)]
    assert len({str(order) for order in orders}) == 4
    assert epoch(other, 0) != orders[0]
    assert first[2, 20]["who"] == orders[2][5]


def test_a_step_has_the_same_examples_however_it_is_cut():
    rows = features(100)
    whole = TrainingExamples(rows, 12, 0, numbers, step=12)
    for size in (1, 2, 3, 6):
        cut = TrainingExamples(rows, size, 0, numbers, step=12)
        for start in range(0, 96, 12):
            parts = [cut[0, first]["who"] for first in range(start, start + 12, size)]
            assert [who for part in parts for who in part] == whole[0, start]["who"]


def test_what_does_not_fill_a_batch_is_another_each_epoch():
    """Not always the longest, as a rest of what was sorted would be."""
    rows = features(35)
    source = TrainingExamples(rows, 8, 0, numbers)
    left = [set(range(35)) - {who for batch in epoch(source, e) for who in batch} for e in range(120)]
    assert all(len(rest) == 3 for rest in left)
    assert set().union(*left) == set(range(35))
    lengths = np.array([length_of(f) for f in rows])
    mean = np.mean([lengths[list(rest)].mean() for rest in left])
    assert abs(mean - lengths.mean()) < 6


def test_fewer_examples_than_a_batch_are_repeated():
    source = TrainingExamples(features(5), 8, 0, numbers)
    assert sorted(source[0, 0]["who"])[0] == 0
    counts = np.bincount(source[0, 0]["who"])
    assert counts.sum() == 8 and counts.max() == 2 and counts.min() == 1


def test_texts_of_like_length_share_a_batch():
    rows = features(2000)
    source = TrainingExamples(rows, 16, 0, numbers)

    def padding(batches: list[list[int]]) -> float:
        lengths = [[length_of(rows[who]) for who in batch] for batch in batches]
        return 1 - sum(map(sum, lengths)) / sum(max(part) * len(part) for part in lengths)

    found = epoch(source, 0)
    plain = np.random.default_rng(0).permutation(2000).reshape(-1, 16).tolist()
    assert padding(plain) > 0.4
    assert padding(found) < 0.06
    # But the batches' own order is a random one: no drift from short to long.
    longest = np.array([max(length_of(rows[who]) for who in batch) for batch in found], dtype=float)
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3
    assert (np.diff(longest) > 0).mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_are_disjoint_and_together_everything(world_size):
    rows = features(48)
    found = []
    for rank in range(world_size):
        source = TrainingExamples(rows, 4, 0, numbers, step=4 * world_size)
        loader = ResumableLoader(source, rank=rank, world_size=world_size)
        found.append([who for batch in loader for who in batch["who"]])
    assert len({len(part) for part in found}) == 1
    assert sorted(who for part in found for who in part) == list(range(48))
    # One process with batches as large as all of theirs sees the same in each step.
    one = TrainingExamples(rows, 4 * world_size, 0, numbers)
    steps = [set(batch) for batch in epoch(one, 0)]
    for step, expected in enumerate(steps):
        assert {who for part in found for who in part[step * 4 : step * 4 + 4]} == expected


def test_resumable_to_the_sample():
    rows = features(50)

    def loader(size: int = 4, step: int = 4) -> ResumableLoader:
        source = TrainingExamples(rows, size, 0, numbers, step)
        return ResumableLoader(source, accumulate=step // size)

    whole = loader()
    expected = [batch["who"] for _ in range(3) for batch in whole]
    assert len(expected) == 3 * 12
    for stop in (1, 5, 12, 13, 30):
        first, found = loader(), []
        while len(found) < stop:
            for batch in first:
                found.append(batch["who"])
                if len(found) == stop:
                    break
        second = loader()
        second.load_state_dict(first.state_dict())
        while len(found) < len(expected):
            found += [batch["who"] for batch in second]
        assert found == expected, stop
    # And with a step cut otherwise.
    half = loader(size=2, step=4)
    half.load_state_dict({"epoch": 0, "samples": 20})
    rest = [who for batch in half for who in batch["who"]]
    assert rest == [who for batch in expected[5:12] for who in batch]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 24, 25])
def test_held_out_examples_each_once(n, world_size):
    rows = [{**f, "index": i} for i, f in enumerate(features(n))]
    source = HeldOutExamples(rows, 4, numbers)
    found, batches = [], []
    for rank in range(world_size):
        parts = list(validation_loader(source, rank=rank, world_size=world_size))
        batches.append(len(parts))
        found += [index for part in parts for index in part["index"] if index >= 0]
    assert sorted(found) == list(range(n))
    assert len(set(batches)) == 1, "each process has as many: they wait for each other"
    longest = [length_of(rows[who]) for who in source[0]["who"]]
    assert longest == sorted((length_of(f) for f in rows), reverse=True)[: len(longest)]


def test_what_a_batch_holds():
    rows = [
        {"tokens": [5, 6, 7], "targets": [1, 2, 3], "target": 1, "score": 0.5, "spans": [(0, 1)]},
        {"tokens": [8], "targets": [4], "target": 0, "score": 2.0, "spans": [(2, 3)], "extra": 9},
    ]
    rows[0]["several"], rows[1]["several"] = (
        np.array([0.0, 1.0], np.float32),
        np.array([1.0, 1.0], np.float32),
    )
    batch = collate(rows, {"tokens": 0, "targets": -100})
    assert batch["tokens"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["targets"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["documents"].tolist() == [[0, 0, 0], [0, -1, -1]]
    assert batch["target"].tolist() == [1, 0] and batch["target"].dtype == torch.int64
    assert batch["score"].tolist() == [0.5, 2.0]
    assert batch["several"].tolist() == [[0, 1], [1, 1]]
    assert batch["spans"] == [[(0, 1)], [(2, 3)]]
    assert batch["seen"] == 4
    assert "extra" not in batch
    assert "extra" not in collate(rows[::-1], {"tokens": 0, "targets": -100})


def test_documents_that_examples_bring_are_kept():
    rows = [{"tokens": [5, 6, 7], "documents": [0, 1, 1]}, {"tokens": [8], "documents": [0]}]
    batch = collate(rows, {"tokens": 0, "documents": -1})
    assert batch["documents"].tolist() == [[0, 1, 1], [0, -1, -1]]


def test_padding_of_nothing():
    assert pad([[], []], 0).shape == (2, 0)
    assert length_of({"chosen_tokens": [1, 2], "rejected_tokens": [1, 2, 3], "targets": [0] * 9}) == 3
