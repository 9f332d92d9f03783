"""`lm generate`: writing on from a prompt."""

import argparse
import sys

from lm.commands.shared import (
    add_device,
    add_sampling,
    at_least_one,
    given_text,
    load_writer,
    sampling,
)
from lm.errors import UserError, spelling


def main(argv: list[str]) -> None:
    """The command `lm generate`."""
    parser = argparse.ArgumentParser(prog="lm generate", description="Write on from a prompt.")
    add = parser.add_argument
    add("checkpoint", help="such as checkpoints/gpt-nano/best.ckpt; nothing else is needed")
    add("--prompt", help="what to go on from; standard input where it is not given")
    add("--tokens", type=int, default=200, help="pieces to write at most (default: %(default)s)")
    add("--samples", type=int, default=1, help="how many texts to write")
    add_sampling(parser, 0.8, 1.0)
    add("--stop", action="append", default=[], metavar="TEXT", help="end before it; repeatable")
    add("--no_cache", action="store_true", help="compute every step anew: slow, to compare")
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    at_least_one(args, "tokens", "samples")
    prompt = given_text(args.prompt, "--prompt TEXT")

    from lm.inference.generate import stream_text

    with spelling(lambda: vars(args)):
        how = sampling(args)
    model = load_writer(args.checkpoint, args.device, "generate")
    if not model.config.causal:
        raise UserError(f"{args.checkpoint} is a BERT, which fills gaps: use `lm fill`")
    parts = stream_text(
        model.network,
        model.tokenizer,
        prompt,
        args.tokens,
        how,
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
    texts = [prompt] * args.samples
    for sample, text in parts:  # side by side, so they are shown when they are whole
        texts[sample] += text
    print("\n----\n".join(texts))
