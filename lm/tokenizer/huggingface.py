"""Tokenizers that other models bring, read by Hugging Face's `tokenizers`: WordPiece, byte-level BPE, and
SentencePiece models in its form."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lm.errors import UserError, not_installed
from lm.tokenizer.base import Template, Tokenizer
from lm.tokenizer.folders import USUAL, finish
from lm.tokenizer.pipelines import added_token
from lm.tokenizer.text import SPACE, Span, stands_alone, valid_unicode, word_borders

_BYTES, _SPACES, _WORDS = "byte-level", "SentencePiece-like", "WordPiece-like"  # how pieces spell text


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json` with the roles of its special pieces.

    Args:
        data: what `to_bytes()` gives: JSON with `tokenizer` (the content of tokenizer.json), `roles` (ids of
            pad, unk, bos, eos and mask) and `frame` (special pieces before, between and after one text and
            two). Also a tokenizer.json alone: its roles go by the usual spellings then.
        name: what to call it in an error message.

    Raises:
        UserError: it is damaged, of a kind that is not known, or `tokenizers` is not installed.
    """

    def __init__(self, data: bytes, name: str = "the tokenizer") -> None:
        kept = _parse(data, name)
        if "tokenizer" not in kept:
            data = finish(kept, {}, {}, encoder=False, name=name)
            kept = _parse(data, name)
        self._data = bytes(data)
        try:
            document, roles, self._frames = kept["tokenizer"], kept["roles"], kept["frame"]
            self._engine = _engine(document, name)
            model = document["model"]
            vocab = model["vocab"]
            if isinstance(vocab, list):  # Unigram: pieces with their scores, in order
                vocab = {piece: id for id, (piece, _) in enumerate(vocab)}
            added = document["added_tokens"]
            self._ids = vocab | {token["content"]: token["id"] for token in added}
            self.vocab_size = max(self._ids.values()) + 1
            self._pieces = [""] * self.vocab_size
            for piece, id in self._ids.items():
                self._pieces[id] = piece
            self.pad_id, self.unk_id = roles["pad"], roles["unk"]
            self.bos_id, self.eos_id, self.mask_id = roles["bos"], roles["eos"], roles["mask"]
            self._added = {token["id"] for token in added}
            self._special = {token["id"] for token in added if token["special"]}
            self._special |= {id for id in roles.values() if id is not None}
            self._controls = self._special - {self.unk_id}
            self._kind, self._adds_space = _kind(document, name)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{name} is damaged: its parts don't fit together ({error!r})") from error
        self._prefix = model.get("continuing_subword_prefix") or ""

    def to_bytes(self) -> bytes:
        """One compact JSON object: tokenizer.json and lm's settings."""
        return self._data

    def save(self, path: str | Path) -> None:
        """Writes `to_bytes()`; or, under a folder's name, a folder that transformers reads too."""
        path = Path(path)
        if path.suffix and not path.is_dir():
            path.write_bytes(self._data)
            return
        path.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        roles = _parse(self._data, str(path))["roles"]
        for role, id in roles.items():
            config[f"{role}_token"] = None if id is None else self._pieces[id]
        if self._frames["single"] == [[self.bos_id], [], [self.eos_id]]:
            config |= {"cls_token": config["bos_token"], "sep_token": config["eos_token"]}
        for file, content in (
            ("tokenizer.json", _parse(self._data, str(path))["tokenizer"]),
            ("tokenizer_config.json", config),
        ):
            text = json.dumps(content, ensure_ascii=False, indent=None if file == "tokenizer.json" else 2)
            (path / file).write_text(text, encoding="utf-8")

    def id(self, piece: str) -> int | None:
        """See `Tokenizer.id`."""
        return self._ids.get(piece)

    def piece(self, id: int) -> str:
        """See `Tokenizer.piece`."""
        if id < 0:
            raise IndexError(f"no piece has the id {id}")
        return self._pieces[int(id)]

    def is_special(self, id: int) -> bool:
        """Whether this is a control piece or the unknown one: it stands for no text."""
        return id in self._special

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special pieces; a lone surrogate counts as U+FFFD."""
        ids = self._engine.encode(valid_unicode(text), add_special_tokens=False).ids
        if self._controls.isdisjoint(ids):
            return ids
        return [part for id in ids for part in self._as_text(id)]

    def _encode_spans(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._engine.encode(text, add_special_tokens=False)
        ids, spans = [], []
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            parts = self._as_text(id)
            ids += parts
            if len(parts) == 1:
                spans.append((start, end))
            else:
                spans += [(min(start + n, end), min(start + n + 1, end)) for n in range(len(parts))]
        return ids, spans

    def _as_text(self, id: int) -> list[int]:
        """A piece that the model made of text; if its spelling is a special piece's, its characters'."""
        if id not in self._controls:
            return [id]
        spelt: list[int] = []
        for place, char in enumerate(self._pieces[id]):
            whole = self._ids.get(self._prefix + char if place else char)
            in_bytes = [self._ids.get(f"<0x{byte:02X}>") for byte in char.encode()]
            if whole is not None:
                spelt.append(whole)
            elif None not in in_bytes:
                spelt += in_bytes
            elif self.unk_id is not None:
                spelt.append(self.unk_id)
        return spelt

    @cached_property
    def _piece_bytes(self) -> list[bytes]:
        return [self._bytes_of(id) for id in range(self.vocab_size)]

    def _bytes_of(self, id: int) -> bytes:
        piece = self._pieces[id]
        if id in self._special or not piece:
            return b""
        if self._kind == _WORDS:
            return piece[len(self._prefix) :].encode() if self._continues(id) else b" " + piece.encode()
        if id in self._added:
            return piece.encode()
        if self._kind == _BYTES:
            return b"".join(_BYTE_OF.get(char) or char.encode() for char in piece)
        if self._is_byte(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def _continues(self, id: int) -> bool:
        """Whether a WordPiece goes on with the word before it."""
        return bool(self._prefix) and self._pieces[id].startswith(self._prefix) and id not in self._added

    @staticmethod
    def _is_byte(piece: str) -> bool:
        return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")

    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of the original text that each piece stands for, int64 `(vocab_size,)`; special: 0.

        Exact for byte-level BPE without a normaliser. WordPiece drops white space: a piece that begins a word
        of letters or digits counts one space in front, Chinese characters and punctuation count none.
        """
        lengths = [len(piece) for piece in self._piece_bytes]
        if self._kind == _WORDS:
            for id, piece in enumerate(self._piece_bytes):
                if piece[:1] == b" " and stands_alone(self._pieces[id][0]):
                    lengths[id] -= 1
        return np.array(lengths, dtype=np.int64)

    def word_boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.word_boundaries`."""
        opens = np.ones(self.vocab_size, dtype=bool)
        closes = np.ones(self.vocab_size, dtype=bool)
        for id, piece in enumerate(self._piece_bytes):
            if not piece:
                continue
            if self._kind == _WORDS:  # the next piece says whether the word goes on
                opens[id], closes[id] = not self._continues(id), False
            else:
                opens[id], closes[id] = word_borders(piece)
        return opens, closes

    def _template(self, pair: bool) -> Template:
        before, between, after = self._frames["pair" if pair else "single"]
        return before, between, after

    def with_pieces(self, pieces: Sequence[str]) -> "HuggingFaceTokenizer":
        """A copy with these control pieces added, from id `vocab_size` on; those that it has become control
        pieces where they are, if they are none."""
        missing = [piece for piece in dict.fromkeys(pieces) if not self.is_special(self._ids.get(piece, -1))]
        if not missing:
            return self
        kept = _parse(self._data, "the tokenizer")
        added = {token["content"]: token for token in kept["tokenizer"]["added_tokens"]}
        next_id = self.vocab_size
        for piece in missing:
            if piece in added:
                added[piece]["special"] = True
                continue
            id = self._ids.get(piece, next_id)
            next_id += id == next_id
            added[piece] = added_token(id, piece)
            for role, spellings in USUAL.items():
                if kept["roles"][role] is None and piece in spellings:
                    kept["roles"][role] = id
        kept["tokenizer"]["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
        return HuggingFaceTokenizer(_compact(kept))


def _parse(data: bytes, name: str) -> dict:
    try:
        kept = json.loads(data)
    except ValueError as error:
        raise UserError(f"{name} is damaged: it is not whole JSON ({error})") from error
    if not isinstance(kept, dict) or not ("model" in kept or "tokenizer" in kept):
        raise UserError(f"{name} is not a tokenizer: it has no `model`, as a tokenizer.json has")
    return kept


def _compact(kept: dict) -> bytes:
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def _engine(document: dict, name: str) -> Any:
    """The `tokenizers.Tokenizer` of a document, which takes special pieces in a text for text."""
    try:
        import tokenizers
    except ImportError as error:
        raise not_installed(f"reading {name}", "tokenizers", "finetune") from error
    try:
        engine = tokenizers.Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{name} is not a tokenizer that `tokenizers` reads: {error}") from error
    for token in document["added_tokens"]:
        if engine.token_to_id(token["content"]) != token["id"]:
            raise UserError(f"{name} is damaged: piece {token['content']} can't have the id {token['id']}")
    engine.encode_special_tokens = True
    return engine


def _kind(document: dict, name: str) -> tuple[str, bool]:
    """How pieces spell text, and whether decoding drops a space at the start.

    Raises:
        UserError: in a way that lm does not know.
    """
    decoders = _steps(document.get("decoder"), "decoders")
    types = {step["type"] for step in decoders}
    before = {step["type"] for step in _steps(document.get("pre_tokenizer"), "pretokenizers")}
    model = document["model"]
    if model.get("end_of_word_suffix") or types & {"BPEDecoder", "CTC"}:
        raise UserError(f"{name} marks the ends of words, not their beginnings: lm does not read such")
    if "ByteLevel" in types or (not types and "ByteLevel" in before):
        return _BYTES, False
    if types & {"Metaspace", "ByteFallback", "Replace"} or (not types and "Metaspace" in before):
        return _SPACES, any(
            (step["type"] == "Strip" and step.get("start", 0) > 0 and step.get("content") == " ")
            or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in decoders
        )
    return _WORDS, True


def _steps(part: dict | None, key: str) -> list[dict]:
    """The steps of a sequence, of one in another too; a single part is one step."""
    if part is None:
        return []
    return [step for inner in part[key] for step in _steps(inner, key)] if key in part else [part]


def _byte_alphabet() -> dict[str, bytes]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019): printable Latin-1 stands for
    itself, the other bytes in their order for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs = [(chr(byte), byte) for byte in printable]
    pairs += [(chr(0x100 + place), byte) for place, byte in enumerate(others)]
    return {char: bytes([byte]) for char, byte in pairs}


_BYTE_OF = _byte_alphabet()
