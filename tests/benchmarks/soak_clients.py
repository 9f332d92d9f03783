"""Those who ask in `soak.py`: how they ask and what they make sure of."""

import asyncio
import json
import pydoc_data.topics
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from asking import BROKEN, Connection, Server, request

TEXT = "\n".join(pydoc_data.topics.topics.values())
IDLE = 1.0  # seconds after which a connection is not asked again: the server may be closing it
ERROR = {"message", "type", "param", "code"}
WRITING = "/v1/completions"


class Wrong(Exception):
    """An answer that should not be."""


def certain(answer: Any) -> Any:
    """What is the same whenever a request is made."""
    if answer.get("object") == "list":
        return [each["embedding"] for each in answer["data"]]
    return [
        (each.get("text", each.get("message")), each["finish_reason"], (each["logprobs"] or {}).get("tokens"))
        for each in answer["choices"]
    ]


@dataclass
class Client:
    """One of those who ask.

    Attributes:
        model, context, chats: what is asked.
        known: requests and what is certain of their answers, by kind.
        mismatches: answers that are not as they were alone.
    """

    port: int
    draw: random.Random
    model: str
    context: int
    chats: bool
    known: dict[str, list[tuple[Any, Any]]] = field(default_factory=dict)
    connection: Connection | None = None

    @property
    def room(self) -> int:
        """Characters of a prompt, and tokens of an answer, that surely fit."""
        return min(self.context, 600) // 2 - 2

    def text(self, most: int) -> str:
        at = self.draw.randrange(len(TEXT) - most)
        return TEXT[at : at + self.draw.randint(1, most)]

    def body(self) -> dict[str, Any]:
        """A completion: of a text, several, or ids; short or long."""
        draw = self.draw
        ids = [draw.randrange(5, 200) for _ in range(draw.randint(1, self.room))]
        texts = [self.text(self.room) for _ in range(draw.randint(2, 4))]
        found: dict[str, Any] = {
            "model": self.model,
            "prompt": draw.choices([self.text(self.room), ids, texts, [ids, ids[:1]]], [6, 3, 1, 1])[0],
            "max_tokens": draw.choice([1, 4, 16, draw.randint(1, self.room)]),
            "temperature": draw.choice([0, 0.3, 1, 2]),
        }
        for name, value in (
            ("n", draw.randint(2, 4)),
            ("stop", draw.choice(["\n", ["e", "the "], " a"])),
            ("logprobs", draw.randint(0, 5)),
            ("echo", True),
            ("seed", draw.getrandbits(40)),
            ("top_p", draw.uniform(0.1, 1)),
            ("top_k", draw.randint(1, 100)),
            ("min_p", 0.05),
            ("frequency_penalty", 0.5),
            ("presence_penalty", -0.5),
            ("logit_bias", {"40": 5, "50": -100}),
        ):
            if draw.random() < 0.2:
                found[name] = value
        return found

    def streamed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same, perhaps as a stream."""
        if self.draw.random() < 0.5:
            return body
        return {**body, "stream": True, "stream_options": {"include_usage": self.draw.random() < 0.5}}

    def leave(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    async def connect(self) -> Connection:
        """A new connection, or mostly that of the last request."""
        last, self.connection = self.connection, None
        if last and last.keeps and time.monotonic() - last.used < IDLE and self.draw.random() < 0.7:
            return last
        if last:
            last.close()
        return await Connection.open(self.port)

    async def answer(self, connection: Connection, body: Any, pause: float = 0) -> tuple[int, Any]:
        """Status and what is said; a stream becomes the object that would have been sent otherwise.

        Raises:
            Wrong: it is not formed as it should be.
        """
        status = await connection.status()
        if status == 200 and isinstance(body, dict) and body.get("stream"):
            return status, await joined(connection, pause)
        said = json.loads(await connection.body())
        if status != 200 and set(said["error"]) != ERROR:
            raise Wrong(f"{status} and {said}")
        if status == 200 and "choices" in said:
            check_choices(said["choices"])
        return status, said

    async def ask(self, path: str, body: Any, expected: tuple[int, ...] = (200, 429)) -> tuple[int, Any]:
        connection = await self.connect()
        try:
            await connection.send(request(path, body))
            status, said = await self.answer(connection, body)
            self.connection = connection
        finally:
            if self.connection is None:
                connection.close()
        if status not in expected:
            raise Wrong(f"{status} in place of {expected}: {json.dumps(said)[:300]}")
        return status, said


async def joined(connection: Connection, pause: float) -> dict[str, Any]:
    """A stream's choices, whole.

    Raises:
        Wrong: it has an error, or does not end as it should.
    """
    choices: dict[int, dict[str, Any]] = {}
    last: Any = 0
    async for last in connection.events():
        if last is None:
            continue
        if "error" in last:
            raise Wrong(f"within a stream: {last}")
        for each in last["choices"]:
            own = choices.setdefault(
                each["index"], {"index": each["index"], "text": "", "finish_reason": None, "logprobs": None}
            )
            own["text"] += each["text"] if "text" in each else each["delta"].get("content", "")
            if own["finish_reason"]:
                raise Wrong("a choice goes on after its end")
            own["finish_reason"] = each["finish_reason"]
            if each["logprobs"] and "tokens" in each["logprobs"]:
                own["logprobs"] = own["logprobs"] or {"tokens": []}
                own["logprobs"]["tokens"] += each["logprobs"]["tokens"]
        if pause:
            await asyncio.sleep(pause)
    if last is not None:
        raise Wrong("a stream without [DONE]")
    found = [choices[index] for index in sorted(choices)]
    check_choices(found)
    return {"choices": found}


def check_choices(choices: list[Any]) -> None:
    ends = {each["finish_reason"] for each in choices}
    if not choices or not ends <= {"stop", "length"}:
        raise Wrong(f"choices that end by {ends}")


async def ask_alone(client: Client, number: int) -> None:
    """Fill `known`: requests that have one answer, asked one after the other."""
    draw = client.draw
    client.known = {"greedy": [], "seeded": [], "embeddings": []}
    for at in range(number):
        body = {**client.body(), "temperature": 0}
        body.pop("seed", None)
        seeded = {**client.body(), "temperature": draw.choice([0.7, 1.0]), "seed": at}
        for kind, each in (("greedy", body), ("seeded", seeded)):
            client.known[kind].append((each, certain((await client.ask(WRITING, each, (200,)))[1])))
        each = {
            "model": client.model,
            "input": [client.text(client.room) for _ in range(draw.randint(1, 20))],
        }
        said = await client.ask("/v1/embeddings", each, (200,))
        client.known["embeddings"].append((each, certain(said[1])))
    client.leave()


async def drain(server: Server, clients: list[Client], grace: float) -> list[tuple[float, float, str]]:
    """Full load, and SIGTERM in it: when each request was sent and ended, in seconds after the signal, and
    what came of it."""
    found: list[tuple[float, float, str]] = []

    async def ask(client: Client) -> None:
        while server.process.poll() is None:
            body, expected = client.draw.choice(client.known["greedy"])
            body, sent, connection = client.streamed(body), time.monotonic(), None
            try:
                async with asyncio.timeout(grace + 10):
                    connection = await Connection.open(server.port)
                    await connection.send(request("/v1/completions", body, close=True))
                    status, answer = await client.answer(connection, body)
                outcome = str(status)
                if status == 200 and certain(answer) != expected:
                    outcome = "another answer"
            except TimeoutError:
                outcome = "no answer"
            except ConnectionRefusedError:
                outcome = "refused"
            except (*BROKEN, Wrong, ValueError, KeyError) as error:
                begun = connection is not None and connection.begun
                outcome = f"half an answer: {error}" if begun else "closed"
            finally:
                if connection:
                    connection.close()
            found.append((sent, time.monotonic(), outcome))
            if outcome != "200":
                await asyncio.sleep(1 if outcome == "refused" else 0.05)

    tasks = [asyncio.create_task(ask(client)) for client in clients]
    await asyncio.sleep(4)
    server.signal(signal.SIGTERM)
    signalled = time.monotonic()
    await asyncio.gather(*tasks)
    return [(sent - signalled, ended - signalled, outcome) for sent, ended, outcome in found]
