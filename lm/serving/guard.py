"""What stands before the app: who may ask and how much, until when, and whether anybody still waits."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lm.serving.errors import APIError, failed, log_failure
from lm.serving.limits import Limits
from lm.serving.security import LOCAL, Keys, host_of

_log = logging.getLogger("lm.serving.requests")
OPEN = ("/", "/health", "/openapi.json", "/favicon.ico")  # without a key


def stopping() -> APIError:
    return APIError(503, "the server is stopping: ask another one, or later", code="stopping")


class Call:
    """A request while it is answered: lies in its scope.

    Attributes:
        seconds: that it may take.
        runs: what an engine writes for it, cancelled when it ends, however that comes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs: list[Any] = []


class Guard:
    """An ASGI app around another.

    Args:
        keys: none: everybody may ask.
        local: only names of this machine are answered to, so that no page of the web can ask by a name of its
            own that it lets point here.
        log: write a line for each request, without what it says.

    Attributes:
        paths: the app's, by which requests are counted.
        files: of these the ones that pictures and sounds are brought to.
        registry: what is counted of them, and by the engines.
        running: requests under way.
        stopping: new ones are turned away.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, keys: Keys, registry: CollectorRegistry, local: bool, log: bool
    ) -> None:
        self.app, self.limits, self.keys, self.local, self.log = app, limits, keys, local, log
        self.registry = registry
        self.paths: set[str] = set()
        self.files: set[str] = set()
        self.running, self.stopping = 0, False
        self.requests = Counter("lm_requests", "Requests", ["path", "status"], registry=registry)
        buckets = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
        words = "Seconds until the last byte of the answer"
        self.seconds = Histogram("lm_request_seconds", words, ["path"], registry=registry, buckets=buckets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        call = scope["lm.call"] = Call(self.limits.seconds)
        self.running += 1
        try:
            await self._answer(scope, receive, sending)
        except APIError as error:
            if not status:
                await error.response(scope, receive, sending)
        except Exception as error:
            log_failure(error)
            if not status:
                await failed().response(scope, receive, sending)
        finally:
            self.running -= 1
            for run in call.runs:
                run.cancel()
            self._note(scope, status, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._admit(scope)
        body = await self._body(scope, receive)
        gone = asyncio.ensure_future(self._gone(receive))
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            if given:
                return given.pop()
            await asyncio.wait({gone})
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self.app(scope, again, send))
        try:
            most = self.limits.seconds + self.limits.linger
            await asyncio.wait({work, gone}, timeout=most, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif not gone.done():
                raise APIError(503, f"this takes more than {most:g} seconds", code="timeout")
        finally:
            gone.cancel()
            if work.cancel():
                with suppress(asyncio.CancelledError, Exception):
                    await work

    def _admit(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self.local and host_of(headers.get(b"host", b"").decode("latin-1")) not in LOCAL:
            raise APIError(403, "this server is for its own machine: ask for localhost", code="host")
        if self.stopping and scope["path"] != "/health":
            raise stopping()
        if scope["path"] not in OPEN and not self.keys.accept(
            headers.get(b"authorization", b"").decode("latin-1")
        ):
            words = "the key is missing or wrong: send the header `Authorization: Bearer KEY`"
            raise APIError(401, words, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it: counted while it comes, not believed."""
        most, seconds = self.limits.body, self.limits.upload
        if scope["path"] in self.files:
            most, seconds = self.limits.files, self.limits.files_upload
        words = f"the request has more than {most:,} bytes: send less at once"
        large = APIError(413, words, code="too_large")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise large
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise APIError(400, "the request is not whole")  # nobody reads it
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise large
        except TimeoutError:
            words = f"the request was not there after {seconds:g} seconds"
            raise APIError(408, words, code="timeout", headers={"Connection": "close"}) from None
        return bytes(body)

    @staticmethod
    async def _gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self.paths else "other"  # which could be anything
        self.requests.labels(route, status or 499).inc()
        self.seconds.labels(route).observe(seconds)
        if self.log:
            client = (scope.get("client") or ("?",))[0]
            place = f"{client} {scope['method']} {route}"
            _log.info("%s %s %s %.3f s", time.strftime("%F %T"), place, status or "gone", seconds)
