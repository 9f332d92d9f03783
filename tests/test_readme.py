"""What the README and docs/ say is so, and the Chinese ones say the same."""

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lm.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [("README.md", "README.zh-CN.md")]
PAIRS += [(f"docs/{path.name}", f"docs/{path.stem}.zh-CN.md") for path in (ROOT / "docs").glob("[a-z]*.md")]
PAIRS = [pair for pair in PAIRS if "zh-CN" not in pair[0]]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README, CHINESE = map(read, PAIRS[0])


def blocks(text: str) -> list[str]:
    """The fenced blocks of a Markdown text."""
    return re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The lines of the fenced blocks that run `lm`, as words."""
    lines = [part for block in blocks(text) for line in block.splitlines() for part in line.split("&&")]
    found = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("lm ")]
    return [words for words in found if words[1] in COMMANDS]


# What stands for something of the reader's own.
OWN = {
    "FILE": "gpt-nano",
    "checkpoints/mine/config.yaml": "gpt-nano",
    "checkpoints/gpt-nano": "gpt-nano",
    "checkpoints/texts": "texts",
}


def chosen(tree: dict, option: str) -> object:
    """The value of an option in a configuration, in which classes keep theirs under `init_args`."""
    for part in option.split("."):
        tree = tree[-1] if isinstance(tree, list) else tree  # what was added to a list
        tree = tree[part] if part in tree else tree["init_args"][part]
    return tree.get("class_path", tree) if isinstance(tree, dict) else tree


@pytest.mark.parametrize(
    "words", [words for pair in PAIRS for words in commands(read(pair[0]))], ids=" ".join
)
def test_every_command_is_one(lm, words):
    """Those that train and evaluate take each option, and it lands where it should; the others have it."""
    command, *rest = words[1:]
    following = pairwise([*rest, ""])
    options = {word[2:]: value for word, value in following if word.startswith("--") and "+=" not in word}
    if command not in ("fit", "validate", "test", "predict") or "help" in options:
        known = lm(command, "--help").out
        if command == "sweep":  # what has a dot is an option of `lm fit`, the same in every trial
            options = {name: value for name, value in options.items() if "." not in name}
        assert [name for name in options if f"--{name}" not in known and name != "help"] == []
        return
    if "--seeds" in rest:
        at = rest.index("--seeds")
        rest = rest[:at] + rest[at + 2 :]
    first = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    result = lm(command, *(OWN.get(word, word) for word in rest[:first]), *rest[first:], "--print_config")
    assert result.status == 0, result.err
    tree = yaml.safe_load(result.out)
    assert tree["model"]["class_path"].startswith("lm.")
    for name in options.keys() - {"config", "seeds", "print_config"}:
        found, given = chosen(tree, name), yaml.safe_load(options[name])
        found = yaml.safe_load(found) if isinstance(found, str) else found  # devices may be a text
        assert found == (float(given) if isinstance(found, float) else given), name


def python(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_notebook_runs(tmp_path, monkeypatch):
    block = python(read("docs/python.md"))[1]
    monkeypatch.chdir(tmp_path)
    rows = [f"{word} {i},{word}" for i in range(30) for word in ("good", "bad")]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    small = {"seq_len=64": "seq_len=64, vocab_size=285", "causal=False": "causal=False, hidden_size=32"}
    for old, new in small.items():
        assert old in block
        block = block.replace(old, new)
    names: dict = {}
    exec(block, names)
    assert names["trainer"].callback_metrics["test/accuracy"] > 0.4


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_using_a_model_runs(tmp_path, monkeypatch, trained, capsys, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "checkpoints/gpt", "checkpoints/gpt-nano")
    exec(python(read(name))[0], names := {})
    assert capsys.readouterr().out
    assert names["model"].config.causal


def test_every_command_is_in_the_readme():
    for text in (README, CHINESE):
        for name in COMMANDS:
            assert re.search(rf"`(lm )?{name}`", text), name


def test_the_first_screen_has_the_two_commands():
    expected = "pip install -e . && lm fit gpt-nano\npip install -e '.[test]' && pytest\n"
    assert blocks(README)[0] == blocks(CHINESE)[0] == expected
    assert "pip install -q --disable-pip-version-check -e '.[test]'" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_both_languages_have_the_same_commands_figures_and_links(pair):
    english, chinese = map(read, pair)
    ours, theirs = commands(english), commands(chinese)
    assert [words[:3] for words in ours] == [words[:3] for words in theirs]
    assert python(english) == python(chinese)
    for pattern in (r"^#+ ", r"^\|", r"\]\(([^)]+)\)"):
        left, right = (re.findall(pattern, text, re.MULTILINE) for text in (english, chinese))
        plain = [[found.replace(".zh-CN", "") for found in side] for side in (left, right)]
        assert plain[0] == plain[1], pattern
    numbers = [set(re.findall(r"[\d.,]*\d{3}[\d.,]*", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("name", [*(name for pair in PAIRS for name in pair), "CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(name):
    text, folder = read(name), (ROOT / name).parent
    for path in re.findall(r"\b((?:configs|tests|lm)/[\w/.-]*\w)", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / link).exists(), link
