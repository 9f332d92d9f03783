"""The Dockerfile against the project: what it copies, installs, writes and starts. No Docker is needed."""

import fnmatch
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from lm.data import PretrainingData
from lm.data.corpus.prepare import CorpusSettings
from lm.run.folder import RUNS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each as its word and the rest."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def all_of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def argument(name: str) -> str:
    return next(rest.partition("=")[2] for rest in all_of("ARG") if rest.partition("=")[0] == name)


def copied() -> list[str]:
    """What is copied out of the checkout."""
    return [path for rest in all_of("COPY") if "--from" not in rest for path in rest.split()[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that matches it or a parent decides."""
    parts, verdict = Path(path).parts, False
    heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        names = parts if "**/" in line else heads
        if line and not line.startswith("#") and any(fnmatch.fnmatchcase(name, pattern) for name in names):
            verdict = not line.startswith("!")
    return verdict


def shell(command: str, path: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a RUN instruction's command with nothing but the commands in one folder."""
    environment |= {"PATH": str(path)}
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_what_is_copied_exists_and_is_sent() -> None:
    assert {"lm", "configs", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied())
    for path in copied():
        assert (ROOT / path).exists(), path
        assert not ignored(path), path


@pytest.mark.parametrize(
    "path",
    [
        *(".git", "data/x/train-00000.bin", str(RUNS / "run/last.ckpt"), "my.txt", "tests", "dist"),
        *(".env", ".venv", "venv", ".ruff_cache", "lm/__pycache__", "lm/data/corpus/__pycache__/x.pyc"),
    ],
)
def test_nothing_else_is_sent(path: str) -> None:
    assert ignored(path)


def test_the_corpus_code_is_sent() -> None:
    assert not ignored("lm/data/corpus/prepare.py")
    assert not ignored("configs/pretrain/gpt-nano.yaml")


def test_it_starts_the_projects_command() -> None:
    (entry,) = map(json.loads, all_of("ENTRYPOINT"))
    assert len(entry) == 1
    assert entry[0] in PROJECT["scripts"]
    assert list(map(json.loads, all_of("CMD"))) == [["--help"]]


def test_the_user_is_not_root() -> None:
    user = all_of("USER")[-1]
    assert re.fullmatch(r"\$\{\w+\}", user)
    assert int(argument(user[2:-1])) > 0
    assert [word for word, _ in instructions()].index("USER") > max(
        n for n, (word, _) in enumerate(instructions()) if word in ("RUN", "COPY")
    )


def test_volumes_are_the_folders_that_are_written() -> None:
    (work,) = all_of("WORKDIR")
    data_dir = inspect.signature(PretrainingData).parameters["data_dir"].default
    assert {data_dir} == {field.default for field in fields(CorpusSettings) if field.name == "data_dir"}
    folders = [f"{work}/{data_dir}", f"{work}/{RUNS}"]
    (volumes,) = map(json.loads, all_of("VOLUME"))
    assert volumes == folders
    (owned,) = (rest for rest in all_of("RUN") if "install -d" in rest)
    assert owned.split("install -d")[1].split()[-2:] == folders
    words = [word for word, _ in instructions()]
    assert words.index("VOLUME") > instructions().index(
        ("RUN", owned)
    )  # what is done to a volume later is lost


def test_the_base_is_a_python_that_the_project_takes() -> None:
    version = re.match(r"python:(\d+)\.(\d+)-slim", argument("BASE"))
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert tuple(map(int, version.groups())) >= tuple(map(int, least))


def test_requirements_are_the_projects_and_come_before_its_source(tmp_path: Path) -> None:
    (extract,) = (rest for rest in all_of("RUN") if "tomllib" in rest)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to(sys.executable)
    (bin_ / "grep").symlink_to(shutil.which("grep"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = shell(extract.replace("cd /", f"cd {tmp_path}"), bin_, tmp_path)
    assert not done.returncode, done.stderr
    found = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *(line for name in ("zst", "parquet", "hf", "lora", "metrics") for line in extras[name]),
        *PYPROJECT["build-system"]["requires"],
    ]
    assert sorted(found) == sorted(wanted)
    torch = [line for line in wanted if re.match(r"torch\b", line)]
    assert (tmp_path / "torch.txt").read_text(encoding="utf-8").splitlines() == torch
    assert len(torch) == 1

    order = [rest for word, rest in instructions() if word in ("RUN", "COPY")]
    source = next(n for n, rest in enumerate(order) if rest.startswith("lm "))
    assert all(n < source for n, rest in enumerate(order) if "pip install" in rest and "-r " in rest)
    assert (
        "--no-deps --no-build-isolation" in order[source + 2]
    )  # behind the configurations, which ship in the wheel


@pytest.mark.parametrize(
    ("variant", "index", "installed"),
    [
        ("cpu", "https://index.test/cpu", ["pip install --index-url https://index.test/cpu -r"]),
        ("cpu", "", ["pip install -r"]),
        ("cuda", "https://index.test/cpu", ["apt-get install", "pip install -r"]),
        ("gpu", "", []),
    ],
)
def test_variants(tmp_path: Path, variant: str, index: str, installed: list[str]) -> None:
    """The real command, with commands that only say how they were called."""
    for name in ("pip", "apt-get", "rm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (command,) = (rest for rest in all_of("RUN") if "torch.txt" in rest and "pip install" in rest)
    done = shell(command, tmp_path, tmp_path, VARIANT=variant, CPU_INDEX=index)
    said = [line for line in done.stdout.splitlines() if " install " in line]
    assert bool(done.returncode) == (variant == "gpu")
    assert len(said) == len(installed)
    assert all(line.startswith(start) for line, start in zip(said, installed, strict=True))
    assert done.returncode == 0 or "cpu or cuda" in done.stderr
