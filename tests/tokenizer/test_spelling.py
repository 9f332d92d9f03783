"""Characters as tokens, each of a text one, and pieces of words; both come back."""

import pytest

from lm.errors import UserError
from lm.tokenizer import tokenizer_from_bytes
from lm.tokenizer.spelling import spelling_tokenizer

TEXTS = ["WE CALL IT BEAR", "ZERO  THREE", "it's 好的。"]


def test_each_character_is_a_token():
    tokenizer = spelling_tokenizer(TEXTS)
    assert tokenizer.vocab_size == len(set("".join(TEXTS))) + 1  # and the unknown one
    for text in [*TEXTS, "", " ", "  ZOE  CARE ", "R" * 30000]:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text) and tokenizer.decode(ids) == text
        assert [tokenizer.piece_bytes(id).decode() for id in ids] == list(text)
    assert tokenizer.unk_id == 0 and tokenizer.encode("AxE")[1] == 0
    assert tokenizer.vocab_size == len(tokenizer)


def test_it_comes_back_and_is_the_same_each_time():
    tokenizer = spelling_tokenizer(iter(TEXTS))
    assert tokenizer.fingerprint == spelling_tokenizer(TEXTS).fingerprint
    assert tokenizer_from_bytes(tokenizer.to_bytes()).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert spelling_tokenizer(["AAAA"]).encode("A A") == [1, 2, 1]  # the space is always there


def test_pieces_of_words():
    texts = ["TWO ZERO TWO", "ZERO TWO", "A TWO", "ZERO"] * 5
    tokenizer = spelling_tokenizer(texts, 12)
    two, zero = tokenizer.encode("TWO"), tokenizer.encode("ZERO")
    assert len(two) == len(zero) == 1 and tokenizer.piece_bytes(two[0]) == b" TWO"
    assert tokenizer.encode("TWO ZERO TWO") == [*two, *zero, *two]  # the first word is as any other
    assert tokenizer.decode([*two, *zero]).split() == ["TWO", "ZERO"]
    assert tokenizer.unk_id == 0 and 0 in tokenizer.encode("TWO X")
    assert all(0 not in tokenizer.encode(letter) for letter in "TWOZERA")  # words never seen can be spelt
    assert tokenizer.fingerprint == spelling_tokenizer(texts, 12).fingerprint
    assert len(spelling_tokenizer(texts, 5000)) < 40  # as many as there are
    assert len(spelling_tokenizer(texts, 9)) == 9  # nothing but characters and what is unknown
    with pytest.raises(UserError, match="`tokens` is 8: the texts have 8 characters: give at least 9"):
        spelling_tokenizer(texts, 8)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text(texts):
    with pytest.raises(UserError, match="there is no text"):
        spelling_tokenizer(texts)


def test_pieces_that_are_merged_in_order():
    tokenizer = spelling_tokenizer(["abc cab"], [" a", "ab", "bc", " ab", "ab"])
    names = [tokenizer.piece_bytes(id).decode() for id in range(1, tokenizer.vocab_size)]
    assert sorted(names) == sorted([*"abc ", " a", "ab", "bc", " ab"])

    def cut(text: str) -> list[str]:
        return [names[id - 1] for id in tokenizer.encode(text)]

    assert cut("abc") == [" a", "bc"]  # "ab" can't be there any more, nor " ab" of " " and "ab"
    assert cut("cab") == [" ", "c", "ab"]
    assert cut("bab") == [" ", "b", "ab"]
    assert tokenizer.decode(tokenizer.encode("abc cab")).split() == ["abc", "cab"]


@pytest.mark.parametrize("odd", ["a\0b", "a ▁ b", "<unk> a"])
def test_characters_that_no_token_can_be(odd):
    """They are left out; the others are there as ever."""
    tokenizer = spelling_tokenizer(["ab ab", odd], ["ab", " ab"])
    assert tokenizer.decode(tokenizer.encode("ab ba")).split() == ["ab", "ba"]
