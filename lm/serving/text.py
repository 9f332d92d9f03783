"""A text while it is written: nothing is given out that could still change."""

from collections import deque
from collections.abc import Sequence

from lm.serving.requests import TokenInfo
from lm.tokenizer import StreamDecoder, Tokenizer


class Text:
    """Tokens become text; what may be the beginning of a stop string waits.

    Args:
        stops: the text ends before the first of these.

    Attributes:
        stopped: whether one of them came.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.decoder, self.stops = StreamDecoder(tokenizer), [each for each in stops if each]
        self.stopped = False
        self._longest = max(map(len, self.stops), default=1) - 1  # of what could become one
        self._held = ""  # text that waits
        self._tokens: deque[TokenInfo] = deque()  # whose text has not been given whole
        self._ahead = 0  # characters of theirs that have been given

    def add(self, token: TokenInfo, shown: bool = True) -> None:
        """The text goes on with a token, whose text is filled in here."""
        text = self.decoder.feed(token.id) if shown else ""
        self._held += text
        self._tokens.append(token._replace(text=text))

    def take(self, last: bool) -> tuple[str, tuple[TokenInfo, ...]]:
        """Text that is final, and the tokens that end with it. At the `last` call, all that is left."""
        if last:
            self._held += self.decoder.flush()
        text = self._held
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.stopped, ready = True, text[: min(found)]
        else:
            ready = text if last else text[: len(text) - self._waiting(text)]
        self._held = text[len(ready) :]
        self._ahead += len(ready)
        done = []
        # A stop string's own tokens are none of the text's; one that it begins within is.
        while self._tokens and (
            (last and not found) or (self._ahead > 0 if found else len(self._tokens[0].text) <= self._ahead)
        ):
            done.append(self._tokens.popleft())
            self._ahead -= len(done[-1].text)
        return ready, tuple(done)

    def _waiting(self, text: str) -> int:
        """Characters at a text's end that could still grow into a stop string."""
        for length in range(min(self._longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return 0
