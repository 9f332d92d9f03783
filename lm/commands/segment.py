"""`lm segment`: what each pixel of a picture shows, or which things are on it."""

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
        "`mask`, the file. Of a model that tells things apart a mask has their numbers, and a line `things`: "
        "label, score, box, and mask as COCO has it.",
        "camvid",
    )
    add = parser.add_argument
    add("pictures", metavar="PICTURE", nargs="*", help="pictures; standard input where there is none")
    add("--out", metavar="FOLDER", required=True, help="where masks are written")
    add("--draw", metavar="FOLDER", help="write copies of the pictures there with their classes as colours")
    add("--threshold", type=float, default=0.3, help="score of a thing that is shown (default: %(default)s)")
    args = parser.parse(argv)
    settings = {"out": args.out, "draw": args.draw, "threshold": args.threshold}
    use_task(args, "segment", texts(args.pictures), EXAMPLE, settings=settings)
