"""What a Hugging Face folder says of its tokenizer: `tokenizer.json`, a SentencePiece model or a vocabulary,
and the files beside it that name the special pieces."""

from pathlib import Path

from lm.errors import UserError
from lm.tokenizer.documents import NAMES, finish, read_object
from lm.tokenizer.sentencepiece import SentencePieceTokenizer
from lm.tokenizer.vocabularies import read_byte_level, read_wordpiece


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
        return read_wordpiece(path, config), path
    path, merges = _only(folder, "vocab.json"), _only(folder, "merges.txt")
    if path and merges:
        return read_byte_level(path, merges, config), path
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
    """A SentencePiece model with the pieces and roles that the files beside it add."""
    config = _read_config(path.parent)
    tokenizer = SentencePieceTokenizer(path.read_bytes(), name=str(path))
    new = {id: piece for id, (piece, _) in config["new"].items() if id >= tokenizer.vocab_size}
    if list(new) != list(range(tokenizer.vocab_size, tokenizer.vocab_size + len(new))):
        raise UserError(f"{path.parent}: the pieces added to tokenizer.model have ids with gaps between them")
    named = {role: config[role] for role in tokenizer.roles if role in config}
    more = [piece for piece in (*named.values(), *config["more"]) if piece and tokenizer.id(piece) is None]
    tokenizer = tokenizer.with_pieces([*new.values(), *more])
    roles = {role: None if piece is None else tokenizer.id(piece) for role, piece in named.items()}
    adds = [config.get(key) for key in ("add_bos_token", "add_eos_token")]
    return tokenizer.with_settings(roles, *adds).to_bytes()
