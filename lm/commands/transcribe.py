"""`lm transcribe`: what is said in sounds."""

from lm.commands.shared import at_least_one, task_parser, texts, use_task

EXAMPLE = '{"path": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm transcribe`."""
    parser = task_parser(
        "transcribe",
        "Write down what is said in sounds (wav, flac, ogg, mp3), of any length. Their names are arguments, "
        f"or lines of standard input: plain, or JSON Lines such as {EXAMPLE}. Then, or with --json, JSON "
        "Lines come out: each line's fields with `text` and `words`, and when each word is said, in seconds.",
        "speechocean",
    )
    add = parser.add_argument
    add("sounds", metavar="SOUND", nargs="*", help="sound files; standard input where there is none")
    words = "what helps to choose: a text file, a table with a column `text`, or a GPT"
    add("--language_model", metavar="PATH", help=words)
    add(
        "--beam_width", type=int, metavar="N", help="beginnings to follow (default: 32 with a language model)"
    )
    add("--alpha", type=float, help="the weight of the language model (default: 0.5)")
    add("--beta", type=float, help="what each character adds to the score (default: 0)")
    args = parser.parse(argv)
    names = ("language_model", "beam_width", "alpha", "beta")
    settings = {name: value for name in names if (value := getattr(args, name)) is not None}
    at_least_one(args, *({"beam_width"} & set(settings)))
    use_task(args, "transcribe", texts(args.sounds), EXAMPLE, settings=settings)
