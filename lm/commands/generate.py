"""`lm generate`: writing on from a prompt."""

import sys

from lm.commands.shared import (
    MODEL,
    add_device,
    add_sampling,
    at_least_one,
    given_text,
    load_writer,
    sampling,
)
from lm.errors import UserError, spelling
from lm.options import OptionParser


def main(argv: list[str]) -> None:
    """The command `lm generate`."""
    parser = OptionParser("generate", "Write on from a prompt.")
    add = parser.add_argument
    add("model", help=MODEL.format("gpt-nano"))
    add("text", metavar="PROMPT", nargs="?", help="what to go on from; standard input where it is not given")
    add("--prompt", help="the same")
    add("--tokens", type=int, default=200, help="pieces to write at most (default: %(default)s)")
    add("--samples", type=int, default=1, help="how many texts to write")
    add_sampling(parser, 0.8, 1.0)
    add("--stop", action="append", default=[], metavar="TEXT", help="end before it; repeatable")
    add("--no_cache", action="store_true", help="compute every step anew: slow, to compare")
    add_device(parser)
    args = parser.parse(argv)
    at_least_one(args, "tokens", "samples")
    if args.text is not None and args.prompt is not None:
        raise UserError("two prompts were given: PROMPT and --prompt", status=2)
    prompt = given_text(args.prompt if args.text is None else args.text, "a prompt")

    from lm.inference.generate import stream_text

    with spelling(lambda: vars(args)):
        how = sampling(args)
    model = load_writer(args.model, args.device, "generate")
    if not model.config.causal:
        raise UserError(f"{args.model} is a BERT, which fills gaps: use `lm fill`")
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
