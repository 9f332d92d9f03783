"""What writing for many at once wins: tokens a second and time to the first token, with one client and with
many, through the engine of `lm serve`, and by `lm generate` alone.

    python tests/benchmarks/serving.py MODEL --clients 16

Every client asks for one answer after the other. One and many take turns; the best of the rounds counts. The
answers have to be the same.

    python tests/benchmarks/serving.py HF_FOLDER --clients 16 --peer transformers

The same over HTTP, `lm serve` and `transformers serve` in turns: as it is by itself, which writes for one
after the other, and with `--continuous-batching`. All stream; each round has prompts of its own, the same for
all. Medians of the rounds.

    python tests/benchmarks/serving.py MODEL --clients 16 --peer replicas

The same for `lm serve`, and its `--replicas` 1 and 2.
"""

import argparse
import asyncio
import os
import pydoc_data.topics
import random
import shlex
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from asking import Connection, Server, request

import lm
from lm.inference.batch import complete
from lm.inference.generate import Sampling, prompt_ids
from lm.serving.engine import Engine, Request


@dataclass
class Round:
    """What clients saw."""

    answers: list[Any]  # ids, or texts
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)  # seconds to the first token of each
    written: int = 0  # tokens of the texts
    read: int = 0  # tokens of the prompts, where a server says so

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return (self.written or sum(map(len, self.answers))) / self.seconds

    @property
    def waits(self) -> tuple[float, float]:
        """Milliseconds to the first token: the median, and what 99% don't exceed."""
        first = sorted(self.first)
        return 1e3 * statistics.median(first), 1e3 * first[int(0.99 * len(first))]

    def __str__(self) -> str:
        median, most = self.waits
        return f"{self.speed:.0f} tokens/s, first token after {median:.0f} and {most:.0f} ms (median, 99%)"


def prompts(number: int, seed: int = 0) -> list[str]:
    """5 to 200 characters out of Python's reference."""
    draw, text = random.Random(seed), "\n".join(pydoc_data.topics.topics.values())
    found = []
    for _ in range(number):
        at = draw.randrange(len(text) - 200)
        found.append(text[at : at + draw.randint(5, 200)])
    return found


def requests(model: lm.Predictor, number: int, tokens: int) -> list[Request]:
    """To an engine, greedy."""
    rows = [prompt_ids(model.tokenizer, prompt) for prompt in prompts(number)]
    most = model.config.max_seq_len - tokens
    return [Request(tuple(ids[:most]), tokens, temperature=0) for ids in rows]


def through_engine(model: lm.Predictor, asked: list[Request], clients: int) -> Round:
    """So many clients at once, in an event loop as the server's; a new engine, so that
    nobody finds another's prefixes."""
    engine = Engine(model, slots=max(clients, 1))
    engine.start()
    found = Round([[] for _ in asked])

    async def client(first: int) -> None:
        for place in range(first, len(asked), clients):
            begun, answer = time.perf_counter(), found.answers[place]
            async for piece in engine.submit(asked[place]).stream():
                if not answer:
                    found.first.append(time.perf_counter() - begun)
                answer += [token.id for token in piece.tokens]

    async def everybody() -> None:
        await asyncio.gather(*map(client, range(clients)))

    begun = time.perf_counter()
    asyncio.run(everybody())
    found.seconds = time.perf_counter() - begun
    engine.stop()
    return found


def alone(model: lm.Predictor, asked: list[Request]) -> Round:
    """One after the other, as `lm generate` writes them."""
    network, end, size = model.writer(), model.tokenizer.eos_id, model.tokenizer.vocab_size
    begun = time.perf_counter()
    answers = [
        complete(network, [each.ids], each.max_tokens, [end], Sampling(0), vocab_size=size)[0]
        for each in asked
    ]
    return Round(answers, time.perf_counter() - begun)


def through_http(port: int, model: str, asked: list[str], tokens: int, clients: int) -> Round:
    """So many clients of a server at once, each with a connection of its own."""
    found = Round([""] * len(asked))

    async def client(first: int) -> None:
        connection = await Connection.open(port)
        for place in range(first, len(asked), clients):
            body = {"model": model, "prompt": asked[place], "max_tokens": tokens, "temperature": 0}
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            begun, used = time.perf_counter(), None
            await connection.send(request("/v1/completions", body))
            if (status := await connection.status()) != 200:
                raise SystemExit(f"{status}: {(await connection.body()).decode()}")
            async for event in connection.events():
                text = event["choices"][0].get("text", "") if event and event["choices"] else ""
                if text and not found.answers[place]:
                    found.first.append(time.perf_counter() - begun)
                found.answers[place] += text
                used = (event or {}).get("usage") or used
            assert used is not None
            found.written += used["completion_tokens"]
            found.read += used["prompt_tokens"]
        connection.close()

    async def everybody() -> None:
        await asyncio.gather(*map(client, range(min(clients, len(asked)))))

    begun = time.perf_counter()
    asyncio.run(everybody())
    found.seconds = time.perf_counter() - begun
    return found


def fitting(tokenizer: Any, number: int, most: int, seed: int) -> list[str]:
    """Prompts of so many tokens at most."""
    found = prompts(number, seed)
    for place, text in enumerate(found):
        while len(prompt_ids(tokenizer, found[place])) > most:
            found[place] = found[place][: -1 - len(text) // 20]
    return found


def beside(args: argparse.Namespace) -> None:
    """`lm serve`, and `transformers serve` of the same folder or replicas of ours, in turns."""
    path, model = str(Path(args.model).resolve()), lm.load(args.model)
    tokenizer, most = model.tokenizer, model.config.max_seq_len - args.tokens
    del model
    asked = [fitting(tokenizer, args.requests, most, seed) for seed in range(args.rounds + 1)]
    longest = max(len(prompt_ids(tokenizer, each)) for row in asked for each in row) + args.tokens
    dtype, quoted = {"fp32": "float32", "bf16": "bfloat16"}[args.dtype], shlex.quote(path)
    ours = f"lm serve model={quoted} --port=0 --slots={args.clients} --dtype={args.dtype}"
    commands = {"lm serve": ("model", ours)}
    if args.peer == "replicas":
        commands |= {f"--replicas {n}": ("model", f"{ours} --replicas={n}") for n in (1, 2)}
    else:
        theirs = f"transformers.cli.transformers serve {quoted} --device=cpu --dtype={dtype} --host=127.0.0.1"
        # By itself it takes most of the machine's memory for keys and values, and a minute for that.
        blocks = args.clients * -(-longest // 256) + 1
        batched = f"--continuous-batching --cb-num-blocks={blocks} --cb-max-batch-tokens=512"
        commands["transformers serve"] = (path, f"{theirs} --port={args.port}")
        commands["transformers serve --continuous-batching"] = (
            path,
            f"{theirs} --port={args.port + 1} {batched}",
        )
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    rounds: dict[str, list[Round]] = {name: [] for name in commands}
    with ExitStack() as stack:
        servers = {}
        for name, (_, words) in commands.items():
            servers[name] = Server([sys.executable, "-m", *shlex.split(words)], env)
            stack.callback(servers[name].stop)
        for turn, row in enumerate(asked):
            for name, (called, _) in commands.items():
                some = row if turn else row[: 2 * args.clients]  # at first to warm up
                done = through_http(servers[name].port, called, some, args.tokens, args.clients)
                if turn:
                    rounds[name].append(done)
                    print(f"round {turn}, {name}: {done}", flush=True)
    print(f"\n{args.clients} clients, {args.requests} requests, medians of {args.rounds} rounds")
    own = [answer for each in rounds["lm serve"] for answer in each.answers]
    for name, those in rounds.items():
        speed = statistics.median(each.speed for each in those)
        median, most = (statistics.median(each.waits[i] for each in those) for i in (0, 1))
        print(f"{name}: {speed:.0f} tokens/s, first token after {median:.0f} and {most:.0f} ms (median, 99%)")
        answers = [answer for each in those for answer in each.answers]
        same = sum(a == b for a, b in zip(answers, own, strict=True))
        tokens = [sum(getattr(each, what) for each in those) for what in ("read", "written")]
        print(f"  {tokens[0]} tokens read, {tokens[1]} written; {same} of {len(own)} answers are ours")


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", choices=["transformers", "replicas"])
    parser.add_argument("--port", type=int, default=8761, help="of the peer, and the one after it")
    args = parser.parse_args()
    if args.peer:
        beside(args)
        return
    torch.set_num_threads(args.threads)
    model = lm.load(args.model, dtype=args.dtype)
    asked = requests(model, args.requests, args.tokens)
    rounds = [
        (
            alone(model, asked),
            through_engine(model, asked, 1),
            through_engine(model, asked, args.clients),
        )
        for _ in range(args.rounds)
    ]
    generated, one, many = (max(column, key=lambda each: each.speed) for column in zip(*rounds, strict=True))
    print(f"lm generate: {generated.speed:.0f} tokens/s")
    print(f"1 client: {one}")
    print(f"{args.clients} clients: {many}, {many.speed / one.speed:.1f} times as many")
    end = model.tokenizer.eos_id
    for name, each in (("1 client", one), (f"{args.clients} clients", many)):
        answers = [[id for id in ids if id != end] for ids in each.answers]
        same = sum(ours == theirs for ours, theirs in zip(answers, generated.answers, strict=True))
        print(f"{name}: {same} of {len(asked)} answers are those of lm generate")


if __name__ == "__main__":
    main()
