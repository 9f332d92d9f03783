"""Tokenizers that other models bring, read by Hugging Face's `tokenizers`: WordPiece, byte-level BPE, and
SentencePiece models in its form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.tokenizer.base import Template, Tokenizer
from lm.tokenizer.documents import compact, declare, finish, tokenizers_library, usual_piece, vocabulary
from lm.tokenizer.text import SPACE, Span, stands_alone, valid_unicode

_BYTES, _SPACES, _WORDS = "byte-level", "SentencePiece-like", "WordPiece-like"  # how tokens spell text


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json` with the roles of its special tokens.

    Args:
        data: what `to_bytes()` gives: JSON with `tokenizer` (the content of tokenizer.json), `roles` (ids of
            pad, unk, bos, eos and mask) and `frame` (special tokens before, between and after one text and
            two). Also a tokenizer.json alone: its roles go by the usual spellings then.
        name: what to call it in an error message.

    Raises:
        UserError: it is damaged, of a kind that is not known, or `tokenizers` is not installed.
    """

    def __init__(self, data: bytes, name: str = "the tokenizer") -> None:
        kept = _parse(data, name)
        if "tokenizer" not in kept:
            data = finish(kept, {}, {}, name)
            kept = json.loads(data)
        self._data = bytes(data)
        try:
            document, roles, self._frames = kept["tokenizer"], kept["roles"], kept["frame"]
            self._engine = _engine(document, name)
            self._ids = vocabulary(document)
            self.vocab_size = max(self._ids.values()) + 1
            self._pieces = [""] * self.vocab_size
            for piece, id in self._ids.items():
                self._pieces[id] = piece
            self.pad_id, self.unk_id = roles["pad"], roles["unk"]
            self.bos_id, self.eos_id, self.mask_id = roles["bos"], roles["eos"], roles["mask"]
            added = document["added_tokens"]
            self._added = {token["id"] for token in added}
            self._special = {token["id"] for token in added if token["special"]}
            self._special |= {id for id in roles.values() if id is not None}
            self._controls = self._special - {self.unk_id}
            self._kind, self._adds_space = _kind(document, name)
            self._prefix = document["model"].get("continuing_subword_prefix") or ""
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{name} is damaged: its parts don't fit together ({error!r})") from error

    def to_bytes(self) -> bytes:
        return self._data

    def _save_files(self, folder: Path) -> None:
        """What transformers reads too."""
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for role, id in self.roles.items():
            config[f"{role}_token"] = None if id is None else self._pieces[id]
        if self._frames["single"] == [[self.bos_id], [], [self.eos_id]]:
            config |= {"cls_token": config["bos_token"], "sep_token": config["eos_token"]}
        document = json.dumps(json.loads(self._data)["tokenizer"], ensure_ascii=False)
        (folder / "tokenizer.json").write_text(document, encoding="utf-8")
        described = json.dumps(config, ensure_ascii=False, indent=2)
        (folder / "tokenizer_config.json").write_text(described, encoding="utf-8")

    def id(self, piece: str) -> int | None:
        return self._ids.get(piece)

    def piece(self, id: int) -> str:
        if id < 0:
            raise IndexError(f"no token has the id {id}")
        return self._pieces[int(id)]

    def is_special(self, id: int) -> bool:
        return id in self._special

    @property
    def atoms(self) -> list[str]:
        return [self._pieces[id] for id in sorted(self._added - self._special)]

    def encode(self, text: str) -> list[int]:
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
        """A token that the model made of text; if its spelling is a special token's, its characters'."""
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
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def _continues(self, id: int) -> bool:
        """Whether a WordPiece goes on with the word before it."""
        return bool(self._prefix) and self._pieces[id].startswith(self._prefix) and id not in self._added

    def byte_lengths(self) -> np.ndarray:
        """See `Tokenizer.byte_lengths`. WordPiece drops white space: a token that begins a word of letters or
        digits counts one space in front, Chinese characters and punctuation count none."""
        lengths = super().byte_lengths()
        if self._kind == _WORDS:
            for id, piece in enumerate(self._piece_bytes):
                if piece[:1] == b" " and stands_alone(self._pieces[id][0]):
                    lengths[id] -= 1
        return lengths

    def _borders(self, id: int) -> tuple[bool, bool]:
        if self._kind == _WORDS and self._piece_bytes[id]:  # the next token says whether the word goes on
            return not self._continues(id), False
        return super()._borders(id)

    def _template(self, pair: bool) -> Template:
        before, between, after = self._frames["pair" if pair else "single"]
        return before, between, after

    def with_pieces(self, pieces: Sequence[str]) -> "HuggingFaceTokenizer":
        """A copy with these control tokens added, from id `vocab_size` on; those that it has become control
        tokens where they are, if they are none."""
        missing = [piece for piece in dict.fromkeys(pieces) if not self.is_special(self._ids.get(piece, -1))]
        if not missing:
            return self
        kept = json.loads(self._data)
        declare(kept["tokenizer"], [(piece, True, None) for piece in missing])
        for role, id in kept["roles"].items():
            if id is None and (piece := usual_piece(role, missing)):
                kept["roles"][role] = vocabulary(kept["tokenizer"])[piece]
        return HuggingFaceTokenizer(compact(kept))


def _parse(data: bytes, name: str) -> dict:
    try:
        kept = json.loads(data)
    except ValueError as error:
        raise UserError(f"{name} is damaged: it is not whole JSON ({error})") from error
    if not isinstance(kept, dict) or not ("model" in kept or "tokenizer" in kept):
        raise UserError(f"{name} is not a tokenizer: it has no `model`, as a tokenizer.json has")
    return kept


def _engine(document: dict, name: str) -> Any:
    """The `tokenizers.Tokenizer` of a document, which takes special tokens in a text for text."""
    tokenizers = tokenizers_library(f"reading {name}")
    try:
        engine = tokenizers.Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{name} is not a tokenizer that `tokenizers` reads: {error}") from error
    for token in document["added_tokens"]:
        if engine.token_to_id(token["content"]) != token["id"]:
            raise UserError(f"{name} is damaged: token {token['content']} can't have the id {token['id']}")
    engine.encode_special_tokens = True
    return engine


def _kind(document: dict, name: str) -> tuple[str, bool]:
    """How tokens spell text, and whether decoding drops a space at the start."""
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
    codes = {**{byte: byte for byte in printable}, **{byte: 0x100 + n for n, byte in enumerate(others)}}
    return {chr(code): bytes([byte]) for byte, code in codes.items()}


_BYTE_OF = _byte_alphabet()
