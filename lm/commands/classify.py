"""`lm classify`: labels or ratings of texts, pictures and sounds."""

from lm.commands.shared import at_least_one, task_parser, texts, use_task
from lm.errors import UserError

EXAMPLE = '{"text": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm classify`."""
    parser = task_parser(
        "classify",
        "Put labels on texts, pictures or sounds, or rate them, whichever the model has learned. Texts, or "
        f"names of files, are arguments, or lines of standard input: plain, or JSON Lines such as {EXAMPLE}, "
        'perhaps with `pair`, or {"path": "…"}. Then JSON Lines come out: each line\'s fields with '
        "`prediction` and `probabilities`.",
        "sst2",
    )
    add = parser.add_argument
    add("texts", metavar="TEXT", nargs="*", help="texts or files; standard input where there is none")
    words = "the field with the text, or with the file's name (default: text, or path)"
    add("--text", metavar="NAME", help=words)
    add("--pair", metavar="NAME", help="the field with a pair's second text (default: pair, if there is)")
    add("--best", type=int, default=5, help="labels to show for an argument (default: 5)")
    args = parser.parse(argv)
    at_least_one(args, "best")
    options = {name: value for name in ("text", "pair") if (value := getattr(args, name)) is not None}
    if args.texts and options:
        raise UserError("--text and --pair name fields of JSON Lines on standard input", status=2)
    given, show = texts(args.texts), {"best": args.best}
    use_task(args, "classify", given, EXAMPLE, args.text or "text", show, **options)
