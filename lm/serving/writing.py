"""What completions and chats share: requests to the engine, what comes of them, usage, and events."""

import asyncio
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.requests import Request as Http
from starlette.responses import StreamingResponse

from lm.serving.engine import Closed, Full, Piece, Request, Running
from lm.serving.errors import APIError, failed, log_failure
from lm.serving.guard import stopping
from lm.serving.house import BUSY, Served
from lm.serving.schemas import Writing
from lm.serving.structure import Grammar

LEAST = 1e-3  # temperatures below it are 0
LOWEST = -9999.0  # OpenAI's for what can't be: JSON has no infinity


def wanted(
    http: Http,
    served: Served,
    body: Writing,
    ids: Sequence[int],
    tokens: int,
    grammar: Grammar | None,
    **more: Any,
) -> list[Request]:
    """What the engine is asked for after one prompt: `n` times, each with a seed of its own.

    Args:
        grammar: that the answers are held to.

    Raises:
        APIError: prompt and answer don't fit, or a token is none of the model's.
    """
    engine = served.engine
    assert engine is not None
    size = engine.vocab_size
    if len(ids) + tokens > engine.context:
        words = f"the model sees {engine.context} tokens, the prompt has {len(ids)}, and {tokens} are wanted"
        raise APIError(400, words, "max_tokens", "context_length_exceeded")
    if max(ids, default=0) >= size:
        raise APIError(400, f"`prompt`: token ids are below {size}", "prompt")
    if not all(key.isdecimal() and key.isascii() and int(key[:9]) < size for key in body.logit_bias):
        raise APIError(400, f"`logit_bias`: its names are token ids, below {size}", "logit_bias")
    first = Request(
        seconds=http.scope["lm.call"].seconds,
        ids=tuple(ids),
        max_tokens=tokens,
        temperature=body.temperature if body.temperature >= LEAST else 0.0,
        top_p=body.top_p,
        top_k=body.top_k or None,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias={int(key): value for key, value in body.logit_bias.items()},
        stop=body.stops,
        seed=body.seed,
        **more,
    )
    ends = [id for id in (served.model.tokenizer.eos_id, *first.stop_ids) if id is not None]
    return [
        replace(
            first,
            seed=None if body.seed is None else (body.seed + i) % (1 << 63),
            constraint=None if grammar is None else grammar.follow(ends),
        )
        for i in range(body.n)
    ]


def submit(http: Http, served: Served, requests: list[Request]) -> list[Running]:
    """Set the engine to work: on all of them, or on none.

    Raises:
        APIError: the queue is full, or the server stops.
    """
    if len(requests) > served.queue:
        raise APIError(400, f"prompts times `n` are {len(requests)}: {served.queue} at most", "n")
    runs = http.scope["lm.call"].runs  # which the guard cancels, whatever happens
    try:
        for request in requests:
            runs.append(served.engine.submit(request))  # type: ignore[union-attr]
    except Full:
        raise APIError(429, BUSY, code="queue_full") from None
    except Closed:
        raise stopping() from None
    return runs


def finish(said: str | None) -> str | None:
    """How a run ended, in OpenAI's words; None where it goes on.

    Raises:
        APIError: it failed, or the form that it was to have led to nothing, or the server stopped it.
    """
    if said == "error":
        raise failed()
    if said == "stuck":
        words = "the answer came to where its form lets nothing follow that the model can write"
        raise APIError(400, words, code="form_stuck")
    if said == "cancelled":
        raise stopping()
    return "length" if said == "timeout" else said  # a limit like that of tokens


def ended(run: Piece) -> Piece:
    """All of a run, with how it ended in OpenAI's words.

    Raises:
        APIError: see `finish`; or nothing was written in time.
    """
    if run.finish == "timeout" and not run.tokens:
        raise APIError(503, "its turn did not come in time: ask again later", code="timeout")
    return run._replace(finish=finish(run.finish))


class Answer(ABC):
    """What a request gets while it comes about: for each prompt `n` choices, as objects or a stream of them.

    Args:
        kind: what its name begins with.
        read: tokens of all prompts.
        requests: to the engine, by prompts and then choices.

    Raises:
        APIError: see `submit`.
    """

    def __init__(
        self, http: Http, served: Served, body: Writing, kind: str, read: int, requests: list[Request]
    ) -> None:
        self.http, self.served, self.n, self.read = http, served, body.n, read
        self.streams, self.told = body.stream, body.stream_options.include_usage
        made = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time())}
        self.head: dict[str, Any] = {**made, "model": served.name}
        self.runs = submit(http, served, requests)

    async def response(self) -> Any:
        """An object, or a stream of events."""
        return events(self.chunks()) if self.streams else await self.whole()

    @abstractmethod
    async def whole(self) -> dict[str, Any]:
        """All of it in one object."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Each piece as it comes, and at the end what was used, where that is wanted."""

    async def written(self) -> list[Piece]:
        """All that each choice has become."""
        return [ended(run) for run in await asyncio.gather(*(run.whole() for run in self.runs))]

    def used(self, written: int) -> dict[str, Any]:
        """What was read and written, in tokens; a prompt counts once for its choices."""
        cached = sum(run.prefix_tokens for run in self.runs[:: self.n])
        found = {"prompt_tokens": self.read, "completion_tokens": written}
        found["total_tokens"] = self.read + written
        return {**found, "prompt_tokens_details": {"cached_tokens": cached}}

    def token_text(self, id: int) -> str:
        """A token by itself, spaces and all; one that is part of a character as OpenAI spells such."""
        data = self.token_bytes(id)
        with suppress(UnicodeDecodeError):
            return data.decode() or self.served.model.tokenizer.piece(id)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def token_bytes(self, id: int) -> bytes:
        return self.served.model.tokenizer.piece_bytes(id)


async def merged(runs: Sequence[Running]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of several as they come, with the number of the run."""
    queue: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue()

    async def follow(number: int, run: Running) -> None:
        try:
            async for piece in run.stream():
                queue.put_nowait((number, piece))
            queue.put_nowait((number, None))
        except Exception as error:
            queue.put_nowait((number, error))

    tasks = [asyncio.create_task(follow(number, run)) for number, run in enumerate(runs)]
    left = len(tasks)
    try:
        while left:
            number, piece = await queue.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield number, piece
    finally:
        for task in tasks:
            task.cancel()


def events(chunks: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, an object each. A failure is one, too: for a status it is too late."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False, allow_nan=False)}\n\n"
        except APIError as error:
            yield f"data: {json.dumps(error.body)}\n\n"
        except Exception as error:
            log_failure(error)
            yield f"data: {json.dumps(failed().body)}\n\n"
        yield "data: [DONE]\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), headers=headers, media_type="text/event-stream")
