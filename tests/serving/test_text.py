"""Text as it is given out: whole characters, and never a part of what it stops at."""

import random

import pytest

from lm.serving.requests import TokenInfo
from lm.serving.text import Text

SAMPLES = [
    "for x in range(3):\n    return 日本語 + 'naïve' 😀😀 end",
    "aaaaabaaaab",
    "  spaces  and\n\n\nlines",
    "é",
]


def written(tokenizer, ids, stops):
    """What comes of ids: the pieces of text, the tokens that came with them, and whether it stopped."""
    text = Text(tokenizer, stops)
    pieces = []
    for place, id in enumerate(ids):
        text.add(TokenInfo(id, ""))
        pieces.append(text.take(last=place == len(ids) - 1))
        if text.stopped:
            break
    return [piece for piece, _ in pieces], [token for _, tokens in pieces for token in tokens], text.stopped


@pytest.mark.parametrize("sample", SAMPLES)
def test_all_of_it_comes_in_whole_characters(sample, tokenizer):
    ids = tokenizer.encode(sample)
    pieces, tokens, stopped = written(tokenizer, ids, ["never there"])
    assert "".join(pieces) == tokenizer.decode(ids) and "�" not in "".join(pieces) and not stopped
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids)
    assert len(written(tokenizer, ids, [])[0]) == len(ids)


def test_half_a_character_at_the_end(tokenizer):
    ids = tokenizer.encode("ab 😀")[:-1]
    assert "".join(written(tokenizer, ids, [])[0]) == "ab �"
    assert written(tokenizer, ids, [])[0][-2] == "", "not before it is known to be half"


def test_stop_strings_at_random(tokenizer):
    """Seeded: the text before the first of them, and nothing given out that had to be taken back."""
    draw = random.Random(0)
    stopped_at = 0
    for _ in range(300):
        sample = draw.choice(SAMPLES)
        stops = []
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(sample))
            stops.append(sample[at : at + draw.randint(1, 5)] + draw.choice(["", "", "?"]))
        ids = tokenizer.encode(sample)
        whole = tokenizer.decode(ids)
        # The first that is complete; where one token completes two, the one that begins first.
        known, expected, texts = "", whole, written(tokenizer, ids, [])[0]
        for piece in texts:
            known += piece
            found = [known.index(stop) for stop in stops if stop in known]
            if found:
                expected = known[: min(found)]
                break
        pieces, tokens, stopped = written(tokenizer, ids, [*stops, ""])
        assert "".join(pieces) == expected and stopped == any(stop in whole for stop in stops)
        begins = [len("".join(texts[:place])) for place in range(len(texts))]
        if stopped:
            stopped_at += 1
            assert len(tokens) == sum(
                b < len(expected) and t != "" for b, t in zip(begins, texts, strict=True)
            ) or (len("".join(token.text for token in tokens)) >= len(expected))
        else:
            assert [token.id for token in tokens] == ids
    assert stopped_at > 100


def test_a_token_that_ends_a_text_is_not_shown(tokenizer):
    text = Text(tokenizer, ["b"])
    text.add(TokenInfo(tokenizer.encode("a")[0], ""))
    text.take(last=False)
    text.add(TokenInfo(tokenizer.eos_id, "", -0.5), shown=False)
    assert text.take(last=True) == ("", (TokenInfo(tokenizer.eos_id, "", -0.5),))
