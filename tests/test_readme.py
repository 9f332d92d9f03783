"""What the README says is so, and the Chinese one says the same."""

import re
import shlex
from pathlib import Path

import pytest

from lm.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def blocks(text: str) -> list[str]:
    """The fenced blocks of a Markdown text."""
    return re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The lines of the fenced blocks that run `lm`, as words."""
    lines = [part for block in blocks(text) for line in block.splitlines() for part in line.split("&&")]
    found = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("lm ")]
    return [words for words in found if words[1] in COMMANDS]


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_every_fit_of_the_readme_is_parsed(lm, words):
    if words[1] == "fit" and not {"FILE", "checkpoints/mine/config.yaml"} & set(words):
        paths = [str(ROOT / word) if word.startswith("configs/") else word for word in words[1:]]
        result = lm(*paths, "--print_config")
        assert result.status == 0, result.err
        assert "class_path: lm." in result.out


def test_every_command_is_in_the_readme():
    for text in (README, CHINESE):
        for name in COMMANDS:
            assert re.search(rf"`(lm )?{name}`", text), name


def test_the_first_screen_has_the_two_commands():
    expected = (
        "pip install -e . && lm fit --config configs/pretrain/gpt-nano.yaml\n"
        "pip install -e '.[test]' && pytest\n"
    )
    assert blocks(README)[0] == blocks(CHINESE)[0] == expected
    assert "pip install -q --disable-pip-version-check -e '.[test]'" in (ROOT / ".ci/run").read_text()


def test_both_languages_have_the_same_commands_figures_and_links():
    english, chinese = commands(README), commands(CHINESE)
    assert [words[:4] for words in english] == [words[:4] for words in chinese]
    assert blocks(README)[1] == blocks(CHINESE)[1]  # what a person sees
    for pattern in (r"^#+ ", r"^\|", r"\]\((?!README)[^)]+\)"):
        left, right = (re.findall(pattern, text, re.MULTILINE) for text in (README, CHINESE))
        assert left == right, pattern
    assert set(re.findall(r"[\d.,]*\d{3}[\d.,]*", README)) == set(re.findall(r"[\d.,]*\d{3}[\d.,]*", CHINESE))


def test_every_file_that_is_named_is_there():
    for text in (README, CHINESE):
        for path in re.findall(r"\b((?:configs|tests|lm)/[\w/.-]*\w)", text):
            assert (ROOT / path).exists(), path
