"""Configurations by name: those that ship with lm, and those in a folder `configs/` of one's own."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lm
from lm.errors import UserError

OWN = Path("configs")


def shipped() -> Path:
    """The folder of the configurations that ship: inside the package where it is installed, beside it in a
    clone."""
    package = Path(lm.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


class Named(NamedTuple):
    """A configuration.

    Args:
        name: its path in the folder without `.yaml`, as `pretrain/gpt-nano`.
        path: of the file.
    """

    name: str
    path: Path

    @property
    def what(self) -> str:
        """What it says of itself first."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return re.split(r"\. |[.:;]$", first.lstrip("# "))[0] if first.startswith("#") else ""


def listed(folder: Path) -> Iterator[Named]:
    """The configurations of a folder, by name."""
    for path in sorted(folder.rglob("*.yaml")):
        yield Named(path.relative_to(folder).with_suffix("").as_posix(), path)


class Ambiguous(UserError):
    """A name that several configurations have."""


def find(word: str) -> Path:
    """The file that is meant: a path; or a name, with its folder or without, of one's own or of ours.

    Raises:
        UserError: there is none, or more than one.
    """
    path = Path(word).expanduser()
    if path.is_file():
        return path
    name = word.removeprefix("configs/").removesuffix(".yaml").removesuffix(".yml")
    folders = [OWN] if OWN.is_dir() and not (shipped().exists() and OWN.samefile(shipped())) else []
    for folder in (*folders, shipped()):
        known = list(listed(folder))
        found = [each for each in known if name in (each.name, each.path.stem)]
        exact = [each for each in found if each.name == name] or found
        if len(exact) > 1:
            names = " or ".join(each.name for each in exact)
            raise Ambiguous(f"the configuration {word!r} may be {names}: give one of them", status=2)
        if exact:
            return exact[0].path
    if path.is_dir():
        raise UserError(f"{word} is a folder, not a configuration: give a YAML file", status=2)
    stems = {part: each.name for each in listed(shipped()) for part in (each.name, each.path.stem)}
    near = difflib.get_close_matches(name, stems, n=1)
    hint = f"did you mean {near[0]}?" if near else "`lm configs` lists those that ship"
    raise UserError(f"no such configuration file: {word}; {hint}", status=2)


def is_configuration(word: str) -> bool:
    """Whether a word means a configuration, and not a model."""
    if Path(word).exists() or word.endswith((".yaml", ".yml")):
        return word.endswith((".yaml", ".yml"))
    try:
        find(word)
    except Ambiguous:
        raise
    except UserError:
        return False
    return True
