"""What a model has seen is what its loader gave it: counted token by token, over stops, ranks and epochs."""

from types import SimpleNamespace

import numpy as np
import pytest

from lm.audit import history
from lm.audit.history import History, Run, run_of
from lm.audit.private.per_sample import PoissonSamples
from lm.data.corpus.shards import ShardWriter, TokenStream
from lm.data.loading import ResumableLoader
from lm.data.windows import TrainingWindows
from lm.errors import UserError

SEQ_LEN = 8


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> SimpleNamespace:
    """A corpus whose tokens are their own places: whoever sees a token knows where it stands."""
    folder, dtype = tmp_path_factory.mktemp("numbered"), np.dtype("<u4")
    writer = ShardWriter(folder, "train", dtype, 300)
    for start in range(0, 1003, 17):
        writer.add(np.arange(start, min(start + 17, 1003)), 17)
    shards = [folder / shard["file"] for shard in writer.close()["shards"]]
    stream = TokenStream([(path, path.with_suffix(".idx")) for path in shards], dtype, 0)
    assert len(shards) > 2 and len(stream) == 1003
    return SimpleNamespace(folder=folder, identity="numbered", split=lambda name: stream)


def replayed(
    stream: TokenStream, ranks: int, accumulate: int, stops: list[int], lots: bool = False
) -> tuple[np.ndarray, dict]:
    """How often each token was a target of the loaders of all ranks, which stop after so many batches and go
    on as new ones from the state that was saved; and the last state."""
    counts, state = np.zeros(len(stream), np.int64), {"epoch": 0, "samples": 0}
    for batches in stops:
        states = []
        for rank in range(ranks):
            windows = TrainingWindows(stream, SEQ_LEN, 3, seed=5)
            windows = PoissonSamples(windows, accumulate, 5) if lots else windows
            loader = ResumableLoader(windows, rank=rank, world_size=ranks, accumulate=accumulate)
            loader.load_state_dict(state)
            left = batches
            while left:
                for batch in loader:
                    for part in batch if lots else [batch]:
                        np.add.at(counts, part["tokens"][:, 1:].numpy(), 1)
                    if not (left := left - 1):
                        break
            states.append(loader.state_dict())
        assert all(each == states[0] for each in states)
        state = states[0]
    return counts, state


@pytest.mark.parametrize(
    ("ranks", "accumulate", "stops"),
    [
        (1, 1, [7]),  # 124 windows are 41 batches of 3
        (1, 1, [41]),
        (1, 4, [5, 62, 40]),  # an epoch is 40 batches, ends within the second run, and with the last one
        (2, 3, [4, 29]),  # 18 batches
        (1, 50, [9]),  # more than there is: samples come again within an epoch
        (1, 50, [49, 3]),
    ],
)
def test_each_token_was_seen_as_often_as_the_loader_gave_it(numbered, ranks, accumulate, stops):
    counts, state = replayed(numbered.split("train"), ranks, accumulate, stops)
    run = Run("numbered", "numbered", SEQ_LEN, 5, state["epoch"], state["samples"], 3 * ranks * accumulate)
    found = History(run, numbered)
    assert np.array_equal(found.times, counts)
    assert found.windows * SEQ_LEN == counts.sum() > 0
    for start, end in ((0, 5), (1, 40), (500, 530), (1000, 1003)):
        assert found.seen(start, end) == counts[start:end].min()


@pytest.mark.parametrize(("accumulate", "stops"), [(1, [30]), (2, [22, 40, 38]), (1, [41])])
def test_private_training_draws_by_lot_what_it_learns_from(numbered, accumulate, stops):
    counts, state = replayed(numbered.split("train"), 1, accumulate, stops, lots=True)
    run = Run("numbered", "numbered", SEQ_LEN, 5, state["epoch"], state["samples"], 3 * accumulate, True)
    found = History(run, numbered)
    assert np.array_equal(found.times, counts) and counts.max() > 1
    assert found.windows * SEQ_LEN == counts.sum() > 0
    assert (counts[found.sample(50, np.random.default_rng(0)) + 1] > 0).all()
    starts, times = found.cut()
    assert np.array_equal(counts[starts + SEQ_LEN], times) and 0 < (times == 0).sum() < len(times)


def test_the_cut_says_of_each_window_whether_it_was_learned_from(numbered):
    stream = numbered.split("train")
    for batches in (1, 20, 41, 60, 82):
        counts, state = replayed(stream, 1, 1, [batches])
        run = Run("numbered", "numbered", SEQ_LEN, 5, state["epoch"], state["samples"], 3)
        found = History(run, numbered)
        starts, times = found.cut()
        assert len(starts) == 124 and (np.diff(starts) == SEQ_LEN).all()
        for start, often in zip(starts.tolist(), times.tolist(), strict=True):
            own = counts[start + 1 : start + 1 + SEQ_LEN]
            assert (own == often).all() if often >= 0 else own.min() < own.max()
        if batches <= 41:  # of the first epoch each is either a window that came, or none of it did
            assert sorted(starts[times == 1]) == sorted(found.starts(0))
            assert (times == 0).sum() == 124 - 3 * batches
        else:  # one that came again has one more than those that did not, but at the other epoch's edges
            whole = (batches - 1) // 41
            assert set(times.tolist()) <= {-1, whole, whole + 1}
            assert (times == whole + 1).sum() >= 3 * (batches - 41 * whole) - 4


def test_an_epoch_that_is_done_was_cut_as_it_was(numbered):
    found = History(Run("numbered", "numbered", SEQ_LEN, 5, 1, 0, 30), numbered)
    starts, times = found.cut()  # of 124 windows 120 came, and the next epoch has not begun
    assert sorted(starts[times == 1]) == sorted(found.starts(0)) and (times == 0).sum() == 4


def test_a_checkpoint_says_what_its_run_has_done(trained):
    run = run_of(trained / "checkpoints/gpt/last.ckpt")
    assert run == Run(run.corpus, run.identity, 32, 0, 0, 6 * 4, 4, lots=False) and run.identity


def test_what_draws_by_lot_says_so_and_secret_samples_stay_secret(trained, monkeypatch):
    path = trained / "checkpoints/gpt/last.ckpt"
    state, settings, _ = history._said(path)

    def said(**trainer) -> Run:
        given = {**settings, "trainer": {**settings["trainer"], **trainer}}
        monkeypatch.setattr(history, "_said", lambda path: (state, given, path))
        return run_of(path)

    own = {
        "class_path": "lm.audit.private.training.PrivateTraining",
        "init_args": {"epsilon": 8.0, "secure": False},
    }
    assert said(callbacks=[own]).lots and not said(callbacks=[{"class_path": "a.Other"}]).lots
    own["init_args"]["secure"] = True
    with pytest.raises(UserError, match="its samples are kept secret"):
        said(callbacks=[own])
    with pytest.raises(UserError, match="the same batches again"):
        said(overfit_batches=2)


def test_what_went_on_from_another_model_says_so(trained, monkeypatch):
    from lm.audit import Check, Findings, Subject, perform
    from lm.audit.audit import Audit
    from lm.data.corpus.shards import Corpus
    from lm.predictor import load

    class Asking(Check):
        def run(self, subject: Subject) -> Findings:
            assert subject.history.windows
            return Findings()

    class Other(Check):
        def run(self, subject: Subject) -> Findings:
            return Findings()

    path = trained / "checkpoints/gpt/last.ckpt"
    state, settings, _ = history._said(path)
    model = {**settings["model"], "init_args": {**settings["model"].get("init_args", {}), "init_from": "old"}}
    monkeypatch.setattr(history, "_said", lambda path: (state, {**settings, "model": model}, path))
    corpus = Corpus.open(next(trained.glob("data/*/manifest.json")).parent)
    assert run_of(path).start == "old"
    parts = perform(Audit([Asking(), Other()]), Subject(load(path), corpus))["checks"]
    note = "it went on from old: what that model had seen before is not counted"
    assert [part["notes"] for part in parts] == [[note], []]
