"""The datamodule with a real Trainer: N + M steps with a stop between equal N + M without, wherever it is."""

import inspect
import json
import logging
import random

import lightning.pytorch as pl
import pytest
import torch

from lm.data import PretrainingData
from lm.data.corpus.prepare import CorpusSettings, prepare
from lm.errors import UserError

SEQ_LEN, BATCH = 8, 2


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A prepared corpus with some 30 training windows."""
    folder = tmp_path_factory.mktemp("corpus")
    choose = random.Random(0)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "that",
        "it",
        "was",
        "good",
        "to",
        "be",
        "there",
    ]
    rows = [" ".join(choose.choices(words, k=8)) for _ in range(30)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return prepare(CorpusSettings(str(folder / "a.jsonl"), 310, val_fraction=0.1, data_dir=str(folder)))


def make_data(corpus, **options) -> PretrainingData:
    return PretrainingData(str(corpus), **{"seq_len": SEQ_LEN, "batch_size": BATCH} | options)


class Recorder(pl.LightningModule):
    """Learns something that depends on the order of the batches, and notes each batch it has trained on."""

    def __init__(self, fail_at: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        if len(self.trained) == self.fail_at:
            raise KeyError("a step that fails")
        self.trained.append(batch["key"].tolist())
        return (self.weight - batch["tokens"].float().mean() / 100).square().sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch["key"].tolist())

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def make_trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = quiet | {"enable_checkpointing": False, "num_sanity_val_steps": 0, "max_epochs": -1}
    return pl.Trainer(accelerator="cpu", **defaults | options)


class Saver(pl.Callback):
    """Saves where real runs are stopped: at the end of each optimizer step, and where a step fails."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.path)

    def on_exception(self, trainer, module, error):
        trainer.save_checkpoint(self.path)


def fit(corpus, ckpt=None, save=None, data_options=None, **options) -> Recorder:
    model = Recorder()
    trainer = make_trainer(**options, callbacks=[Saver(save)] if save else [])
    trainer.fit(
        model, make_data(corpus, **data_options or {}), ckpt_path=ckpt, weights_only=True if ckpt else None
    )
    return model


def epoch_batches(corpus, accumulate: int = 1) -> int:
    data = make_data(corpus)
    data.setup()
    return data.train_windows.windows // BATCH // accumulate * accumulate


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (0, 2), (2, 1), (2, 2)])
def test_a_stop_changes_nothing(corpus, tmp_path, workers, accumulate):
    per_epoch = epoch_batches(corpus, accumulate) // accumulate  # optimizer steps
    assert per_epoch >= 5
    total = 2 * per_epoch + 3
    options = {"accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    whole = fit(corpus, max_steps=total, **options)
    assert len(whole.trained) == total * accumulate
    assert len({tuple(keys) for keys in whole.trained}) == len(whole.trained), "a batch came twice"
    stops = (1, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch) if workers == 0 else (2, per_epoch)
    for stop in stops:
        data_options = {"num_workers": workers}
        first = fit(corpus, save=tmp_path / "a.ckpt", max_steps=stop, data_options=data_options, **options)
        second = fit(corpus, tmp_path / "a.ckpt", max_steps=total, data_options=data_options, **options)
        assert first.trained + second.trained == whole.trained, stop
        assert torch.equal(second.weight, whole.weight), stop


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_train_end"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_stop_at_an_epoch_changes_nothing_where_epochs_are_counted(corpus, tmp_path, hook, epochs):
    """Lightning gives the loader its state back after only the first of these hooks."""
    whole = fit(corpus, max_epochs=4)
    saver = pl.Callback()
    setattr(saver, hook, lambda trainer, *_: trainer.save_checkpoint(tmp_path / "a.ckpt"))
    first, trainer = Recorder(), make_trainer(max_epochs=epochs, callbacks=[saver])
    trainer.fit(first, make_data(corpus))
    second = fit(corpus, tmp_path / "a.ckpt", max_epochs=4)
    assert first.trained + second.trained == whole.trained
    assert torch.equal(second.weight, whole.weight)


@pytest.mark.parametrize("every", [3, 5])
def test_a_checkpoint_from_a_callback_in_the_middle_continues_exactly(corpus, tmp_path, every):
    """As runs are really stopped: the last checkpoint is older than the last step."""
    total = 2 * epoch_batches(corpus) + 3
    options = {"max_steps": total, "val_check_interval": 4, "check_val_every_n_epoch": None}
    whole = fit(corpus, **options)
    saver = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1
    )
    model, trainer = Recorder(), make_trainer(**options, callbacks=[saver], enable_checkpointing=True)
    trainer.fit(model, make_data(corpus))
    assert model.trained == whole.trained
    for path in sorted(tmp_path.glob("*.ckpt")):
        step = int(path.stem.removeprefix("step="))
        if step < total:
            resumed = fit(corpus, path, **options)
            assert resumed.trained == whole.trained[step:], step
            assert torch.equal(resumed.weight, whole.weight), step


def test_a_batch_whose_step_failed_is_trained_on_after_the_resume(corpus, tmp_path):
    total = epoch_batches(corpus) + 4
    whole = fit(corpus, max_steps=total, limit_val_batches=0)
    for fail_at in (3, epoch_batches(corpus) - 1, epoch_batches(corpus)):
        model = Recorder(fail_at)
        trainer = make_trainer(max_steps=total, limit_val_batches=0, callbacks=[Saver(tmp_path / "a.ckpt")])
        with pytest.raises(KeyError):
            trainer.fit(model, make_data(corpus))
        resumed = fit(corpus, tmp_path / "a.ckpt", max_steps=total, limit_val_batches=0)
        assert model.trained + resumed.trained == whole.trained
        assert torch.equal(resumed.weight, whole.weight)


def test_a_limit_on_batches_makes_short_epochs_of_the_same_order(corpus, tmp_path):
    options = {"max_steps": 10, "limit_train_batches": 4, "limit_val_batches": 0}
    whole = fit(corpus, **options)
    assert whole.trained == fit(corpus, max_steps=10, limit_val_batches=0).trained
    for stop in (3, 4, 5, 8):
        first = fit(corpus, save=tmp_path / "a.ckpt", **options | {"max_steps": stop})
        second = fit(corpus, tmp_path / "a.ckpt", **options)
        assert first.trained + second.trained == whole.trained, stop


def test_overfitting_sees_the_same_batches_again_and_again(corpus):
    model = fit(corpus, max_steps=6, overfit_batches=2, limit_val_batches=0)
    assert model.trained == model.trained[:2] * 3


def test_the_state_is_in_the_checkpoint_and_loads_with_weights_only(corpus, tmp_path):
    fit(corpus, save=tmp_path / "a.ckpt", max_steps=3, limit_val_batches=0)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert state["PretrainingData"]["loader"] == {"epoch": 0, "samples": 3 * BATCH}
    assert state["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"epoch": 0, "samples": 3 * BATCH}]


def test_validation_test_and_prediction_read_the_held_out_part(corpus):
    data, model, trainer = make_data(corpus), Recorder(), make_trainer(max_steps=1)
    trainer.validate(model, data, verbose=False)
    validated = list(model.validated)
    assert len(validated) == -(-data.val_windows.windows // BATCH) > 1
    trainer.test(model, data, verbose=False)
    assert model.validated == 2 * validated
    assert [keys.tolist() for keys in trainer.predict(model, data)] == validated


def test_two_processes_train_on_the_two_halves_and_resume_as_one(corpus, tmp_path):
    class Dump(pl.Callback):
        def on_train_end(self, trainer, module):
            torch.save(module.trained, tmp_path / f"{trainer.global_rank}.pt")

    trainer = make_trainer(
        max_steps=3,
        limit_val_batches=0,
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=True,  # Lightning's default must do no harm
        callbacks=[Dump(), Saver(tmp_path / "a.ckpt")],
    )
    trainer.fit(Recorder(), make_data(corpus, batch_size=BATCH // 2))
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = fit(corpus, max_steps=7, limit_val_batches=0)
    assert [[*a, *b] for a, b in zip(*halves, strict=True)] == whole.trained[:3]
    resumed = fit(corpus, tmp_path / "a.ckpt", max_steps=7, limit_val_batches=0)
    assert resumed.trained == whole.trained[3:]


def test_the_vocabulary_is_known_before_anything_is_prepared(corpus, tmp_path):
    assert PretrainingData(vocab_size=1234).vocab_size == 1234
    assert make_data(corpus).vocab_size == 310
    tokenizer = str(corpus / "tokenizer.model")
    assert PretrainingData(tokenizer=tokenizer, vocab_size=1234).vocab_size == 310
    with pytest.raises(UserError, match=r"absent\.model"):
        PretrainingData(tokenizer=str(tmp_path / "absent.model"))


def test_it_prepares_and_opens_the_corpus_once(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("some text that is long enough for a window " * 30)
    data = PretrainingData(
        str(tmp_path / "a.txt"), vocab_size=300, seq_len=8, data_dir=str(tmp_path / "data")
    )
    with pytest.raises(UserError, match="is not a prepared corpus"):
        data.setup()
    data.prepare_data()
    data.setup("fit")
    opened = data.corpus
    data.setup("validate")
    assert data.corpus is opened and data.source == str(opened.folder)
    assert data.train_tokens == opened.manifest["splits"]["train"]["tokens"]
    assert data.tokenizer.vocab_size == data.vocab_size == 300
    capsys.readouterr()
    other = PretrainingData(
        str(tmp_path / "a.txt"), vocab_size=300, seq_len=8, data_dir=str(tmp_path / "data")
    )
    other.prepare_data()
    assert "corpus found" in capsys.readouterr().err


def test_what_cannot_work_is_said(corpus):
    data = make_data(corpus, seq_len=100_000)
    with pytest.raises(
        UserError, match=r"training tokens, too few .* 100000 \+ 1: .*`seq_len` of \d+ or less"
    ):
        data.setup()
    for name in ("seq_len", "batch_size", "num_workers"):
        with pytest.raises(UserError, match=rf"`{name}`"):
            make_data(corpus, **{name: -1})


def test_every_option_has_its_help():
    arguments = inspect.getdoc(PretrainingData).split("Args:")[1]
    parameters = list(PretrainingData.__init__.__annotations__)
    assert all(f"    {name}: " in arguments for name in parameters if name != "return")
