"""`tokenizer.json` documents, as Hugging Face's `tokenizers` has them: their tokens, special ones among them,
how they frame texts, and the form in which lm keeps them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lm.errors import UserError, not_installed

GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
# Where nothing else names the special tokens, their spelling does.
_USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>"),
    "eos": ("[SEP]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}
# As transformers orders them: new tokens get their ids so.
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Tokens that open and close messages: control tokens, even where a file forgets to say so.
_CHAT = {
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
}
_TEXTS = ("A", "B")

Frame = tuple[list[str], list[str]]  # special tokens around one text, `A`, and around two, `A` and `B`


def tokenizers_library(what: str) -> Any:
    """Hugging Face's `tokenizers`, which `what` needs; a UserError says so where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise not_installed(what, "tokenizers", "finetune") from error
    return tokenizers


def read_object(path: Path) -> dict:
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


def compact(kept: dict) -> bytes:
    """JSON without spaces."""
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def added_token(id: int, content: str, special: bool = True) -> dict:
    """An entry of `added_tokens`."""
    no = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": id, "content": content, **no, "normalized": not special, "special": special}


def vocabulary(document: dict) -> dict[str, int]:
    """Every token and its id. Unigram models list theirs in order."""
    vocab = document["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: id for id, (piece, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in document.get("added_tokens") or ()}


def declare(document: dict, pieces: Iterable[tuple[str, bool, int | None]]) -> None:
    """Put tokens among the added ones; a new one gets the next id.

    Args:
        tokens: each with whether it is special, and the id that a file says it has, if one does.

    Raises:
        ValueError: a new token is to have another id than the next.
    """
    added = {token["content"]: token for token in document.get("added_tokens") or ()}
    ids = vocabulary(document)
    for piece, special, id in pieces:
        if piece in added:
            added[piece]["special"] |= special
            continue
        if piece not in ids:
            ids[piece] = max(ids.values(), default=-1) + 1
            if id not in (None, ids[piece]):
                raise ValueError(f"token {piece} is to have id {id}, the next one is {ids[piece]}")
        added[piece] = added_token(ids[piece], piece, special or piece in _CHAT)
    for piece in _CHAT & added.keys():
        added[piece]["special"] = True
    document["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])


def usual_piece(role: str, pieces: Iterable[str]) -> str | None:
    """The token that is usually spelt as those of this role are."""
    return next((piece for piece in _USUAL[role] if piece in pieces), None)


def template(frame: Frame, ids: dict[str, int]) -> dict:
    """A post-processor that frames texts, by the special tokens' ids; what stands before `B` is of segment 0,
    it and the rest of 1."""

    def parts(sequence: list[str]) -> list[dict]:
        segment, made = 0, []
        for piece in sequence:
            segment = 1 if piece == "B" else segment
            kind = "Sequence" if piece in _TEXTS else "SpecialToken"
            made.append({kind: {"id": piece, "type_id": segment}})
        return made

    single, pair = frame
    special = [piece for piece in single + pair if piece not in _TEXTS]
    return {
        "type": "TemplateProcessing",
        "single": parts(single),
        "pair": parts(pair),
        "special_tokens": {piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in special},
    }


def finish(document: dict, config: dict, usual: dict, name: str, frame: Frame | None = None) -> bytes:
    """The bytes of a document, for `tokenizer_from_bytes`: special tokens declared, roles named.

    Args:
        config: what the files beside it say, from `lm.tokenizer.folders`; {} for a document alone.
        usual: the special tokens that its family has where `config` does not say.
        name: what to call it in an error message.
        frame: what goes around texts, where the document does not say.

    Raises:
        UserError: the document is not a tokenizer's.
    """
    try:
        document |= {"truncation": None, "padding": None}
        named = (config.get(role, usual.get(role)) for role in NAMES)
        new = [(piece, special, id) for id, (piece, special) in config.get("new", {}).items()]
        more = [(piece, True, None) for piece in (*named, *config.get("more", ())) if piece is not None]
        declare(document, new + more)
        roles = _roles(document, config, usual)
        if frame:
            document["post_processor"] = template(frame, vocabulary(document))
        frames = _frames(document, roles)
        return compact({"lm_tokenizer": 1, "roles": roles, "frame": frames, "tokenizer": document})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{name} is not a tokenizer: its parts don't fit together ({error!r})") from error


def _roles(document: dict, config: dict, usual: dict) -> dict[str, int | None]:
    """The ids of pad, unk, bos, eos and mask."""
    ids = vocabulary(document)
    special = [token["content"] for token in document["added_tokens"] if token["special"]]
    gpt2 = config.get("family", "").startswith("gpt2") and GPT2["eos"] in special
    if not usual and (gpt2 or special == [GPT2["eos"]]):
        usual = GPT2
    found = {role: usual_piece(role, special) for role in _USUAL}
    found["unk"] = document["model"].get("unk_token") or found["unk"]
    names = {role: config.get(role, usual.get(role, piece)) for role, piece in found.items()}
    for role, encoder_role in (("bos", "cls"), ("eos", "sep")):
        named = config.get(role) or config.get(encoder_role) or usual.get(role) or usual.get(encoder_role)
        names[role] = named or names[role]
    roles = {role: None if piece is None else ids[piece] for role, piece in names.items()}
    knows_bytes = '"ByteLevel"' in json.dumps([document.get("decoder"), document.get("pre_tokenizer")])
    if knows_bytes and roles["unk"] in (roles["bos"], roles["eos"], roles["pad"]):
        roles["unk"] = None  # byte-level BPE knows every byte, whatever its files name
    return roles


def _frames(document: dict, roles: dict) -> dict[str, list[list[int]]]:
    """The special tokens before, between and after one text and two, by the post-processor.

    Where it adds none, and one token both begins and ends documents (GPT-2), that token ends each text.
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
