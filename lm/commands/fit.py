"""`lm fit`, `lm validate`, `lm test`, `lm predict`: four things to do with a run, by the same options."""

import time


def _start(command: str, argv: list[str]) -> None:
    started = time.time()
    from lm.run.start import start

    start([command, *argv], started)


def fit(argv: list[str]) -> None:
    """The command `lm fit`."""
    _start("fit", argv)


def validate(argv: list[str]) -> None:
    """The command `lm validate`."""
    _start("validate", argv)


def test(argv: list[str]) -> None:
    """The command `lm test`."""
    _start("test", argv)


def predict(argv: list[str]) -> None:
    """The command `lm predict`."""
    _start("predict", argv)
