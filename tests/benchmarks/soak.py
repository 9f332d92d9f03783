"""`lm serve` under all that clients do, good and bad, for minutes: what does it lose, mix up, leak or break?

    python tests/benchmarks/soak.py MODEL --minutes 5 --clients 24

Starts `lm serve MODEL` with few slots and a short queue. Clients ask at random, by a seed, as densely as the
machine gives: completions, chats and embeddings of all kinds; they go away at any moment, send half requests,
send and read slowly, send what is wrong or too much. Answers that are certain (greedy ones, those with a
seed, embeddings) are compared with what the same request got alone. Then a quiet minute; then full load
again, and SIGTERM within it. Ends with status 1 if anything is not as it should be.

Memory is looked at from half the time on, when thousands of requests have warmed it: 5 minutes of a small
model. The cache of prefixes is left out, for it has its own limit. oneDNN keeps 1,024 products of shapes that
it has seen, some 24 MB that come slowly: here it keeps 16.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asking import BROKEN, Server, get
from soak_clients import Client, Wrong, ask_alone, drain
from soak_requests import KINDS

SLOTS, QUEUE, GRACE, BODY = 8, 16, 20, 200_000
GONE = "socket.send() raised exception."  # asyncio's, of several pieces at once to who has just gone away
PATIENCE = 120  # seconds for one answer
MARGIN = 1.0  # seconds around SIGTERM, in which a request may be an old or a new one
GROWTH, REST = 2.0, 16.0  # megabytes of memory, per 1,000 requests and in all, that are no leak


@dataclass
class Look:
    """The server at one time; memory in megabytes."""

    seconds: float
    requests: int
    memory: float
    prefixes: float  # of it
    threads: int
    files: int
    running: int
    waiting: int
    health: float  # seconds until /health answered

    @property
    def own(self) -> float:
        """Memory without the cache of prefixes, which has a limit of its own."""
        return self.memory - self.prefixes


@dataclass
class Soak:
    """What has happened so far."""

    server: Server
    begun: float = field(default_factory=time.monotonic)
    done: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and outcome
    trouble: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.done.total()

    async def look(self) -> Look:
        begun = time.monotonic()
        status, _ = await get(self.server.port, "/health")
        took = time.monotonic() - begun
        if status != 200:
            self.trouble.append(f"/health: {status}")
        _, text = await get(self.server.port, "/metrics")
        pairs = [line.rpartition(" ") for line in text.decode().splitlines() if line[:1] != "#"]
        figures = {name.partition("{")[0]: float(value) for name, _, value in pairs}
        process = Path(f"/proc/{self.server.process.pid}")
        said = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        self.looks.append(
            Look(
                seconds=time.monotonic() - self.begun,
                requests=self.requests,
                memory=int(said["VmRSS"].split()[0]) / 1024,
                prefixes=figures["lm_engine_prefix_bytes"] / 2**20,
                threads=int(said["Threads"]),
                files=len(list((process / "fd").iterdir())),
                running=int(figures["lm_engine_running"]),
                waiting=int(figures["lm_engine_waiting"]),
                health=took,
            )
        )
        return self.looks[-1]

    async def client(self, client: Client, until: float) -> None:
        """One request after the other."""
        names = [name for name in KINDS if client.chats or name != "chat"]
        weights = [KINDS[name][0] for name in names]
        while time.monotonic() < until:
            name = client.draw.choices(names, weights)[0]
            outcome = "WRONG"
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await KINDS[name][1](client)
            except Wrong as error:
                self.trouble.append(f"{name}: {error}")
            except TimeoutError:
                self.trouble.append(f"{name}: no answer in {PATIENCE} s")
            except (*BROKEN, ValueError, KeyError) as error:
                self.trouble.append(f"{name}: {type(error).__name__}: {error}")
            if outcome == "WRONG":
                client.leave()
            self.done[name, outcome] += 1
            if outcome == "429":
                await asyncio.sleep(client.draw.random() / 4)
        client.leave()

    async def watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(1)


def slope(looks: list[Look]) -> float:
    """Megabytes of its own memory per 1,000 requests, by a straight line."""
    x, y = [each.requests / 1000 for each in looks], [each.own for each in looks]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


async def soak(args: argparse.Namespace, server: Server) -> bool:
    """All of it; whether everything is as it should be."""
    greeting, found = len(server.lines), Soak(server)
    _, said = await get(server.port, "/v1/models")
    card = json.loads(said)["data"][0]
    chats = "chat/completions" in card["abilities"]

    def client(number: int) -> Client:
        draw = random.Random(1000 * args.seed + number)
        return Client(server.port, draw, card["id"], card["context"], chats)

    await ask_alone(first := client(0), args.known)
    idle = await found.look()
    clients = [client(number) for number in range(1, args.clients + 1)]
    for each in clients:
        each.known = first.known
    watch = asyncio.create_task(found.watch())
    end = time.monotonic() + 60 * args.minutes
    await asyncio.gather(*(found.client(each, end) for each in clients))
    loaded = end - found.begun
    await asyncio.sleep(args.quiet)
    if watch.done():
        found.trouble.append(f"/health and /metrics: {watch.exception()}")
    watch.cancel()
    busy = [each for each in found.looks if idle.seconds < each.seconds < loaded]
    warm = [each for each in busy if each.seconds - idle.seconds > (loaded - idle.seconds) / 2]
    last = await found.look()
    ended = await drain(server, clients, GRACE)
    status = server.wait(10)
    usual = ("try it:", "stop it:", "stopped", GONE)
    log = [line for line in server.lines[greeting:] if not line.startswith(usual)]
    _tables(found, [idle, *busy[:: max(1, len(busy) // 8)], busy[-1], last], ended, log)
    claims = [
        *_answers(found, busy, last),
        *_resources(found, idle, warm, last, log),
        *_stop(ended, status),
    ]
    for what, right in claims:
        print(f"{'yes' if right else 'NO '}  {what}")
    return all(right for _, right in claims)


def _answers(found: Soak, busy: list[Look], last: Look) -> Iterator[tuple[str, bool]]:
    """What clients saw: each claim, and whether it is so."""
    wrong = sum(count for (_, outcome), count in found.done.items() if outcome == "WRONG")
    words = "requests: each got its answer, an error in OpenAI's shape, or was given up"
    yield f"{found.requests:,} {words}", not wrong
    same = sum(found.done[kind, "200"] for kind in ("greedy", "seeded", "embeddings"))
    other = sum("than alone" in each for each in found.trouble)
    yield f"{same:,} answers are those of the same request alone; {other} are not", not other
    yield "some were turned away, for the queue was full", any(how == "429" for _, how in found.done)
    running, both = max(each.running for each in busy), max(each.running + each.waiting for each in busy)
    words = f"up to {running} texts at once and {both} with those that waited"
    yield f"{words}: {SLOTS} and {SLOTS + QUEUE} are the limits", running == SLOTS and both <= SLOTS + QUEUE
    yield "at the end every slot is free and nothing waits", last.running == last.waiting == 0
    slowest = max(each.health for each in busy)
    bad = any("/health" in each for each in found.trouble)
    yield f"/health said 200 all along, within {slowest:.2f} s", not bad and slowest < 5


def _resources(
    found: Soak, idle: Look, warm: list[Look], last: Look, log: list[str]
) -> Iterator[tuple[str, bool]]:
    """What the server took of the machine."""
    growth, early = slope(warm), warm[:10]
    words = f"its own memory grows by {growth:+.2f} MB per 1,000 requests once warm: {GROWTH:g} at most"
    yield words, growth <= GROWTH
    rest = last.own - sum(each.own for each in early) / len(early)
    yield f"after the quiet time it is {rest:+.1f} MB from once warm: {REST:g} at most", rest <= REST
    threads = max(each.threads for each in early)
    yield f"{last.threads} threads at the end, {threads} once warm", last.threads <= threads
    # One may be the connection of the look before.
    yield f"{last.files} open files at the end, {idle.files} before", last.files <= idle.files + 1
    yield "the log has no failure", not log


def _stop(ended: list[tuple[float, float, str]], status: int | None) -> Iterator[tuple[str, bool]]:
    """What SIGTERM did."""
    before = {outcome for sent, _, outcome in ended if sent < -MARGIN}
    within = {outcome for sent, _, outcome in ended if -MARGIN <= sent <= MARGIN}
    after = {outcome for sent, _, outcome in ended if sent > MARGIN}
    outlived = [stop for sent, stop, outcome in ended if sent < 0 < stop and outcome == "200"]
    turned = {"503", "refused", "closed"}
    last = max(outlived, default=0.0)
    words = f"SIGTERM: {len(outlived)} running answers ended whole, the last {last:.1f} s after it"
    yield words, bool(outlived) and before <= {"200", "429"} and within <= {"200", "429", *turned}
    yield "who asked after it got 503 or found the port closed", after <= turned
    yield f"the status is {status}", status == 0


def _tables(found: Soak, looks: list[Look], ended: list[tuple[float, float, str]], log: list[str]) -> None:
    """What was asked and what came of it; the server over time; what went wrong."""
    outcomes = sorted({outcome for _, outcome in found.done})
    print(f"{'':17}" + "".join(f"{each:>8}" for each in outcomes))
    for kind in KINDS:
        if any(found.done[kind, each] for each in outcomes):
            print(f"{kind:17}" + "".join(f"{found.done[kind, each] or '':>8}" for each in outcomes))
    names = [
        "seconds",
        "requests",
        "MB",
        "prefixes",
        "own",
        "threads",
        "files",
        "running",
        "waiting",
        "health-ms",
    ]
    print("\n" + "".join(f"{name:>10}" for name in names))
    for each in looks:
        memory, now = (each.memory, each.prefixes, each.own), (each.running, each.waiting, 1000 * each.health)
        figures = (each.seconds, each.requests, *memory, each.threads, each.files, *now)
        print("".join(f"{figure:10.0f}" for figure in figures))
    print("\nSIGTERM: when the first and the last of those requests ended, in seconds after it")
    came: dict[tuple[str, str], list[float]] = {}
    for sent, stop, outcome in ended:
        came.setdefault(("before" if sent < 0 else "after", outcome), []).append(stop)
    for (when, outcome), stops in came.items():
        print(f"{when:>10}{outcome:>10}{len(stops):10}{min(stops):10.1f}{max(stops):10.1f}")
    for line in [*found.trouble[:20], *log[:20]]:
        print("!", line[:400])


def main() -> None:
    """Start the server, soak it, say what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--known", type=int, default=40, help="requests of each kind that are asked alone")
    parser.add_argument("--quiet", type=float, default=60, help="seconds of rest at the end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    words = [sys.executable, "-m", "lm", "serve", args.model, "--port", "0", "--slots", str(SLOTS)]
    words += ["--queue", str(QUEUE), "--grace", str(GRACE), "--max-body", str(BODY / 1e6)]
    server = Server(words, {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"})
    try:
        fine = asyncio.run(soak(args, server))
    finally:
        server.process.kill()
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
