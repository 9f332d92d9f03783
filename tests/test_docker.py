"""The Dockerfile against the project: what it copies, installs, writes and starts. No Docker is needed."""

import fnmatch
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lm.data import PretrainingData
from lm.data.corpus.prepare import CorpusSettings
from lm.run.folder import RUNS
from lm.serving import command as serve
from lm.serving.guard import OPEN

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, each as its word and the rest."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage and of those that it is built on."""
    found: list[tuple[str, str]] = []
    base = None
    for word, rest in instructions():
        if word == "FROM":
            base, _, here = rest.split()
        elif base and here == name:
            found.append((word, rest))
    (base,) = (rest.split()[0] for word, rest in instructions() if word == "FROM" and rest.split()[2] == name)
    return found if base == "${BASE}" else [*stage(base), *found]


def all_of(word: str, where: str | None = None) -> list[str]:
    return [rest for name, rest in (stage(where) if where else instructions()) if name == word]


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
    assert all_of("FROM")[-1].endswith(" AS train")  # what is built where no target is named
    assert list(map(json.loads, all_of("ENTRYPOINT", "train"))) == [["lm"]]
    assert list(map(json.loads, all_of("CMD", "train"))) == [["--help"]]
    assert "lm" in PROJECT["scripts"]


def test_the_server_is_reached_from_outside_where_it_says() -> None:
    """By the server's own parser, and with its port."""
    (entry,) = map(json.loads, all_of("ENTRYPOINT", "serve"))
    assert entry[:2] == ["lm", "serve"]
    args = serve._parser().parse([*entry[2:], "checkpoints/gpt-nano"])
    assert args.host == "0.0.0.0"
    assert all_of("EXPOSE", "serve") == [str(args.port)]
    assert list(map(json.loads, all_of("CMD", "serve"))) == [["--help"]]


@pytest.mark.parametrize(("answer", "status"), [(200, 0), (503, 1), (None, 1)])
def test_the_check_of_health(answer: int | None, status: int) -> None:
    """The real command, asked of a server that is well, stops or is not there, past a proxy that is none."""
    (check,) = all_of("HEALTHCHECK", "serve")
    command = json.loads(check.partition("CMD ")[2])
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answer or 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1]
        if answer is None:
            server.socket.close()
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        (default,) = all_of("EXPOSE", "serve")
        assert f":{default}/" in command[-1]
        code = command[-1].replace(f":{default}/", f":{port}/")
        assert command[:-1] == ["python", "-c"]
        environment = {"http_proxy": "http://127.0.0.1:9", "PATH": ""}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        if answer is not None:
            server.shutdown()
    assert done.returncode == status, done.stderr
    assert asked == ["/health"] * (answer is not None)
    assert "/health" in OPEN  # without a key


@pytest.mark.parametrize("name", ["serve", "train"])
def test_the_user_is_not_root(name: str) -> None:
    (user,) = all_of("USER", name)
    assert re.fullmatch(r"\$\{\w+\}", user)
    assert int(argument(user[2:-1])) > 0
    words = [word for word, _ in stage(name)]
    assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("RUN", "COPY"))


def test_volumes_are_the_folders_that_are_written() -> None:
    (work,) = all_of("WORKDIR")
    data_dir = inspect.signature(PretrainingData).parameters["data_dir"].default
    assert {data_dir} == {field.default for field in fields(CorpusSettings) if field.name == "data_dir"}
    folders = [f"{work}/{data_dir}", f"{work}/{RUNS}"]
    (volumes,) = map(json.loads, all_of("VOLUME", "train"))
    assert volumes == folders
    (owned,) = (rest for rest in all_of("RUN") if "install -d" in rest)
    assert owned.split("install -d")[1].split()[-2:] == folders
    words = [word for word, _ in stage("train")]
    assert words.index("VOLUME") > stage("train").index(
        ("RUN", owned)
    )  # what is done to a volume later is lost
    assert ("RUN", owned) in stage("serve")  # either may be the first to have a volume


def test_the_base_is_a_python_that_the_project_takes() -> None:
    version = re.match(r"python:(\d+)\.(\d+)-slim", argument("BASE"))
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert tuple(map(int, version.groups())) >= tuple(map(int, least))


def test_requirements_are_the_projects(tmp_path: Path) -> None:
    (extract,) = (rest for rest in all_of("RUN") if "tomllib" in rest)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to(sys.executable)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    extras = {"SERVE_EXTRAS": argument("SERVE_EXTRAS").strip('"')}
    done = shell(extract.replace("cd /", f"cd {tmp_path}"), bin_, tmp_path, **extras)
    assert not done.returncode, done.stderr

    def found(name: str) -> list[str]:
        return (tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines()

    def wanted(*names: str) -> list[str]:
        return PROJECT["dependencies"] + [line for name in names for line in extra[name]]

    extra = PROJECT["optional-dependencies"]
    assert found("core") == wanted()
    assert found("serve") == wanted("hf", "serve")
    assert found("train") == wanted("zst", "parquet", "hf", "lora", "metrics")
    assert found("build") == PYPROJECT["build-system"]["requires"]
    assert found("torch") == [line for line in wanted() if re.match(r"torch\b", line)]
    assert len(found("torch")) == 1


@pytest.mark.parametrize("name", ["serve", "train"])
def test_what_changes_often_comes_last(name: str) -> None:
    order = [rest for word, rest in stage(name) if word in ("RUN", "COPY")]
    package = next(n for n, rest in enumerate(order) if rest.startswith("--from=wheel"))
    assert f"pip install -r /opt/lm/{name}.txt" in order[:package]
    assert order[package + 1 :] == ["pip install --no-deps /opt/lm/*.whl"]
    assert not [rest for rest in order if rest.startswith("lm ")]  # its source is in no image
    made = [rest for word, rest in stage("wheel") if word in ("RUN", "COPY")]
    assert made.index("configs /src/configs") < len(made) - 1  # which ship in the wheel
    assert "--no-deps --no-build-isolation" in made[-1]


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
