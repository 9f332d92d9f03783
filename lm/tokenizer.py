"""Text to token ids and back, without loss: a SentencePiece byte-pair model with byte fallback.

What this wrapper adds to SentencePiece (Kudo & Richardson 2018):
- special pieces with fixed ids (`<pad>` 0, `<unk>` 1, `<s>` 2, `</s>` 3, `<mask>` 4, then the chat markers),
  put in by id and never parsed out of text, so that no text can forge one;
- an exact round trip for every string of valid Unicode, with NUL and U+2581, SentencePiece's own space
  marker;
- how many bytes of text each piece stands for, which makes bits per byte comparable between tokenizers;
- where words begin and end, for whole-word masking.

Nothing here imports torch: `lm prepare` has to start fast.
"""

import codecs
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from lm.errors import UserError

PAD, UNK, BOS, EOS, MASK = "<pad>", "<unk>", "<s>", "</s>", "<mask>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"

SPACE = "\u2581"  # how SentencePiece writes a space inside its pieces
_TRAIN_CHUNK = 16_000  # characters: one "sentence" for the trainer
_COVERAGE = 0.9995  # of the characters: the rest are typing errors and rare scripts
_ENCODE_CHUNK = 65_536  # characters: SentencePiece's merge queue slows down by 2.5 times on whole books
_RESERVED = "\u2585"  # the trainer drops a sentence with this character


class Tokenizer:
    """A SentencePiece model with its special pieces, byte counts and word borders.

    Args:
        model: the serialised model, as `to_bytes()` gives it.
        name: what to call the model in an error message.

    Raises:
        UserError: `model` is not a SentencePiece model.
    """

    def __init__(self, model: bytes, name: str = "the tokenizer") -> None:
        self._model = bytes(model)
        self.coverage: float | None = (
            None  # share of the training text whose characters have pieces, if known
        )
        if not model:
            raise UserError(f"{name} is empty, not a SentencePiece model; give the .model file")
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except RuntimeError as error:
            raise UserError(f"{name} is not a SentencePiece model; give the .model file") from error
        self.vocab_size = len(self._sp)
        self.pad_id = self._special(PAD, self._sp.pad_id())
        self.unk_id = self._special(UNK, self._sp.unk_id())
        self.bos_id = self._special(BOS, self._sp.bos_id())
        self.eos_id = self._special(EOS, self._sp.eos_id())
        self.mask_id = self._special(MASK, -1)
        # Models brought along may normalise; what they do at a text's start has to be undone when decoding.
        self._strips_spaces = not self._sp.normalize("  a").startswith(SPACE * 2)
        self._adds_space = self._sp.normalize("a").startswith(SPACE)
        self._marker = [self.id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    def _special(self, piece: str, known: int) -> int | None:
        """The id of a special piece: what the model declares, else a control piece of that spelling."""
        if known >= 0:
            return known
        found = self.id(piece)
        return found if found is not None and self._is_special(found) else None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
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
            for chunk in split_lines(_valid_unicode(text), _TRAIN_CHUNK)
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

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Opens a `.model` file, written by `save` or by any other SentencePiece.

        Raises:
            UserError: the file is missing, unreadable or not a SentencePiece model.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        return cls(model, name=str(path))

    @classmethod
    def from_bytes(cls, model: bytes) -> "Tokenizer":
        """The inverse of `to_bytes`.

        Raises:
            UserError: these are not the bytes of a SentencePiece model.
        """
        return cls(model)

    def to_bytes(self) -> bytes:
        """The serialised model: everything that is needed to make this tokenizer again."""
        return self._model

    def save(self, path: str | Path) -> None:
        """Writes the `.model` file."""
        Path(path).write_bytes(self._model)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the model's bytes, in hexadecimal: equal for the same tokenizer."""
        return hashlib.sha256(self._model).hexdigest()

    def __len__(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple:
        return Tokenizer, (self._model,)

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

    def _is_special(self, id: int) -> bool:
        return self._sp.is_control(id) or self._sp.is_unknown(id)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special pieces; a lone surrogate counts as U+FFFD."""
        text = _valid_unicode(text)
        if self._adds_space or self._strips_spaces or None in self._marker:
            return self._sp.encode(text)  # a brought model that changes a text's start: only whole texts
        ids: list[int] = []
        for position, part in enumerate(text.split(SPACE)):
            if position:
                ids += self._marker  # SentencePiece would take the character for a space
            for chunk in split_lines(part, _ENCODE_CHUNK):
                ids += self._sp.encode(chunk)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; control pieces are left out, broken UTF-8 shows as U+FFFD."""
        decoder = StreamDecoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.flush()

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
        lengths = [0 if self._is_special(id) else len(b) for id, b in enumerate(self._piece_bytes)]
        return np.array(lengths, dtype=np.int64)

    def word_boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """Which pieces begin and end a word, for whole-word masking (the later BERT of Devlin et al. 2018).

        Returns:
            `opens` and `closes`, bool `(vocab_size,)` each. In a sequence, piece t begins a new word if
            `opens[id_t]` or `closes[id_{t-1}]`. Words are runs of letters, digits and `_`; each punctuation
            mark and each Chinese or Japanese character is a word of its own, unless a piece holds several.
        """
        opens = np.ones(self.vocab_size, dtype=bool)
        closes = np.ones(self.vocab_size, dtype=bool)
        for id in range(self.vocab_size):
            if self._is_special(id):
                continue
            if self._sp.is_byte(id):
                byte = self._piece_bytes[id][0]
                # Two-byte characters are letters (Latin, Greek, Cyrillic ...) that may stand inside a word;
                # those of three and four are mostly Chinese and emoji. Which byte is the last is unknown.
                alone = byte < 0x80 and _stands_alone(chr(byte))
                opens[id], closes[id] = alone or byte >= 0xE0, alone
            else:
                piece = self._sp.id_to_piece(id)
                opens[id] = _stands_alone(piece[0])
                # A space belongs to the word after it.
                closes[id] = _stands_alone(piece[-1]) and piece[-1] != SPACE
        return opens, closes


class StreamDecoder:
    """Decodes ids one at a time, for printing text while it is made.

    The pieces of text joined, with `flush()` at the end, are `Tokenizer.decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = tokenizer._piece_bytes
        self._unk_id = tokenizer.unk_id  # its surface begins with a space that is not a stripped one
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip_one = tokenizer._adds_space
        self._strip_all = tokenizer._strips_spaces
        self._at_start = self._strip_one or self._strip_all

    def feed(self, id: int) -> str:
        """The text that this id completes; "" while a character's bytes are incomplete."""
        piece = self._bytes[id]
        if self._at_start and piece and id != self._unk_id:
            stripped = piece.lstrip(b" ") if self._strip_all else piece.removeprefix(b" ")
            self._at_start = self._strip_all and not stripped
            piece = stripped
        elif piece:
            self._at_start = False
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """What is left: U+FFFD for a character that was never completed, else ""."""
        return self._utf8.decode(b"", final=True)


def split_lines(text: str, size: int) -> Iterator[str]:
    """Cuts a text into chunks of at most `size` characters, at line ends where there are any."""
    start = 0
    while len(text) - start > size:
        end = text.rfind("\n", start, start + size) + 1 or start + size
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _valid_unicode(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _stands_alone(char: str) -> bool:
    """Whether a character is a word by itself: a space, punctuation, a Chinese or Japanese character."""
    code = ord(char)
    ideographic = 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
    return ideographic or code >= 0x20000 or not (char.isalnum() or char == "_")


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
