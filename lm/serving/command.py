"""`lm serve`: models that answer over HTTP."""

import argparse
import importlib.util
import os
import shlex
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from lm.errors import UserError, not_installed, spelling
from lm.options import OptionParser
from lm.processes import say

if TYPE_CHECKING:
    from lm.serving.house import House, Served

# Name, type, default, least, help.
_NUMBERS: tuple[tuple[str, type, float, float, str], ...] = (
    ("port", int, 8000, 0, "0 takes a free one"),
    ("slots", int, 16, 1, "texts that a model writes at once"),
    ("queue", int, 64, 1, "requests of a model that wait; more get 429"),
    ("timeout", float, 300, 1, "seconds of a request: what is written by then is the answer"),
    ("grace", float, 30, 0, "seconds that running requests have when the server is stopped"),
    ("max-body", float, 4, 0.001, "megabytes of a request; more get 413"),
    ("max-files", float, 32, 0.001, "the same of a request that brings pictures or sounds along"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm serve`."""
    args = _parser().parse(argv)
    for name, _, _, least, _ in _NUMBERS:
        value = getattr(args, name.replace("-", "_"))
        if not least <= value < 1e9:  # nor is it none
            raise UserError(f"--{name} {value:g}: it must be at least {least:g}", status=2)
    try:
        import fastapi  # noqa: F401
        import llguidance  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        what = "FastAPI, uvicorn, prometheus-client, llguidance and python-multipart"
        raise not_installed("lm serve", what, "serve") from None
    if args.replicas is not None:
        if args.replicas < 1:
            raise UserError(f"--replicas {args.replicas}: it must be at least 1", status=2)
        if importlib.util.find_spec("ray") is None:
            raise not_installed("lm serve --replicas", "Ray Serve", "serve,ray")
    with spelling(lambda: [name.replace("_", "-") for name in vars(args)]):
        _serve(args)


def _parser() -> OptionParser:
    parser = OptionParser(
        "serve",
        "Let models answer over HTTP as OpenAI's interface does, so that its clients work unchanged; at / is "
        "a page to try them. Only this machine can ask, unless --host says otherwise.",
    )
    add = parser.add_argument
    words = "a checkpoint, a run's folder, or a Hugging Face folder; NAME=MODEL gives it a name of your own"
    add("models", nargs="+", metavar="MODEL", help=words)
    add("--host", default="127.0.0.1", help="0.0.0.0: every machine that reaches this one (%(default)s)")
    for name, kind, default, _, words in _NUMBERS:
        add(f"--{name}", type=kind, default=default, metavar="N", help=f"{words} (%(default)s)")
    words = "those that may ask, a key a line; or set LM_API_KEYS (default: everybody who can)"
    add("--keys", metavar="FILE", help=words)
    add("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    words = "of the weights: bf16 is faster on GPUs, and on CPUs with instructions for it (%(default)s)"
    add("--dtype", choices=("fp32", "bf16"), default="fp32", help=words)
    words = "serve no model without an audit that it passed (`lm audit`); without this a line says so"
    add("--require-audit", action="store_true", help=words)
    words = "reports that lie elsewhere than where `lm audit` leaves them"
    add("--audit", nargs="+", default=[], metavar="FILE", help=words)
    words = "so many servers behind one address, by Ray Serve: here, or on the cluster that RAY_ADDRESS names"
    add("--replicas", type=int, metavar="N", help=words)
    words = "a line for each request: when, who, what, how long; never what it says"
    add("--log-requests", action="store_true", help=words)
    return parser


def _serve(args: argparse.Namespace) -> None:
    from lm.serving.house import named
    from lm.serving.security import VARIABLE, is_local, read_keys
    from lm.serving.server import open_port, take

    paths = named(args.models)
    keys, local = read_keys(args.keys, os.environ.get(VARIABLE)), is_local(args.host)
    taken = take(args.host, args.port)  # before the models are read, which may take long
    if not local and not keys:
        say(f"everybody who reaches {args.host} can ask, for there are no keys: --keys FILE")
    if args.replicas is not None:
        from lm.serving.replicas import replicate

        replicate(args, paths, keys, local, taken, partial(_greeting, keys=len(keys), grace=args.grace))
        return

    from lm.serving.app import make_app
    from lm.serving.limits import limits_of
    from lm.serving.opening import log_to_stderr, open_house
    from lm.serving.server import Server

    house = open_house(args, paths)
    log_to_stderr()
    guard = make_app(house, limits_of(args), keys, local and not keys, args.log_requests)
    open_port(taken)
    house.start()
    host, port, *_ = taken.getsockname()
    server = Server(guard, house, args.grace)
    with server.capture_signals():  # whoever reads how to stop it may do so at once
        for line in _greeting(house, host, port, len(keys), args.grace):
            say(line)
        server.run([taken])
    say("stopped")


def _greeting(house: "House", host: str, port: int, keys: int, grace: float) -> list[str]:
    """What a person needs to go on."""
    lines = []
    for served in house.models.values():
        sees = "" if served.files else f" that sees {served.context} tokens"
        ways = " ".join(f"/v1/{ability}" for ability in served.abilities)
        lines.append(f"{served.name}: {served.what}{sees}; {ways}")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    address = f"http://{host}:{port}"
    lines.append(f"serving at {address}, where a page is, too" + (f"; {keys} keys" if keys else ""))
    lines.append(f"try it:  {_example(next(iter(house.models.values())), address, bool(keys))}")
    lines.append(f"stop it: Ctrl-C, or kill {os.getpid()}; running requests have {grace:g} seconds to end")
    return lines


def _example(served: "Served", address: str, keys: bool) -> str:
    """A line to type that asks the first model."""
    fields = {
        "classify": '"input": "A text"',
        "tag": '"input": "Ada lives in London."',
        "embeddings": '"input": "A text"',
        "chat/completions": '"messages": [{"role": "user", "content": "Good day"}]',
        "completions": f'"prompt": "def parse", "max_tokens": {min(50, served.context // 2)}',
        "answer": '"question": "Who?", "context": "Ada wrote it."',
        "fill": '"input": "import <mask>"',
    }
    ability = served.abilities[0]
    key = " -H 'Authorization: Bearer KEY'" if keys else ""
    if served.files:  # too long for a word of a command
        words = f'{{"model": "{served.name}", "input": "'
        made = f"(printf '{words}'; base64 -w0 FILE; printf '\"}}')"
        return f"{made} | curl {address}/v1/{ability}{key} -H 'Content-Type: application/json' -d @-"
    body = f'{{"model": "{served.name}", {fields[ability]}}}'
    return f"curl {address}/v1/{ability}{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
