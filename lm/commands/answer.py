"""`lm answer`: the answers to questions in texts."""

from pathlib import Path

from lm.commands.shared import task_parser, use_task
from lm.errors import UserError
from lm.inference.lines import Line

EXAMPLE = '{"question": "…", "context": "…"}'


def main(argv: list[str]) -> None:
    """The command `lm answer`."""
    parser = task_parser(
        "answer",
        f"Find the answer to a question in a text. Without options: JSON Lines on standard input such as "
        f"{EXAMPLE}; out come each line's fields with `answer`, `start` (its first character in the context) "
        "and `score` (above 0: likelier than that there is none).",
        "xquad-en",
    )
    parser.add_argument("--question", metavar="TEXT")
    parser.add_argument("--context", metavar="TEXT", help="the text that may hold the answer, however long")
    parser.add_argument("--context_file", metavar="FILE", help="the same from a file")
    args = parser.parse(argv)
    given, contexts = [], [c for c in (args.context, args.context_file) if c is not None]
    if args.question is not None or contexts:
        if args.question is None or len(contexts) != 1:
            raise UserError("give --question, and --context or --context_file", status=2)
        context = args.context if args.context is not None else _file(args.context_file)
        given = [Line("the question or the context", {"question": args.question, "context": context})]
    use_task(args, "answer", given, EXAMPLE, column=None)


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--context_file {path}: {error.strerror}", status=2) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--context_file {path} is not UTF-8 text (byte {error.start + 1})") from error
