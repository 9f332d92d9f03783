"""A wing stands beside the core: with it there is one command more, without it all the rest still works."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = """
import importlib, pkgutil, lm
from lm.cli import COMMANDS
for module in pkgutil.walk_packages(lm.__path__, "lm."):
    if module.name != "lm.__main__":
        importlib.import_module(module.name)
for _, module, function in COMMANDS.values():
    assert callable(getattr(importlib.import_module(module), function))
print(len(COMMANDS), lm.__file__)
"""


@pytest.fixture
def copy(tmp_path) -> Path:
    """The project's own code."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lm", tmp_path / "lm", ignore=ignore, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def floors(folder: Path) -> subprocess.CompletedProcess:
    return python(folder, "-c", "import sys; from importlinter.cli import lint_imports_command as c; c()")


def without(folder: Path, *wings: str) -> None:
    """Delete wings: their folders, and their lines in the table of commands."""
    table = folder / "lm/cli.py"
    lines = table.read_text().splitlines(True)
    for wing in wings:
        shutil.rmtree(folder / "lm" / wing)
        lines = [line for line in lines if f'"lm.{wing}.' not in line]
    table.write_text("".join(lines))


def test_a_wing_can_be_deleted(copy):
    assert floors(copy).returncode == 0
    without(copy, "audit")
    rest = python(copy, "-c", EVERYTHING)
    assert rest.returncode == 0, rest.stderr
    assert str(copy) in rest.stdout
    kept = floors(copy)
    assert kept.returncode == 0, kept.stdout
    gone = python(copy, "-m", "lm", "audit", "x")
    assert (gone.returncode, "there is no command 'audit'" in gone.stderr) == (2, True)


def test_a_server_without_the_wing_that_it_asks(copy, trained):
    without(copy, "audit")
    model = str(trained / "checkpoints/gpt")
    refused = python(copy, "-m", "lm", "serve", model, "--port=0", "--require-audit")
    assert (refused.returncode, "this lm makes none" in refused.stderr) == (1, True), refused.stderr


def test_without_any_wing_the_rest_works(copy):
    without(copy, "audit", "evaluation", "tuning", "compression", "serving")
    rest = python(copy, "-c", EVERYTHING)
    assert rest.returncode == 0, rest.stderr
    assert floors(copy).returncode == 0
    gone = python(copy, "-m", "lm", "eval", "x")
    assert (gone.returncode, "there is no command 'eval'" in gone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("tasks/base.py", "import lm.audit", "A file imports only from the floors beneath its own"),
        ("data/windows.py", "import lm.data.loading", "Nothing goes in circles, inside packages too"),
        ("backbone/config.py", "import lm.optim", "A file imports only from the floors beneath its own"),
    ],
)
def test_what_breaks_the_floors_is_noticed(copy, file, line, broken):
    path = copy / "lm" / file
    path.write_text(path.read_text() + f"\n{line}\n")
    found = floors(copy)
    assert found.returncode == 1
    assert f"{broken} BROKEN" in found.stdout
