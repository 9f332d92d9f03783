"""Tries a form of answers in a process of its own, before the server takes it: what a schema becomes may take
all memory, all time, or the stack, whatever llguidance bounds itself.

A request is JSON on standard input, the answer JSON on standard output; none comes where it took too much.
Nothing of lm is imported.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Answer once."""
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    request = json.load(sys.stdin)
    tokenizer, limits = LLTokenizer("byte"), LLParserLimits(**request["limits"])
    _bound(**request["most"])
    matcher = LLMatcher(tokenizer, request["grammar"], log_level=0, limits=limits)
    error = matcher.get_error()
    if not error:
        first = matcher.deep_copy()
        first.compute_bitmask()
        error = first.get_error()
    print(json.dumps({"error": error}), flush=True)


def _bound(seconds: int, memory: int, stack: int) -> None:
    """Take no more than so many seconds of computing, bytes more than now, and bytes of the stack."""
    with suppress(ImportError, ValueError, OSError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
