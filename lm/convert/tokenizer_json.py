"""A SentencePiece model as a `tokenizer.json`, which is what Hugging Face's libraries read.

Pieces are written with real spaces, not with SentencePiece's marker U+2581: so the marker itself, where a
text has it, is spelt in bytes as `SentencePieceTokenizer` does, and no text changes on its way. One
difference is left: Hugging Face's tokenizers take a text that spells a special piece for that piece.
"""

import base64
import struct
from typing import Any

from lm.errors import UserError, not_installed
from lm.tokenizer import SentencePieceTokenizer, Tokenizer
from lm.tokenizer.text import SPACE
from lm.tokenizer.documents import added_token
from lm.tokenizer.protobuf import read_fields

# Numbers in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_UNIGRAM, _BPE = 1, 2

# Where two encoders would part, they part on one of these.
_PROBES = (
    "The quick brown fox, aged 31, isn't lazy:  two  spaces,\ttabs\nand lines.\n\n  Indented. ",
    'def f(x: int = 0) -> list[str]:\n    return [f"{x!r}" for _ in range(10 ** 3)]  # x\n\n\n        pass',
    "滚滚长江东逝水，浪花淘尽英雄。\u3000“是非成败”转头空……１２３",
    "Ünïcödé, naïve café — “quotes” • 3½ €, ﬁne ①",
    "😀👩‍👩‍👧 \u2581 marker \u0000 null \u200b end",
    " a",
    "a",
    "",
)


def tokenizer_json(tokenizer: SentencePieceTokenizer, framed: bool) -> dict[str, Any]:
    """The document.

    Args:
        framed: texts are framed as the model was trained on them, with the piece at their end too; else, for
            a model that writes on, only with the one at their start.

    Raises:
        UserError: the model is of a kind for which Hugging Face has no equal.
    """
    model = tokenizer.to_bytes()
    pieces, trainer, rules = _read(model)
    if any(kind == _UNUSED for _, _, kind in pieces):
        raise UserError("this SentencePiece model has unused pieces: it can't be written as a tokenizer.json")
    vocabulary, normal = [], set()
    for piece, score, kind in pieces:
        text = piece.replace(SPACE, " ") if kind in (_NORMAL, _USER_DEFINED) else piece
        vocabulary.append((text, score))
        if kind == _NORMAL:
            normal.add(text)
    if len({text for text, _ in vocabulary}) < len(vocabulary):
        raise UserError("this SentencePiece model has a piece twice: it can't be written as a tokenizer.json")
    unknown = next((i for i, (_, _, kind) in enumerate(pieces) if kind == _UNKNOWN), None)
    in_bytes = any(kind == _BYTE for _, _, kind in pieces)
    kind = trainer.get(3, _UNIGRAM)
    if kind == _BPE:
        engine = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else vocabulary[unknown][0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": in_bytes,
            "ignore_merges": False,
            "vocab": {text: id for id, (text, _) in enumerate(vocabulary)},
            "merges": _merges(vocabulary, normal),
        }
    elif kind == _UNIGRAM:
        engine = {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [list(entry) for entry in vocabulary],
            "byte_fallback": in_bytes,
        }
    else:
        raise UserError(
            "this SentencePiece model is neither byte-pair nor unigram: it can't be written as a "
            "tokenizer.json"
        )
    adds_space, strips = bool(rules.get(3, 1)), bool(rules.get(4, 1))
    # A model that lm trained spells a marker in bytes; any other takes it for a space.
    marked = adds_space or strips or not in_bytes
    decoder: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if adds_space:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(id, text, special=kind != _USER_DEFINED)
            for id, ((text, _), (_, _, kind)) in enumerate(zip(vocabulary, pieces, strict=True))
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        "normalizer": _normalizer(rules.get(2, b""), marked, adds_space, strips),
        "pre_tokenizer": None,
        "post_processor": frame_template(tokenizer, framed),
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": engine,
    }


def check(document: dict[str, Any], tokenizer: SentencePieceTokenizer) -> None:
    """Encode a few texts by both.

    Raises:
        UserError: they differ; or `tokenizers` is not installed.
    """
    import json

    try:
        import tokenizers
    except ImportError as error:
        raise not_installed("writing a tokenizer.json", "tokenizers", "finetune") from error
    other = tokenizers.Tokenizer.from_str(json.dumps(document))
    for text in _PROBES:
        if other.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise UserError(
                "this SentencePiece model can't be written as a tokenizer.json exactly: the two differ on "
                f"{text[:60]!r}"
            )


def _read(model: bytes) -> tuple[list[tuple[str, float, int]], dict[int, Any], dict[int, Any]]:
    """Pieces (spelling, score, kind), the trainer's settings and the normaliser's, by field number."""
    pieces, trainer, rules = [], {}, {}
    for number, value in read_fields(model):
        if number == _PIECES:
            entry = dict(read_fields(value))
            score = struct.unpack("<f", entry.get(2, 0).to_bytes(4, "little"))[0]
            pieces.append((entry[1].decode(), score, entry.get(3, _NORMAL)))
        elif number == _TRAINER:
            trainer = dict(read_fields(value))
        elif number == _NORMALIZER:
            rules = dict(read_fields(value))
    return pieces, trainer, rules


def _merges(vocabulary: list[tuple[str, float]], normal: set[str]) -> list[list[str]]:
    """Every way to put a piece together from two, the best-scored piece first: SentencePiece joins the pair
    whose whole has the highest score."""
    ids = {text: id for id, (text, _) in enumerate(vocabulary)}
    merges = []
    for text, score in vocabulary:
        if text not in normal:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in normal and right in normal:
                merges.append((-score, ids[text], ids[left], ids[right], left, right))
    merges.sort()
    return [[left, right] for *_, left, right in merges]


def _normalizer(rules: bytes, marked: bool, adds_space: bool, strips: bool) -> dict[str, Any] | None:
    """What SentencePiece does to a text before it encodes it."""
    steps: list[dict[str, Any]] = []
    if rules:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules).decode()})
    if strips:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if marked:
        steps.append({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
    if adds_space:
        steps.append({"type": "Prepend", "prepend": " "})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def frame_template(tokenizer: Tokenizer, framed: bool = True) -> dict[str, Any] | None:
    """The special pieces around one text and around two."""
    first, second = -1, -2  # stand for the texts
    single, pair = tokenizer.frame([first])[0], tokenizer.frame([first], [second])[0]
    if not framed:
        single, pair = single[: single.index(first) + 1], pair[: pair.index(second) + 1]
    if single == [first] and pair == [first, second]:
        return None

    def parts(ids: list[int]) -> list[dict[str, Any]]:
        segment, found = 0, []
        for id in ids:
            if id == second:
                segment = 1
            if id in (first, second):
                found.append({"Sequence": {"id": "A" if id == first else "B", "type_id": segment}})
            else:
                found.append({"SpecialToken": {"id": tokenizer.piece(id), "type_id": segment}})
        return found

    return {
        "type": "TemplateProcessing",
        "single": parts(single),
        "pair": parts(pair),
        "special_tokens": {
            tokenizer.piece(id): {"id": tokenizer.piece(id), "ids": [id], "tokens": [tokenizer.piece(id)]}
            for id in dict.fromkeys(single + pair)
            if id >= 0
        },
    }
