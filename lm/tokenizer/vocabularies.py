"""Bare vocabularies: WordPiece, and byte-level BPE as GPT-2, RoBERTa and Qwen have it.

They become what the tokenizers of Hugging Face's transformers 5 build from the same files.
"""

import json
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.tokenizer.documents import GPT2, Frame, finish, tokenizers_library

_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_QWEN = {"bos": None, **dict.fromkeys(("eos", "unk", "pad"), "<|endoftext|>")}
_ROBERTA = {
    **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"},
    "mask": "<mask>",
}
# Qwen 2 and 3 split text so before byte-pair encoding; from transformers' tokenization_qwen2.py.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_wordpiece(path: Path, config: dict) -> bytes:
    """BERT's tokenizer from `vocab.txt`: a piece a line, its id the line's number.

    Args:
        config: `do_lower_case`, `tokenize_chinese_chars`, `strip_accents` and the special pieces, else as
            BERT has them.

    Raises:
        UserError: the file is no text, or has no piece for what cannot be spelt.
    """
    library = tokenizers_library(f"reading {path}")
    with path.open(encoding="utf-8") as file:
        try:
            vocab = {line.rstrip("\n"): id for id, line in enumerate(file)}
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not a vocabulary: it is not text in UTF-8") from error
    unk = config.get("unk") or _BERT["unk"]
    if unk not in vocab:
        raise UserError(f"{path} has no {unk} piece: it is not a whole WordPiece vocabulary, a piece a line")
    engine = library.Tokenizer(library.models.WordPiece({}, unk_token=unk))
    engine.normalizer = library.normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    engine.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    engine.decoder = library.decoders.WordPiece()
    return _finish(engine, config, _BERT, path, vocab=vocab)


def read_byte_level(path: Path, merges_path: Path, config: dict) -> bytes:
    """GPT-2's byte-level BPE (Radford et al. 2019) from `vocab.json` and `merges.txt`.

    Args:
        config: `family`, which may be RoBERTa or Qwen; `add_prefix_space`, `add_bos_token`, `add_eos_token`
            and the special pieces, else as the family has them.

    Raises:
        UserError: a file is not what its name says.
    """
    library = tokenizers_library(f"reading {path}")
    vocab, merges = _read_pieces(path), []
    with merges_path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.startswith("#version") or not line.strip("\n"):
                continue
            pair = line.rstrip("\n").split(" ")
            if len(pair) != 2 or not {*pair, pair[0] + pair[1]} <= vocab.keys():
                raise UserError(
                    f"{merges_path}, line {number}: not two pieces of {path.name} that make a third"
                )
            merges.append(pair)
    affixes = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    engine = library.Tokenizer(library.models.BPE({}, [], **affixes))
    qwen = config["family"].startswith(("qwen2", "qwen3"))
    before = library.pre_tokenizers
    engine.pre_tokenizer = before.ByteLevel(bool(config.get("add_prefix_space")), use_regex=not qwen)
    if qwen:
        engine.normalizer = library.normalizers.NFC()
        split = before.Split(library.Regex(_QWEN_SPLIT), "isolated")
        engine.pre_tokenizer = before.Sequence([split, engine.pre_tokenizer])
    engine.decoder = library.decoders.ByteLevel()
    roberta = config["family"].startswith(("roberta", "xlm-roberta", "bart", "longformer"))
    usual = _ROBERTA if roberta else _QWEN if qwen else GPT2
    return _finish(engine, config, usual, path, vocab=vocab, merges=merges)


def _read_pieces(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not a vocabulary: it is not whole JSON ({error})") from error
    if not isinstance(vocab, dict) or not all(isinstance(id, int) for id in vocab.values()):
        raise UserError(f"{path} is not a vocabulary: it should hold an object of pieces and their ids")
    return vocab


def _finish(engine: Any, config: dict, usual: dict, path: Path, **parts: Any) -> bytes:
    document = json.loads(engine.to_str())
    document["model"] |= parts  # in the files' own order, which the library would not keep
    return finish(document, config, usual, str(path), _frame(config, usual))


def _frame(config: dict, usual: dict) -> Frame:
    """The special pieces around texts: as BERT and RoBERTa have them, or as the settings say."""

    def piece(role: str, wanted: bool = True) -> list[str]:
        found = config.get(role) or usual.get(role)
        return [found] if found and wanted else []

    if "cls" in usual:
        cls, sep = piece("cls"), piece("sep")
        twice = sep if usual is _ROBERTA else []
        return [*cls, "A", *sep], [*cls, "A", *sep, *twice, "B", *sep]
    bos, eos = (piece(role, config.get(f"add_{role}_token", False)) for role in ("bos", "eos"))
    return [*bos, "A", *eos], [*bos, "A", *eos, *bos, "B", *eos]
