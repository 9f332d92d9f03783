"""A tokenizer from files or from bytes: the place that knows which class it is."""

from pathlib import Path

from lm.errors import UserError
from lm.processors import register
from lm.tokenizer.base import Tokenizer
from lm.tokenizer.folders import read_folder, read_tokenizer_json
from lm.tokenizer.huggingface import HuggingFaceTokenizer
from lm.tokenizer.sentencepiece import SentencePieceTokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Opens what `save` wrote, any SentencePiece `.model`, a `tokenizer.json` or a Hugging Face folder.

    In a folder `tokenizer.json` goes first, then `tokenizer.model`, then `vocab.txt` (WordPiece), then
    `vocab.json` with `merges.txt` (byte-level BPE).

    Raises:
        UserError: it is missing, unreadable, damaged or no tokenizer.
    """
    path = Path(path)
    try:
        if path.is_dir():
            data, path = read_folder(path)
        else:
            data = path.read_bytes()
            if path.name == "tokenizer.json" and data[:1] == b"{":
                data = read_tokenizer_json(path)
    except OSError as error:
        raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    return tokenizer_from_bytes(data, name=str(path))


def tokenizer_from_bytes(data: bytes, name: str = "the tokenizer") -> Tokenizer:
    """The inverse of `to_bytes`.

    Args:
        name: what to call it in an error message.

    Raises:
        UserError: these are not the bytes of a tokenizer.
    """
    if data[:1] == b"{":
        return HuggingFaceTokenizer(data, name)
    return SentencePieceTokenizer(data, name)


register(Tokenizer.kind, tokenizer_from_bytes)
