"""When two configurations are one run, which folder is a run's, and what is left of one that never began."""

import shutil

import pytest
import yaml

from lm.run.folder import differences, identity, remove_unused

CONFIGURATION = {
    "name": "a",
    "seed_everything": 0,
    "data": {"init_args": {"batch_size": 8, "seq_len": 4, "num_workers": 0}},
    "model": {"init_args": {"backbone": {"num_layers": 2}}},
    "trainer": {"accumulate_grad_batches": 2, "devices": 1, "max_steps": 5, "callbacks": None},
}


def changed(**changes) -> list[str]:
    """The differences that dotted keys (with __ for a dot) make."""
    other = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIGURATION.items()}
    for key, value in changes.items():
        *path, last = key.split("__")
        tree = other
        for part in path:
            tree[part] = dict(tree[part])
            tree = tree[part]
        tree[last] = value
    return differences(identity(other), identity(CONFIGURATION))


def test_where_and_how_it_runs_is_no_part_of_a_run():
    assert changed(name="b", trainer__devices="auto", trainer__callbacks=["X"]) == []
    assert changed(data__init_args__batch_size=4, trainer__accumulate_grad_batches=4) == []


def test_what_is_learned_is():
    assert changed(seed_everything=1) == ["seed_everything 0 → 1"]
    assert changed(trainer__max_steps=6) == ["trainer.max_steps 5 → 6"]
    assert changed(data__init_args__seq_len=8) == ["data.seq_len 4 → 8"]
    assert changed(model__init_args__backbone={"num_layers": 3}) == ["model.backbone.num_layers 2 → 3"]


def test_the_configuration_is_left_as_it_is():
    before = repr(CONFIGURATION)
    identity(CONFIGURATION)
    assert repr(CONFIGURATION) == before


@pytest.fixture
def copied(trained, tmp_path):
    """The folder `checkpoints` with the run `gpt` and a copy of it, `copy`, whose config.yaml says `gpt`."""
    folder = tmp_path / "checkpoints"
    for name in ("gpt", "copy"):
        shutil.copytree(trained / "checkpoints/gpt", folder / name)
    shutil.copytree(trained / "data", tmp_path / "data")
    return folder


def test_a_run_s_own_configuration_means_the_run_in_that_folder(lm, copied):
    words = ("--config", "checkpoints/copy/config.yaml", "--trainer.limit_predict_batches=1")
    assert "checkpoints/copy/best.ckpt: " in lm("test", *words).out
    assert "checkpoints/copy/best.ckpt: " in lm("validate", *words).out
    assert lm("predict", *words).status == 0
    assert (copied / "copy/predictions.jsonl").exists() and not (copied / "gpt/predictions.jsonl").exists()
    (copied / "copy").rename(copied / "renamed")
    shutil.rmtree(copied / "gpt")
    (copied / "renamed/best.ckpt").unlink()
    assert "checkpoints/renamed/last.ckpt: " in lm("test", "--config=checkpoints/renamed/config.yaml").out


def test_a_name_or_a_checkpoint_that_was_typed_goes_before_the_folder(lm, copied):
    words = ("test", "--config", "checkpoints/copy/config.yaml")
    for more in ("--name=gpt", "--ckpt_path=checkpoints/gpt/best.ckpt"):
        assert "checkpoints/gpt/best.ckpt: " in lm(*words, more).out


def test_what_a_run_went_on_from_is_not_what_is_tested(lm, copied):
    path = copied / "copy/config.yaml"
    path.write_text(
        yaml.safe_dump({**yaml.safe_load(path.read_text()), "ckpt_path": "checkpoints/gpt/last.ckpt"})
    )
    assert "checkpoints/copy/best.ckpt: " in lm("test", "--config", "checkpoints/copy/config.yaml").out


@pytest.mark.parametrize(
    "more", ["--checkpoint.every_n_steps=0", "--data.corpus=nowhere.txt", "--data.seq_len=9999999"]
)
@pytest.mark.parametrize("how", ["--name=a", "--name=a/b", "--seeds=0,1"])
def test_a_command_that_fails_before_it_trains_leaves_no_folder(lm, tiny_gpt, tmp_path, more, how):
    words = [word for word in tiny_gpt if not word.startswith(more.split("=", maxsplit=1)[0])]
    assert lm("fit", *words, how, more).status != 0
    assert [*(tmp_path / "checkpoints").rglob("*")] == []


def test_a_folder_that_was_there_or_is_in_use_stays(lm, tiny_gpt, tmp_path):
    folder = tmp_path / "checkpoints/a"
    folder.mkdir(parents=True)
    assert lm("fit", *tiny_gpt, "--name=a", "--checkpoint.every_n_steps=0").status != 0
    assert folder.exists()
    (folder / ".lock").touch()
    (folder / "config.yaml").touch()
    remove_unused([folder])
    assert {path.name for path in folder.iterdir()} == {".lock", "config.yaml"}
