"""What a Hugging Face folder says of its tokenizer: `tokenizer.json` or a vocabulary, and the files beside it
that name the special pieces."""

import json
from pathlib import Path

from lm.errors import UserError
from lm.tokenizer.pipelines import added_token, byte_level, template, wordpiece
from lm.tokenizer.sentencepiece import SentencePieceTokenizer

# As transformers orders them: new pieces get their ids so.
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
_QWEN = {"bos": None, **dict.fromkeys(("eos", "unk", "pad"), "<|endoftext|>")}
_ROBERTA = {
    **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"},
    "mask": "<mask>",
}
# Where nothing else names the special pieces, their spelling does.
USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>"),
    "eos": ("[SEP]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}
# Pieces that open and close messages: control pieces, even where a file forgets to say so.
_CHAT = {
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
}


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
        document = wordpiece(path, config, config.get("unk") or _BERT["unk"])
        return finish(document, config, _BERT, encoder=True, name=str(path)), path
    path, merges = _only(folder, "vocab.json"), _only(folder, "merges.txt")
    if path and merges:
        family = config["family"]
        qwen = family.startswith(("qwen2", "qwen3"))
        document = byte_level(path, merges, config, qwen)
        roberta = family.startswith(("roberta", "xlm-roberta", "bart", "longformer"))
        names = _ROBERTA if roberta else _QWEN if qwen else _GPT2
        return finish(document, config, names, encoder=roberta, name=str(path)), path
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


def _read_object(path: Path) -> dict:
    """A JSON object; {} where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not whole JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not what its name says: it should hold a JSON object")
    return found


def _content(token: object) -> str | None:
    """A piece, which the files spell as a string or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _read_config(folder: Path) -> dict:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json as one.

    Returns:
        tokenizer_config.json's values; with `bos` … `mask` (a piece, or None where a file says that there is
        none), `family` (config.json's model_type, else the tokenizer's class, in lower case), `new` (pieces
        with ids of their own: `{id: (piece, special)}`) and `more` (further special pieces).
    """
    config = _read_object(folder / "tokenizer_config.json")
    special = _read_object(folder / "special_tokens_map.json")
    for name in _NAMES:
        for source in (special, config):
            if f"{name}_token" in source:
                config[name] = _content(source[f"{name}_token"])
    more = [special.get("additional_special_tokens"), config.get("additional_special_tokens")]
    more.append(config.get("extra_special_tokens"))
    config["more"] = [
        piece for some in more if isinstance(some, list) for piece in map(_content, some) if piece is not None
    ]
    listed = _read_object(folder / "added_tokens.json").items()
    new = {id: (piece, False) for piece, id in listed if isinstance(id, int)}
    decoder = config.get("added_tokens_decoder")
    for id, token in (decoder if isinstance(decoder, dict) else {}).items():
        if str(id).isdecimal() and isinstance(token, dict) and _content(token) is not None:
            new[int(id)] = (_content(token), bool(token.get("special")))
    config["new"] = dict(sorted(new.items()))
    family = _read_object(folder / "config.json").get("model_type") or config.get("tokenizer_class") or ""
    config["family"] = str(family).lower()
    return config


def read_tokenizer_json(path: Path) -> bytes:
    """A `tokenizer.json` with what the files beside it say; one that `save` wrote as it is."""
    document = _read_object(path)
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
    return finish(document, config, {}, encoder=False, name=str(path))


def finish(document: dict, config: dict, usual: dict, encoder: bool, name: str) -> bytes:
    """A `tokenizer.json` document as `HuggingFaceTokenizer` keeps it: special pieces declared, roles named.

    Args:
        config: from `_read_config`; {} for a document alone.
        usual: the special pieces that its family has where `config` does not say.
        encoder: frame texts by `cls` and `sep`, which a bare vocabulary does not say.

    Raises:
        UserError: the document is not a tokenizer's.
    """
    try:
        document |= {"truncation": None, "padding": None}
        _declare(document, config, usual)
        roles = _roles(document, config, usual)
        ids = _vocabulary(document)
        if encoder:
            cls, sep = config.get("cls") or usual["cls"], config.get("sep") or usual["sep"]
            twice = [sep] if usual is _ROBERTA else []
            pair = [cls, "A", sep, *twice, "B", sep]
            document["post_processor"] = template([cls, "A", sep], pair, ids)
        elif usual:
            _frame_by(document, config, roles, {id: piece for piece, id in ids.items()})
        kept = {"lm_tokenizer": 1, "roles": roles, "frame": _frame(document, roles), "tokenizer": document}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{name} is not a tokenizer: its parts don't fit together ({error!r})") from error


def _vocabulary(document: dict) -> dict[str, int]:
    """Every piece and its id. Unigram models list theirs in order."""
    vocab = document["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: id for id, (piece, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in document.get("added_tokens") or ()}


def _declare(document: dict, config: dict, usual: dict) -> None:
    """Put each special piece that is named among the added ones; a new one gets the next id."""
    added = {token["content"]: token for token in document.get("added_tokens") or ()}
    ids = _vocabulary(document)

    def add(piece: str, special: bool, id: int | None = None) -> None:
        if piece in added:
            added[piece]["special"] |= special
            return
        if piece not in ids:
            next_id = max(ids.values(), default=-1) + 1
            if id is not None and id != next_id:
                raise ValueError(f"piece {piece} is to have id {id}, the next one is {next_id}")
            ids[piece] = next_id
        added[piece] = added_token(ids[piece], piece, special)

    for id, (piece, special) in config.get("new", {}).items():
        add(piece, special or piece in _CHAT, id)
    for name in _NAMES:
        if (piece := config.get(name, usual.get(name))) is not None:
            add(piece, special=True)
    for piece in config.get("more", ()):
        add(piece, special=True)
    for piece in _CHAT & added.keys():
        added[piece]["special"] = True
    document["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])


def _roles(document: dict, config: dict, usual: dict) -> dict[str, int | None]:
    """The ids of pad, unk, bos, eos and mask."""
    ids = _vocabulary(document)
    special = [token["content"] for token in document["added_tokens"] if token["special"]]
    gpt2 = config.get("family", "").startswith("gpt2") and _GPT2["eos"] in special
    if not usual and (gpt2 or special == [_GPT2["eos"]]):
        usual = _GPT2
    names: dict[str, str | None] = {}
    for role, spellings in USUAL.items():
        found = next((piece for piece in spellings if piece in special), None)
        if role == "unk":
            found = document["model"].get("unk_token") or found
        names[role] = config.get(role, usual.get(role, found))
    for role, encoder_role in (("bos", "cls"), ("eos", "sep")):
        named = config.get(role) or config.get(encoder_role) or usual.get(role) or usual.get(encoder_role)
        names[role] = named or names[role]
    roles = {role: None if piece is None else ids[piece] for role, piece in names.items()}
    knows_bytes = '"ByteLevel"' in json.dumps([document.get("decoder"), document.get("pre_tokenizer")])
    if knows_bytes and roles["unk"] in (roles["bos"], roles["eos"], roles["pad"]):
        roles["unk"] = None  # byte-level BPE knows every byte, whatever its files name
    return roles


def _frame_by(document: dict, config: dict, roles: dict, pieces: dict[int, str]) -> None:
    """`add_bos_token` and `add_eos_token` frame what has no tokenizer.json to say so."""
    bos = [pieces[roles["bos"]]] if config.get("add_bos_token") and roles["bos"] is not None else []
    eos = [pieces[roles["eos"]]] if config.get("add_eos_token") and roles["eos"] is not None else []
    ids = {piece: id for id, piece in pieces.items()}
    document["post_processor"] = template([*bos, "A", *eos], [*bos, "A", *eos, *bos, "B", *eos], ids)


def _frame(document: dict, roles: dict) -> dict[str, list[list[int]]]:
    """The special pieces before, between and after one text and two, by the post-processor.

    Where it adds none, and one piece both begins and ends documents (GPT-2), that piece ends each text.
    """

    def parts(sequence: list[dict], specials: dict) -> list[list[int]]:
        places: list[list[int]] = [[]]
        for part in sequence:
            if "Sequence" in part:
                places.append([])
            else:
                places[-1] += specials[part["SpecialToken"]["id"]]["ids"]
        return places if len(places) == 3 else [places[0], [], places[1]]

    processor = document.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        kind = step.get("type")
        if kind in ("BertProcessing", "RobertaProcessing"):
            cls, sep = [step["cls"][1]], [step["sep"][1]]
            between = sep * 2 if kind == "RobertaProcessing" else sep
            return {"single": [cls, [], sep], "pair": [cls, between, sep]}
        if kind == "TemplateProcessing":
            specials = step["special_tokens"]
            if specials:
                return {name: parts(step[name], specials) for name in ("single", "pair")}
    end = [roles["eos"]] if roles["eos"] is not None and roles["eos"] == roles["bos"] else []
    return {"single": [[], [], end], "pair": [[], end, end]}


def _read_model(path: Path) -> bytes:
    """A SentencePiece model with the pieces and roles that the files beside it add."""
    config = _read_config(path.parent)
    tokenizer = SentencePieceTokenizer(path.read_bytes(), name=str(path))
    new = [piece for id, (piece, _) in config["new"].items() if id >= tokenizer.vocab_size]
    if [id for id in config["new"] if id >= tokenizer.vocab_size] != list(
        range(tokenizer.vocab_size, tokenizer.vocab_size + len(new))
    ):
        raise UserError(f"{path.parent}: the pieces added to tokenizer.model have ids with gaps between them")
    named = {role: config[role] for role in ("pad", "unk", "bos", "eos", "mask") if role in config}
    new += [piece for piece in (*named.values(), *config["more"]) if piece and tokenizer.id(piece) is None]
    tokenizer = tokenizer.with_pieces(new)
    roles = {role: None if piece is None else tokenizer.id(piece) for role, piece in named.items()}
    adds = [config.get(key) for key in ("add_bos_token", "add_eos_token")]
    return tokenizer.with_settings(roles, *adds).to_bytes()
