"""Strings as tokenizers need them: valid Unicode, in chunks, with places counted in characters or bytes."""

from collections.abc import Iterator, Sequence

import numpy as np

SPACE = "\u2581"  # how SentencePiece writes a space inside its pieces

Span = tuple[int, int]  # start and end in characters, the end not included


def split_lines(text: str, size: int) -> Iterator[str]:
    """Cuts a text into chunks of at most `size` characters, at line ends where there are any."""
    start = 0
    while len(text) - start > size:
        end = text.rfind("\n", start, start + size) + 1 or start + size
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def valid_unicode(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become U+FFFD; two that make a character become it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def places_before(valid: str, text: str) -> list[int]:
    """Where each character of `valid_unicode(text)`, and its end, lies in `text`."""
    places = [0]
    for char in valid:
        pair = ord(char) > 0xFFFF and 0xD800 <= ord(text[places[-1]]) < 0xDC00
        places.append(places[-1] + 1 + pair)
    return places


def spans_of_bytes(text: str, spans: Sequence[Span]) -> list[Span]:
    """Places in a text's UTF-8 as places in its characters; part of a character counts as all of it."""
    if text.isascii():
        return list(spans)
    char_of = np.repeat(np.arange(len(text)), [len(char.encode()) for char in text]).tolist()
    char_of.append(len(text))
    return [
        (char_of[start], char_of[end - 1] + 1) if start < end else (char_of[start], char_of[start])
        for start, end in spans
    ]


def stands_alone(char: str) -> bool:
    """Whether a character is a word by itself: a space, punctuation, a Chinese or Japanese character."""
    code = ord(char)
    ideographic = 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
    return ideographic or code >= 0x20000 or not (char.isalnum() or char == "_")


def word_borders(piece: bytes) -> tuple[bool, bool]:
    """Whether a piece of UTF-8, perhaps cut inside a character, begins and ends a word.

    Two-byte characters are letters (Latin, Greek, Cyrillic ...) that may stand inside a word; those of three
    and four are mostly Chinese and emoji. Which byte is a character's last is unknown.
    """
    whole = piece.decode(errors="surrogateescape")  # a byte of part of a character: U+DC80 to U+DCFF
    first, last = whole[0], whole[-1]
    opens = piece[0] >= 0xE0 if "\udc80" <= first <= "\udcff" else stands_alone(first)
    closes = not "\udc80" <= last <= "\udcff" and stands_alone(last) and last != " "  # it is the next word's
    return opens, closes
