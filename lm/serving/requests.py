"""What an engine is asked, and what it gives: requests, pieces of text, and a request under way."""

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, Protocol

from torch import Tensor


class Full(Exception):
    """As many requests as may be are running and waiting."""


class Closed(Exception):
    """The engine takes no more requests: it is stopping."""


class Stuck(Exception):
    """Nothing can follow that the constraint allows."""


class Constraint(Protocol):
    """What a text may be: JSON of a schema, what a regular expression matches. Each request has its own."""

    def mask(self, written: Sequence[int]) -> Tensor:
        """Which tokens may follow those written so far: (vocab_size,) bool. With none, the text is stuck."""

    def over(self, written: Sequence[int]) -> bool:
        """Whether the text is whole and nothing may follow: it ends without a token that says so."""


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Args:
        ids: the prompt's tokens, at least one.
        max_tokens: to write at most; with the prompt they have to fit into the engine's `context`.
        temperature, top_k, top_p, min_p: see `lm.inference.generate.Sampling`; a temperature below 0.001
            always takes the likeliest.
        presence_penalty: is taken from the logits of tokens that were written before.
        frequency_penalty: the same, as many times as they were written.
        logit_bias: is added to the logits of tokens.
        seed: the same seed writes the same text, whatever else runs; None for one that is drawn.
        stop: the text ends before the first of these.
        stop_ids: it ends at these tokens, too, beside the end of a text.
        logprobs: so many likeliest tokens beside each token's own log-probability; None for none of these.
        echo: the log-probabilities of the prompt's tokens, too.
        constraint: which tokens may follow.
        seconds: that it may take, waiting included; None for as long as it takes.
    """

    ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    constraint: Constraint | None = None
    seconds: float | None = None


class TokenInfo(NamedTuple):
    """A token. Its log-probability is the model's own, in nats: before temperature, penalties and bias.

    `text` is what it adds to the text; none where a character is not whole yet, and of a token that ends it.
    """

    id: int
    text: str
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, the likeliest first


class Piece(NamedTuple):
    """What has become final: text, the tokens whose text has been given with it, and at the last piece how it
    has ended: stop, length, cancelled, timeout, error, or stuck where its constraint let nothing follow."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()
    finish: str | None = None


@dataclass
class Stats:
    """What an engine has done since it began, and is doing now."""

    running: int = 0  # texts that are read or written
    waiting: int = 0
    slots: int = 0
    finished: dict[str, int] = field(default_factory=dict)  # requests by how they ended
    written_tokens: int = 0
    prompt_tokens: int = 0  # read
    prefix_tokens: int = 0  # that needed no reading
    prefix_bytes: int = 0  # of the cache of prefixes
    steps: int = 0  # of writing a token of each text
    seconds: float = 0.0  # at work


class Running:
    """A request under way. Its pieces go to one reader, once: `pieces` or `stream`.

    Attributes:
        prompt_logprobs: of a request with `echo`, once the first piece is there: one for each of the prompt's
            tokens, the first without a log-probability.
        prefix_tokens: of the prompt that the cache of prefixes had.
        cancelled: whether somebody has given it up.
        listener: the event loop that reads it, and what is set there when there is news.
        patient: whether it wants to know nothing before it has all.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.prompt_logprobs: list[TokenInfo] = []
        self.prefix_tokens = 0
        self.cancelled = False
        self.listener: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.patient = False
        self._ready: queue.SimpleQueue[Piece] = queue.SimpleQueue()

    def cancel(self) -> None:
        """Nobody wants the rest: its slot is free before the next token."""
        self.cancelled = True

    def give(self, piece: Piece) -> None:
        """The engine's: there is another piece. An event loop learns of it by `wake`."""
        self._ready.put(piece)

    def pieces(self) -> Iterator[Piece]:
        """All pieces, each once it is there. Who leaves before the last cancels the request."""
        try:
            while True:
                piece = self._ready.get()
                yield piece
                if piece.finish:
                    return
        finally:
            self.cancel()

    async def stream(self) -> AsyncIterator[Piece]:
        """`pieces` for asyncio; to who is slow, several come as one."""
        news = asyncio.Event()
        self.listener = asyncio.get_running_loop(), news
        try:
            while True:
                news.clear()
                ready = [self._ready.get_nowait() for _ in range(self._ready.qsize())]
                if ready:
                    yield (piece := _joined(ready))
                    if piece.finish:
                        return
                else:
                    await news.wait()
        finally:
            self.cancel()

    async def whole(self) -> Piece:
        """All of it as one piece, for who does not stream: nothing is woken before the end."""
        self.patient = True
        return _joined([piece async for piece in self.stream()])


def _joined(pieces: Sequence[Piece]) -> Piece:
    texts, tokens, finishes = zip(*pieces, strict=True)
    return Piece("".join(texts), tuple(chain(*tokens)), finishes[-1])


def wake(given: Sequence[tuple[Running, bool]]) -> None:
    """Tell event loops that requests have got pieces: each loop once, which is what it costs.

    Args:
        given: requests, and whether it was their last piece.
    """
    loops: dict[asyncio.AbstractEventLoop, list[Running]] = {}
    for running, last in given:
        if running.listener is not None and (last or not running.patient):
            loops.setdefault(running.listener[0], []).append(running)
    for loop, those in loops.items():
        try:
            loop.call_soon_threadsafe(_set, [each.listener[1] for each in those if each.listener])
        except RuntimeError:  # it is closed, as its server is
            for each in those:
                each.cancel()


def _set(events: Sequence[asyncio.Event]) -> None:
    for each in events:
        each.set()
