"""What jsonargparse says of wrong usage, in a line or two, with the name that was probably meant."""

import difflib
import re
from collections.abc import Iterable

from lightning.pytorch.cli import LightningArgumentParser

from lm.errors import UserError


def our_own(error: BaseException | None) -> UserError | None:
    """What our own code said, somewhere inside another's error; None where it said nothing."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def explain(message: str, options: Iterable[str] = ()) -> str:
    """The part of a parser's message that a person needs.

    Args:
        message: as jsonargparse wrote it.
        options: dotted names that the parser takes, to guess what was meant.
    """
    if missing := re.search(r"File does not exist: '(.*)'", message):
        return f"no such configuration file: {missing[1]}"
    if "following arguments are required" in message:
        return "give a configuration: --config configs/pretrain/gpt-nano.yaml is one to start with"
    if unknown := re.search(r"(?:[Oo]ption '|unrecognized arguments: --)([\w.]+)", message):
        name, last = unknown[1], {option.rpartition(".")[2]: option for option in options}
        near = difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.7)
        # Where only what stands before it is wrong, the whole name.
        near = [last[name]] if name in last else near
        hint = f"did you mean {near[0]!r}?" if near else "`--print_config` shows all there are"
        return f"there is no option {name!r}: {hint}"
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


class Parser(LightningArgumentParser):
    """Wrong usage becomes one or two lines. Each class among the options has a parser of its own, whose word
    goes before that of the one around it."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise what was found, in fewer words."""
        raise our_own(ex) or UserError(explain(message, (a.dest for a in self._actions)), status=2) from ex
