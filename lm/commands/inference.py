"""`lm generate`, `lm fill` and `lm chat`: a checkpoint on the command line."""

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from lm.errors import UserError
from lm.inference.lines import read_lines, well_formed, write_rows
from lm.inference.uses import USES, refuse

if TYPE_CHECKING:
    from lm.checkpoint import Model
    from lm.inference.generate import Sampling


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option that says where a model works."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: %(default)s)")


def check_device(device: str) -> None:
    """See that there is such a device.

    Raises:
        UserError: there is none.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: there is none here", status=2) from error


def _load(path: str, device: str, command: str) -> "Model":
    """A model that writes text."""
    check_device(device)
    from lm.checkpoint import open_checkpoint

    model = open_checkpoint(path, device)
    if not model.has_head:
        raise refuse(path, model.record, command)
    return model


def _text(given: str | None, option: str) -> str:
    """An argument, or standard input where there is none."""
    if given is not None:
        return well_formed(given, option)
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(f"give {option}, or a text on standard input", status=2)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error}") from error


def _add_sampling(parser: argparse.ArgumentParser, temperature: float, top_p: float) -> None:
    """The options that say how the next piece is chosen, with these defaults."""
    parser.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help="0: always the likeliest (default: %(default)s)",
    )
    parser.add_argument("--top_k", type=int, default=50, help="of this many likeliest; 0: all (default: 50)")
    parser.add_argument(
        "--top_p",
        type=float,
        default=top_p,
        help="of the likeliest with this probability in all (default: %(default)s)",
    )
    parser.add_argument(
        "--min_p", type=float, default=0.0, help="of those this many times as likely as the best"
    )
    parser.add_argument("--repetition_penalty", type=float, default=1.0, help="above 1: repeat less")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default: 0)")


def _sampling(args: argparse.Namespace) -> "Sampling":
    from lm.inference.generate import Sampling

    return Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty)


def generate(argv: list[str]) -> None:
    """The command `lm generate`."""
    parser = argparse.ArgumentParser(prog="lm generate", description="Write on from a prompt.")
    parser.add_argument("checkpoint", help="such as checkpoints/gpt-nano/best.ckpt; nothing else is needed")
    parser.add_argument("--prompt", help="what to go on from; standard input where it is not given")
    parser.add_argument(
        "--tokens", type=int, default=200, help="pieces to write at most (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=1, help="how many texts to write")
    _add_sampling(parser, 0.8, 1.0)
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before it; repeatable"
    )
    parser.add_argument("--no_cache", action="store_true", help="compute every step anew: slow, to compare")
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    for option in ("tokens", "samples"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} {getattr(args, option)}: it must be at least 1", status=2)
    prompt = _text(args.prompt, "--prompt TEXT")

    from lm.inference.generate import stream_text

    sampling = _sampling(args)
    model = _load(args.checkpoint, args.device, "generate")
    if not model.config.causal:
        raise UserError(f"{args.checkpoint} is a BERT, which fills gaps: use `lm fill`")
    texts = [prompt] * args.samples
    parts = stream_text(
        model.network,
        model.tokenizer,
        prompt,
        args.tokens,
        sampling,
        args.samples,
        args.seed,
        tuple(s for s in args.stop if s),
        not args.no_cache,
    )
    if args.samples == 1:
        sys.stdout.write(prompt)
        for _, text in parts:
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    for sample, text in parts:  # side by side, so they are shown when they are whole
        texts[sample] += text
    print("\n----\n".join(texts))


def fill(argv: list[str]) -> None:
    """The command `lm fill`."""
    parser = argparse.ArgumentParser(prog="lm fill", description="Guess what stands under each <mask>.")
    parser.add_argument("checkpoint", help="such as checkpoints/bert-nano/best.ckpt")
    parser.add_argument(
        "text", nargs="?", help="a text with <mask> in it; standard input where it is not given"
    )
    parser.add_argument("--best", type=int, default=5, help="guesses for each mask (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each mask")
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    if args.best < 1:
        raise UserError(f"--best {args.best}: it must be at least 1", status=2)
    text = _text(args.text, "a text")

    from lm.inference.fill import fill as guess

    model = _load(args.checkpoint, args.device, "fill")
    for number, guesses in enumerate(guess(model.network, model.tokenizer, text, args.best), 1):
        if args.json:
            rows = [{"text": t, "probability": round(p, 6)} for t, p in guesses]
            print(json.dumps({"mask": number, "guesses": rows}, ensure_ascii=False))
            continue
        print(f"mask {number}")
        for guessed, probability in guesses:
            print(f"  {probability:6.1%}  {guessed!r}")


def chat(argv: list[str]) -> None:
    """The command `lm chat`."""
    example = '{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'
    parser = argparse.ArgumentParser(
        prog="lm chat",
        description="Talk with a model that was fine-tuned on chats. Without MESSAGE: a dialogue at the "
        f"terminal; from a file or pipe JSON Lines, {example}, to which `answer` is added.",
    )
    parser.add_argument("checkpoint", help="of lm.tasks.InstructionTuning or PreferenceTuning: RUN/best.ckpt")
    parser.add_argument("message", metavar="MESSAGE", nargs="?", help="to be answered, and no more")
    parser.add_argument("--system", default="", metavar="TEXT", help="what the system says first")
    parser.add_argument(
        "--tokens", type=int, help="pieces of an answer at most (default: 512, at most half of what it sees)"
    )
    _add_sampling(parser, 0.7, 0.95)
    add_device(parser)
    args = parser.parse_intermixed_args(argv)
    if args.message is not None and not well_formed(args.message, "the message").strip():
        raise UserError("the message is empty", status=2)
    sampling = _sampling(args)

    from lm.inference.chat import COMMANDS, Chat, answer_length, dialogue
    from lm.tokenizer.chat import chat_format

    model = _load(args.checkpoint, args.device, "chat")
    found = chat_format(model.tokenizer)
    task = model.record["task"]
    if not model.config.causal:
        raise refuse(args.checkpoint, model.record, "chat")
    if found is None or (task in USES and USES[task].command != "chat"):
        raise UserError(
            f"{args.checkpoint} has not learned to chat: fine-tune it first (`lm fit` with "
            f"lm.tasks.InstructionTuning and --model.init_from {args.checkpoint})"
        )

    def note(words: str) -> None:
        print(f"({words})", file=sys.stderr)

    tokens = answer_length(model.config.max_seq_len, args.tokens)
    talk = Chat(model.network, found, tokens, sampling, args.seed, args.system, note)
    if args.message is not None:
        for part in talk.say(args.message):
            print(part, end="", flush=True)
        print()
    elif sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (the arrow keys and the lines before, where the system has it)
        print(f"{args.checkpoint}: {COMMANDS}")
        dialogue(talk)
    else:
        write_rows(talk.answers(read_lines("prompt", example)))
