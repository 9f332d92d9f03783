"""Several corpora as one stream: shares as asked at every point, each corpus in its own epochs, and the same
for any number of processes."""

import json
import pydoc_data.topics
import signal
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml

from lm.backbone import BackboneConfig
from lm.data import PretrainingData
from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.data.corpus.shards import ShardWriter, TokenStream
from lm.data.loading import ResumableLoader, validation_loader
from lm.data.mixing import BLOCK, MixedValidation, MixedWindows, Schedule, Share, Stage, mixed_windows
from lm.data.windows import TrainingWindows, ValidationWindows
from lm.errors import UserError
from lm.tasks import CausalPretraining, MaskedPretraining

from ..conftest import scalars
from ..run.test_processes import PLAIN, STOP, equal, overlay
from .test_pretraining import Recorder


def corpora_of(schedule: Schedule, samples: int) -> tuple[np.ndarray, np.ndarray]:
    return schedule(np.arange(samples))


WEIGHTS = [(1,), (0.7, 0.3), (1, 1, 1), (5, 0, 2), (0.9, 0.0999, 0.0001), (3, 1, 4, 1, 5, 9, 2, 6)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_at_each_blocks_end_every_corpus_has_its_share_to_the_sample(weights):
    """The smallest weight has a sample in a block: 0.0001 makes blocks of 16,384."""
    block = 16384 if 0.0001 in weights else BLOCK
    corpora, own = corpora_of(Schedule([(0, weights)], [None] * len(weights), seed=3), 12 * block)
    total = sum(Fraction(str(weight)) for weight in weights)
    for corpus, weight in enumerate(weights):
        share = float(Fraction(str(weight)) / total)
        given = (corpora == corpus).cumsum()
        ends = np.arange(block, 12 * block + 1, block)
        assert (abs(given[ends - 1] - share * ends) < 1).all()
        # In between it is as if drawn from a block's worth: five standard deviations of that.
        places = np.arange(1, len(corpora) + 1)
        assert abs(given - share * places).max() < 2 + 5 * (block * share * (1 - share) / 4) ** 0.5
        assert (own[corpora == corpus] == np.arange(given[-1])).all(), "one after the other"


def test_a_place_depends_on_the_seed_and_its_number_alone():
    schedule = Schedule([(0, (2, 1)), (1500, (1, 5))], [4000, None], seed=1)
    whole = np.stack(corpora_of(schedule, 9000))
    choose = np.random.default_rng(0)
    for _ in range(50):
        samples = choose.integers(0, 9000, size=7)
        fresh = Schedule([(0, (2, 1)), (1500, (1, 5))], [4000, None], seed=1)
        assert (np.stack(fresh(samples)) == whole[:, samples]).all()
    other = np.stack(corpora_of(Schedule([(0, (2, 1))], [None] * 2, seed=2), 1024))
    assert (other[0] != whole[0, :1024]).any()
    assert np.stack(schedule(np.array([1 << 40]))).shape == (2, 1), "far away costs nothing"
    # A golden value: a change of it would silently make every resumed run read other tokens.
    assert whole[0, :16].tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0]


def test_stages_begin_at_their_sample():
    corpora, own = corpora_of(Schedule([(0, (1, 0)), (700, (0, 1)), (5000, (1, 1))], [None] * 2, 0), 9096)
    assert (corpora[:700] == 0).all() and (corpora[700:5000] == 1).all()
    assert corpora[5000:].sum() == 2048
    for corpus in (0, 1):
        assert (own[corpora == corpus] == np.arange((corpora == corpus).sum())).all()


@pytest.mark.parametrize("limits", [(3000, None), (100, 50), (1, 1), (0, 10), (2000, 5001), (7, 20000)])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 99), (0.123, 0.877)])
def test_what_is_used_up_leaves_its_place_to_the_others(weights, limits):
    schedule = Schedule([(0, weights)], limits, seed=5)
    length = schedule.end or schedule.phases[-1].start + 4 * BLOCK
    corpora, own = corpora_of(schedule, length)
    given = [int((corpora == corpus).sum()) for corpus in (0, 1)]
    for corpus, limit in enumerate(limits):
        assert (own[corpora == corpus] == np.arange(given[corpus])).all()
        assert limit is None or given[corpus] in (limit, max(limit - 1, 0))
    if None in limits:
        assert schedule.end is None
        last = int(np.flatnonzero(corpora == 0)[-1])
        assert (corpora[last + 1 :] == 1).all()
        share = weights[0] / sum(weights)
        assert abs(given[0] / share - last) < 2 * BLOCK / share**0.5, "until then it had its share"
    else:
        assert sum(given) == schedule.end
        with pytest.raises(UserError, match="used up after"):
            schedule(np.array([schedule.end]))


def test_stages_and_limits_together():
    """A stage whose only corpus is used up ends the stream, even if a later one would have others."""
    stages = [(0, (1, 1)), (1000, (1, 0)), (5000, (0, 1))]
    assert Schedule(stages, [None, None], 0).end is None
    assert Schedule(stages, [1000, None], 0).end == 1500
    schedule = Schedule(stages, [None, 800], 0)
    corpora, _ = corpora_of(schedule, schedule.end)
    assert schedule.end == 5300 and [int((corpora == c).sum()) for c in (0, 1)] == [4500, 800]


@pytest.fixture
def make_stream(tmp_path):
    """Makes a stream of the tokens from `first` on, in documents of several sizes."""

    def make(first: int, tokens: int) -> TokenStream:
        writer = ShardWriter(tmp_path, f"s{first}-{tokens}", np.dtype("<u4"), shard_tokens=1 + tokens // 3)
        for ids in np.array_split(np.arange(first, first + tokens), 1 + tokens // 11):
            writer.add(ids, size=len(ids))
        names = [tmp_path / shard["file"] for shard in writer.close()["shards"]]
        return TokenStream([(name, name.with_suffix(".idx")) for name in names], np.dtype("<u4"), tokens)

    return make


MIXTURE = {"a": Share("a", 0.6), "b": Share("b", 0.3, repeats=3), "c": Share("c", 0)}
STAGES = [Stage(40, {"c": 1, "a": 1})]


@pytest.fixture
def mixed(make_stream):
    """Makes three corpora's windows, whose tokens tell where they are from, for a step of 12 samples."""
    streams = [make_stream(first, size) for first, size in ((0, 2000), (10_000, 340), (20_000, 900))]

    def make(batch_size: int) -> MixedWindows:
        parts = [TrainingWindows(stream, 8, batch_size, seed) for seed, stream in enumerate(streams)]
        return mixed_windows(parts, MIXTURE, STAGES, seed=0, step=12, steps=100)

    return make


def test_each_corpus_goes_through_its_own_epochs(mixed):
    windows = mixed(12)
    assert windows.windows % 12 == 0
    per_epoch = windows.windows // 12
    seen: dict[tuple[int, int], list] = {}
    keys = Counter()
    for step in range(200):
        place = (step // per_epoch, step % per_epoch * 12)
        batch = windows[place]
        for (corpus, epoch, sample), tokens in zip(windows.places(*place), batch["tokens"], strict=True):
            assert tokens[0] // 10_000 == corpus, "the row is of the corpus that is said"
            alone = windows.parts[corpus].batch(int(epoch), np.array([sample]))["tokens"][0]
            assert torch.equal(tokens, alone)
            seen.setdefault((int(corpus), int(epoch)), []).append(int(tokens[0]))
            assert (corpus != 2 or step >= 40) and (corpus != 1 or step < 40)
        keys.update(batch["key"].tolist())
    assert max(keys.values()) == 1
    sizes = [part.windows for part in windows.parts]
    for (corpus, _), starts in seen.items():
        assert len(starts) == len(set(starts)) <= sizes[corpus], "no window twice in an epoch"
    whole = [place for place, starts in seen.items() if len(starts) == sizes[place[0]]]
    assert {corpus for corpus, _ in whole} == {0, 1, 2}
    assert sorted(epoch for corpus, epoch in seen if corpus == 1) == [0, 1, 2], "three times at most"


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (3, 2), (1, 4)])
def test_what_several_processes_read_is_what_one_reads(mixed, world_size, accumulate):
    size = 12 // world_size // accumulate
    one = ResumableLoader(mixed(12))
    whole = [row for _ in range(2) for row in rows(one)]
    loaders = [
        ResumableLoader(mixed(size), rank=rank, world_size=world_size, accumulate=accumulate)
        for rank in range(world_size)
    ]
    parts = [[row for _ in range(2) for row in rows(loader)] for loader in loaders]
    shared = [np.array(part).reshape(-1, size, 2) for part in parts]
    assert np.concatenate(shared, axis=1).reshape(-1, 2).tolist() == whole
    assert loaders[0].state_dict() == {"epoch": 1, "samples": len(whole) // 2}
    resumed = ResumableLoader(mixed(12))
    resumed.load_state_dict({"epoch": 0, "samples": 36})
    assert rows(resumed) == whole[36 : len(whole) // 2]


def rows(loader) -> list[list[int]]:
    return [
        [int(tokens[0]), int(key)]
        for batch in loader
        for tokens, key in zip(batch["tokens"], batch["key"], strict=True)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_held_out_token_of_each_corpus_is_a_target_once(make_stream, world_size):
    sizes = [(0, 130), (10_000, 9), (20_000, 61)]
    windows = MixedValidation([ValidationWindows(make_stream(*size), 8, 2) for size in sizes])
    loaders = [validation_loader(windows, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(loaders[0])}
    targets: dict[int, list] = {0: [], 1: [], 2: []}
    for batch in (batch for share in shares for batch in share):
        real = batch["documents"][:, 1:] >= 0
        targets[int(batch["corpus"])] += batch["tokens"][:, 1:][real].tolist()
    for corpus, (first, tokens) in enumerate(sizes):
        assert sorted(targets[corpus]) == list(range(first + 1, first + tokens))
    assert [int(windows[batch]["corpus"]) for batch in range(3)] == [0, 1, 2], "a limit leaves none out"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, code_text):
    """Two prepared corpora with one tokenizer, a third with its own, and the files that they are of."""
    folder = tmp_path_factory.mktemp("corpora")
    rows = list(pydoc_data.topics.topics.values())[:60]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": row[:600]}) + "\n" for row in rows))
    made = {"data_dir": str(folder / "data"), "vocab_size": 400}
    code = prepare(CorpusSettings(str(code_text), **made))
    tokenizer = str(code / "tokenizer.model")
    text = prepare(CorpusSettings(str(folder / "text.jsonl"), tokenizer=tokenizer, val_fraction=0.2, **made))
    other = prepare(CorpusSettings(str(folder / "text.jsonl"), **made))
    return {"code": str(code), "text": str(text), "other": str(other), "file": str(folder / "text.jsonl")}


def make_data(shares: dict[str, Share], **options) -> PretrainingData:
    return PretrainingData(mixture=shares, **{"seq_len": 32, "batch_size": 4} | options)


def make_trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", **quiet | {"enable_checkpointing": False, "max_epochs": -1} | options
    )


def both(corpora, **options) -> dict[str, Share]:
    return {"code": Share(corpora["code"], 2), "text": Share(corpora["text"], 1, **options)}


@pytest.mark.parametrize(("causal", "processes"), [(True, 1), (True, 2), (False, 1)])
def test_figures_of_each_corpus_are_those_of_it_alone(corpora, causal, processes):
    """And the whole's are their mean, weighted by tokens and bytes."""
    torch.manual_seed(0)
    task = CausalPretraining if causal else MaskedPretraining
    model = task(BackboneConfig(vocab_size=400, hidden_size=16, num_layers=1, num_heads=1, causal=causal))
    two = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}

    def figures(data: PretrainingData, **options) -> dict[str, float]:
        found = make_trainer(**options).validate(model, data, verbose=False)[0]
        return {name.removeprefix("val/"): value for name, value in found.items()}

    mixed = figures(make_data(both(corpora)), **two)
    sums = Counter()
    for name in ("code", "text"):
        alone = PretrainingData(corpora[name], seq_len=32, batch_size=4)
        own = figures(alone)
        for figure in ("loss", "bits_per_byte"):
            assert mixed[f"{figure}_{name}"] == pytest.approx(own[figure], rel=1e-6)
        examples = [model.example(batch, training=False) for batch in alone.val_dataloader()]
        tokens = sum(int((example.targets >= 0).sum()) for example in examples)
        size = own["loss"] * tokens / own["bits_per_byte"]
        sums.update(tokens=tokens, size=size, nats=own["loss"] * tokens)
    assert mixed["loss"] == pytest.approx(sums["nats"] / sums["tokens"], rel=1e-6)
    assert mixed["bits_per_byte"] == pytest.approx(sums["nats"] / sums["size"], rel=1e-6)
    assert mixed["loss_code"] != pytest.approx(mixed["loss_text"], rel=1e-5)


def test_files_take_the_tokenizer_of_what_is_prepared(corpora, tmp_path, code_text):
    shares = {"new": Share(corpora["file"], 1), "code": Share(corpora["code"], 1)}
    data = make_data(shares, vocab_size=999, data_dir=str(tmp_path))
    assert data.vocab_size == 400
    data.prepare_data()
    again = make_data(shares, vocab_size=999, data_dir=str(tmp_path))  # as on another process
    again.setup()
    assert again.source == data.source == f"new: {next(tmp_path.glob('text-*/'))}, code: {corpora['code']}"
    assert again.corpora["new"].manifest["tokenizer_sha256"] == again.tokenizer.fingerprint
    shares = {"one": Share(str(code_text), 1), "two": Share(corpora["file"], 1)}
    data = make_data(shares, vocab_size=350, data_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    assert data.tokenizer.vocab_size == data.vocab_size == 350
    assert data.train_tokens == sum(len(corpus.split("train")) for corpus in data.corpora.values())


def test_bad_mixtures_are_refused_in_a_sentence(corpora, tmp_path):
    def refused(match: str, shares=None, stages=(), **options) -> None:
        with pytest.raises(UserError, match=match):
            make_data(both(corpora) if shares is None else shares, stages=list(stages), **options)

    code = corpora["code"]
    refused("no corpora", {})
    refused("weight of a, -0.1, must be 0 or more", {"a": Share(code, -0.1), "b": Share(code, 1)})
    refused("weight of a, nan", {"a": Share(code, float("nan"))})
    refused("less than a millionth", {"a": Share(code, 1), "b": Share(code, 1e-7)})
    refused("all weights are 0", {"a": Share(code, 0), "b": Share(code, 0)})
    refused(r"`mixture\.a\.repeats` -1 must be above 0", {"a": Share(code, 1, repeats=-1)})
    refused("'a/b' names figures", {"a/b": Share(code, 1)})
    refused("weight for 'cod', which is not in the mixture: code, text", stages=[Stage(5, {"cod": 1})])
    refused("from step 5 on: all weights are 0", stages=[Stage(5, {"code": 0})])
    refused("from step 5 on: the weight of code, -1", stages=[Stage(5, {"code": -1})])
    refused("begin at step 5, then at 5", stages=[Stage(5, {"code": 1}), Stage(5, {"text": 1})])
    refused("begin at step 0, then at 0", stages=[Stage(0, {"code": 1})])
    refused("`corpus` or `mixture`, not both", corpus=code)
    with pytest.raises(UserError, match="`stages` change the weights of a `mixture`"):
        PretrainingData(code, stages=[Stage(5, {"code": 1})])
    data = make_data({"a": Share(code, 1), "b": Share(corpora["other"], 1)})
    with pytest.raises(
        UserError,
        match=rf"a \({code}\) and b .* different tokenizers: prepare b again with a's, --tokenizer .*model",
    ):
        data.setup()
    (tmp_path / "short.txt").write_text("too short")
    data = make_data({"a": Share(code, 1), "b": Share(str(tmp_path / "short.txt"), 1)})
    data.settings["b"] = replace(data.settings["b"], data_dir=str(tmp_path))
    data.prepare_data()
    with pytest.raises(UserError, match=r"the corpus b has .* too few for one window of 32"):
        data.setup()


def test_a_mixture_that_ends_too_early_is_refused_with_the_steps_there_are(corpora):
    model = Recorder()
    shares = {name: replace(share, repeats=0.5) for name, share in both(corpora).items()}
    data = make_data(shares)
    with pytest.raises(UserError, match=r"used up after \d+ steps, and `trainer.max_steps` is 5000") as error:
        make_trainer(max_steps=5000, limit_val_batches=0).fit(model, data)
    assert not model.trained
    steps = int(str(error.value).split()[6])
    assert steps == sum(part.windows // 2 for part in data._windows) // 4
    make_trainer(max_steps=steps, limit_val_batches=0).fit(model, make_data(shares))
    keys = [key for batch in model.trained for key in batch]
    assert len(set(keys)) == len(keys) == 4 * steps


def test_stages_stay_where_the_run_began_them(corpora, tmp_path):
    """A plain trainer may go on with smaller steps: the stage still begins at the same sample."""

    def fit(batch_size: int, steps: int, ckpt=None, begin=6, swapped=False) -> list[int]:
        model, shares = Recorder(), both(corpora)
        if swapped:
            shares["code"], shares["text"] = shares["text"], shares["code"]
        given = {"stages": [Stage(begin, {"text": 1})], "batch_size": batch_size}
        trainer = make_trainer(max_steps=steps, limit_val_batches=0)
        more = {"ckpt_path": ckpt, "weights_only": True} if ckpt else {}
        trainer.fit(model, make_data(shares, **given), **more)
        trainer.save_checkpoint(tmp_path / f"{batch_size}.ckpt")
        return [key for batch in model.trained for key in batch]

    whole = fit(4, 12)
    first = fit(4, 3)
    (tmp_path / "4.ckpt").rename(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["PretrainingData"]
    assert state["loader"] == {"epoch": 0, "samples": 12} and state["step_samples"] == 4
    assert first + fit(2, 3 + 18, tmp_path / "a.ckpt") == whole
    with pytest.raises(UserError, match="the mixture has changed since the run began"):
        fit(4, 12, tmp_path / "a.ckpt", begin=7)
    with pytest.raises(UserError, match="the corpus has changed since the run began"):
        fit(4, 12, tmp_path / "a.ckpt", swapped=True)


@pytest.fixture
def words(corpora, tiny_gpt, tmp_path) -> tuple[str, ...]:
    """A command that trains a tiny GPT on a mixture with a stage, and a corpus that is used up on the way."""
    shares = {"code": {"corpus": corpora["code"], "weight": 0.6}}
    shares["text"] = {"corpus": corpora["text"], "weight": 0.4, "repeats": 0.02}
    given = {"mixture": shares, "stages": [{"step": 5, "weights": {"code": 0.2, "text": 0.8}}]}
    data = {"class_path": "lm.data.PretrainingData", "init_args": given}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump({"data": data}))
    plain = [word for word in tiny_gpt if not word.startswith("--data.corpus")]
    return (*plain, "--config=mixture.yaml", "--trainer.max_steps=9", "--trainer.val_check_interval=9")


def test_killed_in_the_middle_it_goes_on_to_the_last_bit(ends_alike_though_killed, words):
    whole, killed = ends_alike_though_killed(
        *words, "--trainer.max_steps=20", "--checkpoint.every_n_steps=5", at="step 12/20", saved=10
    )
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, killed)]
    assert summaries[0]["val_bits_per_byte_text"] == summaries[1]["val_bits_per_byte_text"] > 0
    tags = ("loss/val", "loss/val_code", "loss/val_text", "bits_per_byte/val_code")
    assert all(scalars(whole, tag) == scalars(killed, tag) != {} for tag in tags)


def test_one_then_two_then_one(start_lm, words, tmp_path):
    """Over the stage's begin and the end of a corpus, every sample is seen once."""

    def fit(*more: str, status: int = 0) -> str:
        _, err = (process := start_lm("fit", *words, *PLAIN, *more)).communicate()
        assert process.returncode == status, err
        return err

    (tmp_path / "stop.py").write_text(STOP)
    fit("--name=whole")
    stop = ("--trainer.callbacks+=stop.Stop", "--trainer.callbacks.step")
    fit("--name=parts", stop[0], f"{stop[1]}=3", status=128 + signal.SIGTERM)
    two = (*overlay("ddp"), "--name=parts", stop[0], f"{stop[1]}=6")
    assert "goes on from step 3" in fit(*two, status=128 + signal.SIGTERM)
    assert "goes on from step 6" in fit("--name=parts")
    runs = tmp_path / "checkpoints"
    equal(runs / "whole", runs / "parts")
