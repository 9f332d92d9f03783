"""Configurations by name, in any folder, also where lm is installed and not cloned."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from lm.run.configs import find, listed, shipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "word", ["gpt-nano", "pretrain/gpt-nano", "gpt-nano.yaml", "configs/pretrain/gpt-nano.yaml"]
)
def test_a_name_in_any_folder(here, word):
    assert find(word) == shipped() / "pretrain/gpt-nano.yaml"


def test_a_path_goes_first_then_one_s_own_then_ours(here):
    (here / "configs/mine").mkdir(parents=True)
    (here / "configs/mine/gpt-nano.yaml").touch()
    assert find("gpt-nano") == Path("configs/mine/gpt-nano.yaml")
    assert find("pretrain/gpt-nano").is_absolute()
    (here / "gpt-nano").touch()
    assert find("gpt-nano") == Path("gpt-nano")


def test_an_ambiguous_name(here, lm):
    for group in ("a", "b"):
        (here / "configs" / group).mkdir(parents=True)
        (here / "configs" / group / "x.yaml").write_text("name: x\n")
    result = lm("fit", "x")
    assert result.status == 2
    assert result.err == "lm fit: the configuration 'x' may be a/x or b/x: give one of them\n"
    assert "may be a/x or b/x" in lm("validate", "x").err


def test_a_name_that_is_none(lm):
    assert "gpt-nanu; did you mean gpt-nano?" in lm("fit", "gpt-nanu").err
    result = lm("fit", "--config", "q.yaml")
    assert (result.status, "`lm configs` lists" in result.err) == (2, True)


def test_they_are_listed_with_a_line_each_and_printed(lm):
    out = lm("configs").out
    for each in listed(shipped()):
        assert each.what and f"  {each.path.stem} " in out and each.what in out
    assert lm("configs", "sst2").out == (shipped() / "finetune/sst2.yaml").read_text()


def test_configurations_without_their_option_compose(lm):
    result = lm("fit", "gpt-nano", "trainer/cpu", "--name", "n", "--print_config")
    tree = yaml.safe_load(result.out)
    assert (tree["name"], tree["trainer"]["accelerator"], tree["trainer"]["max_steps"]) == ("n", "cpu", 1400)


def test_a_wheel_brings_the_configurations(tmp_path):
    """Installed in an environment of its own, beside what it depends on, and used in another folder."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(tmp_path / "clean", with_pip=False)
    (packages,) = (tmp_path / "clean").glob("lib/*/site-packages")
    # Of a folder that is named in a .pth the .pth files are not read: no editable install of lm is seen.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = tmp_path.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(packages)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (tmp_path / "elsewhere").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*words: str) -> str:
        command = [tmp_path / "clean/bin/python", "-m", "lm", *words]
        cwd = tmp_path / "elsewhere"
        return subprocess.run(
            command, cwd=cwd, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert str(packages / "lm/configs") in run("configs")
    assert "hidden_size: 128" in run("fit", "gpt-nano", "--print_config")
