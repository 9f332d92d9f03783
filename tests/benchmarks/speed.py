"""How fast training and generation are, beside transformers, litgpt and nanoGPT: in one process, in turns.

    python tests/benchmarks/speed.py --peers litgpt=DIR nanogpt=DIR --json speed.json --picture speed.png

Every contestant of a row is the same network (blocks, widths, vocabulary, tied or not) with fused AdamW in a
bare loop: forward, loss, backward, step. `lm` is ours in fp32 and eager, like for like; `lm auto` is ours as
it ships, in the precision that the machine decides. A peer takes part where its package or folder is there.
Rounds alternate and medians are taken, since the machine's speed drifts; a row's peak is that of a product of
two large fp32 matrices in the same round, by the fastest library that torch has.
"""

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.linear import multiplies_bf16_fast, product
from lm.inference.generate import Sampling, generate


@dataclass
class Row:
    """One shape.

    Args:
        kind: whose architecture: llama or gpt2.
        width, layers, heads, inner: of the network.
        vocab: tokens it knows.
        length, batch: of what it is trained on.
    """

    name: str
    kind: str
    width: int
    layers: int
    heads: int
    inner: int
    vocab: int
    length: int
    batch: int

    def config(self) -> BackboneConfig:
        """Ours."""
        own = {"mlp": "swiglu", "tie_embeddings": False}
        if self.kind == "gpt2":
            own = {"mlp": "gelu", "norm": "layer", "positions": "learned", "bias": True}
        return BackboneConfig(
            hidden_size=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            mlp_hidden_size=self.inner,
            vocab_size=self.vocab,
            max_seq_len=max(self.length, 512),
            **own,
        )


ROWS = [
    Row("llama 0.9M, V 512", "llama", 128, 4, 4, 344, 512, 128, 8),
    Row("llama 4.9M, V 8k", "llama", 192, 4, 6, 512, 8192, 128, 8),
    Row("llama 21M, V 32k", "llama", 256, 6, 8, 688, 32000, 256, 4),
    Row("gpt2 0.9M, V 512", "gpt2", 128, 4, 4, 512, 512, 128, 8),
    Row("gpt2 10M, V 8k", "gpt2", 320, 6, 5, 1280, 8192, 256, 4),
    Row("gpt2 30M, V 50k", "gpt2", 384, 6, 6, 1536, 50257, 256, 4),
    Row("gpt2 124M, V 50k", "gpt2", 768, 12, 12, 3072, 50257, 256, 2),
]
GPU_ROWS = [
    Row("gpt2 124M, T 1024", "gpt2", 768, 12, 12, 3072, 50257, 1024, 32),
    Row("llama 124M, T 1024", "llama", 768, 12, 12, 2048, 50257, 1024, 32),
    Row("llama 124M, T 4096", "llama", 768, 12, 12, 2048, 50257, 4096, 8),
]

BASE = Row("llama", "llama", 192, 4, 6, 512, 8192, 256, 4)
GROWTH = {  # of one side of it
    "length": (64, 128, 256, 512, 1024, 2048),
    "batch": (1, 2, 4, 8, 16, 32),
    "layers": (2, 4, 8, 16),
    "vocab": (512, 2048, 8192, 32768, 131072),
}

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ours(row: Row) -> tuple[torch.nn.Module, Loss]:
    """Our network, and its mean loss of inputs and targets (B, T)."""
    net = LanguageModel(row.config())
    return net, lambda inputs, targets: net(inputs, None, targets)[0] / targets.numel()


def transformers(row: Row) -> tuple[torch.nn.Module, Loss]:
    """Theirs, by the loss that its own `labels` give."""
    import transformers as hf

    hf.logging.set_verbosity_error()
    if row.kind == "gpt2":
        config = hf.GPT2Config(
            vocab_size=row.vocab,
            n_positions=max(row.length, 512),
            n_embd=row.width,
            n_layer=row.layers,
            n_head=row.heads,
            n_inner=row.inner,
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=None,
        )
        net = hf.GPT2LMHeadModel(config)
    else:
        config = hf.LlamaConfig(
            vocab_size=row.vocab,
            hidden_size=row.width,
            num_hidden_layers=row.layers,
            num_attention_heads=row.heads,
            intermediate_size=row.inner,
            max_position_embeddings=max(row.length, 512),
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=None,
        )
        net = hf.LlamaForCausalLM(config)
    # `labels` are shifted inside: the same targets, and one more position that has none.
    return net, lambda inputs, targets: net(input_ids=inputs, labels=inputs).loss


def litgpt(row: Row) -> tuple[torch.nn.Module, Loss]:
    """Theirs, by its own chunked loss as its `pretrain` computes it."""
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    gpt2 = row.kind == "gpt2"
    config = Config(
        name=row.name,
        block_size=max(row.length, 512),
        vocab_size=row.vocab,
        padded_vocab_size=row.vocab,
        n_layer=row.layers,
        n_head=row.heads,
        n_embd=row.width,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=gpt2,
        norm_class_name="LayerNorm" if gpt2 else "RMSNorm",
        mlp_class_name="GptNeoxMLP" if gpt2 else "LLaMAMLP",
        intermediate_size=row.inner,
    )
    net = GPT(config)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(net(inputs), targets)

    return net, loss


def nanogpt(row: Row) -> tuple[torch.nn.Module, Loss]:
    """Theirs; a GPT-2 alone."""
    from model import GPT, GPTConfig

    config = GPTConfig(
        block_size=max(row.length, 512),
        vocab_size=row.vocab,
        n_layer=row.layers,
        n_head=row.heads,
        n_embd=row.width,
        dropout=0.0,
        bias=True,
    )
    with contextlib.redirect_stdout(None):
        net = GPT(config)
    return net, lambda inputs, targets: net(inputs, targets)[1]


MAKERS = {"lm": ours, "transformers": transformers, "litgpt": litgpt, "nanogpt": nanogpt}


class Trained:
    """A contestant in training: one step at a time on the same random batch.

    Args:
        precision: of autocast, or None.
        compiled: whether the blocks are.
    """

    def __init__(
        self, name: str, row: Row, device: str, precision: torch.dtype | None = None, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.net, self.loss = MAKERS[name](row)
        self.net.to(device).train()
        if compiled:
            for block in self.net.backbone.blocks:
                block.compile()
        self.device, self.precision = device, precision
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        tokens = torch.randint(row.vocab, (row.batch, row.length + 1), device=device)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self.step()

    def step(self) -> float:
        """One step; its loss."""
        autocast = torch.autocast(self.device, self.precision, enabled=self.precision is not None)
        with autocast:
            loss = self.loss(self.inputs, self.targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


class Generated:
    """A contestant in greedy generation.

    Args:
        batch: prompts side by side, 16 tokens each.
        tokens: written after them.
        dtype: of ours.
    """

    def __init__(
        self, name: str, row: Row, device: str, batch: int, tokens: int, dtype: str | None = None
    ) -> None:
        torch.manual_seed(0)
        self.net = MAKERS[name](row)[0].to(device, torch.bfloat16 if dtype == "bf16" else None).eval()
        self.name, self.tokens = name, tokens
        torch.manual_seed(1)
        self.prompt = torch.randint(3, row.vocab, (1, 16), device=device).expand(batch, 16).contiguous()
        self.written = self.step()

    @torch.no_grad()
    def step(self) -> list[int]:
        """Write once; what the first prompt got."""
        if self.name == "lm":
            prompt = self.prompt[0].tolist()
            steps = generate(self.net, prompt, self.tokens, Sampling(temperature=0), samples=len(self.prompt))
            return [step[0] for step in steps]
        options = {"max_new_tokens": self.tokens, "min_new_tokens": self.tokens}
        if self.name == "transformers":
            options |= {"do_sample": False, "pad_token_id": 0}
            options["attention_mask"] = torch.ones_like(self.prompt)
        if self.name == "nanogpt":
            options = {"max_new_tokens": self.tokens, "top_k": 1}
        return self.net.generate(self.prompt, **options)[0, 16:].tolist()


def peak(device: str, dtype: torch.dtype = torch.float32, size: int = 1536) -> float:
    """Operations a second of a product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(4):
        synchronize(device)
        start = time.perf_counter()
        product(a, b)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def alternate(
    contestants: dict[str, Any], rounds: int, seconds: float, device: str
) -> tuple[dict[str, float], float]:
    """Seconds of a step of each, and the peak: medians over rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    peaks = []
    for turn in range(rounds):
        peaks.append(peak(device))
        names = list(contestants)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step = contestants[name].step
            step()
            taken: list[float] = []
            while len(taken) < 3 or sum(taken) < seconds:
                synchronize(device)
                start = time.perf_counter()
                step()
                synchronize(device)
                taken.append(time.perf_counter() - start)
            times[name].append(statistics.median(taken))
    return {name: statistics.median(each) for name, each in times.items()}, statistics.median(peaks)


def add_peers(given: list[str]) -> list[str]:
    """The names of the peers that can take part; their folders go on the path."""
    peers = []
    for word in given:
        name, _, folder = word.partition("=")
        if name not in MAKERS:
            sys.exit(f"--peers {word}: it can be {', '.join(MAKERS)}, each as NAME=DIR or NAME")
        if folder:
            sys.path.insert(0, folder)
        peers.append(name)
    return peers


def takes_part(name: str, row: Row) -> bool:
    """nanoGPT is a GPT-2; litgpt has none with learned positions."""
    return {"nanogpt": row.kind == "gpt2", "litgpt": row.kind == "llama"}.get(name, True)


def flags() -> str:
    """What the processor can, as far as it matters here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    return " ".join(flag for flag in known if f" {flag} " in text or f" {flag}\n" in text)


def measure_training(row: Row, args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Tokens a second of each."""
    made: dict[str, Any] = {
        name: Trained(name, row, args.device) for name in ("lm", *names) if takes_part(name, row)
    }
    if args.auto:
        bf16 = multiplies_bf16_fast(torch.device(args.device))
        made["lm auto"] = Trained("lm", row, args.device, torch.bfloat16 if bf16 else None, args.compile)
    seconds, best = alternate(made, args.rounds, args.seconds, args.device)
    count = row.batch * row.length
    flops = made["lm"].net.training_flops_per_token(row.length)
    speeds = {name: count / each for name, each in seconds.items()}
    return {
        "row": row.name,
        "tokens_per_second": speeds,
        "peak_gflops": best / 1e9,
        "share_of_peak": {"lm": flops * speeds["lm"] / best},
        "ratio": {name: speeds["lm"] / speed for name, speed in speeds.items() if name != "lm"},
    }


def measure_generation(row: Row, args: argparse.Namespace, names: list[str], batch: int) -> dict[str, Any]:
    """Tokens a second of each, all samples together."""
    tokens = 64
    made = {
        name: Generated(name, row, args.device, batch, tokens)
        for name in ("lm", *names)
        if name != "litgpt" and takes_part(name, row)
    }
    if args.auto:
        made["lm bf16"] = Generated("lm", row, args.device, batch, tokens, "bf16")
    seconds, best = alternate(made, args.rounds, args.seconds, args.device)
    speeds = {name: batch * tokens / each for name, each in seconds.items()}
    return {
        "row": f"{row.name}, batch {batch}",
        "tokens_per_second": speeds,
        "peak_gflops": best / 1e9,
        "ratio": {name: speeds["lm"] / speed for name, speed in speeds.items() if name != "lm"},
    }


def grown() -> Iterator[Row]:
    """Rows that differ from the base in one side."""
    for side, values in GROWTH.items():
        yield from (replace(BASE, name=f"{side} {value}", **{side: value}) for value in values)


def show(found: dict[str, Any]) -> None:
    """A row in a line."""
    speeds = "  ".join(f"{name} {speed:,.0f}" for name, speed in found["tokens_per_second"].items())
    ratios = "  ".join(f"/ {name} {ratio:.2f}" for name, ratio in found["ratio"].items())
    share = found.get("share_of_peak", {}).get("lm")
    print(
        f"{found['row']:28} {speeds}  lm {ratios}" + (f"  of peak {share:.0%}" if share else ""), flush=True
    )


def draw(found: dict[str, Any], path: Path) -> None:
    """How many times as fast as each peer ours is, a group of bars a row."""
    from matplotlib.figure import Figure

    rows = [row for kind in ("training", "generation") for row in found[kind]]
    peers = sorted({name for row in rows for name in row["ratio"] if not name.startswith("lm")})
    figure = Figure(figsize=(8, 0.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, peer in enumerate(peers):
        places = [(at, row["ratio"][peer]) for at, row in enumerate(rows) if peer in row["ratio"]]
        heights, ratios = zip(*places, strict=True)
        axes.barh([at + 0.27 * i for at in heights], ratios, height=0.25, label=f"lm / {peer}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(0, 4)
    axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="*", default=["transformers"], help="NAME or NAME=DIR")
    parser.add_argument("--rows", default="", help="those whose name has this in it")
    parser.add_argument(
        "--what", nargs="*", default=["training", "generation"], help="training, generation, growth"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-auto", dest="auto", action="store_false", help="leave out ours as it ships")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of ours as it ships")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32], help="of generation")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG of ours / theirs, fp32 like for like")
    args = parser.parse_args()
    names = [name for name in add_peers(args.peers) if name != "lm"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags()}", flush=True)
    rows = [row for row in ROWS + GPU_ROWS * (args.device == "cuda") if args.rows in row.name]
    found: dict[str, Any] = {"torch": torch.__version__, "flags": flags()}
    found |= {"training": [], "generation": [], "growth": []}
    for row in rows:
        if "training" in args.what:
            found["training"].append(measure_training(row, args, names))
            show(found["training"][-1])
        for batch in args.batches if "generation" in args.what and "124M" not in row.name else ():
            found["generation"].append(measure_generation(row, args, names, batch))
            show(found["generation"][-1])
    for row in grown() if "growth" in args.what else ():
        found["growth"].append(measure_training(row, args, names))
        show(found["growth"][-1])
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
