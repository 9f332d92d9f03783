"""`lm generate` and `lm fill`: a checkpoint on the command line."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lm.errors import UserError

if TYPE_CHECKING:
    from lm.checkpoint import Loaded


def _load(path: str, device: str) -> "Loaded":
    import torch

    from lm.checkpoint import load_model

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: there is none here", status=2) from error
    return load_model(path, device)


def _text(given: str | None, option: str) -> str:
    """An argument, or standard input where there is none."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        raise UserError(f"give {option}, or a text on standard input", status=2)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error}") from error


def generate(argv: list[str]) -> None:
    """The command `lm generate`."""
    parser = argparse.ArgumentParser(prog="lm generate", description="Write on from a prompt.")
    parser.add_argument("checkpoint", help="such as checkpoints/gpt-nano/best.ckpt; nothing else is needed")
    parser.add_argument("--prompt", help="what to go on from; standard input where it is not given")
    parser.add_argument(
        "--tokens", type=int, default=200, help="pieces to write at most (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=1, help="how many texts to write")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest (default: 0.8)"
    )
    parser.add_argument("--top_k", type=int, default=50, help="of this many likeliest; 0: all (default: 50)")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="of the likeliest with this probability in all"
    )
    parser.add_argument(
        "--min_p", type=float, default=0.0, help="of those this many times as likely as the best"
    )
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1: repeat less")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default: 0)")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; repeatable"
    )
    parser.add_argument("--no_cache", action="store_true", help="compute every step anew: slow, to compare")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")
    args = parser.parse_args(argv)
    for option in ("tokens", "samples"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} {getattr(args, option)}: it must be at least 1", status=2)
    prompt = _text(args.prompt, "--prompt TEXT")

    from lm.inference.generate import Sampling, stream_text

    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty)
    loaded = _load(args.checkpoint, args.device)
    if not loaded.model.config.causal:
        raise UserError(f"{args.checkpoint} is a BERT, which fills gaps: use `lm fill`")
    texts = [prompt] * args.samples
    parts = stream_text(
        loaded.model,
        loaded.tokenizer,
        prompt,
        args.tokens,
        sampling,
        args.samples,
        args.seed,
        tuple(s for s in args.stop if s),
        not args.no_cache,
    )
    if args.samples == 1:
        sys.stdout.write(prompt)
        for _, text in parts:
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    for sample, text in parts:  # side by side, so they are shown when they are whole
        texts[sample] += text
    print("\n----\n".join(texts))


def fill(argv: list[str]) -> None:
    """The command `lm fill`."""
    parser = argparse.ArgumentParser(prog="lm fill", description="Guess what stands under each <mask>.")
    parser.add_argument("checkpoint", help="such as checkpoints/bert-nano/best.ckpt")
    parser.add_argument(
        "text", nargs="?", help="a text with <mask> in it; standard input where it is not given"
    )
    parser.add_argument("--best", type=int, default=5, help="guesses for each mask (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each mask")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.best < 1:
        raise UserError(f"--best {args.best}: it must be at least 1", status=2)
    text = _text(args.text, "a text")

    from lm.inference.fill import fill as guess

    loaded = _load(args.checkpoint, args.device)
    for number, guesses in enumerate(guess(loaded.model, loaded.tokenizer, text, args.best), 1):
        if args.json:
            rows = [{"text": t, "probability": round(p, 6)} for t, p in guesses]
            print(json.dumps({"mask": number, "guesses": rows}, ensure_ascii=False))
            continue
        print(f"mask {number}")
        for guessed, probability in guesses:
            print(f"  {probability:6.1%}  {guessed!r}")
