"""What jsonargparse says of wrong usage, in a line or two, with the name that was probably meant."""

import re
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from lm.errors import UserError
from lm.run.configs import find
from lm.run.names import in_tree


def our_own(error: BaseException | None) -> UserError | None:
    """What our own code said, somewhere inside another's error; None where it said nothing."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


class UnknownOption(UserError):
    """There is no such option.

    Args:
        name: dotted, as far as the parser that missed it knows.
        known: the options that this one has.
    """

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no option {name}", status=2)
        self.name, self.known = name, known


def explain(message: str) -> str:
    """The part of a parser's message that a person needs.

    Args:
        message: as jsonargparse wrote it.
    """
    if problem := re.search(r"Problem with given class_path '([^']+)':\s+(?![\s-])(.+)", message):
        words = re.sub(r"^Parser key \"[\w.]+\": *", "", problem[2]).strip()
        if words and "class_path" not in words:
            return f"{problem[1]}: {words}"
    if re.search(r"following arguments are required: (--)?(model|data)\b", message):
        return "give a configuration: `lm fit gpt-nano` is one to start with, `lm configs` lists them"
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"there is no class {unknown[1]!r}: `lm fit --help` names ours; others by their whole path"
    key = re.search(r'Parser key "([\w.]+)"', message)
    # Of a union's errors the first says what is wrong, the others that it isn't None either. They nest.
    innermost = message.rpartition("Errors:\n")[2]
    union = re.match(r"\s*- (.*?)\n\s*(?:- |Given value)", innermost, re.DOTALL)
    text = union[1] if union else re.sub(r'^Parser key "[\w.]+":', "", message)
    choices = ", ".join(re.findall(r"Expected a typing\.Literal\[(.*?)\]", message)).replace("'", "")
    choices = ", ".join(dict.fromkeys(choices.split(", ")))
    text = re.sub(r"Expected a typing\.Literal\[.*?\]", lambda _: f"must be one of {choices}", text)
    given = re.search(r"(?:Given|Got) value: ([^\[\]{}\n]+)$", message.strip())
    a_list = f"write a list as '[{given[1] if given else 'a,b'}]'"
    text = re.sub(r"Expected a <class '(?:list|tuple)'>", lambda _: a_list, text)
    text = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).split())
    return (f"in {key[1]}: " if key else "") + (text if len(text) <= 400 else text[:400] + " …")


class Configuration(ActionConfigFile):
    """A YAML file, by its path or its name."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        super().__call__(parser, cfg, str(find(values)), option_string)


_yaml = get_loader("yaml")
# Whatever is read as YAML may name our classes shortly.
set_loader("yaml", lambda text, **options: in_tree(_yaml(text, **options)), (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Wrong usage becomes one or two lines. Each class among the options has a parser of its own, whose word
    goes before that of the one around it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]  # its bases differ
        """Raise what was found, in fewer words."""
        if ours := our_own(ex):
            raise ours from ex
        if unknown := re.search(r"(?:[Oo]ption '|unrecognized arguments: --?)([\w.-]+)", message):
            raise UnknownOption(unknown[1].lstrip("-"), [a.dest for a in self._actions]) from ex
        raise UserError(explain(message), status=2) from ex
