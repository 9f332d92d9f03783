"""A server as a process, and connections that speak HTTP byte by byte: for `soak.py` and `serving.py`."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

ADDRESS = re.compile(r"(?:serving at|running on) http://127\.0\.0\.1:(\d+)")
BROKEN = (OSError, asyncio.IncompleteReadError, EOFError)  # the other side has closed


class Server:
    """A command that serves.

    Args:
        words: of the command.
        env: its environment.

    Attributes:
        port: that it has said.
        lines: what it has written so far.
    """

    def __init__(self, words: list[str], env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that whoever started it still stops it
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(words, env=env, **pipe)
        self._port: int | None = None
        self._news = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._news.wait(600)
        if self._port is None:
            self.process.kill()
            raise SystemExit("\n".join([f"{' '.join(words)} serves nothing:", *self.lines]))
        self.port = self._port

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := ADDRESS.search(line):
                self._port = int(found[1])
                self._news.set()
        self._news.set()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int | None:
        """Its status; None where it has not ended by then, and is killed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = None
        self._reader.join(5)
        return status

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        self.wait(10)


class Connection:
    """One to a server of this machine, for a request after the other.

    Attributes:
        begun: whether anything of the present answer has come.
        keeps: whether it can be asked again.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.begun, self.keeps, self.used = False, True, time.monotonic()
        self.headers: dict[str, str] = {}

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Of the answer, whose head is read."""
        self.begun = False
        line = await self.reader.readline()
        if not line:
            raise EOFError("closed before an answer")
        self.begun, self.headers = True, {}
        while (more := await self.reader.readline()).strip():
            name, _, value = more.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        if not more:
            raise EOFError("closed within the head of an answer")
        self.keeps = self.headers.get("connection") != "close"
        return int(line.split()[1])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer's body as it comes."""
        if self.headers.get("transfer-encoding") != "chunked":
            if length := int(self.headers.get("content-length", 0)):
                yield await self.reader.readexactly(length)
        else:
            while size := int((await self.reader.readline()).strip() or b"x", 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        self.used = time.monotonic()

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def events(self) -> AsyncIterator[Any]:
        """What server-sent events say; the last is None where it was [DONE]."""
        held = b""
        async for piece in self.pieces():
            *whole, held = (held + piece).split(b"\n\n")
            for event in whole:
                said = event.removeprefix(b"data: ")
                yield None if said == b"[DONE]" else json.loads(said)
        if held.strip():
            raise EOFError("closed within an event")

    def close(self, rudely: bool = False) -> None:
        if rudely:
            self.writer.transport.abort()
        else:
            self.writer.close()


def head(path: str, length: int | None, method: str = "POST", close: bool = False) -> bytes:
    """The head of a request; without a length its body is chunked."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", size]
    return "\r\n".join([*lines, *["Connection: close"] * close, "", ""]).encode()


def request(path: str, body: Any, close: bool = False) -> bytes:
    """All of a request; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, len(data), close=close) + data


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of what lies at an address."""
    connection = await Connection.open(port)
    try:
        await connection.send(head(path, 0, "GET", close=True))
        return await connection.status(), await connection.body()
    finally:
        connection.close()
