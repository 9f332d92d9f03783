"""`lm detect`: boxes around the things in pictures."""

from lm.commands.shared import task_parser, texts, use_task

EXAMPLE = '{"path": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm detect`."""
    parser = task_parser(
        "detect",
        "Find the things in pictures. Their names are arguments, or lines of standard input: plain, or JSON "
        f"Lines such as {EXAMPLE}. Then, or with --json, JSON Lines come out: each line's fields with "
        "`boxes`, the surest first: of each `label`, `score` and `box`, its left, top, right and bottom in "
        "pixels of the picture.",
        "bccd",
    )
    add = parser.add_argument
    add("pictures", metavar="PICTURE", nargs="*", help="pictures; standard input where there is none")
    add("--threshold", type=float, default=0.3, help="score of a box that is shown (default: %(default)s)")
    add("--draw", metavar="FOLDER", help="write copies of the pictures there with the boxes on them")
    args = parser.parse(argv)
    settings = {"threshold": args.threshold, "draw": args.draw}
    use_task(args, "detect", texts(args.pictures), EXAMPLE, settings=settings)
