"""The form that a request wants its answer to have: JSON, JSON of a schema, or what a regular expression
matches. Here it becomes a grammar for llguidance, or is refused."""

import json
import re
from dataclasses import dataclass
from typing import Any

from lm.serving import limits
from lm.serving.errors import APIError
from lm.serving.schemas import Writing

JSON, REGEX = "response_format", "structured_outputs"  # the fields of a request
# Between the parts of JSON: nothing, a space, or a new line that is indented. Without a bound, a model that
# has nothing to say writes spaces until its tokens end.
SPACE = r" |\n {0,8}"
# What a token adds to the text decides, and not how the tokenizer would have spelt what is certain to come.
_HEAD = '%llguidance {"no_forcing": true}\n'
_UNKNOWN = re.compile(r"Unimplemented keys: \[(.*?)\]")
# Where it says why, after it has quoted the expression.
_REASONS = [
    re.compile(words, re.MULTILINE) for words in (r"^error: (.+)", r"\(in regex\): (.+?)(?: in regex /|$)")
]


@dataclass(frozen=True)
class Form:
    """What an answer has to be.

    Args:
        field: of the request that says so: `JSON` or `REGEX`.
        text: the schema as JSON, its properties in the order that they are to have; or the expression.
    """

    field: str
    text: str

    def grammar(self, strips: bool) -> str:
        """What llguidance reads: its JSON of grammars.

        Args:
            strips: a space at the text's beginning is not shown; so there may be one more than the form says.
        """
        if self.field == JSON:
            form = {**json.loads(self.text), "x-guidance": {"whitespace_pattern": SPACE}}
            start = "start: / ?/ @form" if strips else "start: @form"
            found = [{"lark_grammar": _HEAD + start}, {"name": "form", "json_schema": form}]
        else:
            from llguidance import regex_to_lark

            own = regex_to_lark(self.text, "")  # what stands between the slashes
            start = f"start: /{own}/"
            if strips:
                start = f"start: SPACED | BARE\nSPACED: / (?:{own})/\nBARE: /{own}/ & ~/ (?s:.*)/"
            found = [{"lark_grammar": _HEAD + start}]
        return json.dumps({"grammars": found})

    def refused(self, error: str) -> APIError:
        """The answer to who asks for a form that can't be, by what llguidance says of it."""
        if known := _UNKNOWN.search(error):
            names = ", ".join(f"`{name}`" for name in re.findall(r'"(.*?)"', known[1]))
            words = f"no answer can be held to {names} of a schema here"
        elif "oneOf constraints" in error:
            words = "`oneOf` works where no text can be two of its schemas; say `anyOf`"
        else:
            reason = next(filter(None, (each.search(error) for each in _REASONS)), None)
            said = " ".join((reason[1] if reason else error).split())
            if "NoExtension" in said:
                said = "it allows nothing"
            words = f"it can't be used: {said[:200]}"
        return APIError(400, f"`{self.field}`: {words}", self.field)

    @property
    def too_much(self) -> APIError:
        return APIError(400, f"`{self.field}`: it takes too much to follow: make it simpler", self.field)


def form_of(body: Writing) -> Form | None:
    """The form that a request wants; None where any text will do.

    Raises:
        APIError: it can't be.
    """
    wanted, structured = body.response_format, body.structured_outputs
    if wanted.type != "text" and structured is not None:
        raise APIError(400, f"`{REGEX}` and `{JSON}` at once: leave one out", REGEX)
    if structured is not None:
        return Form(REGEX, structured.regex)
    if wanted.type == "text":
        return None
    return Form(JSON, _written(wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}))


def _written(schema: dict[str, Any]) -> str:
    """A schema as JSON, within limits."""
    level: list[Any] = [schema]
    for _ in range(limits.SCHEMA_DEPTH):
        level = [each for value in level for each in _inside(value)]
    if level:
        raise APIError(400, f"`{JSON}`: the schema is deeper than {limits.SCHEMA_DEPTH} levels", JSON)
    if "x-guidance" in schema:  # the library's options
        raise APIError(400, f"`{JSON}`: no answer can be held to `x-guidance` of a schema here", JSON)
    try:
        text = json.dumps(schema, allow_nan=False, separators=(",", ":"))
        text.encode()
    except ValueError:
        raise APIError(400, f"`{JSON}`: the schema has a number that JSON has not", JSON) from None
    if len(text) > limits.SCHEMA:
        raise APIError(400, f"`{JSON}`: the schema is longer than {limits.SCHEMA} characters", JSON)
    return text


def _inside(value: Any) -> list[Any]:
    """What a list or an object holds."""
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []
