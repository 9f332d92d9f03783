"""SentencePiece: a byte-pair model with byte fallback, trained by lm, or any model brought along.

What this wrapper adds to SentencePiece (Kudo & Richardson 2018):
- special pieces with fixed ids (`<pad>` 0, `<unk>` 1, `<s>` 2, `</s>` 3, `<mask>` 4, then the chat markers),
  put in by id and never parsed out of text, so that no text can forge one;
- an exact round trip for every string of valid Unicode, with NUL and U+2581, SentencePiece's own space
  marker;
- how many bytes of text each piece stands for, which makes bits per byte comparable between tokenizers;
- where words begin and end, for whole-word masking.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from lm.errors import UserError
from lm.tokenizer.base import Template, Tokenizer
from lm.tokenizer.protobuf import control_piece, field, read_fields
from lm.tokenizer.text import SPACE, Span, spans_of_bytes, split_lines, valid_unicode

PAD, UNK, BOS, EOS, MASK = "<pad>", "<unk>", "<s>", "</s>", "<mask>"
CHAT_PIECES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

_ENCODE_CHUNK = 65_536  # characters: SentencePiece's merge queue slows down by 2.5 times on whole books
_USER_DEFINED = 4  # a type of pieces
_SETTINGS = 4242  # the number of a field at a model's end, free for others' use, that SentencePiece skips
_SETTINGS_START = b'{"lm":'


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with its special pieces, byte counts and word borders.

    Args:
        model: the serialised model, as `to_bytes()` gives it: a `.model` file's content. At its end it may
            have what a folder says and the model does not: see `with_settings`.
        name: what to call the model in an error message.

    Raises:
        UserError: `model` is not a SentencePiece model.
    """

    def __init__(self, model: bytes, name: str = "the tokenizer") -> None:
        self._model = bytes(model)
        advice = "give the .model file, a tokenizer.json or a Hugging Face folder"
        if not model:
            raise UserError(f"{name} is empty, not a SentencePiece model; {advice}")
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except RuntimeError as error:
            raise UserError(f"{name} is not a SentencePiece model; {advice}") from error
        self.vocab_size = len(self._sp)
        self._settings = _settings(self._model)
        roles = self._settings.get("roles", {})
        self.pad_id = roles.get("pad", self._special(PAD, self._sp.pad_id()))
        self.unk_id = roles.get("unk", self._special(UNK, self._sp.unk_id()))
        self.bos_id = roles.get("bos", self._special(BOS, self._sp.bos_id()))
        self.eos_id = roles.get("eos", self._special(EOS, self._sp.eos_id()))
        self.mask_id = roles.get("mask", self._special(MASK, -1))
        # Models brought along may normalise; what they do at a text's start has to be undone when decoding.
        self._strips_spaces = not self._sp.normalize("  a").startswith(SPACE * 2)
        self._adds_space = self._sp.normalize("a").startswith(SPACE)
        self._marker = [self.id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        # Only whole texts, where the model changes a text's start.
        self._in_chunks = not (self._adds_space or self._strips_spaces or None in self._marker)
        # A model that lm did not train is a Llama, which begins texts and does not end them, unless its
        # folder says otherwise.
        first = [self._sp.id_to_piece(id) for id in range(min(self.vocab_size, 5))]
        self._ours = first == [PAD, UNK, BOS, EOS, MASK]
        self._adds_bos = self._settings.get("adds_bos", True)
        self._adds_eos = self._settings.get("adds_eos", self._ours)

    def _special(self, piece: str, known: int) -> int | None:
        """The id of a special piece: what the model declares, else a control piece of that spelling."""
        if known >= 0:
            return known
        found = self.id(piece)
        return found if found is not None and self.is_special(found) else None

    def to_bytes(self) -> bytes:
        return self._model

    def _save_files(self, folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(self._model)

    def id(self, piece: str) -> int | None:
        found = self._sp.piece_to_id(piece)
        return found if self._sp.id_to_piece(found) == piece else None

    def piece(self, id: int) -> str:
        return self._sp.id_to_piece(int(id))

    def is_special(self, id: int) -> bool:
        return self._sp.is_control(id) or self._sp.is_unknown(id)

    @property
    def atoms(self) -> list[str]:
        """See `Tokenizer.atoms`: SentencePiece's user-defined symbols."""
        pieces = (dict(read_fields(value)) for number, value in read_fields(self._model) if number == 1)
        return [piece[1].decode() for piece in pieces if piece.get(3) == _USER_DEFINED]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for chunk in self._chunks(valid_unicode(text)):
            ids += self._marker if chunk is None else self._sp.encode(chunk)
        return ids

    def _chunks(self, text: str) -> Iterator[str | None]:
        """What SentencePiece gets at a time; None for a space marker, which it would take for a space."""
        if not self._in_chunks:
            yield text
            return
        for position, part in enumerate(text.split(SPACE)):
            if position:
                yield None
            yield from split_lines(part, _ENCODE_CHUNK)

    def _encode_spans(self, text: str) -> tuple[list[int], list[Span]]:
        ids = self.encode(text)
        surface, utf8 = b"".join(map(self._piece_bytes.__getitem__, ids)), text.encode()
        added = len(b" ") if self._adds_space else 0
        if surface == b" " * added + utf8:  # pieces stand for the text byte by byte
            ends = (np.cumsum([len(self._piece_bytes[id]) for id in ids], dtype=np.int64) - added).tolist()
            spans = [(max(start, 0), end) for start, end in zip([0, *ends], ends, strict=False)]
            return ids, spans_of_bytes(text, spans)
        spans, place = [], 0
        for chunk in self._chunks(text):
            found = [(0, len(SPACE))] * len(self._marker) if chunk is None else self._aligned(chunk)
            spans += [(place + start, place + end) for start, end in found]
            place += 1 if chunk is None else len(chunk)
        return ids, spans

    def _aligned(self, text: str) -> list[Span]:
        """Each piece's range by SentencePiece's own alignment, where the model changes the text."""
        encoded = read_fields(self._sp.encode(text, out_type="serialized_proto"))
        pieces = [dict(read_fields(value)) for number, value in encoded if number == 2]
        spans: list[Span] = []
        following = (0, 0)
        # Of the pieces that one character becomes, SentencePiece gives the last the character and the others
        # an empty range.
        for piece in reversed(pieces):
            begin, end = piece.get(4, 0), piece.get(5, 0)  # in bytes of the text
            inside = begin == end == following[0] and piece.get(1) != SPACE.encode()
            following = following if inside else (begin, end)
            spans.append(following)
        return spans_of_bytes(text, spans[::-1])

    def _bytes_of(self, id: int) -> bytes:
        if self._sp.is_control(id):
            return b""
        if self._sp.is_unknown(id):
            return " \u2047 ".encode()  # SentencePiece's own surface for it
        piece = self._sp.id_to_piece(id)
        if self._sp.is_byte(id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def _template(self, pair: bool) -> Template:
        bos = [self.bos_id] if self._adds_bos and self.bos_id is not None else []
        eos = [self.eos_id] if self._adds_eos and self.eos_id is not None else []
        between = eos + ([] if self._ours else bos)
        return bos, between if pair else [], eos

    def with_pieces(self, pieces: Sequence[str]) -> "SentencePieceTokenizer":
        new = [piece for piece in dict.fromkeys(pieces) if self.id(piece) is None]
        for piece in pieces:
            if piece not in new and not self.is_special(self.id(piece)):
                raise UserError(f"{piece} is a piece of text in this tokenizer: take another spelling")
        return self._with(new, self._settings) if new else self

    def with_settings(
        self, roles: dict[str, int | None], adds_bos: bool | None = None, adds_eos: bool | None = None
    ) -> "SentencePieceTokenizer":
        """A copy that keeps what a model's folder says and the model does not.

        Args:
            roles: ids of pad, unk, bos, eos and mask, where they are not what the model itself declares.
            adds_bos: whether texts are framed with bos in front; None as the model's kind is.
            adds_eos: whether with eos behind.
        """
        changed = {role: id for role, id in roles.items() if id != self.roles[role]}
        settings: dict = {"roles": changed} if changed else {}
        for key, new, now in (("adds_bos", adds_bos, self._adds_bos), ("adds_eos", adds_eos, self._adds_eos)):
            if new not in (None, now):
                settings[key] = new
        return self._with([], self._settings | settings) if settings else self

    def _with(self, pieces: Sequence[str], settings: dict) -> "SentencePieceTokenizer":
        bare = self._model[: len(self._model) - len(_settings_field(self._settings))]
        # A message's repeated field goes on wherever it stands again.
        model = bare + b"".join(map(control_piece, pieces)) + _settings_field(settings)
        wider = SentencePieceTokenizer(model)
        wider.coverage = self.coverage
        return wider


def _settings_field(settings: dict) -> bytes:
    """Settings as bytes for the end of a model; b"" for none."""
    if not settings:
        return b""
    return field(_SETTINGS, json.dumps({"lm": settings}, separators=(",", ":")).encode())


def _settings(model: bytes) -> dict:
    """What `with_settings` put at the model's end; {} if nothing."""
    place = model.rfind(_SETTINGS_START, max(0, len(model) - 1000))
    if place < 0:
        return {}
    try:
        settings = json.loads(model[place:])["lm"]
    except (ValueError, TypeError):
        return {}
    return settings if isinstance(settings, dict) and model.endswith(_settings_field(settings)) else {}
