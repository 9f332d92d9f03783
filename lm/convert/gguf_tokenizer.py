"""A tokenizer in a GGUF file, where llama.cpp encodes by an algorithm of its own: what it would encode
otherwise is refused.

- a SentencePiece byte-pair model (`llama`) that spells unknown characters in bytes and leaves texts as they
  are, but for a space in front;
- Hugging Face's byte-level BPE (`gpt2`) whose way to cut texts into words, before bytes are merged, is one of
  those that are programmed there, by a name.

Two things are left that files can't say. llama.cpp takes a text that spells a control token for that token
wherever its caller asks for it (its server always does); and SentencePiece's marker U+2581 for a space, which
a tokenizer of lm spells in bytes.
"""

import json
from typing import Any

from lm.checkpoint import Model
from lm.convert.tokenizer_json import BPE, CONTROL, NORMAL, UNUSED, USER_DEFINED, read_model
from lm.errors import UserError
from lm.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer
from lm.tokenizer.template import chat_format_of

# The steps of a pre-tokenizer before bytes are written as characters, and whether whole words are looked up
# before they are merged, by the name that llama.cpp has for both (llama-vocab.cpp).
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST
_CUTS = {
    (("words",), False): "gpt-2",
    (("digits", "words"), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
}


def write_vocabulary(writer: Any, model: Model) -> list[str]:
    """Put a model's tokenizer, and its chat template if it chats, into a `gguf.GGUFWriter`.

    Returns:
        what a person should know, a sentence each.

    Raises:
        UserError: llama.cpp would make other tokens of texts.
    """
    tokenizer, rows = model.tokenizer, model.config.vocab_size
    if isinstance(tokenizer, SentencePieceTokenizer):
        notes = _sentencepiece(writer, tokenizer, rows)
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        notes = _byte_pairs(writer, tokenizer, rows)
    else:
        raise _refused(f"it is a {type(tokenizer).__name__}")
    if tokenizer.opening not in ([], [tokenizer.bos_id]):
        raise _refused("it begins texts with other tokens than the one for that")
    chat = chat_format_of(tokenizer, model.chat_template) if model.chats else None
    end = tokenizer.eos_id if tokenizer.eos_id is not None else chat and chat.end_id
    if end is None:
        raise _refused("it has no token that ends a text, for which llama.cpp would take another")
    writer.add_eos_token_id(end)
    for role, add in (
        ("bos", writer.add_bos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
        ("mask", writer.add_mask_token_id),
    ):
        if tokenizer.roles[role] is not None:
            add(tokenizer.roles[role])
    writer.add_add_bos_token(bool(tokenizer.opening))
    writer.add_add_eos_token(False)  # the model writes on
    if chat is not None:
        writer.add_chat_template(chat.template)
        if chat.end_id is not None:
            writer.add_eot_token_id(chat.end_id)
    return notes


def _refused(why: str) -> UserError:
    return UserError(f"llama.cpp would make other tokens of texts than this model's tokenizer: {why}")


def _add(writer: Any, tokens: list[tuple[str, int]], rows: int) -> None:
    """Put tokens and their types into a file, one for each row of the embeddings."""
    more = [(f"[PAD{id}]", UNUSED) for id in range(len(tokens), rows)]
    writer.add_token_list([token for token, _ in tokens + more])
    writer.add_token_types([kind for _, kind in tokens + more])


def _sentencepiece(writer: Any, tokenizer: SentencePieceTokenizer, rows: int) -> list[str]:
    pieces, trainer, rules = read_model(tokenizer.to_bytes())
    kinds = {kind for *_, kind in pieces}
    in_bytes = all(tokenizer.id(f"<0x{byte:02X}>") is not None for byte in range(256))
    for wrong, why in (
        (trainer.get(3) != BPE, "it is no byte-pair model"),
        (not in_bytes, "it does not spell unknown characters in bytes"),
        (rules.get(2), "it normalises them"),
        (rules.get(4, 1), "it takes spaces out of them"),
        (trainer.get(24) or not rules.get(5, 1), "it marks spaces in another way"),
        (kinds & {USER_DEFINED, UNUSED}, "it has pieces that are user-defined or unused"),
        (len({piece for piece, *_ in pieces}) < len(pieces), "it has a piece twice"),
    ):
        if wrong:
            raise _refused(why)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(tokenizer._adds_space)
    _add(writer, [(piece, kind) for piece, _, kind in pieces], rows)
    writer.add_token_scores([score for _, score, _ in pieces] + [0.0] * (rows - len(pieces)))
    known = {piece for piece, _, kind in pieces if kind == NORMAL}
    read = [piece for piece, _, kind in pieces if kind != NORMAL and _merged(piece, known)]
    return [f"llama.cpp takes the text {read[0]} for the token {read[0]}"] if read else []


def _merged(text: str, known: set[str]) -> bool:
    """Whether llama.cpp may merge a text's characters to the whole: it merges to any token, not only to those
    that stand for text."""
    halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
    return any(all(len(half) == 1 or half in known for half in pair) for pair in halves)


def _byte_pairs(writer: Any, tokenizer: HuggingFaceTokenizer, rows: int) -> list[str]:
    document = json.loads(tokenizer.to_bytes())["tokenizer"]
    model, normalizer = document["model"], document.get("normalizer")
    steps = [step["type"] for step in _steps(document.get("pre_tokenizer"))]
    before = (_cuts(document.get("pre_tokenizer")), bool(model.get("ignore_merges")))
    added = {token["content"]: token for token in document["added_tokens"]}
    plain = [token for token in added.values() if not tokenizer.is_special(token["id"])]
    for wrong, why in (
        (model["type"] != "BPE" or steps[-1:] != ["ByteLevel"], "it is no byte-level BPE"),
        (model.get("dropout"), "it leaves out merges by chance"),
        (normalizer not in (None, {"type": "NFC"}), "it normalises them"),
        (before not in _CUTS, "it cuts texts into words in a way that llama.cpp has no name for"),
        (
            any(token[flag] for token in plain for flag in ("lstrip", "rstrip", "single_word"))
            or _overlap([token["content"] for token in plain]),
            "it has added tokens that depend on what is beside them",
        ),
    ):
        if wrong:
            raise _refused(why)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_CUTS[before])
    tokens = []
    for id in range(tokenizer.vocab_size):
        piece = tokenizer.piece(id)
        kind = CONTROL if tokenizer.is_special(id) else USER_DEFINED if piece in added else NORMAL
        tokens.append((piece, kind) if piece else (f"[PAD{id}]", UNUSED))
    _add(writer, tokens, rows)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    if normalizer:
        return ["the tokenizer brings texts into Unicode's NFC first, which llama.cpp does not"]
    return []


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps."""
    return part["pretokenizers"] if part and part["type"] == "Sequence" else [part] if part else []


def _cuts(part: dict[str, Any] | None) -> tuple[str, ...] | None:
    """A pre-tokenizer's steps as `_CUTS` has them, None for others."""
    found = []
    for step in _steps(part):
        if step["type"] == "Digits" and step["individual_digits"]:
            found.append("digits")
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            found += ["words"] if step.get("use_regex", True) else []
        elif step["type"] == "Split" and (step["behavior"], step["invert"]) == ("Isolated", False):
            found.append(step["pattern"].get("Regex", ""))
        else:
            return None
    return tuple(found)


def _overlap(texts: list[str]) -> bool:
    """Whether one of several texts can begin within another and go on behind it: llama.cpp looks for the
    longest one first, others for the one that begins first."""
    ends = {text[cut:] for text in texts for cut in range(1, len(text))}
    return any(text[:cut] in ends for text in texts for cut in range(1, len(text)))
