"""How far a preparation is, on stderr: rewritten at a terminal, a few plain lines in a log."""

import sys
import time

_AT_A_TERMINAL, _IN_A_LOG = 0.2, 15.0  # seconds between two updates


class Progress:
    """One part of the work: "reading: 12.3 MB".

    Args:
        total: bytes that there are to do, None if that is not known yet.
    """

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name, self._total, self._done = name, total, 0
        self._terminal = sys.stderr.isatty()
        self._start = self._said = time.monotonic()

    def advance(self, size: int) -> None:
        """Counts `size` more bytes, and says so now and then."""
        self._done += size
        now = time.monotonic()
        if now - self._said >= (_AT_A_TERMINAL if self._terminal else _IN_A_LOG):
            self._said = now
            self._say(self._rest(now), "" if self._terminal else "\n")

    def finish(self, note: str = "") -> None:
        """Says the last line, with the seconds it took; or that there was nothing to do."""
        if self._total and not self._done:
            print(f"{self._name}: done before", file=sys.stderr, flush=True)
            return
        note = note and f" ({note})"
        self._say(f"{note} in {time.monotonic() - self._start:.1f} s", "\n")

    def _rest(self, now: float) -> str:
        """Speed, and the time that is left where the whole is known."""
        speed = self._done / max(now - self._start, 1e-9)
        left = (self._total - self._done) / speed if self._total and self._done else 0
        return f", {speed / 1e6:.1f} MB/s" + (f", {left // 60:.0f}:{left % 60:02.0f} left" if left else "")

    def _say(self, rest: str, end: str) -> None:
        share = f" of {self._total / 1e6:.1f} MB, {self._done / self._total:.0%}" if self._total else " MB"
        line = f"{self._name}: {self._done / 1e6:.1f}{share}{rest}"
        print(f"\r\x1b[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)
