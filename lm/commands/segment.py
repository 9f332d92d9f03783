"""`lm segment`: what each pixel of a picture shows."""

from lm.commands.shared import task_parser, texts, use_task

EXAMPLE = '{"path": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm segment`."""
    parser = task_parser(
        "segment",
        "Say of every pixel of pictures what it shows. Their names are arguments, or lines of standard "
        f"input: plain, or JSON Lines such as {EXAMPLE}. Each gets a mask as large as it is, a PNG file "
        "whose values are the numbers of the classes and whose palette shows them. Then, or with --json, "
        "JSON Lines come out: each line's fields with `shares`, of each class that of the picture, and "
        "`mask`, the file.",
        "camvid",
    )
    add = parser.add_argument
    add("pictures", metavar="PICTURE", nargs="*", help="pictures; standard input where there is none")
    add("--out", metavar="FOLDER", required=True, help="where masks are written")
    add("--draw", metavar="FOLDER", help="write copies of the pictures there with their classes as colours")
    args = parser.parse(argv)
    settings = {"out": args.out, "draw": args.draw}
    use_task(args, "segment", texts(args.pictures), EXAMPLE, settings=settings)
