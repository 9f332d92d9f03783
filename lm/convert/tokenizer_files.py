"""A tokenizer's files in a Hugging Face folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lm.backbone import BackboneConfig
from lm.convert.tokenizer_json import frame_template, tokenizer_json
from lm.convert.weights import read_json, write_json
from lm.errors import UserError
from lm.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from lm.tokenizer.chat import chat_format

MARK = "lm_sentencepiece"  # in tokenizer_config.json: the SHA-256 of the tokenizer.json made from the model


def write_tokenizer(
    tokenizer: Tokenizer, folder: Path, config: BackboneConfig, writes: bool, chats: bool = True
) -> None:
    """Write the files from which `AutoTokenizer` makes the same ids.

    Args:
        config: the shape of the model that it belongs to.
        writes: the model writes on from a text, so that no token is put behind one.
        chats: it has learned to chat, too: a template says how its tokenizer has it.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        document = tokenizer_json(tokenizer, framed=not writes)
        tokenizer.save(folder / "tokenizer.model")
        text = json.dumps(document, ensure_ascii=False)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        described = _describe(tokenizer, hashlib.sha256(text.encode()).hexdigest())
    else:
        tokenizer.save(folder)
        if not writes:
            _frame(tokenizer, folder / "tokenizer.json")
        described = read_json(folder / "tokenizer_config.json")
    described["model_max_length"] = config.max_seq_len
    described["padding_side"] = "left" if writes else "right"
    segments = ["token_type_ids"] if config.segments > 1 else []
    described["model_input_names"] = ["input_ids", *segments, "attention_mask"]
    if not config.causal:
        described |= {"cls_token": described["bos_token"], "sep_token": described["eos_token"]}
    chat = chat_format(tokenizer) if writes and chats else None
    if chat is not None:
        described["chat_template"] = chat.template
    write_json(folder / "tokenizer_config.json", described)


def _frame(tokenizer: Tokenizer, path: Path) -> None:
    """Have a tokenizer.json frame texts as the model was trained on them, where it does not by itself:
    GPT-2's puts nothing behind a text."""
    import tokenizers

    engine, a, b = tokenizers.Tokenizer.from_file(str(path)), *map(tokenizer.encode, "ab")
    alone, together = engine.encode("a").ids, engine.encode("a", "b").ids
    if (alone, together) == (tokenizer.frame(a)[0], tokenizer.frame(a, b)[0]):
        return
    document, frame = read_json(path), frame_template(tokenizer)
    before = document.get("post_processor")
    if before and before["type"] == "ByteLevel":  # only says where tokens lie in a text
        frame = {"type": "Sequence", "processors": [before, frame]}
    path.write_text(json.dumps({**document, "post_processor": frame}, ensure_ascii=False), encoding="utf-8")


def _describe(tokenizer: SentencePieceTokenizer, checksum: str) -> dict[str, Any]:
    """tokenizer_config.json for a SentencePiece model."""
    roles = {role: tokenizer.roles[role] for role in ("bos", "eos", "unk", "pad", "mask")}
    others = [
        tokenizer.piece(id)
        for id in range(tokenizer.vocab_size)
        if tokenizer.is_special(id) and id not in roles.values()
    ]
    return {
        # Reads tokenizer.json as it stands, where LlamaTokenizer would make its own from the tokens.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": None if id is None else tokenizer.piece(id) for role, id in roles.items()},
        "additional_special_tokens": others,
        "clean_up_tokenization_spaces": False,
        # For those who read tokenizer.model instead.
        "add_prefix_space": tokenizer._adds_space,
        "legacy": False,
        MARK: checksum,
    }


def read_chat_template(folder: Path) -> str | None:
    """A folder's chat template, as Jinja: of several the default one.

    Raises:
        UserError: it is not one.
    """
    alone, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if alone.exists():
        try:
            return alone.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{alone} is not UTF-8 text") from error
    found = read_json(config).get("chat_template") if config.exists() else None
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise UserError(f"{config}: chat_template is not a text")
    return found


def read_tokenizer(folder: Path) -> Tokenizer:
    """A folder's tokenizer; where lm made its tokenizer.json from a SentencePiece model, that model."""
    config, document = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if config.exists() and document.exists() and (folder / "tokenizer.model").exists():
        checksum = read_json(config).get(MARK)
        if checksum and checksum == hashlib.sha256(document.read_bytes()).hexdigest():
            return load_tokenizer(folder / "tokenizer.model")
    return load_tokenizer(folder)
