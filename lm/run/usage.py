"""jsonargparse's messages in a line or two, with the name that was probably meant."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass

UNKNOWN = (
    r"does not accept option '(?P<name>[\w.]+)'",
    r"Option '(?P<name>[\w.]+)' is not accepted",
    r"unrecognized arguments: --(?P<name>[\w.]+)",
)
CLASS_PATH = re.compile(r"class_path'?[=:] '([\w.]+)'")


def _parameters(class_path: str) -> set[str]:
    """Names that a class takes, and those of the dataclasses among its parameters."""
    module, _, name = class_path.rpartition(".")
    try:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError, TypeError):
        return set()
    names = set(signature.parameters)
    for parameter in signature.parameters.values():
        if is_dataclass(parameter.annotation):
            names |= {field.name for field in fields(parameter.annotation)}
    return names


def _first_error(message: str) -> str:
    """Of a union's errors the first says what is wrong, the others that it isn't null either. They nest."""
    union = re.search(r"Errors:\n\s*- (.*)", message, re.DOTALL)
    if union is None:
        return message
    first = re.split(r"\n\s*- |\n\s*Given value", union.group(1))[0]
    return _first_error(union.group(1)) if first.rstrip().endswith("Errors:") else first


def explain(message: str, options: Iterable[str] = ()) -> str:
    """The part of a parser's message that a person needs.

    Args:
        message: as jsonargparse or LightningCLI wrote it.
        options: dotted names that the command takes, to guess what was meant.
    """
    options = list(options)
    known = {name.split(".")[-1] for name in options}
    for class_path in CLASS_PATH.findall(message):
        known |= _parameters(class_path)
    key = re.search(r'Parser key "([\w.]+)"', message)
    where = f"in {key.group(1)}: " if key and key.group(1) not in ("config",) else ""
    text = " ".join(_first_error(message).split())
    missing = re.search(r"File does not exist: '(.*)'", text)
    if missing:
        return f"no such configuration file: {missing.group(1)}"
    if "following arguments are required" in text:
        return "give a configuration: --config configs/pretrain/gpt-nano.yaml is one to start with"
    for pattern in UNKNOWN:
        unknown = re.search(pattern, text)
        if unknown:
            name = unknown.group("name")
            near = difflib.get_close_matches(name.split(".")[-1], sorted(known), n=1, cutoff=0.7)
            # Where only what stands before it is wrong, the whole name.
            whole = sorted((o for o in options if o.split(".")[-1] == name), key=len)
            near = whole[:1] or near
            hint = f"did you mean {near[0]!r}?" if near else "`--print_config` shows all there are"
            return f"{where}there is no option {name!r}: {hint}"
    text = re.sub(r'^Parser key "[\w.]+": ', "", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    inner = re.match(r'Parser key "([\w.]+)": (.*)', text)
    text = f"{inner.group(1)}: {inner.group(2)}" if inner else text
    return where + (text if len(text) <= 400 else text[:400] + " …")
