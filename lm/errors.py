"""What a person can mend: one exception, shown by the command as a line or two without a traceback."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input, said in one or two lines that name the file, line or option and what to do.

    What is raised below the commands knows nothing of options: it names a field in backticks, as in
    "`seq_len` is 0: it must be at least 1", and the command spells it as its own option (`spelling`).

    Args:
        message: shown on stderr after `lm COMMAND: `.
        status: the command's exit status: 2 for wrong usage, 1 for everything else.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class SetupError(UserError):
    """That something is not as it has to be for any file: a package is missing, a field has another name."""


_options: list[Callable[[], Iterable[str]]] = []  # of the command that is at work


@contextmanager
def spelling(options: Callable[[], Iterable[str]]) -> Iterator[None]:
    """What is said within, as a command with these options spells it.

    Args:
        options: gives them, in order of preference, with dots and without dashes; asked when something has
            to be spelt.
    """
    _options.append(options)
    try:
        yield
    except UserError as error:
        raise UserError(spelled(str(error)), error.status) from error
    finally:
        _options.pop()


def spelled(message: str) -> str:
    """A message with the fields that it names in backticks as the command at work spells them: `seq_len` as
    --data.seq_len where that is the option that ends so. Other words in backticks stay."""
    if "`" not in message or not _options:
        return message
    options = list(_options[-1]())
    known = dict(zip(options, options, strict=True))  # a whole name comes before the end of a longer one
    for option in options:
        parts = option.split(".")
        for first in range(len(parts)):
            known.setdefault(".".join(parts[first:]), option)
    return re.sub(r"`([\w.]+)`", lambda m: f"--{known[m[1]]}" if m[1] in known else m[0], message)


def not_installed(what: str, package: str, extra: str) -> SetupError:
    """That something needs a package of one of the project's extras."""
    return SetupError(f"{what} needs {package}: pip install -e '.[{extra}]' in the folder of lm")


def some(names: Iterable[object], most: int = 3) -> str:
    """At most so many names, and how many there are more."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
