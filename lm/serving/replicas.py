"""`lm serve --replicas N`: so many servers of the same models behind one address, by Ray Serve.

Each replica is a process with the app that a single server has. Ray's proxy hands requests to the one that
has less to do, starts another where one dies, and reaches other machines where RAY_ADDRESS names a cluster of
several: the models then lie at the same path on all of them.
"""

import argparse
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from queue import Empty, SimpleQueue
from typing import Any

from lm.checkpoint import Model, identity
from lm.errors import UserError
from lm.processes import cores, say
from lm.serving.house import House
from lm.serving.opening import audited, open_house
from lm.serving.security import Keys
from lm.serving.server import CONNECTIONS, SPARE, connections

FLUSH = 3  # seconds that Ray's proxy has for what it has not yet handed on
MEMORY = 80_000_000  # bytes that Ray's processes share, hardly more than the least that it takes


def replicate(
    args: argparse.Namespace,
    paths: dict[str, str],
    keys: Keys,
    local: bool,
    taken: socket.socket,
    greeting: Callable[[House, str, int], list[str]],
) -> None:
    """Serve until a signal says that it is enough.

    Args:
        args: of `lm serve`.
        paths: of models by their names.
        keys: of those who may ask.
        local: only this machine can reach the address.
        taken: the port, until Ray takes it.
        greeting: what a person needs to go on.

    Raises:
        UserError: a model can't be served, or Ray has no place for so many replicas.
    """
    cluster = os.environ.get("RAY_ADDRESS")
    host, port, *_ = taken.getsockname()
    if cluster and not args.port:
        raise UserError("`port` 0: every machine of a cluster has to have the same, so name one", status=2)
    if args.device not in ("cpu", "cuda", "mps"):
        raise UserError(f"`device` {args.device}: Ray chooses which, so say cuda", status=2)
    identities: dict[str, str] = {}

    def look(name: str, model: Model) -> None:
        say(audited(model, args))
        identities[name] = identity(model)

    # Here only to say what is wrong with them, before anything is started.
    house = open_house(argparse.Namespace(**{**vars(args), "device": "cpu"}), paths, look)
    lines = greeting(house, host, port)
    del house
    with _ray(cluster, args.replicas):
        from ray import serve
        from ray.serve.schema import LoggingConfig

        from lm.serving.replica import NAME, Replica, Told

        if cluster and serve.status().proxies:
            raise UserError(f"{cluster} has a Ray Serve already: end it by `serve shutdown`")
        cpus, gpus = _share(args)
        threads = int(os.environ.get("OMP_NUM_THREADS") or cpus)
        told = Told(args, paths, identities, keys, local and not keys, threads)
        quiet = LoggingConfig(log_level="CRITICAL", enable_access_log=False)
        taken.close()
        where = "EveryNode" if cluster else "HeadOnly"
        http = {"host": args.host, "port": port}
        logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.CRITICAL)
        serve.start(proxy_location=where, http_options=http, logging_config=quiet)
        deployment = Replica.options(  # type: ignore[attr-defined]
            num_replicas=args.replicas,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            max_ongoing_requests=CONNECTIONS,  # the app says itself when its queues are full
            max_queued_requests=SPARE,
            max_constructor_retry_count=1,  # what was wrong once stays so
            graceful_shutdown_timeout_s=args.grace,  # of one that Ray takes away
            graceful_shutdown_wait_loop_s=0.1,
            logging_config=quiet,
        )
        try:
            handle = serve.run(deployment.bind(told), name=NAME)
        except RuntimeError as error:
            raise _why(str(serve.status().applications[NAME].deployments[NAME].message)) from error
        with _signals() as signals:
            say(f"{args.replicas} replicas by Ray Serve, {threads} threads each")
            for line in lines:
                say(line)
            signals.get()
            _drain(handle, args.grace, signals)
        if cluster:
            serve.shutdown()
    say("stopped")


@contextmanager
def _ray(cluster: str | None, replicas: int) -> Iterator[None]:
    """Ray's processes: those of a cluster that runs, or some of our own, which only this machine reaches and
    which leave nothing behind.

    Raises:
        UserError: there is no such cluster.
    """
    connections()  # files that Ray's proxy inherits
    with tempfile.TemporaryDirectory(prefix="lm-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # Ray reads these while it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is done here is told to nobody
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # a line of each request is wanted
        own: dict[str, Any] = {"address": cluster}
        if not cluster:  # nobody else on this machine may give orders to these processes
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # where they were killed
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # its own ports are of this machine alone
            own = {"address": "local", "num_cpus": max(replicas, cores())}
            own |= {"include_dashboard": False, "object_store_memory": MEMORY, "_temp_dir": folder}
        import ray

        try:
            ray.init(**own, logging_level=logging.ERROR, log_to_driver=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray does not start: {str(error).strip().splitlines()[0]}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _share(args: argparse.Namespace) -> tuple[int, int]:
    """Cores and GPUs of each replica.

    Raises:
        UserError: there are not enough.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(args.device == "cuda")
    for what, each in (("CPU", 1), ("GPU", gpus)):
        there = sum(int(node.get(what, 0)) for node in nodes)
        if there < each * args.replicas:
            raise UserError(f"`replicas` {args.replicas}: each takes a {what}, and there are {there}")
    least = min(int(node.get("CPU", 0)) for node in nodes)
    return max(1, least // ceil(args.replicas / len(nodes))), gpus


def _why(trace: str) -> UserError:
    """Why replicas don't start, out of the traceback that Ray hands on."""
    found = re.findall(r"^(?:[\w.]*\.)?(\w*(?:Error|Exception)): (.+)$", trace, re.MULTILINE)
    kind, words = found[-1] if found else ("", trace.strip().rpartition("\n")[2])
    return UserError(words if kind == "UserError" else f"no replica starts: {kind} {words}")


@contextmanager
def _signals() -> Iterator[SimpleQueue[int]]:
    """Those of SIGINT and SIGTERM that come."""
    found: SimpleQueue[int] = SimpleQueue()  # which may be filled while it is waited for
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda number, _: found.put(number)) for kind in kinds]
    try:
        yield found
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _drain(handle: Any, grace: float, signals: SimpleQueue[int]) -> None:
    """Let running requests end, within so many seconds or until another signal comes."""
    from lm.serving.replica import ANSWER

    def ask(what: str) -> list[Any]:
        return handle.broadcast(what).results(timeout_s=ANSWER, return_exceptions=True)

    until = time.monotonic() + grace
    with suppress(TimeoutError):  # Ray's processes were killed, too
        ask("stop")
        while any(ask("running")) and time.monotonic() < until:
            with suppress(Empty):
                signals.get(timeout=0.1)
                return
        ask("cut")
        with suppress(Empty):
            signals.get(timeout=FLUSH)
