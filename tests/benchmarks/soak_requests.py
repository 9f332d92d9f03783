"""What the clients of `soak.py` do, good and bad: each gives a word for what came of it."""

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable

from asking import BROKEN, Connection, head, request
from soak_clients import WRITING, Client, Wrong, certain

HUGE = 1_000_000  # bytes, more than the server takes


async def completion(client: Client) -> str:
    status, _ = await client.ask(WRITING, client.streamed(client.body()))
    return str(status)


def known(kind: str) -> Callable[[Client], Awaitable[str]]:
    """Something that has been asked alone."""

    async def ask(client: Client) -> str:
        body, expected = client.draw.choice(client.known[kind])
        status, said = await client.ask(WRITING, client.streamed(body))
        if status == 200 and certain(said) != expected:
            raise Wrong(f"another answer than alone to {body}: {certain(said)}, not {expected}")
        return str(status)

    return ask


async def chat(client: Client) -> str:
    content = client.text(min(client.room, 60))
    body = {"model": client.model, "messages": [{"role": "user", "content": content}], "max_tokens": 20}
    status, _ = await client.ask("/v1/chat/completions", client.streamed(body))
    return str(status)


async def embeddings(client: Client) -> str:
    body, expected = client.draw.choice(client.known["embeddings"])
    packed = client.draw.random() < 0.5
    status, said = await client.ask(
        "/v1/embeddings", {**body, **({"encoding_format": "base64"} if packed else {})}
    )
    if status == 200:
        for found, known in zip(certain(said), expected, strict=True):
            row = struct.unpack(f"<{len(known)}f", base64.b64decode(found)) if packed else found
            if max(abs(a - b) for a, b in zip(row, known, strict=True)) > 1e-4:
                raise Wrong("another vector than alone")
    return str(status)


async def cancelled(client: Client) -> str:
    """Gone at a random moment, by an end or a reset."""
    body = {**client.streamed(client.body()), "max_tokens": client.room}
    connection = await client.connect()
    try:
        await connection.send(request(WRITING, body))
        await asyncio.sleep(client.draw.expovariate(4))
        return "gone"
    finally:
        connection.close(rudely=client.draw.random() < 0.5)


async def cancelled_stream(client: Client) -> str:
    """Gone after some events."""
    body = {**client.body(), "max_tokens": client.room, "stream": True}
    connection, left = await client.connect(), client.draw.randint(1, 10)
    try:
        await connection.send(request(WRITING, body))
        if await connection.status() != 200:
            return "429"
        async for _ in connection.events():
            left -= 1
            if not left:
                break
        return "gone"
    finally:
        connection.close(rudely=client.draw.random() < 0.5)


async def half(client: Client) -> str:
    """Part of the head or of the body; then gone, or now and then waiting for what the server does."""
    whole = request(WRITING, client.body())
    sent = whole[: client.draw.randrange(len(whole))]
    connection = await Connection.open(client.port)
    try:
        await connection.send(sent)
        if client.draw.random() < 0.95:
            await asyncio.sleep(client.draw.random())
            return "gone"
        try:
            status, _ = await client.answer(connection, None)
        except BROKEN:
            status = 0
        if status != (408 if b"\r\n\r\n" in sent else 0):
            raise Wrong(f"{status} for half a request of {len(sent)} bytes")
        return str(status) if status else "closed"
    finally:
        connection.close()


async def slow(client: Client) -> str:
    """Sends in pieces, and takes a stream slowly."""
    body = client.streamed(client.body())
    data, connection = request(WRITING, body), await Connection.open(client.port)
    try:
        step = len(data) // client.draw.randint(2, 8) + 1
        for at in range(0, len(data), step):
            await connection.send(data[at : at + step])
            await asyncio.sleep(client.draw.random() / 2)
        status, said = await client.answer(connection, body, client.draw.random() / 20)
        if status not in (200, 429):
            raise Wrong(f"{status}: {said}")
        return str(status)
    finally:
        connection.close()


async def wrong(client: Client) -> str:
    """Bad JSON, wrong types, unknown models and addresses, what does not fit."""
    good = {"model": client.model, "prompt": "a", "max_tokens": 1}
    long = [5] * (client.context + 1)
    path, body, expected = client.draw.choice(
        [
            (WRITING, json.dumps(good).encode()[: client.draw.randint(1, 30)], 400),
            (WRITING, b"\xff\xfe{}", 400),
            (WRITING, b"[" * 5000, 400),
            (WRITING, b"", 400),
            (WRITING, [good], 400),
            *((WRITING, {**good, name: value}, 400) for name, value in WRONG),
            (WRITING, {**good, "model": "another"}, 404),
            (WRITING, {**good, "prompt": long}, 400),
            (WRITING, {**good, "max_tokens": client.context + 1}, 400),
            ("/v1/embeddings", {"model": client.model, "input": long}, 400),
            ("/v1/fill", {"model": client.model, "input": "<mask>"}, 400),
            ("/v1/nothing", good, 404),
            ("/health", good, 405),
        ]
    )
    status, _ = await client.ask(path, body, (expected,))
    return str(status)


WRONG = (
    ("prompt", 5),
    ("prompt", ["a", 5]),
    ("prompt", []),
    ("prompt", [-1]),
    ("prompt", [10**9]),
    ("max_tokens", "many"),
    ("max_tokens", -1),
    ("temperature", 99),
    ("n", 10**6),
    ("stop", ["x"] * 99),
    ("logit_bias", {"x": 1}),
    ("tools", [{"type": "function"}]),
    ("stream", "yes"),
)


async def huge(client: Client) -> str:
    """More than the server takes, said beforehand or not."""
    connection, data = await Connection.open(client.port), b"x" * HUGE
    try:
        if client.draw.random() < 0.5:
            await connection.send(head(WRITING, HUGE) + data)
        else:
            await connection.send(head(WRITING, None) + b"%x\r\n%b\r\n0\r\n\r\n" % (HUGE, data))
        status, _ = await client.answer(connection, None)
        if status != 413:
            raise Wrong(f"{status} in place of 413")
        return "413"
    finally:
        connection.close()


# How often, and what is done.
KINDS: dict[str, tuple[int, Callable[[Client], Awaitable[str]]]] = {
    "completion": (30, completion),
    "greedy": (20, known("greedy")),
    "seeded": (10, known("seeded")),
    "chat": (15, chat),
    "embeddings": (8, embeddings),
    "cancelled": (10, cancelled),
    "cancelled stream": (6, cancelled_stream),
    "half": (6, half),
    "slow": (4, slow),
    "wrong": (14, wrong),
    "huge": (2, huge),
}
