"""Characters as tokens: each of a text is one, and comes back."""

import pytest

from lm.errors import UserError
from lm.tokenizer import tokenizer_from_bytes
from lm.tokenizer.characters import character_tokenizer

TEXTS = ["WE CALL IT BEAR", "ZERO  THREE", "it's 好的。"]


def test_each_character_is_a_token():
    tokenizer = character_tokenizer(TEXTS)
    assert tokenizer.vocab_size == len(set("".join(TEXTS))) + 1  # and the unknown one
    for text in [*TEXTS, "", " ", "  ZOE  CARE ", "R" * 30000]:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text) and tokenizer.decode(ids) == text
        assert [tokenizer.piece_bytes(id).decode() for id in ids] == list(text)
    assert tokenizer.unk_id == 0 and tokenizer.encode("AxE")[1] == 0
    assert tokenizer.vocab_size == len(tokenizer)


def test_it_comes_back_and_is_the_same_each_time():
    tokenizer = character_tokenizer(iter(TEXTS))
    assert tokenizer.fingerprint == character_tokenizer(TEXTS).fingerprint
    assert tokenizer_from_bytes(tokenizer.to_bytes()).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert character_tokenizer(["AAAA"]).encode("A A") == [1, 2, 1]  # the space is always there


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text(texts):
    with pytest.raises(UserError, match="there is no text"):
        character_tokenizer(texts)
