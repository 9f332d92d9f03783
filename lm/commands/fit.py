"""`lm fit`, `lm validate`, `lm test`, `lm predict`: four things to do with a run, by the same options."""

import time
from collections.abc import Callable


def _command(name: str) -> Callable[[list[str]], None]:
    """The command of this name."""

    def run(argv: list[str]) -> None:
        started = time.time()
        if argv in (["--help"], ["-h"]):
            from lm.run.help import text

            print(text(name))
            return
        from lm.run.start import start

        start([name, *(argv[:1] if argv == ["--help", "all"] else argv)], started)

    return run


fit, validate, test, predict = map(_command, ("fit", "validate", "test", "predict"))
