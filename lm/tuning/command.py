"""`lm sweep`: the options with which `lm fit` learns best."""

import dataclasses
from itertools import islice

from lm.errors import UserError, not_installed
from lm.options import OptionParser

_OWN = ("--name", "--trials", "--workers", "--help")  # the last has no value


def main(argv: list[str]) -> None:
    """The command `lm sweep`."""
    parser = OptionParser(
        "sweep",
        "Tries options of `lm fit` within ranges and says which are best; the same command goes on. Options "
        "that are not its own are those of `lm fit`, the same in every trial: --data.corpus my.txt",
    )
    add = parser.add_argument
    add("sweep", metavar="SWEEP", help="a sweep as YAML, or the name of one, such as gpt-nano-sweep")
    add("--name", help="of the study's folder under checkpoints/, instead of that in the file")
    add("--trials", type=int, help="how many configurations are tried, instead of that in the file")
    add("--workers", type=int, help="trials at once; the same command elsewhere is one more worker, too")
    own, options = _apart(argv)
    args = parser.parse(own)

    from lm.tuning.sweep import read

    fields = {name: getattr(args, name) for name in ("name", "trials", "workers")}
    given = [f"--{name}={value}" for name, value in fields.items() if value is not None]
    sweep, path = read(args.sweep, given)
    if options:
        sweep = dataclasses.replace(sweep, options={**sweep.options, **options})
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise not_installed("lm sweep", "Optuna", "sweep") from None
    from lm.run.trainer import quiet
    from lm.tuning.workers import run

    quiet()
    print(run(sweep, path, argv))


def _apart(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words of this command, and the options of `lm fit` by their names.

    Raises:
        UserError: an option has no value.
    """
    own: list[str] = []
    options: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option in _OWN or not word.startswith("--"):
            own.append(word)
            if option in _OWN[:-1] and not equals:
                own += [*islice(words, 1)]
            continue
        following = value if equals else next(words, None)
        if following is None:
            raise UserError(f"{option} has no value", status=2)
        options[option[2:]] = following
    return own, options
