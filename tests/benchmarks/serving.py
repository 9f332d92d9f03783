"""What writing for many at once wins: tokens a second and time to the first token, with one client and with
many, through the engine of `lm serve`, and by `lm generate` alone.

    python tests/benchmarks/serving.py MODEL --clients 16

Every client asks for one answer after the other. One and many take turns; the best of the rounds counts. The
answers have to be the same.
"""

import argparse
import asyncio
import pydoc_data.topics
import random
import statistics
import time
from dataclasses import dataclass, field

import torch

import lm
from lm.inference.batch import complete
from lm.inference.generate import Sampling, prompt_ids
from lm.serving.engine import Engine, Request


@dataclass
class Round:
    """What clients saw."""

    answers: list[list[int]]
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)  # seconds to the first token of each

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return sum(map(len, self.answers)) / self.seconds

    def __str__(self) -> str:
        first = sorted(self.first)
        waits = f"{1e3 * statistics.median(first):.0f} and {1e3 * first[int(0.99 * len(first))]:.0f} ms"
        return f"{self.speed:.0f} tokens/s, first token after {waits} (median, 99%)"


def requests(model: lm.Predictor, number: int, tokens: int) -> list[Request]:
    """Prompts of 5 to 200 characters out of Python's reference."""
    draw, text = random.Random(0), "\n".join(pydoc_data.topics.topics.values())
    found = []
    for _ in range(number):
        at = draw.randrange(len(text) - 200)
        ids = prompt_ids(model.tokenizer, text[at : at + draw.randint(5, 200)])
        found.append(Request(tuple(ids[: model.config.max_seq_len - tokens]), tokens, temperature=0))
    return found


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
    args = parser.parse_args()
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
