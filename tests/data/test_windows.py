"""The order of windows: a bijection, the same everywhere, and every token a target."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lm.data.corpus.shards import ShardWriter, TokenStream
from lm.data.loading import ResumableLoader, validation_loader
from lm.data.windows import Permutation, TrainingWindows, ValidationWindows, mix

OPEN = Path("/proc/self/fd")


@pytest.fixture
def make_stream(tmp_path):
    """Makes a stream whose token i is i, in documents and shards of several sizes."""

    def make(tokens: int) -> TokenStream:
        writer = ShardWriter(tmp_path, f"s{tokens}", np.dtype("<u4"), shard_tokens=1 + tokens // 3)
        for ids in np.array_split(np.arange(tokens), 1 + tokens // 11):
            writer.add(ids, size=len(ids))
        record = writer.close()
        paths = [
            (tmp_path / shard["file"], (tmp_path / shard["file"]).with_suffix(".idx"))
            for shard in record["shards"]
        ]
        return TokenStream(paths, np.dtype("<u4"), tokens)

    return make


def batches(windows: TrainingWindows, epoch: int) -> list[dict]:
    size = windows.batch_size
    return [windows[epoch, first] for first in range(0, windows.windows // size * size, size)]


def test_mix_is_splitmix64():
    """The first outputs of the reference generator from state 1234567."""
    golden = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    step, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    states = np.array([(1234567 + number * step) & mask for number in range(3)], dtype=np.uint64)
    assert mix(states).tolist() == golden


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31, 32, 33, 1000, 4097])
def test_permutations_are_bijections(n):
    for key in range(5):
        assert sorted(Permutation(n, key)(np.arange(n)).tolist()) == list(range(n))


def test_permutations_look_random():
    n = 5000
    order = Permutation(n, key=3)(np.arange(n))
    assert (order != Permutation(n, key=4)(np.arange(n))).mean() > 0.99
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(order[lag:], order[:-lag])[0, 1]) < 0.06
    # Where the first index goes should be uniform over the keys: chi-squared with 9 degrees of freedom.
    counts = np.bincount([int(Permutation(10, key)(np.array([0]))[0]) for key in range(2000)], minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # p = 0.001


def test_a_permutation_of_a_huge_range_needs_no_memory():
    places = Permutation(1 << 50, key=1)(np.arange(1000))
    assert len(set(places.tolist())) == 1000 and places.max() < 1 << 50 and places.max() > 1 << 49


@pytest.mark.parametrize("tokens", [9, 10, 16, 17, 24, 25, 1000, 1007])
def test_an_epoch_is_windows_at_stride_from_a_random_offset(make_stream, tokens):
    windows = TrainingWindows(make_stream(tokens), seq_len=8, batch_size=1, seed=0)
    offsets = set()
    for epoch in range(40):
        starts = np.sort(windows.starts(epoch, np.arange(windows.windows)))
        offsets.add(int(starts[0]))
        assert (np.diff(starts) == 8).all()
        assert starts[0] >= 0 and starts[-1] + 9 <= tokens
        assert starts[0] < 8
        assert tokens - 1 - 8 * windows.windows < 16, "more than one window is left out"
    assert len(offsets) == min(8, tokens - 8) or (tokens >= 16 and len(offsets) >= 7)


def test_a_batch_is_what_it_says(make_stream):
    windows = TrainingWindows(make_stream(1000), seq_len=8, batch_size=4, seed=7)
    stream = windows.stream
    keys = []
    for epoch in range(2):
        for number, batch in enumerate(batches(windows, epoch)):
            assert {name: (tuple(v.shape), v.dtype) for name, v in batch.items()} == {
                "tokens": ((4, 9), torch.int64),
                "documents": ((4, 9), torch.int32),
                "key": ((4,), torch.int64),
            }
            starts = windows.starts(epoch, np.arange(4 * number, 4 * number + 4))
            for row, start in enumerate(starts.tolist()):
                assert batch["tokens"][row].tolist() == list(range(start, start + 9))
                owners = stream.window(start, 9)[1]
                assert batch["documents"][row].tolist() == (owners - owners[0]).tolist()
            keys += batch["key"].tolist()
    assert min(keys) >= 0 and len(set(keys)) == len(keys)


def test_what_comes_next_depends_on_seed_epoch_and_sample_alone(make_stream):
    stream = make_stream(1000)

    def sample(seed: int, epoch: int, number: int, size: int = 1) -> tuple[list, list]:
        windows = TrainingWindows(stream, 8, size, seed)
        batch = windows[epoch, number - number % size]
        return batch["tokens"][number % size].tolist(), batch["key"][number % size].tolist()

    assert sample(1, 2, 30) == sample(1, 2, 30, size=4) == sample(1, 2, 30, size=13)
    others = [sample(*place) for place in ((2, 2, 30), (1, 3, 30), (1, 2, 31), (1, 2, 30))]
    assert len({tokens[0] for tokens, _ in others}) == 4 and len({key for _, key in others}) == 4
    # A golden value: a change of it would silently make every resumed run read other tokens.
    assert sample(1, 2, 30) == (list(range(377, 386)), 4687100566081491332)


def read(loader: ResumableLoader, epochs: int = 1) -> list[int]:
    """The first token of each window, over whole epochs."""
    return [int(row[0]) for _ in range(epochs) for batch in loader for row in batch["tokens"]]


def test_ranks_share_each_global_batch(make_stream):
    stream = make_stream(1000)
    whole = read(ResumableLoader(TrainingWindows(stream, 8, 6, 0)), epochs=2)
    parts = [
        np.array(read(ResumableLoader(TrainingWindows(stream, 8, 2, 0), rank=rank, world_size=3), 2)).reshape(
            -1, 2
        )
        for rank in range(3)
    ]
    assert np.concatenate(parts, axis=1).ravel().tolist() == whole


def test_an_epoch_reads_each_window_once_and_the_next_in_another_order(make_stream):
    loader = ResumableLoader(TrainingWindows(make_stream(1000), 8, 3, 0))
    assert len(loader) == loader.dataset.windows // 3
    first, second = read(loader), read(loader)
    assert len(set(first)) == len(first) == 3 * len(loader)
    assert first != second and loader.state_dict() == {"epoch": 1, "samples": len(second)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_where_the_state_says(make_stream, workers):
    windows = TrainingWindows(make_stream(300), 8, 4, 0)
    whole = read(ResumableLoader(windows), epochs=3)
    per_epoch = len(whole) // 3
    loader = ResumableLoader(windows, num_workers=workers)
    found: list[int] = []
    iterator = iter(loader)
    for _ in range(3):  # workers have read further ahead by now
        found += [int(row[0]) for row in next(iterator)["tokens"]]
    assert loader.state_dict() == {"epoch": 0, "samples": 12}
    resumed = ResumableLoader(windows, num_workers=workers)
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == per_epoch // 4
    assert found + read(resumed, epochs=3) == whole
    end = ResumableLoader(windows)
    end.load_state_dict({"epoch": 0, "samples": per_epoch})
    assert read(end, epochs=2) == whole[per_epoch:]


@pytest.mark.skipif(not OPEN.is_dir(), reason="only Linux tells which files are open")
def test_batches_that_are_kept_hold_no_file_open(make_stream):
    """Nor has a process that reads ahead to be asked for each tensor."""
    loader = ResumableLoader(TrainingWindows(make_stream(1000), 8, 2, 0), num_workers=1)
    iterator = iter(loader)
    kept = [next(iterator)]
    before = len(list(OPEN.iterdir()))
    kept += [next(iterator) for _ in range(30)]
    assert len(list(OPEN.iterdir())) <= before + 2


def test_a_resume_on_another_number_of_ranks_reads_the_rest(make_stream):
    stream = make_stream(1000)
    windows = TrainingWindows(stream, 8, 2, 0)
    whole = read(ResumableLoader(TrainingWindows(stream, 8, 6, 0)))
    loader = ResumableLoader(windows, world_size=3)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    resumed = ResumableLoader(windows, world_size=1)
    resumed.load_state_dict(loader.state_dict())
    assert read(resumed)[: len(whole) - 30] == whole[30:]


def test_the_length_is_a_multiple_of_the_accumulation_and_never_zero(make_stream):
    for tokens, size, accumulate, length in ((1000, 3, 4, 40), (1000, 3, 1, 41), (9, 3, 1, 1), (9, 3, 4, 4)):
        loader = ResumableLoader(TrainingWindows(make_stream(tokens), 8, size, 0), accumulate=accumulate)
        assert len(loader) == length
        assert len(read(loader)) == length * size
    assert set(read(loader)) == {0}, "the one window again and again"


def test_iterating_leaves_the_default_random_state_alone(make_stream):
    windows = TrainingWindows(make_stream(300), 8, 4, 0)
    before = torch.get_rng_state()
    read(ResumableLoader(windows), epochs=2)
    list(validation_loader(ValidationWindows(windows.stream, 8, 4), rank=0, world_size=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("tokens", [1, 2, 9, 10, 100, 129, 130])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_held_out_token_is_a_target_once(make_stream, tokens, world_size):
    windows = ValidationWindows(make_stream(tokens), seq_len=8, batch_size=2)
    loaders = [validation_loader(windows, rank=rank, world_size=world_size) for rank in range(world_size)]
    targets, keys = [], []
    shares = [list(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(loaders[0])}
    for batch in (batch for share in shares for batch in share):
        real = batch["documents"] >= 0
        assert (batch["tokens"][~real] == 0).all() and (batch["documents"][~real] == -1).all()
        targets += batch["tokens"][:, 1:][real[:, 1:]].tolist()
        keys += batch["key"].tolist()
        assert (batch["documents"][real[:, 0], 0] == 0).all()
    assert sorted(targets) == list(range(1, tokens))
    assert len(set(keys)) == len(keys)
    again = [batch["tokens"].tolist() for batch in loaders[0]]
    assert again == [batch["tokens"].tolist() for batch in shares[0]]
