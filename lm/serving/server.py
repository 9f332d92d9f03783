"""The server: its port, what it does with connections that say nothing, and how it stops."""

import asyncio
import resource
import socket
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lm.errors import UserError
from lm.serving.guard import Guard
from lm.serving.house import House

HEAD_SECONDS = 10  # for the first lines of a request, or what is left of a body that nobody wants
READ_SECONDS = 60  # in which a client has to take something of what is sent
CONNECTIONS = 1000  # requests of more get 503
SPARE = 100  # connections more that are told so; those beyond are closed. And files that are none


class Protocol(H11Protocol):
    """Closes connections whose requests don't come: uvicorn waits for ever."""

    limit_concurrency: int
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limit_concurrency + SPARE:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        at_work = self.cycle is not None and not self.cycle.response_complete
        unwanted = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        waiting = not at_work and (self.conn.their_state is h11.IDLE or unwanted)
        if waiting and self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)  # type: ignore[attr-defined]
        elif not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connections() -> int:
    """How many there can be: asyncio can't do without a file for one more. Lets the process have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 5 * SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CONNECTIONS, soft - 5 * SPARE)


def take(host: str, port: int) -> socket.socket:
    """A port, which nobody can reach yet.

    Raises:
        UserError: it is another's, or there is no such address.
    """
    if port > 65535:
        raise UserError(f"`port` {port}: it must be at most 65535", status=2)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: who doesn't take what is sent is gone
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * READ_SECONDS)
        found.bind(address)
    except OSError as error:
        raise _taken(host, port, error) from error
    return found


def open_port(taken: socket.socket) -> None:
    """Let anybody reach it.

    Raises:
        UserError: see `take`; another has opened it in the meantime.
    """
    try:
        taken.listen(SPARE)
    except OSError as error:
        host, port, *_ = taken.getsockname()
        raise _taken(host, port, error) from error


def _taken(host: str, port: int, error: OSError) -> UserError:
    words = error.strerror or str(error)
    return UserError(f"port {port} of {host} can't be opened: {words}; `port` N takes another, 0 a free one")


class Server(uvicorn.Server):
    """Stops by SIGTERM or Ctrl-C: new requests are turned away, and those that run have `grace` seconds. A
    second one ends it at once."""

    def __init__(self, guard: Guard, house: House, grace: float) -> None:
        config = uvicorn.Config(
            guard,
            loop="asyncio",  # also where another loop came with another extra
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=connections(),
            backlog=SPARE,  # asyncio takes so many before any can be turned away
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self.guard, self.house, self.grace, self._until = guard, house, grace, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.guard.stopping:
            self.should_exit = self.force_exit = True
        self.guard.stopping = True
        self._until = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        if self.guard.stopping and (not self.guard.running or time.monotonic() > self._until):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self.house.stop)
        await super().shutdown(sockets)
