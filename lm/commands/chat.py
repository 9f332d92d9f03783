"""`lm chat`: talking with a fine-tuned model."""

import contextlib
import sys

from lm.commands.shared import MODEL, add_device, add_dtype, add_sampling, sampling
from lm.errors import UserError, spelling
from lm.inference.lines import read_lines, well_formed, write_rows
from lm.options import OptionParser
from lm.processes import say

EXAMPLE = '{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


def main(argv: list[str]) -> None:
    """The command `lm chat`."""
    parser = OptionParser(
        "chat",
        "Talk with a model that was fine-tuned on chats. Without MESSAGE: a dialogue at the "
        f"terminal; from a file or pipe JSON Lines, {EXAMPLE}, to which `answer` is added.",
    )
    add = parser.add_argument
    add("model", help=MODEL.format("alpaca-en"))
    add("message", metavar="MESSAGE", nargs="?", help="to be answered, and no more")
    add("--system", default="", metavar="TEXT", help="what the system says first")
    add("--tokens", type=int, help="tokens of an answer at most (default: 512, at most half of what it sees)")
    add_sampling(parser, 0.7, 0.95)
    add_device(parser)
    add_dtype(parser)
    args = parser.parse(argv)
    if args.message is not None and not well_formed(args.message, "the message").strip():
        raise UserError("the message is empty", status=2)

    from lm.inference.chat import COMMANDS, dialogue
    from lm.predictor import load

    with spelling(lambda: vars(args)):
        talk = load(args.model, args.device, dtype=args.dtype).dialogue(
            args.system,
            args.tokens,
            seed=args.seed,
            note=lambda words: say(f"({words})"),
            **sampling(args),
        )
    if args.message is not None:
        for part in talk.say(args.message):
            print(part, end="", flush=True)
        print()
    elif sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (the arrow keys and the lines before, where the system has it)
        print(f"{args.model}: {COMMANDS}")
        dialogue(talk)
    else:
        write_rows(talk.answers(read_lines("prompt", EXAMPLE)))
