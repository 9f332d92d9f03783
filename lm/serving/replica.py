"""A server as Ray Serve runs it, without a port: that is the proxy's."""

import argparse
import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from prometheus_client import Metric
from ray import serve
from starlette.types import Receive, Scope, Send

from lm.checkpoint import Model, identity
from lm.errors import UserError
from lm.serving.app import make_app
from lm.serving.limits import limits_of
from lm.serving.opening import log_to_stderr, open_house
from lm.serving.security import Keys

NAME = "lm"  # of the application and of its deployment
ANSWER = 10  # seconds in which all replicas have to say what they are asked


@dataclass
class Told:
    """What is handed to every replica.

    Args:
        args: of `lm serve`.
        paths: of models by their names.
        identities: of these models: a replica serves no others, whatever became of their files.
        keys, local: see `Guard`.
        threads: that it computes with.
    """

    args: argparse.Namespace
    paths: dict[str, str]
    identities: dict[str, str]
    keys: Keys
    local: bool
    threads: int


@serve.deployment(name=NAME)
@serve.ingress()
class Replica:
    """The app of some models, and what Ray asks of it."""

    def __init__(self, told: Told) -> None:
        torch.set_num_threads(told.threads)
        log_to_stderr()

        def look(name: str, model: Model) -> None:
            if identity(model) != told.identities[name]:
                raise UserError(f"{model.source} is not the model any more that `lm serve` found there")

        self.house = open_house(told.args, told.paths, look)
        limits, log = limits_of(told.args), told.args.log_requests
        self.guard = make_app(self.house, limits, told.keys, told.local, log, figures_of_all)
        self.house.start()

    def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await self.guard(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            else:  # Ray says when it has taken this replica away
                while (kind := (await receive())["type"]) != "lifespan.shutdown":
                    await send({"type": f"{kind}.complete"})
                await self.cut()
                await send({"type": "lifespan.shutdown.complete"})

        return app

    # What all replicas are asked at once.

    async def stop(self) -> None:
        """Turn new requests away."""
        self.guard.stopping = True

    async def running(self) -> int:
        """Requests under way."""
        return self.guard.running

    async def cut(self) -> None:
        """End those."""
        await asyncio.to_thread(self.house.stop)

    async def figures(self) -> tuple[str, list[Metric]]:
        return serve.get_replica_context().replica_tag, list(self.guard.registry.collect())


class _Merged:
    """Figures of several replicas, each with its name, as `generate_latest` takes them."""

    def __init__(self, found: Iterable[tuple[str, list[Metric]]]) -> None:
        self.families: dict[str, Metric] = {}
        for name, families in found:
            for each in families:
                own = Metric(each.name, each.documentation, each.type)
                whole = self.families.setdefault(each.name, own)
                for sample in each.samples:
                    whole.add_sample(sample.name, {**sample.labels, "replica": name}, sample.value)

    def collect(self) -> Iterable[Metric]:
        return self.families.values()


async def figures_of_all() -> _Merged:
    """What /metrics says at any replica."""
    asked = serve.get_deployment_handle(NAME, NAME).broadcast("figures")
    found = await asked.results_async(timeout_s=ANSWER, return_exceptions=True)
    return _Merged(each for each in found if isinstance(each, tuple))  # one may just have died
