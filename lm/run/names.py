"""Classes of lm by their last name alone, in configurations and on the command line: `TextData` means
`lm.data.TextData`. A class of one's own is named by its whole path."""

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import Any

import yaml

import lm.data
import lm.optim
import lm.tasks
from lm.errors import UserError
from lm.processes import say
from lm.run.configs import find

# The options that take a class, and the package that has ours.
PLACES = {"model": lm.tasks, "data": lm.data, "optimizer": lm.optim, "schedule": lm.optim}


def full(name: Any, place: str) -> Any:
    """The whole path of a class of ours; anything else as it is."""
    package = PLACES.get(place)
    if package is None or not isinstance(name, str) or not name[:1].isupper() or name not in dir(package):
        return name
    return f"{package.__name__}.{name}"


def in_tree(tree: Any, place: str = "") -> Any:
    """A configuration with every class by its whole path."""
    if isinstance(tree, dict):
        return {
            key: in_tree(part, place if key == "class_path" else key)
            if isinstance(part, dict) or key in PLACES or key == "class_path"
            else part
            for key, part in tree.items()
        }
    return full(tree, place)


def in_words(argv: Sequence[str]) -> list[str]:
    """A command's words with every class by its whole path."""
    words: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            words.append(full(word, _place(words[-1])) if words and "=" not in words[-1] else word)
        else:
            words.append(f"{option}={full(value, _place(option))}" if equals else word)
    return words


def options_in(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options among the words, each with its value, that behind `=` or the word that follows."""
    for word, following in pairwise([*argv, ""]):
        option, equals, value = word.partition("=")
        if word.startswith("-"):
            yield option, value if equals else following


def _place(option: str) -> str:
    """Of the value of `--model.optimizer` it is `optimizer`; of what follows no such option nothing."""
    if not option.startswith("--"):
        return ""
    return option[2:].removesuffix(".help").removesuffix(".class_path").rpartition(".")[2]


def renewed(argv: Sequence[str]) -> list[str]:
    """The words that give an optimizer its own defaults in the place of what a configuration has given to
    another one: the learning rate of Muon is none for AdamW.

    Args:
        argv: the command's words, which `in_words` has gone over.
    """
    before, current = "", ""
    given: set[str] = set()
    for named, options in (*map(_optimizer_in, _configurations(argv)), _optimizer_typed(argv)):
        choice = f"torch.optim.{named}" if named and "." not in named else named
        if choice and choice != current:
            before, current, given = current, choice, set()
        given |= options
    if not before:
        return []
    try:
        own, theirs = _defaults(current), _defaults(before)
    except (ImportError, AttributeError, ValueError):
        return []  # the parser says what is wrong
    name = current.rpartition(".")[2]
    if "lr" in own and "lr" not in given:
        other = before.rpartition(".")[2]
        say(f"{name} begins with its own learning rate, {own['lr']}, not {other}'s (--model.optimizer.lr)")
    shared = sorted(own.keys() & theirs.keys() - given)
    return [f"--model.optimizer.{key}={json.dumps(own[key])}" for key in shared]


def _defaults(class_path: str) -> dict[str, Any]:
    """What an optimizer takes for the arguments that it isn't given."""
    module, _, name = class_path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    plain = bool | int | float | str | tuple | None  # what a word can say
    return {each.name: each.default for each in parameters if isinstance(each.default, plain)}


def _configurations(argv: Sequence[str]) -> Iterator[Any]:
    """The trees of the configurations among the words; what can't be read the parser will say."""
    for option, file in options_in(argv):
        if option in ("--config", "-c"):
            with suppress(UserError, OSError, UnicodeDecodeError, yaml.YAMLError):
                yield in_tree(yaml.safe_load(find(file).read_text(encoding="utf-8")))


def _optimizer_in(tree: Any) -> tuple[str, set[str]]:
    """The optimizer's class and the names of its options in a configuration."""
    found = tree
    for key in ("model", "init_args", "optimizer"):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, dict):
        return str(found.get("class_path") or ""), set(found.get("init_args") or {})
    return found if isinstance(found, str) else "", set()


def _optimizer_typed(argv: Sequence[str]) -> tuple[str, set[str]]:
    """The same among the words."""
    choice, options = "", set()
    for option, value in options_in(argv):
        if option in ("--model.optimizer", "--model.optimizer.class_path"):
            choice = value
        elif option.startswith("--model.optimizer."):
            options.add(option.rpartition(".")[2])
    return choice, options
