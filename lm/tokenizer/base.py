"""What every tokenizer can do, whoever trained it.

Ids go in and out without special tokens: these are put in by id (`frame`, `lm.tokenizer.chat`) and are never
parsed out of text, so that no text can forge one.
"""

import codecs
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from lm.processors import Processor
from lm.tokenizer.text import Span, places_before, valid_unicode, word_borders

Template = tuple[list[int], list[int], list[int]]  # special tokens before, between and after the texts


class Tokenizer(Processor):
    """Text to ids and back, with special tokens, byte counts and word borders.

    Made by `train_tokenizer`, `load_tokenizer` and `tokenizer_from_bytes`, which choose the class.

    Attributes:
        vocab_size: one more than the highest id.
        pad_id, unk_id, bos_id, eos_id, mask_id: ids of the special tokens, None of one that there is not.
            BERT's `[CLS]` is bos and its `[SEP]` is eos.
        coverage: share of the training text whose characters have tokens, if known.
    """

    kind = "tokenizer"
    vocab_size: int
    pad_id: int | None
    unk_id: int | None
    bos_id: int | None
    eos_id: int | None
    mask_id: int | None
    coverage: float | None = None

    # What encoding did to a text's start, for decoding to undo.
    _adds_space = False
    _strips_spaces = False

    def save(self, path: str | Path) -> None:
        """Writes a file; or, under a name without an ending or of a folder, a folder's tokenizer files."""
        path = Path(path)
        if path.suffix and not path.is_dir():
            path.write_bytes(self.to_bytes())
            return
        path.mkdir(parents=True, exist_ok=True)
        self._save_files(path)

    @abstractmethod
    def _save_files(self, folder: Path) -> None:
        """The files that `load_tokenizer` reads a folder's tokenizer from."""

    def __len__(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple:
        return type(self), (self.to_bytes(),)

    @property
    def roles(self) -> dict[str, int | None]:
        """The ids of the special tokens that have a role, by its name."""
        roles = {"pad": self.pad_id, "unk": self.unk_id, "bos": self.bos_id, "eos": self.eos_id}
        return {**roles, "mask": self.mask_id}

    @property
    def padding_id(self) -> int:
        """What fills a batch: pad, else eos, else 0. It is masked out, so which one it is changes nothing."""
        return next((id for id in (self.pad_id, self.eos_id) if id is not None), 0)

    @abstractmethod
    def id(self, piece: str) -> int | None:
        """The id of a token as the model spells it (`"<mask>"`, `"<0x0A>"`), None if it has none."""

    @abstractmethod
    def piece(self, id: int) -> str:
        """The spelling of a token.

        Raises:
            IndexError: the id is not in the vocabulary.
        """

    @abstractmethod
    def is_special(self, id: int) -> bool:
        """Whether this is a control token or the unknown one: it stands for no text."""

    @property
    def atoms(self) -> list[str]:
        """The spellings, control tokens aside, that are one token wherever they stand in a text."""
        return []

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens; a lone surrogate counts as U+FFFD."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """The ids of a text, as `encode` gives them, and where each token lies in it.

        Returns:
            ids, and for each (start, end) in characters of `text`, the end not included. White space at a
            token's start is not counted, so that words can be found by their places; a token of nothing else
            has an empty range. Tokens that are parts of one character all have its range.
        """
        valid = valid_unicode(text)
        ids, spans = self._encode_spans(valid)
        for index, (start, end) in enumerate(spans):
            while start < end and valid[start].isspace():
                start += 1  # noqa: PLW2901
            spans[index] = start, end
        if len(valid) != len(text):
            places = places_before(valid, text)
            spans = [(places[start], places[end]) for start, end in spans]
        return ids, spans

    @abstractmethod
    def _encode_spans(self, text: str) -> tuple[list[int], list[Span]]:
        """`encode` of valid Unicode with each token's range, white space included."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; special tokens are left out, broken UTF-8 shows as U+FFFD.

        Exact for a tokenizer that lm trained and for byte-level BPE without a normaliser. WordPiece is not
        lossless: words are joined by single spaces, `##` tokens to what stands before them.
        """
        decoder = StreamDecoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.flush()

    @abstractmethod
    def _bytes_of(self, id: int) -> bytes:
        """The UTF-8 that a token decodes to; b"" of a control token."""

    @cached_property
    def _piece_bytes(self) -> list[bytes]:
        return [self._bytes_of(id) for id in range(self.vocab_size)]

    def piece_bytes(self, id: int) -> bytes:
        """The UTF-8 that a token stands for, perhaps a part of a character; b"" of a control token."""
        return self._piece_bytes[id]

    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of the original text that each token stands for, int64 `(vocab_size,)`; special: 0.

        Their sum over `encode(text)` is `len(text.encode())` for what lm trains and for byte-level BPE. What
        normalises text or adds a space in front is off by what it changed.
        """
        lengths = [0 if self.is_special(id) else len(piece) for id, piece in enumerate(self._piece_bytes)]
        return np.array(lengths, dtype=np.int64)

    def word_boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens begin and end a word, for whole-word masking (the later BERT of Devlin et al. 2018).

        Returns:
            `opens` and `closes`, bool `(vocab_size,)` each. In a sequence, token t begins a new word if
            `opens[id_t]` or `closes[id_{t-1}]`. Words are runs of letters, digits and `_`; each punctuation
            mark and each Chinese or Japanese character is a word of its own, unless a token holds several.
        """
        opens, closes = np.array([*zip(*map(self._borders, range(self.vocab_size)), strict=True)], dtype=bool)
        return opens, closes

    def _borders(self, id: int) -> tuple[bool, bool]:
        """Whether a token begins and ends a word; a special one is by itself."""
        piece = self._piece_bytes[id]
        return word_borders(piece) if piece and not self.is_special(id) else (True, True)

    @abstractmethod
    def _template(self, pair: bool) -> Template:
        """The special tokens before, between and after one text (nothing between) or two."""

    def frame(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Ids with the special tokens that the model was trained with.

        `[CLS] a [SEP] b [SEP]` for BERT, `<s> a </s></s> b </s>` for RoBERTa, `<s> a </s> b </s>` for what lm
        trains, `a <|endoftext|> b <|endoftext|>` for GPT-2; a Llama has `<s>` before each text where its
        tokenizer puts one, and Qwen nothing at all.

        Returns:
            ids, and the segment of each: 1 for `second` and what closes it, else 0.
        """
        before, between, after = self._template(second is not None)
        if second is None:
            ids = [*before, *first, *after]
            return ids, [0] * len(ids)
        head, tail = [*before, *first, *between], [*second, *after]
        return head + tail, [0] * len(head) + [1] * len(tail)

    @property
    def opening(self) -> list[int]:
        """The special tokens before a text."""
        return list(self._template(pair=False)[0])

    @property
    def start_id(self) -> int:
        """What stands before a text's first token where something has to: bos, else eos, else padding."""
        return next((id for id in (self.bos_id, self.eos_id) if id is not None), self.padding_id)

    def frame_size(self, pair: bool) -> int:
        """How many tokens `frame` adds to one text, or to two."""
        return sum(map(len, self._template(pair)))

    @abstractmethod
    def with_pieces(self, pieces: Sequence[str]) -> "Tokenizer":
        """A copy with these control tokens added, from id `vocab_size` on; those that it has stay.

        Raises:
            UserError: one of them is spelt like a token of text.
        """


class StreamDecoder:
    """Decodes ids one at a time, for printing text while it is made.

    The tokens of text joined, with `flush()` at the end, are `Tokenizer.decode` of all the ids.
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
