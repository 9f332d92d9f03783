"""Text to token ids and back, behind one interface: `Tokenizer`.

- `base.py`: the interface, `StreamDecoder`, and how a text pair is framed;
- `sentencepiece.py`: SentencePiece models; `training.py`: how lm trains its own;
- `huggingface.py`: WordPiece, byte-level BPE and the rest of what Hugging Face's `tokenizers` reads, from
  `documents.py`, the content of a tokenizer.json;
- `factory.py`: which of the two classes; `folders.py`: what the files of a Hugging Face folder say;
- `chat.py`: chats as tokens;
- `text.py`, `protobuf.py`: small helpers.

Nothing here imports torch: `lm prepare` has to start fast.
"""

from lm.tokenizer.base import StreamDecoder, Tokenizer
from lm.tokenizer.factory import load_tokenizer, tokenizer_from_bytes
from lm.tokenizer.huggingface import HuggingFaceTokenizer
from lm.tokenizer.sentencepiece import SentencePieceTokenizer
from lm.tokenizer.text import split_lines
from lm.tokenizer.training import train_tokenizer

__all__ = [
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
    "split_lines",
    "tokenizer_from_bytes",
    "train_tokenizer",
]
