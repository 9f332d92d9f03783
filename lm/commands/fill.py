"""`lm fill`: what stands under a <mask>."""

import json

from lm.commands.shared import MODEL, add_device, at_least_one, given_text
from lm.errors import spelling
from lm.options import OptionParser


def main(argv: list[str]) -> None:
    """The command `lm fill`."""
    parser = OptionParser("fill", "Guess what stands under each <mask>.")
    add = parser.add_argument
    add("model", help=MODEL.format("bert-nano"))
    add("text", nargs="?", help="a text with <mask> in it; standard input where it is not given")
    add("--best", type=int, default=5, help="guesses for each mask (default: %(default)s)")
    add("--json", action="store_true", help="one line of JSON for each mask")
    add_device(parser)
    args = parser.parse(argv)
    at_least_one(args, "best")
    text = given_text(args.text, "a text")

    from lm.predictor import load

    with spelling(lambda: vars(args)):
        found = load(args.model, args.device).fill(text, args.best)
    for number, guesses in enumerate(found, 1):
        if args.json:
            rows = [{"text": t, "probability": round(p, 6)} for t, p in guesses]
            print(json.dumps({"mask": number, "guesses": rows}, ensure_ascii=False))
            continue
        print(f"mask {number}")
        for guessed, probability in guesses:
            print(f"  {probability:6.1%}  {guessed!r}")
