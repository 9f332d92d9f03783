"""Answers of a form: JSON of a schema, what an expression matches; and forms that can't be."""

import asyncio
import itertools
import json
import math
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import pydantic
import pytest
import torch

from lm.inference.generate import prompt_ids
from lm.serving import limits, structure
from lm.serving.engine import Engine, Request
from lm.serving.forms import Form
from lm.serving.schemas import Completion
from lm.serving.structure import Structure

PROMPT = "def parse"
ASK = {"model": "gpt", "prompt": PROMPT, "max_tokens": 200}
DATE, LETTERS = "[0-9]{4}-[a-f]{2}", "[a-z ]{20}[0-9]{5}"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "é", "世界", '"']}, "maxItems": 2},
        "more": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "more"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "boolean"}, "y": {"const": 1.5}},
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS = {
    "person": PERSON,
    "list": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 9}, "maxItems": 3},
    "pattern": {"type": "string", "pattern": "^[a-z]{1,3}@[a-z]{2}$"},
    "tree": {
        "$ref": "#/$defs/t",
        "$defs": {
            "t": {
                "type": "object",
                "properties": {"v": {"enum": [1, 2]}, "l": {"$ref": "#/$defs/t"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
    },
    "date": {"type": "string", "format": "date"},
}


def json_schema(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, **more}}


def regex(expression):
    return {"structured_outputs": {"regex": expression}}


@pytest.fixture(scope="module")
def ask(http):
    def ask(status=200, **body):
        answer = http.post("/v1/completions", json={**ASK, **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask


# What comes of it.


@pytest.mark.parametrize("name", SCHEMAS)
def test_whole_answers_are_what_the_schema_says(ask, name):
    more = {"n": 6, "seed": 1, "response_format": json_schema(SCHEMAS[name], strict=True)}
    found = ask(temperature=1.5, **more)["choices"]
    found += ask(temperature=0, **more)["choices"][:1]
    whole = [each["text"] for each in found if each["finish_reason"] == "stop"]
    assert len(whole) >= 3
    for text in whole:
        jsonschema.validate(json.loads(text), SCHEMAS[name])
    known = jsonschema.Draft202012Validator.FORMAT_CHECKER
    dates = [
        json.loads(text).replace("0000-", "2000-") for text in whole if name == "date"
    ]  # Python has no year 0
    assert all(known.conforms(text, "date") for text in dates)


@pytest.mark.parametrize(
    "expression", [DATE, "(ab|a)+c?", '[^\\n"]{3}/世?', "-?[0-9]{1,3}(\\.[0-9]+)?%", '\\{"k": (yes|no)\\}\\n']
)
def test_whole_answers_are_what_the_expression_matches(ask, expression):
    found = ask(n=6, seed=2, max_tokens=60, temperature=1.5, **regex(expression))["choices"]
    whole = [each["text"] for each in found if each["finish_reason"] == "stop"]
    assert whole and all(re.fullmatch(expression, text) for text in whole)


def test_any_object(ask):
    found = ask(n=8, seed=3, max_tokens=500, response_format={"type": "json_object"})["choices"]
    whole = [each["text"] for each in found if each["finish_reason"] == "stop"]
    assert whole and all(isinstance(json.loads(text), dict) for text in whole)


def test_a_short_answer_is_cut(ask):
    found = ask(max_tokens=4, temperature=0, response_format=json_schema(PERSON))
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["choices"][0]["text"].startswith("{") and found["usage"]["completion_tokens"] == 4


def test_an_answer_ends_where_nothing_may_follow(ask):
    found = ask(**regex("ab"), logprobs=0)
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == ("ab", "stop")
    assert "".join(found["choices"][0]["logprobs"]["tokens"]) == "ab"
    assert ask(max_tokens=1, **regex("a"))["choices"][0]["finish_reason"] == "stop", "and not by its length"


def begins(text):
    """Whether a text is the beginning of one that `DATE` matches, without anything of a library's."""
    kinds = ["0123456789"] * 4 + ["-"] + ["abcdef"] * 2
    return len(text) <= len(kinds) and all(char in kind for char, kind in zip(text, kinds, strict=False))


def test_the_likeliest_is_what_a_slow_search_finds(ask, models):
    """Of all tokens that leave the text a beginning of a match, the likeliest, at each step."""
    model = models["gpt"]
    net, tokenizer = model.writer(), model.tokenizer
    for prompt in (PROMPT, "class A", "2024", "\n"):
        ids, written = prompt_ids(tokenizer, prompt), []
        while not re.fullmatch(DATE, tokenizer.decode(written)):
            with torch.no_grad():
                logits = net(torch.tensor([ids + written]))[0, -1]
            for id in logits.argsort(descending=True).tolist():
                said = tokenizer.piece_bytes(id) and not tokenizer.is_special(id)
                if said and begins(tokenizer.decode([*written, id])):
                    written.append(id)
                    break
        found = ask(prompt=prompt, temperature=0, **regex(DATE))
        assert found["choices"][0]["text"] == tokenizer.decode(written)


def test_neighbours_are_what_they_are_alone(ask):
    plain = {"temperature": 1.2, "seed": 5, "max_tokens": 60}
    held = {**plain, "response_format": json_schema(PERSON), "max_tokens": 200}
    alone, form = ask(**plain)["choices"], ask(**held)["choices"]
    with ThreadPoolExecutor(8) as pool:
        both = [*pool.map(lambda body: ask(**body)["choices"], [plain, held] * 4)]
    assert both == [alone, form] * 4


def test_what_else_is_asked_for(ask):
    """Sampling, penalties, biases, stop strings, log-probabilities and choices go with a form."""
    many = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 7, "n": 3, "logprobs": 2}
    many |= {"presence_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {"100": 90, "5": -100}}
    found = ask(**many, **regex(LETTERS))["choices"]
    texts = [each["text"] for each in found]
    assert [each["text"] for each in ask(**many, **regex(LETTERS))["choices"]] == texts
    assert len({*texts}) == 3 and all(re.fullmatch(LETTERS, text) for text in texts)
    # What the model says of the token, before the form: others are likelier.
    said = found[0]["logprobs"]
    top = [max(each.values()) for each in said["top_logprobs"]]
    assert any(one > own for one, own in zip(top, said["token_logprobs"], strict=True))
    assert all(sum(map(math.exp, each.values())) <= 1.0001 for each in said["top_logprobs"])
    stopped = ask(**regex("[a-e]{9}"), stop="c", seed=1, n=8, temperature=1.5)["choices"]
    assert all(re.fullmatch("[abde]{0,9}", each["text"]) for each in stopped)
    several = ask(prompt=[PROMPT, "a"], n=2, **regex(DATE))["choices"]
    assert len(several) == 4 and all(re.fullmatch(DATE, each["text"]) for each in several)


def test_streams_are_the_same(client):
    more = {"model": "gpt", "prompt": PROMPT, "max_tokens": 200, "seed": 4, "n": 2, "temperature": 1.2}
    more["extra_body"] = {"response_format": json_schema(PERSON)}
    whole = client.completions.create(**more).choices
    texts, ends = ["", ""], [None, None]
    for chunk in client.completions.create(stream=True, **more):
        for each in chunk.choices:
            texts[each.index] += each.text
            ends[each.index] = each.finish_reason or ends[each.index]
    assert [(each.text, each.finish_reason) for each in whole] == [*zip(texts, ends, strict=True)]


def test_chats_parse(client):
    class Answer(pydantic.BaseModel):
        right: bool

    ask = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    answer = client.chat.completions.parse(response_format=Answer, **ask)
    assert isinstance(answer.choices[0].message.parsed, Answer)
    answer = client.chat.completions.create(response_format=json_schema({"enum": ["yes", "no"]}), **ask)
    assert answer.choices[0].message.content in ('"yes"', '"no"')
    answer = client.chat.completions.create(extra_body=regex("[0-9]{3}"), **ask)
    assert re.fullmatch("[0-9]{3}", answer.choices[0].message.content)
    assert client.chat.completions.create(response_format={"type": "text"}, max_tokens=3, **ask).choices
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(response_format=Answer, max_tokens=3, **ask)


# Tokenizers.


def made(maker, expression):
    return maker._make(Form("structured_outputs", expression))


class Pieces:
    """A tokenizer of these bytes; `None` is a control token."""

    unk_id, _strips_spaces = None, False

    def __init__(self, *pieces, adds_space=False):
        self._piece_bytes, self._adds_space = [piece or b"" for piece in pieces], adds_space
        self._special = [piece is None for piece in pieces]

    def piece_bytes(self, id):
        return self._piece_bytes[id]

    def is_special(self, id):
        return self._special[id]


@pytest.mark.parametrize("adds_space", [False, True])
def test_a_space_at_the_start_that_is_not_shown(adds_space):
    """Three tokens are allowed if their text, as it is shown, begins what the expression matches."""
    tokenizer = Pieces(None, b"a", None, b" ", b" a", b"b", b"aab", adds_space=adds_space)
    maker = Structure(tokenizer, 7)
    for expression, known in (("a{2}b", ["aab"]), (" a?", [" ", " a"]), ("(a| a)b", ["ab", " ab"])):
        form = made(maker, expression)
        for ids in itertools.product([1, 3, 4, 5, 6], repeat=3):
            texts = [b"".join(map(tokenizer.piece_bytes, ids[:count])).decode() for count in (1, 2, 3)]
            if adds_space:
                texts = [text.removeprefix(" ") for text in texts]
            grammar = form.follow((2,))
            for count, text in enumerate(texts):
                right = any(each.startswith(text) for each in known)
                assert bool(grammar.mask(ids[:count])[ids[count]]) == right, (expression, texts)
                if not right:
                    break
                end = bool(grammar.mask(ids[: count + 1])[2])
                assert end == (text in known), (expression, text)
    maker.stop()


def test_tokens_that_are_parts_of_characters_and_twins():
    """Control tokens never follow; the end only where the form is whole; all tokens of the same bytes do."""
    tokenizer = Pieces(None, b"\xe4", None, b"\xb8", b"\x96", b"\xe4\xb8", b"a", b"a", b"\xff")
    maker = Structure(tokenizer, 9)
    form = made(maker, "世a?")
    for written, right in (([], [1, 5]), ([1], [3]), ([1, 3], [4]), ([5], [4]), ([5, 4], [2, 6, 7])):
        grammar = form.follow((2, 50))
        assert grammar.mask(written).nonzero()[:, 0].tolist() == right
    assert not grammar.over([5, 4]) and grammar.over([5, 4, 6])
    maker.stop()


def test_what_the_tokens_can_not_write(models, tokenizer):
    maker = Structure(Pieces(b"a", b"\xe4", None), 3)
    with pytest.raises(Exception, match=r"allows nothing|no token"):
        made(maker, "b")
    engine = Engine(models["gpt"])
    engine.start()
    narrow = made(maker, "a世").follow(())

    class Wide:
        """The three tokens among the model's."""

        def mask(self, written):
            return torch.nn.functional.pad(narrow.mask(written), (0, tokenizer.vocab_size - 3))

        def over(self, written):
            return False

    pieces = [*engine.submit(Request((9,), 12, constraint=Wide())).pieces()]
    assert [token.id for piece in pieces for token in piece.tokens] == [0, 1]
    assert pieces[-1].finish == "stuck"
    engine.stop()
    maker.stop()


def test_what_becomes_too_much_while_it_is_written(ask, http, monkeypatch):
    monkeypatch.setitem(structure.BOUNDS, "max_lexer_states", 60)
    more = regex("(.{0,100}x){9}")
    error = ask(400, **more)["error"]
    assert error["code"] == "form_stuck" and "lets nothing follow" in error["message"]
    assert "form_stuck" in http.post("/v1/completions", json={**ASK, **more, "stream": True}).text


# Forms that can't be.

DEEP = {"type": "string"}
for _ in range(70):
    DEEP = {"items": DEEP}
CHAIN = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(1000)}
MANY = {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(30)]}
BAD = {
    "uniqueItems": (json_schema({"type": "array", "uniqueItems": True}), "`uniqueItems`"),
    "not, within": (json_schema({"properties": {"a": {"not": {}}}}), "`not`"),
    "two keywords": (json_schema({"if": {}, "then": {}}), "`if`, `then`"),
    "a format": (json_schema({"type": "string", "format": "regex"}), "Unknown format: regex"),
    "oneOf": (json_schema({"oneOf": [{"type": "string"}, {"minLength": 3}]}), "`oneOf` works where"),
    "options": (json_schema({"x-guidance": {"lenient": True}}), "`x-guidance`"),
    "no type": (json_schema({"type": "strange"}), "Invalid type: strange"),
    "nothing": (json_schema({"type": "integer", "minimum": 5, "maximum": 2}), "minimum (5) is greater"),
    "only itself": (json_schema({"$ref": "#"}), "it allows nothing"),
    "nowhere": (json_schema({"$ref": "#/$defs/x"}), "'/$defs/x' does not exist"),
    "a file": (json_schema({"$ref": "file:///etc/passwd"}), "does not fetch"),
    "depth": (json_schema(DEEP), "deeper than 64"),
    "length": (json_schema({"enum": ["x" * 100_000]}), "longer than 100000"),
    "a million digits": (json_schema({"type": "integer", "multipleOf": 99998300001}), "too many digits"),
    "the stack": (json_schema({"$defs": CHAIN | {"d1000": {}}, "$ref": "#/$defs/d0"}), "it takes too much"),
    "time": (json_schema(MANY), "it takes too much"),
    "memory": (json_schema({"type": "integer", "multipleOf": 999983}), "it takes too much"),
    "surrogates": (json_schema({"enum": ["\ud800"]}), "can't be used"),
    "no schema": ({"type": "json_schema"}, "`json_schema` goes with"),
    "no name": ({"type": "strange"}, "`response_format.type`"),
    "no object": (json_schema([]), "`response_format.json_schema.schema`"),
    "an open class": ("[", "unclosed character class"),
    "looking ahead": ("(?=a)b", "look-around"),
    "looking back at it": ("(a)\\1", "backreferences"),
    "word borders": ("\\bab", "lookarounds not supported"),
    "brackets": ("(" * 2000 + ")" * 2000, "nest"),
    "no text": ("[^\\s\\S]", "it allows nothing"),
    "characters": ("a" * 5000, "`structured_outputs.regex`: string should have at most 4096"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_forms(http, name, monkeypatch):
    form, words = BAD[name]
    monkeypatch.setattr(structure, "MOST", {"seconds": 1, "memory": 32 << 20, "stack": 1 << 20})
    given = regex(form) if isinstance(form, str) else {"response_format": form}
    body = json.dumps({"model": "gpt", "prompt": PROMPT, **given})
    answer = http.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and words in error["message"], answer.text
    assert error["type"] == "invalid_request_error" and error["param"] == next(iter(given))


def test_no_address_is_fetched(http):
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.setblocking(False)
        where = f"http://127.0.0.1:{port.getsockname()[1]}/schema"
        for schema in ({"$ref": where}, {"$schema": where, "type": "string"}, {"$id": where, "$ref": "x"}):
            body = {"model": "gpt", "prompt": "a", "response_format": json_schema(schema)}
            assert http.post("/v1/completions", json=body).status_code == 400
        with pytest.raises(BlockingIOError):
            port.accept()


def test_other_bad_requests(ask):
    both = ask(400, response_format={"type": "json_object"}, **regex("a"))
    assert "at once" in both["error"]["message"]
    assert "structured_outputs" in ask(400, structured_outputs={"json": {}})["error"]["message"]
    assert "no such thing yet" in ask(400, guided_regex="a")["error"]["message"]


@pytest.mark.parametrize(
    "expression",
    ["a{1,1000000}", "(((a{1,1000}){1,1000}){1,1000}){1,1000}", "(a+)+b", "[ab]*a[ab]{24}c", "(.*a){30}"],
)
def test_expressions_that_ruin_others_are_harmless(ask, expression):
    found = ask(max_tokens=30, temperature=1.0, seed=1, **regex(expression))["choices"][0]
    assert found["finish_reason"] in ("stop", "length")


def test_others_go_on_while_a_form_is_read(http, ask, monkeypatch):
    """One that takes its time stops nobody, and forms that were read are there."""
    original, begun = Structure._make, []

    def slow(self, form):
        begun.append(form)
        time.sleep(1)
        return original(self, form)

    monkeypatch.setattr(Structure, "_make", slow)
    many = {f"p{i}": {"type": "integer", "maximum": i} for i in range(1000)}
    held = {"response_format": json_schema({"type": "object", "properties": many}), "max_tokens": 5}
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, **held) for _ in range(3)]
        while not begun:
            time.sleep(0.01)
        assert len(ask(max_tokens=5)["choices"][0]["text"]) > 0
        assert not any(each.done() for each in waiting)
        assert all(each.result()["choices"][0]["text"].startswith("{") for each in waiting)
    ask(**held)
    assert len(begun) == 1, "read once for all"


def test_forms_are_kept_within_bounds(models, monkeypatch):
    monkeypatch.setattr(limits, "FORMS_KEPT", 2)
    monkeypatch.setattr(limits, "FORMS_WAITING", 1)
    maker = Structure(models["gpt"].tokenizer, 420)
    made = []
    monkeypatch.setattr(Structure, "_make", lambda self, form: made.append(form.text) or time.sleep(0.05))

    def body(text):
        return Completion(**ASK, **regex(text))

    async def one_by_one():
        for text in "abacab":
            await maker.of(body(text))
        return await asyncio.gather(*(maker.of(body(text)) for text in "xyx"), return_exceptions=True)

    found = asyncio.run(one_by_one())
    assert made == [*"abcbx"], made
    assert [getattr(each, "status", 200) for each in found] == [200, 429, 200]
    maker.stop()
