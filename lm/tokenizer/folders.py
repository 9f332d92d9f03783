"""What a Hugging Face folder says of its tokenizer: `tokenizer.json`, a SentencePiece model or a vocabulary,
and the files beside it that name the special tokens.

Bare vocabularies (WordPiece, byte-level BPE as GPT-2, RoBERTa and Qwen have it) become what the tokenizers of
Hugging Face's transformers 5 build from the same files.
"""

import json
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.tokenizer.documents import GPT2, NAMES, Frame, finish, read_object, tokenizers_library
from lm.tokenizer.sentencepiece import SentencePieceTokenizer

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


def read_folder(folder: Path) -> tuple[bytes, Path]:
    """The bytes of a folder's tokenizer, for `tokenizer_from_bytes`, and the file that it is mainly in.

    Raises:
        UserError: there is no tokenizer, or it is damaged.
        OSError: a file can't be read.
    """
    if (path := folder / "tokenizer.json").is_file():
        return read_tokenizer_json(path), path
    if (path := folder / "tokenizer.model").is_file():
        return _read_model(path), path
    config = _read_config(folder)
    if path := _only(folder, "vocab.txt"):
        return _read_wordpiece(path, config), path
    path, merges = _only(folder, "vocab.json"), _only(folder, "merges.txt")
    if path and merges:
        return _read_byte_level(path, merges, config), path
    raise UserError(
        f"{folder} holds no tokenizer: there should be tokenizer.json, tokenizer.model, vocab.txt, "
        "or vocab.json with merges.txt"
    )


def _only(folder: Path, ending: str) -> Path | None:
    """The file of this name, else the only one whose name ends so (`gpt2_vocab.json`)."""
    if (path := folder / ending).is_file():
        return path
    found = sorted(folder.glob(f"*{ending}"))
    return found[0] if len(found) == 1 else None


def _content(token: object) -> str | None:
    """A token, which the files spell as a string or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _read_config(folder: Path) -> dict:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json as one.

    Returns:
        tokenizer_config.json's values; with `bos` … `mask` (a token, or None where a file says that there is
        none), `family` (config.json's model_type, else the tokenizer's class, in lower case), `new` (tokens
        with ids of their own: `{id: (token, special)}`) and `more` (further special tokens).
    """
    config, special, listed, model = (
        read_object(folder / f"{name}.json")
        for name in ("tokenizer_config", "special_tokens_map", "added_tokens", "config")
    )
    for name in NAMES:
        for source in (special, config):
            if f"{name}_token" in source:
                config[name] = _content(source[f"{name}_token"])
    more = [special.get("additional_special_tokens"), config.get("additional_special_tokens")]
    more.append(config.get("extra_special_tokens"))
    config["more"] = [
        piece for some in more if isinstance(some, list) for piece in map(_content, some) if piece is not None
    ]
    new = {id: (piece, False) for piece, id in listed.items() if isinstance(id, int)}
    decoder = config.get("added_tokens_decoder")
    for id, token in (decoder if isinstance(decoder, dict) else {}).items():
        if str(id).isdecimal() and isinstance(token, dict) and _content(token) is not None:
            new[int(id)] = (_content(token), bool(token.get("special")))
    config["new"] = dict(sorted(new.items()))
    config["family"] = str(model.get("model_type") or config.get("tokenizer_class") or "").lower()
    return config


def read_tokenizer_json(path: Path) -> bytes:
    """A `tokenizer.json` with what the files beside it say; one that `save` wrote as it is."""
    document = read_object(path)
    if "tokenizer" in document:
        return path.read_bytes()
    config = _read_config(path.parent)
    normalizer = document.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        # The settings beside it win, as in transformers.
        for ours, theirs in (
            ("lowercase", "do_lower_case"),
            ("handle_chinese_chars", "tokenize_chinese_chars"),
            ("strip_accents", "strip_accents"),
        ):
            normalizer[ours] = config.get(theirs, normalizer.get(ours))
    return finish(document, config, {}, str(path))


def _read_model(path: Path) -> bytes:
    """A SentencePiece model with the tokens and roles that the files beside it add."""
    config = _read_config(path.parent)
    tokenizer = SentencePieceTokenizer(path.read_bytes(), name=str(path))
    new = {id: piece for id, (piece, _) in config["new"].items() if id >= tokenizer.vocab_size}
    if list(new) != list(range(tokenizer.vocab_size, tokenizer.vocab_size + len(new))):
        raise UserError(f"{path.parent}: the tokens added to tokenizer.model have ids with gaps between them")
    named = {role: config[role] for role in tokenizer.roles if role in config}
    more = [piece for piece in (*named.values(), *config["more"]) if piece and tokenizer.id(piece) is None]
    tokenizer = tokenizer.with_pieces([*new.values(), *more])
    roles = {role: None if piece is None else tokenizer.id(piece) for role, piece in named.items()}
    adds = [config.get(key) for key in ("add_bos_token", "add_eos_token")]
    return tokenizer.with_settings(roles, *adds).to_bytes()


def _read_wordpiece(path: Path, config: dict) -> bytes:
    """BERT's tokenizer from `vocab.txt`: a token a line, its id the line's number."""
    library = tokenizers_library(f"reading {path}")
    with path.open(encoding="utf-8") as file:
        try:
            vocab = {line.rstrip("\n"): id for id, line in enumerate(file)}
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not a vocabulary: it is not text in UTF-8") from error
    unk = config.get("unk") or _BERT["unk"]
    if unk not in vocab:
        raise UserError(f"{path} has no {unk} token: it is not a whole WordPiece vocabulary, a token a line")
    engine = library.Tokenizer(library.models.WordPiece({}, unk_token=unk))
    engine.normalizer = library.normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    engine.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    engine.decoder = library.decoders.WordPiece()
    return _finished(engine, config, _BERT, path, vocab=vocab)


def _read_byte_level(path: Path, merges_path: Path, config: dict) -> bytes:
    """GPT-2's byte-level BPE (Radford et al. 2019) from `vocab.json` and `merges.txt`."""
    library = tokenizers_library(f"reading {path}")
    vocab, merges = _read_pieces(path), []
    with merges_path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.startswith("#version") or not line.strip("\n"):
                continue
            pair = line.rstrip("\n").split(" ")
            if len(pair) != 2 or not {*pair, pair[0] + pair[1]} <= vocab.keys():
                raise UserError(
                    f"{merges_path}, line {number}: not two tokens of {path.name} that make a third"
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
    return _finished(engine, config, usual, path, vocab=vocab, merges=merges)


def _read_pieces(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not a vocabulary: it is not whole JSON ({error})") from error
    if not isinstance(vocab, dict) or not all(isinstance(id, int) for id in vocab.values()):
        raise UserError(f"{path} is not a vocabulary: it should hold an object of tokens and their ids")
    return vocab


def _finished(engine: Any, config: dict, usual: dict, path: Path, **parts: Any) -> bytes:
    document = json.loads(engine.to_str())
    document["model"] |= parts  # in the files' own order, which the library would not keep
    return finish(document, config, usual, str(path), _frame(config, usual))


def _frame(config: dict, usual: dict) -> Frame:
    """The special tokens around texts: as BERT and RoBERTa have them, or as the settings say."""

    def piece(role: str, wanted: bool = True) -> list[str]:
        found = config.get(role) or usual.get(role)
        return [found] if found and wanted else []

    if "cls" in usual:
        cls, sep = piece("cls"), piece("sep")
        twice = sep if usual is _ROBERTA else []
        return [*cls, "A", *sep], [*cls, "A", *sep, *twice, "B", *sep]
    bos, eos = (piece(role, config.get(f"add_{role}_token", False)) for role in ("bos", "eos"))
    return [*bos, "A", *eos], [*bos, "A", *eos, *bos, "B", *eos]
