"""SentencePiece: a byte-pair model with byte fallback, trained by lm, or any model brought along.

What this wrapper adds to SentencePiece (Kudo & Richardson 2018):
- special pieces with fixed ids (`<pad>` 0, `<unk>` 1, `<s>` 2, `</s>` 3, `<mask>` 4, then the chat markers),
  put in by id and never parsed out of text, so that no text can forge one;
- an exact round trip for every string of valid Unicode, with NUL and U+2581, SentencePiece's own space
  marker;
- how many bytes of text each piece stands for, which makes bits per byte comparable between tokenizers;
- where words begin and end, for whole-word masking.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from lm.errors import UserError
from lm.tokenizer.base import Template, Tokenizer
from lm.tokenizer.protobuf import control_piece, field, piece_spans
from lm.tokenizer.text import SPACE, Span, spans_of_bytes, split_lines, stands_alone, valid_unicode

PAD, UNK, BOS, EOS, MASK = "<pad>", "<unk>", "<s>", "</s>", "<mask>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"

_TRAIN_CHUNK = 16_000  # characters: one "sentence" for the trainer
_COVERAGE = 0.9995  # of the characters: the rest are typing errors and rare scripts
_ENCODE_CHUNK = 65_536  # characters: SentencePiece's merge queue slows down by 2.5 times on whole books
_RESERVED = "\u2585"  # the trainer drops a sentence with this character
_SETTINGS = 4242  # the number of a field at a model's end, free for others' use, that SentencePiece skips
_SETTINGS_START = b'{"lm":'


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with its special pieces, byte counts and word borders.

    Args:
        model: the serialised model, as `to_bytes()` gives it.
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
        settings = _settings(self._model)
        roles = settings.get("roles", {})
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
        self._adds_bos = settings.get("adds_bos", True)
        self._adds_eos = settings.get("adds_eos", self._ours)

    def _special(self, piece: str, known: int) -> int | None:
        """The id of a special piece: what the model declares, else a control piece of that spelling."""
        if known >= 0:
            return known
        found = self.id(piece)
        return found if found is not None and self.is_special(found) else None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "SentencePieceTokenizer":
        """Learns a byte-pair model; the same texts in the same order give the same bytes.

        Args:
            texts: documents, read once. The trainer holds them all, in some 10 times their size: bound them.
            vocab_size: pieces in all, with the 9 special and the 256 byte pieces. Where the texts have more
                characters than fit beside longer pieces, the rarer ones are spelt in bytes: see `coverage`.

        Raises:
            UserError: the texts have fewer different pieces than `vocab_size`, or it has no room for text.
        """
        chunks = [
            chunk.replace(_RESERVED, " ")
            for text in texts
            for chunk in split_lines(valid_unicode(text), _TRAIN_CHUNK)
            if chunk.strip()
        ]
        if not chunks:
            raise UserError("there is no text to train a tokenizer on")
        kept = commonest_characters(chunks, vocab_size)
        if kept is not None:
            # SentencePiece itself gives up below a coverage of 0.98: it is shown the kept characters alone.
            others = re.compile(f"[^{re.escape(''.join(sorted(kept[0])))}]+")
            chunks = [part for chunk in chunks for part in others.split(chunk) if part.strip()]
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(chunks),
                model_writer=model,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                character_coverage=_COVERAGE if kept is None else 1.0,
                max_sentence_length=8 * _TRAIN_CHUNK,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece=PAD,
                unk_piece=UNK,
                bos_piece=BOS,
                eos_piece=EOS,
                control_symbols=[MASK, SYSTEM, USER, ASSISTANT, END],
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _training_error(str(error), vocab_size) from error
        trained = cls(model.getvalue())
        trained.coverage = _COVERAGE if kept is None else kept[1]
        return trained

    def to_bytes(self) -> bytes:
        """The serialised model, a `.model` file's content."""
        return self._model

    def save(self, path: str | Path) -> None:
        """Writes the `.model` file, or `tokenizer.model` into a folder."""
        path = Path(path)
        if path.is_dir() or not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            path /= "tokenizer.model"
        path.write_bytes(self._model)

    def id(self, piece: str) -> int | None:
        """The id of a piece as the model spells it (`"<mask>"`, `"<0x0A>"`), None if it has none."""
        found = self._sp.piece_to_id(piece)
        return found if self._sp.id_to_piece(found) == piece else None

    def piece(self, id: int) -> str:
        """The spelling of a piece.

        Raises:
            IndexError: the id is not in the vocabulary.
        """
        return self._sp.id_to_piece(int(id))

    def is_special(self, id: int) -> bool:
        """Whether this is a control piece or the unknown one: it stands for no text."""
        return self._sp.is_control(id) or self._sp.is_unknown(id)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special pieces; a lone surrogate counts as U+FFFD."""
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
        spans: list[Span] = []
        following = (0, 0)
        # Of the pieces that one character becomes, SentencePiece gives the last the character and the others
        # an empty range.
        for _, piece, begin, end in reversed(piece_spans(self._sp.encode(text, out_type="serialized_proto"))):
            inside = begin == end == following[0] and piece != SPACE
            following = following if inside else (begin, end)
            spans.append(following)
        return spans_of_bytes(text, spans[::-1])

    @cached_property
    def _piece_bytes(self) -> list[bytes]:
        """The UTF-8 of each piece; b"" for control pieces."""
        return [self._bytes_of(id) for id in range(self.vocab_size)]

    def _bytes_of(self, id: int) -> bytes:
        if self._sp.is_control(id):
            return b""
        if self._sp.is_unknown(id):
            return " \u2047 ".encode()  # SentencePiece's own surface for it
        piece = self._sp.id_to_piece(id)
        if self._sp.is_byte(id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of the original text that each piece stands for, int64 `(vocab_size,)`.

        Special pieces have 0, byte pieces 1, so the sum over `encode(text)` is `len(text.encode())`. (A
        brought model that normalises text or adds a space in front is off by what it changed.)
        """
        lengths = [0 if self.is_special(id) else len(b) for id, b in enumerate(self._piece_bytes)]
        return np.array(lengths, dtype=np.int64)

    def word_boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.word_boundaries`."""
        opens = np.ones(self.vocab_size, dtype=bool)
        closes = np.ones(self.vocab_size, dtype=bool)
        for id in range(self.vocab_size):
            if self.is_special(id):
                continue
            if self._sp.is_byte(id):
                byte = self._piece_bytes[id][0]
                # Two-byte characters are letters (Latin, Greek, Cyrillic ...) that may stand inside a word;
                # those of three and four are mostly Chinese and emoji. Which byte is the last is unknown.
                alone = byte < 0x80 and stands_alone(chr(byte))
                opens[id], closes[id] = alone or byte >= 0xE0, alone
            else:
                piece = self._sp.id_to_piece(id)
                opens[id] = stands_alone(piece[0])
                # A space belongs to the word after it.
                closes[id] = stands_alone(piece[-1]) and piece[-1] != SPACE
        return opens, closes

    def _template(self, pair: bool) -> Template:
        bos = [self.bos_id] if self._adds_bos and self.bos_id is not None else []
        eos = [self.eos_id] if self._adds_eos and self.eos_id is not None else []
        between = eos + ([] if self._ours else bos)
        return bos, between if pair else [], eos

    def with_pieces(self, pieces: Sequence[str]) -> "SentencePieceTokenizer":
        """See `Tokenizer.with_pieces`."""
        new = [piece for piece in dict.fromkeys(pieces) if self.id(piece) is None]
        for piece in pieces:
            if piece not in new and not self.is_special(self.id(piece)):
                raise UserError(f"{piece} is a piece of text in this tokenizer: take another spelling")
        if not new:
            return self
        settings = _settings(self._model)
        bare = self._model[: len(self._model) - len(_settings_field(settings))]
        # A message's repeated field goes on wherever it stands again.
        model = bare + b"".join(map(control_piece, new)) + _settings_field(settings)
        wider = SentencePieceTokenizer(model)
        wider.coverage = self.coverage
        return wider

    def with_settings(
        self, roles: dict[str, int | None], adds_bos: bool | None = None, adds_eos: bool | None = None
    ) -> "SentencePieceTokenizer":
        """A copy that keeps what a model's folder says and the model does not.

        Args:
            roles: ids of pad, unk, bos, eos and mask, where they are not what the model itself declares.
            adds_bos: whether texts are framed with bos in front; None as the model's kind is.
            adds_eos: whether with eos behind.
        """
        settings: dict = {}
        if changed := {role: id for role, id in roles.items() if id != getattr(self, f"{role}_id")}:
            settings["roles"] = changed
        if adds_bos is not None and adds_bos != self._adds_bos:
            settings["adds_bos"] = adds_bos
        if adds_eos is not None and adds_eos != self._adds_eos:
            settings["adds_eos"] = adds_eos
        return SentencePieceTokenizer(self._model + _settings_field(settings)) if settings else self


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


def commonest_characters(texts: Iterable[str], vocab_size: int) -> tuple[set[str], float] | None:
    """Which characters get a piece of their own where a vocabulary cannot hold all of a text's beside
    longer pieces, as with Chinese and a small one; and the share of the text that they make up. None where
    it can."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    rest = vocab_size - 256 - 9
    room = max(rest * 2 // 3, min(rest - 1, 64))
    kept = counts.most_common(max(room, 1))
    share = sum(count for _, count in kept) / counts.total()
    return None if share >= _COVERAGE or rest < 2 else ({character for character, _ in kept}, share)


def _training_error(message: str, vocab_size: int) -> UserError:
    """SentencePiece's reasons for not training, as something to do."""
    if most := re.search(r"too high .*<= (\d+)", message):
        return UserError(
            f"the corpus is too small for a vocabulary of {vocab_size} pieces: "
            f"give --data.vocab_size {most[1]} or less, or more text"
        )
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"a vocabulary of {vocab_size} pieces cannot hold the corpus's characters: "
            f"give --data.vocab_size {least[1]} or more"
        )
    return UserError(f"SentencePiece cannot train a vocabulary of {vocab_size} pieces: {message}")
