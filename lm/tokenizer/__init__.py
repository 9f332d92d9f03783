"""Text to token ids and back, behind one interface: `Tokenizer`.

- `base.py`: the interface, `StreamDecoder`, and how a text pair is framed;
- `sentencepiece.py`: what lm trains itself, and SentencePiece models brought along;
- `huggingface.py`: WordPiece, byte-level BPE and the rest of what Hugging Face's `tokenizers` reads;
- `folders.py`: what the files of a Hugging Face folder say; `pipelines.py`: the same from bare vocabularies;
- `chat.py`: chats as pieces;
- `text.py`, `protobuf.py`: small helpers.

Nothing here imports torch: `lm prepare` has to start fast.
"""

from lm.tokenizer.base import StreamDecoder, Tokenizer
from lm.tokenizer.factory import load_tokenizer, tokenizer_from_bytes, train_tokenizer
from lm.tokenizer.huggingface import HuggingFaceTokenizer
from lm.tokenizer.sentencepiece import (
    ASSISTANT,
    BOS,
    END,
    EOS,
    MASK,
    PAD,
    SPACE,
    SYSTEM,
    UNK,
    USER,
    SentencePieceTokenizer,
    commonest_characters,
)
from lm.tokenizer.text import split_lines

__all__ = [
    "ASSISTANT",
    "BOS",
    "END",
    "EOS",
    "MASK",
    "PAD",
    "SPACE",
    "SYSTEM",
    "UNK",
    "USER",
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "commonest_characters",
    "load_tokenizer",
    "split_lines",
    "tokenizer_from_bytes",
    "train_tokenizer",
]
