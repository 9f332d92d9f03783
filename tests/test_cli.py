"""The `lm` command before any of its parts is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from lm.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_command_with_a_line(lm, words):
    result = lm(*words)
    assert result.status == 0
    for name, (what, _, _f) in COMMANDS.items():
        assert f"  {name} " in result.out
        assert what in result.out


@pytest.mark.parametrize(
    "words", ["--help", "info --help", "generate --help", "fill --help", "prepare --help"]
)
def test_help_imports_neither_torch_nor_lightning(words):
    code = f"""
import sys
sys.argv = ["lm", *{words.split()!r}]
from lm.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "lightning", "tensorboard"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_python_m_lm_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "lm", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.strip() == __import__("lm").__version__


def test_an_unknown_command_is_usage_and_guesses(lm):
    result = lm("fitt")
    assert result.status == 2
    assert result.err == "lm: there is no command 'fitt': did you mean `lm fit`?\n"


def test_a_configuration_in_the_place_of_a_command_or_a_run_without_its_folder_is_guessed(
    lm, tmp_path, monkeypatch
):
    assert lm("gpt-nano").err == "lm: there is no command 'gpt-nano': did you mean `lm fit gpt-nano`?\n"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    result = lm("generate", "mine", "def")
    assert (result.status, "mine; did you mean checkpoints/mine?\n" in result.err) == (1, True)


def test_config_before_the_command_works_too(lm, tiny_gpt):
    result = lm(*tiny_gpt[:2], "fit", *tiny_gpt[2:], "--print_config")
    assert result.status == 0
    assert "hidden_size: 32" in result.out


def test_a_reader_that_leaves_early_is_no_error(trained):
    script = f"{sys.executable} -m lm info checkpoints/gpt | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=trained,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(lm, command):
    result = lm(command, "--help")
    assert (result.status, f"usage: lm {command}" in result.out) == (0, True), result.err
