"""`lm classify`: labels or ratings of texts."""

from lm.commands.shared import at_least_one, task_parser, texts, use_task
from lm.errors import UserError

EXAMPLE = '{"text": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm classify`."""
    parser = task_parser(
        "classify",
        "Put labels on texts, or rate them. Texts are arguments, or lines of standard input: plain, or JSON "
        f"Lines such as {EXAMPLE}, perhaps with `pair`. Then JSON Lines come out: each line's fields with "
        "`prediction` and `probabilities`.",
        "sst2",
    )
    add = parser.add_argument
    add("texts", metavar="TEXT", nargs="*", help="texts; standard input where there is none")
    add("--text", default="text", metavar="NAME", help="the field with the text (default: text)")
    add("--pair", metavar="NAME", help="the field with a pair's second text (default: pair, if there is)")
    add("--best", type=int, default=5, help="labels to show for an argument (default: 5)")
    args = parser.parse(argv)
    at_least_one(args, "best")
    if args.texts and (args.pair is not None or args.text != "text"):
        raise UserError("--text and --pair name fields of JSON Lines on standard input", status=2)
    given, show = texts(args.texts), {"best": args.best}
    use_task(args, "classify", given, EXAMPLE, args.text, show, text=args.text, pair=args.pair)
