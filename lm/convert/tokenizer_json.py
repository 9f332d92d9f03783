"""A SentencePiece model as a `tokenizer.json`, which is what Hugging Face's libraries read.

Pieces are written with real spaces, not with SentencePiece's marker U+2581: so the marker itself, where a
text has it, is spelt in bytes as `SentencePieceTokenizer` does, and no text changes on its way. One
difference is left: Hugging Face's tokenizers take a text that spells a special piece for that piece.
"""

import json
import struct
from typing import Any

from lm.errors import UserError
from lm.tokenizer import SentencePieceTokenizer, Tokenizer
from lm.tokenizer.documents import added_token, template, tokenizers_library
from lm.tokenizer.protobuf import read_fields
from lm.tokenizer.text import SPACE

# Numbers in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UNIGRAM, BPE = 1, 2

# Spaces joined and none left at the ends, at the last one also none that was a marker. `Strip` would take
# line breaks, too, which SentencePiece keeps. No `\A` and `\z`: libraries in JavaScript read this, too.
_JOINED_SPACES = ((" {2,}", " "), (r"(?<![\s\S]) ", ""))
_LAST_SPACES = r" +(?![\s\S])"

# Where two encoders would part, they part on one of these.
_PROBES = (
    "The quick brown fox, aged 31, isn't lazy:  two  spaces,\ttabs\nand lines.\n\n  Indented. ",
    'def f(x: int = 0) -> list[str]:\n    return [f"{x!r}" for _ in range(10 ** 3)]  # x\n\n\n        pass',
    "滚滚长江东逝水，浪花淘尽英雄。\u3000“是非成败”转头空……１２３",
    "Ünïcödé, naïve café — “quotes” • 3½ €, ﬁne ①",
    "😀👩‍👩‍👧 \u2581 marker \u0000 null \u200b end",
    " a",
    "a\n ",
    "a \u2581",
    "",
)


def tokenizer_json(tokenizer: SentencePieceTokenizer, framed: bool) -> dict[str, Any]:
    """The document, whose ids were compared with the model's on a few texts.

    Args:
        framed: texts are framed as the model was trained on them, with the piece at their end too; else, for
            a model that writes on, only with the one at their start.

    Raises:
        UserError: the model is of a kind for which Hugging Face has no equal; or `tokenizers` is not
            installed.
    """
    library = tokenizers_library("writing a tokenizer.json")
    pieces, trainer, rules = read_model(tokenizer.to_bytes())
    if any(kind == UNUSED for _, _, kind in pieces):
        raise UserError("this SentencePiece model has unused pieces: it can't be written as a tokenizer.json")
    vocabulary = [
        (piece.replace(SPACE, " ") if kind in (NORMAL, USER_DEFINED) else piece, score)
        for piece, score, kind in pieces
    ]
    ids = {text: id for id, (text, _) in enumerate(vocabulary)}
    if len(ids) < len(vocabulary):
        raise UserError("this SentencePiece model has a piece twice: it can't be written as a tokenizer.json")
    unknown = next((id for id, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN), None)
    in_bytes = any(kind == BYTE for _, _, kind in pieces)
    kind = trainer.get(3, _UNIGRAM)
    if kind == BPE:
        normal = {
            text: score
            for (text, score), (*_, kind) in zip(vocabulary, pieces, strict=True)
            if kind == NORMAL
        }
        named = None if unknown is None else vocabulary[unknown][0]
        model = library.models.BPE(
            ids, _merges(normal, ids), unk_token=named, fuse_unk=True, byte_fallback=in_bytes
        )
    elif kind == _UNIGRAM:
        model = library.models.Unigram(vocabulary, unknown, byte_fallback=in_bytes)
    else:
        raise UserError(
            "this SentencePiece model is neither byte-pair nor unigram: it can't be written as a "
            "tokenizer.json"
        )
    engine = library.Tokenizer(model)
    adds_space, strips = bool(rules.get(3, 1)), bool(rules.get(4, 1))
    # A model that lm trained spells a marker in bytes; any other takes it for a space.
    marked = adds_space or strips or not in_bytes
    steps, back = library.normalizers, library.decoders
    changes = [
        *([steps.Precompiled(rules[2])] if rules.get(2) else []),
        *([steps.Replace(library.Regex(cut), to) for cut, to in _JOINED_SPACES] if strips else []),
        *([steps.Replace(SPACE, " ")] if marked else []),
        *([steps.Replace(library.Regex(_LAST_SPACES), "")] if strips else []),
        *([steps.Prepend(" ")] if adds_space else []),
    ]
    if changes:
        engine.normalizer = steps.Sequence(changes)
    engine.decoder = back.Sequence(
        [back.ByteFallback(), back.Fuse(), *([back.Strip(" ", 1, 0)] if adds_space else [])]
    )
    document = json.loads(engine.to_str())
    document["added_tokens"] = [
        added_token(id, text, special=kind != USER_DEFINED)
        for (text, id), (*_, kind) in zip(ids.items(), pieces, strict=True)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    document["post_processor"] = frame_template(tokenizer, framed)
    engine = library.Tokenizer.from_str(json.dumps(document))
    for text in _PROBES:
        if engine.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise UserError(
                "this SentencePiece model can't be written as a tokenizer.json exactly: the two differ on "
                f"{text[:60]!r}"
            )
    return document


def read_model(model: bytes) -> tuple[list[tuple[str, float, int]], dict[int, Any], dict[int, Any]]:
    """Pieces (spelling, score, kind), the trainer's settings and the normaliser's, by field number."""
    pieces, parts = [], {_TRAINER: {}, _NORMALIZER: {}}
    for number, value in read_fields(model):
        if number == _PIECES:
            entry = dict(read_fields(value))
            score = struct.unpack("<f", entry.get(2, 0).to_bytes(4, "little"))[0]
            pieces.append((entry[1].decode(), score, entry.get(3, NORMAL)))
        elif number in parts:
            parts[number] = dict(read_fields(value))
    return pieces, parts[_TRAINER], parts[_NORMALIZER]


def _merges(normal: dict[str, float], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, the best-scored piece first: SentencePiece joins the pair
    whose whole has the highest score."""
    merges = []
    for text, score in normal.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in normal and right in normal:
                merges.append((-score, ids[text], ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def frame_template(tokenizer: Tokenizer, framed: bool = True) -> dict[str, Any] | None:
    """The special pieces around one text and around two, as a post-processor; None for none."""
    texts = {-1: "A", -2: "B"}
    frames = []
    for last in (-1, -2):
        ids = tokenizer.frame([-1], None if last == -1 else [last])[0]
        ids = ids if framed else ids[: ids.index(last) + 1]
        frames.append([texts.get(id) or tokenizer.piece(id) for id in ids])
    single, pair = frames
    special = {piece: tokenizer.id(piece) for piece in single + pair if piece not in texts.values()}
    return template((single, pair), special) if special else None
