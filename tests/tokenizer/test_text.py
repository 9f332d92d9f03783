"""Where words begin and end in pieces of UTF-8."""

import pytest

from lm.tokenizer.text import word_borders


@pytest.mark.parametrize(
    ("piece", "borders"),
    [
        (b" word", (True, False)),
        (b"word", (False, False)),
        (b",", (True, True)),
        (b" ", (True, False)),  # it belongs to the word after it
        ("中".encode(), (True, True)),
        ("\ufffd".encode(), (True, True)),  # a character like another, and no broken one
        ("中".encode()[:2], (True, False)),
        ("中".encode()[2:], (False, False)),
        ("é".encode()[:1], (False, False)),
    ],
)
def test_borders_of_whole_and_of_cut_characters(piece, borders):
    assert word_borders(piece) == borders
