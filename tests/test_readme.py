"""What the README says is so, and the Chinese one says the same."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

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


# What stands for something of the reader's own.
OWN = {
    "FILE": "configs/pretrain/gpt-nano.yaml",
    "checkpoints/mine/config.yaml": "configs/pretrain/gpt-nano.yaml",
    "checkpoints/texts/config.yaml": "configs/finetune/texts.yaml",
}


def chosen(tree: dict, option: str) -> object:
    """The value of an option in a configuration, in which classes keep theirs under `init_args`."""
    for part in option.split("."):
        tree = tree[part] if part in tree else tree["init_args"][part]
    return tree.get("class_path", tree) if isinstance(tree, dict) else tree


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_every_command_of_the_readme_is_one(lm, words):
    """Those that train and evaluate take each option, and it lands where it should; the others have it."""
    command, *rest = words[1:]
    following = zip(rest, [*rest[1:], ""], strict=True)
    options = {word[2:]: value for word, value in following if word.startswith("--")}
    if command not in ("fit", "validate", "test", "predict"):
        known = lm(command, "--help").out
        assert [name for name in options if f"--{name}" not in known] == []
        return
    if "--seeds" in rest:
        at = rest.index("--seeds")
        rest = rest[:at] + rest[at + 2 :]
    real = [OWN.get(word, word) for word in rest]
    real = [str(ROOT / word) if word.startswith("configs/") else word for word in real]
    result = lm(command, *real, "--print_config")
    assert result.status == 0, result.err
    tree = yaml.safe_load(result.out)
    assert tree["model"]["class_path"].startswith("lm.")
    for name in options.keys() - {"config", "seeds"}:
        found, given = chosen(tree, name), yaml.safe_load(options[name])
        assert found == (float(given) if isinstance(found, float) else given), name


def test_the_notebook_of_the_readme_runs(tmp_path, monkeypatch):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert block in CHINESE
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
