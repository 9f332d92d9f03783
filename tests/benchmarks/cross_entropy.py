"""The cross-entropy of a linear head beside `F.cross_entropy` on whole logits, forward and backward.

    python tests/benchmarks/cross_entropy.py [--rounds 7]

Time: medians of rounds in which the two take turns. Memory: what the process grows by at its peak, each in a
process of its own.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import linear_cross_entropy

SHAPES = [  # vocabulary, hidden size, tokens
    (512, 128, 256),
    (512, 128, 1024),
    (512, 128, 16384),
    (8192, 320, 256),
    (8192, 320, 1024),
    (8192, 320, 8192),
    (50257, 384, 256),
    (50257, 384, 1024),
    (50257, 384, 4096),
    (262144, 256, 256),
    (262144, 256, 1024),
]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """On whole logits."""
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """In chunks."""
    return linear_cross_entropy(hidden, weight, targets)[0]


def step(loss: Callable[..., Tensor], tensors: tuple[Tensor, ...], bf16: bool) -> float:
    """Seconds of forward and backward."""
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss(*tensors).backward()
    seconds = time.perf_counter() - begin
    tensors[0].grad = tensors[1].grad = None
    return seconds


def make(vocabulary: int, width: int, tokens: int) -> tuple[Tensor, ...]:
    """Hidden states, weight, targets."""
    hidden, weight = torch.randn(tokens, width), torch.randn(vocabulary, width) / 50
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(vocabulary, (tokens,))


def kilobytes(field: str) -> int:
    """A figure of this process's memory, as Linux has it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])


def grows(name: str, shape: tuple[int, int, int], bf16: bool, found: "multiprocessing.Queue[float]") -> None:
    """Tell by how many MB this process grows."""
    tensors = make(*shape)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = kilobytes("VmRSS")
    step(globals()[name], tensors, bf16)
    found.put((kilobytes("VmHWM") - before) / 1024)


def memory(name: str, shape: tuple[int, int, int], bf16: bool) -> float:
    """MB at the peak, beside hidden states and weight."""
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[float] = context.Queue()
    child = context.Process(target=grows, args=(name, shape, bf16, found))
    child.start()
    size = found.get()
    child.join()
    return size


def main() -> None:
    """A line a shape and precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| V, C, tokens | precision | plain, ms | ours, ms | ratio | plain, MB | ours, MB |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        tensors = make(*shape)
        for bf16 in (False, True):
            times: dict[str, list[float]] = {"plain": [], "ours": []}
            for _ in range(rounds):
                for name, loss in (("plain", plain), ("ours", ours)):
                    times[name].append(step(loss, tensors, bf16))
            a, b = (statistics.median(each) * 1000 for each in times.values())
            sizes = " | ".join(f"{memory(name, shape, bf16):,.0f}" for name in times)
            what = f"{shape[0]:,}, {shape[1]}, {shape[2]:,} | {'bf16' if bf16 else 'fp32'}"
            print(f"| {what} | {a:,.1f} | {b:,.1f} | {b / a:.2f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
