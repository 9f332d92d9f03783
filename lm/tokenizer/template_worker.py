"""Renders chat templates in a process of its own: a template comes from elsewhere and is a program.

Requests and answers are lines of JSON on standard input and output. The sandbox keeps a template from files
and from Python's insides, and no loader is there to include another; memory is bounded here, time outside.
Nothing of lm is imported.
"""

import datetime
import json
import sys
from functools import lru_cache

MEMORY = 1 << 30  # bytes
LEAST = 1 << 20  # characters that a template may write, whatever it is given


def main() -> None:
    """Answer until standard input ends."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what is learned; its text is as it stands there."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def refuse(message):
        raise ValueError(message)

    extensions = ["jinja2.ext.loopcontrols", Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    compiled = lru_cache(4)(environment.from_string)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not everywhere
        pass
    print("ready", flush=True)
    for line in sys.stdin:
        request, room = json.loads(line), LEAST + 16 * len(line)
        try:
            parts = []
            for part in compiled(request["template"]).generate(**request["values"]):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    raise MemoryError
            answer = {"text": "".join(parts)}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:  # of any kind: a template may do anything
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
