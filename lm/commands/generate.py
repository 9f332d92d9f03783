"""`lm generate`: writing on from a prompt."""

import sys

from lm.commands.shared import (
    MODEL,
    add_device,
    add_dtype,
    add_sampling,
    at_least_one,
    given_text,
    sampling,
)
from lm.errors import UserError, spelling
from lm.options import OptionParser


def main(argv: list[str]) -> None:
    """The command `lm generate`."""
    parser = OptionParser("generate", "Continue a prompt.")
    add = parser.add_argument
    add("model", help=MODEL.format("gpt-nano"))
    add(
        "text", metavar="PROMPT", nargs="?", help="the text to continue; standard input where it is not given"
    )
    add("--prompt", help="the same")
    add("--tokens", type=int, default=200, help="tokens to write at most (default: %(default)s)")
    add("--samples", type=int, default=1, help="how many texts to write")
    add_sampling(parser, 0.8, 1.0)
    add("--stop", action="append", default=[], metavar="TEXT", help="end before it; repeatable")
    add("--no_cache", action="store_true", help="compute every step anew: slow, for comparison")
    add_device(parser)
    add_dtype(parser)
    args = parser.parse(argv)
    at_least_one(args, "tokens", "samples")
    if args.text is not None and args.prompt is not None:
        raise UserError("two prompts were given: PROMPT and --prompt", status=2)
    prompt = given_text(args.prompt if args.text is None else args.text, "a prompt")

    from lm.predictor import load

    with spelling(lambda: vars(args)):
        model = load(args.model, args.device, dtype=args.dtype)
        options = {"seed": args.seed, "stop": [s for s in args.stop if s], **sampling(args)}
        if args.samples > 1:
            texts = model.generate([prompt] * args.samples, args.tokens, **options)
            print("\n----\n".join(prompt + text for text in texts))
            return
        parts = model.stream(prompt, args.tokens, cache=not args.no_cache, **options)
        sys.stdout.write(prompt)
        for text in parts:
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
