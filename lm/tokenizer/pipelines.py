"""`tokenizer.json` documents for bare vocabularies: WordPiece, and byte-level BPE as GPT-2, RoBERTa and Qwen
have it.

They say what the tokenizers of Hugging Face's transformers 5 build from the same files. Written out, and not
made by the library, so that the same files give the same bytes with every version of it.
"""

import json
from pathlib import Path

from lm.errors import UserError

# Qwen 2 and 3 split text so before byte-pair encoding; from transformers' tokenization_qwen2.py.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEXTS = ("A", "B")


def added_token(id: int, content: str, special: bool = True) -> dict:
    """An entry of `added_tokens`."""
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }


def _document(model: dict, **parts: dict | None) -> dict:
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        **empty,
        **parts,
        "model": model,
    }


def template(single: list[str], pair: list[str], ids: dict[str, int]) -> dict:
    """A post-processor that frames texts.

    Args:
        single: special pieces, and `A` for the text: `["[CLS]", "A", "[SEP]"]`.
        pair: the same with `B`; what stands before it is of segment 0, it and the rest of segment 1.
        ids: of the special pieces.
    """

    def parts(sequence: list[str]) -> list[dict]:
        second = sequence.index("B") if "B" in sequence else len(sequence)
        kinds = ["Sequence" if piece in _TEXTS else "SpecialToken" for piece in sequence]
        return [
            {kind: {"id": piece, "type_id": int(place >= second)}}
            for place, (kind, piece) in enumerate(zip(kinds, sequence, strict=True))
        ]

    return {
        "type": "TemplateProcessing",
        "single": parts(single),
        "pair": parts(pair),
        "special_tokens": {
            piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]}
            for piece in single + pair
            if piece not in _TEXTS
        },
    }


def wordpiece(path: Path, config: dict, unk: str) -> dict:
    """BERT's tokenizer from `vocab.txt`: a piece a line, its id the line's number.

    Args:
        config: `do_lower_case`, `tokenize_chinese_chars` and `strip_accents`, else as BERT has them.
        unk: the piece for what cannot be spelt.

    Raises:
        UserError: the file is no text, or has no `unk`.
    """
    with path.open(encoding="utf-8") as file:
        try:
            vocab = {line.rstrip("\n"): id for id, line in enumerate(file)}
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not a vocabulary: it is not text in UTF-8") from error
    if unk not in vocab:
        raise UserError(f"{path} has no {unk} piece: it is not a whole WordPiece vocabulary, a piece a line")
    return _document(
        {
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", True),
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def byte_level(vocab_path: Path, merges_path: Path, config: dict, qwen: bool) -> dict:
    """GPT-2's byte-level BPE (Radford et al. 2019) from `vocab.json` and `merges.txt`.

    Args:
        config: `add_prefix_space`, else False.
        qwen: split text and normalise it (NFC) as Qwen 2 and 3 do.

    Raises:
        UserError: a file is not what its name says.
    """
    try:
        vocab = json.loads(vocab_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{vocab_path} is not a vocabulary: it is not whole JSON ({error})") from error
    if not isinstance(vocab, dict) or not all(isinstance(id, int) for id in vocab.values()):
        raise UserError(f"{vocab_path} is not a vocabulary: it should hold an object of pieces and their ids")
    merges = []
    with merges_path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.startswith("#version") or not line.strip("\n"):
                continue
            pair = line.rstrip("\n").split(" ")
            if len(pair) != 2 or not {*pair, pair[0] + pair[1]} <= vocab.keys():
                raise UserError(
                    f"{merges_path}, line {number}: not two pieces of {vocab_path.name} that make a third"
                )
            merges.append(pair)
    bytes_ = {
        "type": "ByteLevel",
        "add_prefix_space": bool(config.get("add_prefix_space")),
        "trim_offsets": True,
        "use_regex": not qwen,
    }
    split = {"type": "Split", "pattern": {"Regex": _QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    return _document(
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
        normalizer={"type": "NFC"} if qwen else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_]} if qwen else bytes_,
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )
