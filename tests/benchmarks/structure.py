"""What answers of a form cost, and how many are valid with and without one.

    python tests/benchmarks/structure.py MODEL [MODEL ...] [--tokens 200]

Microseconds that a token of one text costs more (what may follow, and the logits' mask; the median), along
answers that the model draws itself; and of ten prompts, whose answer is JSON of the schema, other JSON, none
at all, or cut; greedy and drawn.
"""

import argparse
import json
import time
from statistics import fmean, median

import jsonschema
import torch

import lm
from lm.inference.generate import prompt_ids
from lm.serving.choosing import NEVER
from lm.serving.engine import Request
from lm.serving.forms import Form
from lm.serving.house import Served

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"type": "string", "maxLength": 20},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "kind": {"enum": ["child", "adult", "retired"]},
    },
    "required": ["name", "age", "city", "likes", "kind"],
    "additionalProperties": False,
}
PEOPLE = "a baker in Paris", "a child", "Ada Lovelace", "a retired sailor", "a teacher in Lagos", "my sister"
PEOPLE += "a chess player", "a nurse", "the mayor of Lima", "a farmer with two dogs"
ASKED = (
    "Describe {} as JSON with name, age, city, likes (a list) and kind (child, adult or retired). JSON only."
)


def judged(text: str) -> str:
    """What an answer is: of the schema, other JSON, or none."""
    try:
        value = json.loads(text)
    except ValueError:
        return "none"
    try:
        jsonschema.validate(value, SCHEMA)
    except jsonschema.ValidationError:
        return "other"
    return "valid"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for path in args.models:
        served = Served("m", lm.load(path), slots=10)
        tokenizer, engine, chat = served.model.tokenizer, served.engine, served.chat
        begun = time.perf_counter()
        grammar = served.structure._make(Form("response_format", json.dumps(SCHEMA)))
        first = time.perf_counter() - begun
        served.structure._make(Form("response_format", json.dumps({**SCHEMA, "title": "again"})))
        print(f"{path}: vocabulary {engine.vocab_size}; the first form {first:.2f} s, ", end="")
        print(f"another {time.perf_counter() - begun - first:.2f} s", flush=True)
        served.start()
        ends = [tokenizer.eos_id] + ([chat.end_id] if chat and chat.end_id is not None else [])
        prompts = [ASKED.format(each) for each in PEOPLE]
        if chat:
            ids = [chat.render([("user", each)], True)[0] for each in prompts]
        else:
            ids = [prompt_ids(tokenizer, f"{each}\n") for each in prompts]
        written: list[list[int]] = []
        for held in (False, True):
            for temperature in (0.0, 0.8):
                runs = [
                    engine.submit(
                        Request(
                            tuple(each),
                            min(args.tokens, served.context - len(each)),
                            temperature=temperature,
                            seed=number,
                            stop_ids=tuple(ends),
                            constraint=grammar.follow(ends) if held else None,
                        )
                    )
                    for number, each in enumerate(ids)
                ]
                found: dict[str, int] = {}
                for run in runs:
                    pieces = [*run.pieces()]
                    kind = judged("".join(piece.text for piece in pieces))
                    kind = "cut" if kind == "none" and pieces[-1].finish == "length" else kind
                    found[kind] = found.get(kind, 0) + 1
                    if held:
                        written.append([token.id for piece in pieces for token in piece.tokens])
                print(f"  held {held!s:5} temperature {temperature}: {found}", flush=True)
        served.stop()
        logits, know, apply = torch.randn(engine.vocab_size), [], []
        for tokens in written:
            follower = grammar.follow(ends)
            for at in range(len(tokens)):
                begun = time.perf_counter()
                mask = follower.mask(tokens[:at])
                middle = time.perf_counter()
                logits.clone().masked_fill_(~mask, NEVER)
                know.append((middle - begun) * 1e6)
                apply.append((time.perf_counter() - middle) * 1e6)
        words = f"{median(know):.0f} us to know it, {median(apply):.0f} us to apply it"
        print(
            f"  a token of {len(know)}: {words} (means {fmean(know):.0f} and {fmean(apply):.0f})", flush=True
        )


if __name__ == "__main__":
    main()
