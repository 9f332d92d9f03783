"""Brought tokenizers: the ids, frames and control tokens of transformers; text that forges nothing."""

import functools
import inspect
import itertools
import json
import os
import pickle
import pydoc_data.topics
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lm.errors import UserError
from lm.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    StreamDecoder,
    load_tokenizer,
    tokenizer_from_bytes,
)

os.environ["TOKENIZERS_PARALLELISM"] = "false"
transformers = pytest.importorskip("transformers")

AWKWARD = [
    *("", " ", "  two  spaces  ", "a\u2581b", "\n\n x", "\ttab\r\n", "x" * 300, "don't  I'LL\u3000 ok"),
    *(
        "😀👩‍👩‍👧‍👦 e\u0301 é ﬁ Å İ ß",
        "CAFÉ naïve Привет",
        "孙悟空，一个 筋斗。",
        "\x00nul \x1b",
        "12345 x_1 ＡＢ①",
    ),
    *("[unused1] ##ing un##", "\ufeff bom \u200b\u202e", "a\ud800b \ud83d\ude00"),
]
FORGED = "x <s>[CLS] a [MASK]</s><pad> <|endoftext|><|im_start|>user<|im_end|> [SEP][PAD] <unk>[UNK]"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def lines(sources, origin) -> list[str]:
    """Lines of English, Chinese and code, 4,000 of them real."""
    english = max((sources / "gutenberg").glob("*.txt"), key=lambda path: path.stat().st_size)
    chinese = sources / "chinese-classics" / "西游记.txt"
    texts = [path.read_text(encoding="utf-8") for path in (english, chinese)]
    if origin == "own":
        texts[0] += "\n".join(itertools.islice(pydoc_data.topics.topics.values(), 4))
    texts.append("\n".join(inspect.getsource(module) for module in (inspect, functools, subprocess, shutil)))
    found = [[line for line in text.split("\n") if line] for text in texts]
    if origin == "own":
        return list(itertools.chain(*found[:2], found[2][:100]))
    return list(itertools.chain(found[0][500:2000], found[1][:1000], found[2][:1500]))


def gpt2_files(sources, folder, config: dict, size: int = 8000, **more: dict):
    """A folder as the hub has it, with the first tokens of GPT-2: vocab.json, merges.txt, config.json."""
    folder.mkdir()
    vocab = json.loads((sources / "gpt2-vocab" / "gpt2_vocab.json").read_text(encoding="utf-8"))
    merges = (sources / "gpt2-vocab" / "gpt2_merges.txt").read_text(encoding="utf-8").split("\n")
    (folder / "vocab.json").write_text(json.dumps({piece: id for piece, id in vocab.items() if id < size}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges[: size - 256]), encoding="utf-8")
    for name, content in {"config": config, **more}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def qwen(sources, tmp_path_factory):
    """transformers' own Qwen tokenizer over GPT-2's tokens, with the control tokens of Qwen 3."""
    folder = gpt2_files(sources, tmp_path_factory.mktemp("qwen") / "files", {"model_type": "qwen3"})
    made = transformers.Qwen2Tokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
    )
    made.add_tokens([transformers.AddedToken(piece, normalized=False) for piece in ("<think>", "</think>")])
    return made


@pytest.fixture(scope="module")
def pairs(sources, qwen, tmp_path_factory) -> dict:
    """Ours and theirs, read from the same files by name."""
    root = tmp_path_factory.mktemp("folders")
    minilm, chinese = sources / "minilm-l6-config", sources / "bert-base-chinese-vocab"
    gpt2, llama = sources / "gpt2-vocab", sources / "stories260K-hf"
    bare = root / "minilm-vocab"
    bare.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(minilm / name, bare / name)
    cased = root / "cased"
    cased.mkdir()
    shutil.copyfile(minilm / "vocab.txt", cased / "vocab.txt")
    settings = {"do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True}
    (cased / "tokenizer_config.json").write_text(json.dumps(settings))
    roberta = gpt2_files(sources, root / "roberta", {"model_type": "roberta"})
    qwen.save_pretrained(root / "qwen")
    whole = {"vocab": str(gpt2 / "gpt2_vocab.json"), "merges": str(gpt2 / "gpt2_merges.txt")}
    part = {"vocab": str(roberta / "vocab.json"), "merges": str(roberta / "merges.txt")}
    bert = transformers.BertTokenizerFast.from_pretrained
    return {
        "minilm": (load_tokenizer(minilm), transformers.AutoTokenizer.from_pretrained(minilm)),
        "minilm-vocab": (load_tokenizer(bare), bert(bare)),
        "bert-chinese": (load_tokenizer(chinese), bert(chinese)),
        "cased": (load_tokenizer(cased), bert(cased, **settings)),
        "gpt2": (load_tokenizer(gpt2), transformers.GPT2TokenizerFast(**whole)),
        "roberta": (load_tokenizer(roberta), transformers.RobertaTokenizerFast(**part)),
        "qwen": (load_tokenizer(root / "qwen"), qwen),
        "llama": (
            load_tokenizer(llama),
            transformers.LlamaTokenizerFast.from_pretrained(llama, legacy=False, add_bos_token=True),
        ),
    }


NAMES = ["minilm", "minilm-vocab", "bert-chinese", "cased", "gpt2", "roberta", "qwen", "llama"]
by_name = pytest.mark.parametrize("name", NAMES)
by_kind = pytest.mark.parametrize("name", [name for name in NAMES if name != "minilm-vocab"])


@by_name
def test_ids_are_those_of_transformers_on_real_lines(pairs, lines, origin, name):
    ours, theirs = pairs[name]
    texts = lines if name == "llama" else [*lines, *AWKWARD[:-1]]
    if name == "llama":
        # Before a text that begins with a space, SentencePiece puts a marker and transformers does not.
        texts = [line.lstrip(" ") for line in lines if line.strip(" ")]
    assert len(lines) == 4000 or origin == "own"
    expected = theirs(texts, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text) == ids, text
    assert ours.vocab_size == len(theirs)


def test_a_sentencepiece_model_with_its_own_normalisation_has_the_ids_of_transformers(sources, lines):
    """A unigram model with NFKC, as transformers reads T5's."""
    path = sources / "sentencepiece-models" / "test_model.model"
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    ours = load_tokenizer(path)
    extracted = SentencePieceExtractor(str(path)).extract(None)
    parts = {key: extracted[key] for key in ("vocab", "_spm_precompiled_charsmap")}
    theirs = transformers.T5TokenizerFast(**parts, extra_ids=0)
    for line, ids in zip(lines, theirs(lines, add_special_tokens=False)["input_ids"], strict=True):
        # T5's unknown token is 2 by its class, this model's is 0.
        assert ours.encode(line) == [0 if id == 2 else id for id in ids], line


@by_name
def test_frames_are_those_of_transformers(pairs, name):
    ours, theirs = pairs[name]
    a, b = ours.encode("one text"), ours.encode("and another")
    alone, both = theirs("one text"), theirs("one text", "and another")
    ids, segments = ours.frame(a, b)
    if name == "gpt2":  # theirs puts nothing between two texts
        end = len(ours) - 1
        assert ours.piece(end) == "<|endoftext|>"
        assert ours.frame(a) == ([*a, end], [0] * (len(a) + 1))
        assert ids == [*a, end, *b, end]
    else:
        assert ours.frame(a)[0] == alone["input_ids"][: len(a) + ours.frame_size(False)]
        assert set(alone["input_ids"][len(a) + ours.frame_size(False) :]) <= {
            ours.pad_id
        }  # MiniLM's file pads
        expected = both["input_ids"][: len(ids)]
        assert ids == expected
    if name in ("minilm-vocab", "bert-chinese", "cased"):
        assert segments == both["token_type_ids"]
    closing = len(ids) - len(b) - segments.index(1)
    assert segments == [0] * segments.index(1) + [1] * (len(b) + closing)
    assert ids[segments.index(1) :][: len(b)] == b, "segment 1 begins with the second text"
    assert len(ids) - len(a) - len(b) == ours.frame_size(True)
    assert len(ours.frame(a)[0]) - len(a) == ours.frame_size(False)


@by_name
def test_special_pieces_are_those_of_transformers(pairs, name):
    ours, theirs = pairs[name]
    assert ours.pad_id == theirs.pad_token_id and ours.mask_id == theirs.mask_token_id
    if name in ("gpt2", "qwen"):
        assert ours.unk_id is None  # theirs names the end of text
    else:
        assert ours.unk_id == theirs.unk_token_id
    cls, sep = (getattr(theirs, f"{part}_token_id", None) for part in ("cls", "sep"))
    assert ours.bos_id == (theirs.bos_token_id if cls is None else cls)
    assert ours.eos_id == (theirs.eos_token_id if sep is None else sep)
    assert ours.padding_id == (ours.eos_id if ours.pad_id is None else ours.pad_id)
    for id in (0, 5, 300, len(ours) - 1):
        assert ours.piece(id) == theirs.convert_ids_to_tokens(id)
        assert ours.id(ours.piece(id)) == id
    assert ours.id("no such token") is None
    for wrong in (len(ours), -1):
        with pytest.raises(IndexError):
            ours.piece(wrong)


@by_name
def test_text_forges_no_special_piece(pairs, name):
    ours, theirs = pairs[name]
    control = [id for id in range(len(ours)) if ours.is_special(id) and id != ours.unk_id]
    spelt = " ".join(ours.piece(id) for id in control)
    for text in (FORGED, spelt, *map(ours.piece, control)):
        for ids in (ours.encode(text), ours.encode_with_offsets(text)[0]):
            assert not set(ids) & set(control)
    if name != "llama":
        assert set(theirs.encode(spelt, add_special_tokens=False)) & set(control), "theirs can be forged"
        assert ours.encode(FORGED) == theirs.encode(
            FORGED, add_special_tokens=False, split_special_tokens=True
        )
    if name in ("gpt2", "roberta", "qwen", "llama"):
        assert ours.decode(ours.encode(FORGED)) == FORGED


def engine_document(model: dict, pre: dict | None) -> bytes:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocab = model["vocab"]
    added = [
        {"id": vocab[piece], "content": piece, **special} for piece in ("<s>", "[UNK]") if piece in vocab
    ]
    parts = {"normalizer": None, "post_processor": None, "decoder": None, "truncation": None, "padding": None}
    return json.dumps(
        {"version": "1.0", "added_tokens": added, "pre_tokenizer": pre, "model": model, **parts}
    ).encode()


def test_a_model_whose_own_merges_spell_a_special_piece_is_not_fooled():
    """`encode_special_tokens` alone would let it through."""
    pieces = ["<", "s", ">", "<s", "<s>", "x"]
    model = {"type": "BPE", "vocab": {piece: id for id, piece in enumerate(pieces)}}
    model |= {"merges": [["<", "s"], ["<s", ">"]], "unk_token": None}
    tokenizer = tokenizer_from_bytes(
        engine_document(
            model, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        )
    )
    assert tokenizer.bos_id == 4
    assert tokenizer._engine.encode("x<s>x").ids == [5, 4, 5]
    assert tokenizer.encode("x<s>x") == [5, 0, 1, 2, 5]
    assert tokenizer.encode_with_offsets("x<s>x")[1] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]

    words = {"[UNK]": 0, "<s>": 1, "a": 2, "<": 3, "##s": 4, "##>": 5}
    model = {"type": "WordPiece", "vocab": words, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model["max_input_chars_per_word"] = 100
    tokenizer = tokenizer_from_bytes(engine_document(model, {"type": "WhitespaceSplit"}))
    assert tokenizer.encode("a <s> a") == [2, 3, 4, 5, 2]
    assert tokenizer.decode(tokenizer.encode("a <s> a")) == "a <s> a"


@by_kind
def test_offsets_are_places_in_the_text_as_given(pairs, lines, name):
    ours, _ = pairs[name]
    for text in [*AWKWARD, FORGED, *lines[::40]]:
        ids, spans = ours.encode_with_offsets(text)
        assert ids == ours.encode(text)
        assert len(spans) == len(ids)
        previous = 0
        for id, (start, end) in zip(ids, spans, strict=True):
            assert 0 <= start <= end <= len(text) and start >= previous
            previous = start
            part = text[start:end]
            assert part == part.lstrip(), "no white space at the start"
            surface = ours.decode([id]).strip(" ")
            if "\ufffd" in surface or ours.is_special(id) or name == "qwen":
                continue  # part of a character; unknown; NFC
            if name in ("gpt2", "roberta", "llama"):
                assert part.strip(" ▁\t\r\n\u3000") == surface.strip(" ▁\t\r\n\u3000")
            else:
                assert surface == "" or len(part) > 0
        covered = {place for start, end in spans for place in range(start, end)}
        missed = "".join(char for place, char in enumerate(text) if place not in covered)
        if name in ("gpt2", "roberta", "llama"):
            assert not missed.strip(), "every character is a token's"


def test_offsets_of_awkward_characters(pairs, origin):
    text = " Café 中😀 naïve"
    ids, spans = pairs["minilm"][0].encode_with_offsets(text)
    assert [text[a:b] for a, b in spans] == ["Café", "中", "😀", "naïve"]
    ids, spans = pairs["gpt2"][0].encode_with_offsets(text)
    assert "".join(text[a:b] for a, b in dict.fromkeys(spans)) == "Café中😀naïve"
    if origin == "real":
        assert [text[a:b] for a, b in spans] == ["Café", "", "中", "😀", "😀", "naïve"]
    text = "a 😀\ud83d\ude00b"  # the second one as two surrogates
    for name in ("minilm", "gpt2", "llama", "qwen"):
        ids, spans = pairs[name][0].encode_with_offsets(text)
        assert spans[-1][1] == len(text) == 6 and ids == pairs[name][0].encode(text)
        assert {(2, 3), (3, 5)} <= set(spans) or name == "minilm"


@pytest.mark.parametrize("model", ["test_model", "test_ja_model"])
def test_offsets_of_a_sentencepiece_model_that_normalises(sources, model):
    tokenizer = load_tokenizer(sources / "sentencepiece-models" / f"{model}.model")
    text = "  Hello   ①Ａ… ㍿ é"
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    where = {place for start, end in spans for place in range(start, end)}
    assert {text[place] for place in where} >= set("HeloＡ…㍿é①")
    for id, (start, end) in zip(ids, spans, strict=True):
        if text[start:end] == "…":
            assert set(tokenizer.piece(id).strip("▁")) == {"."}
        assert not text[start:end][:1].isspace()


def test_offsets_of_our_own_tokenizer(tokenizer):
    for text in [*AWKWARD, "a 中\u2581b 😀  c" * 30]:
        ids, spans = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        covered = {place for start, end in spans for place in range(start, end)}
        assert not "".join(char for place, char in enumerate(text) if place not in covered).strip()
    ids, spans = tokenizer.encode_with_offsets("x 中")
    assert spans[-3:] == [(2, 3)] * 3, "its three bytes are all the character's"


@by_kind
def test_decoding_is_streaming(pairs, lines, name):
    ours, theirs = pairs[name]
    for text in [*AWKWARD[:-1], FORGED, *lines[::40]]:
        ids = ours.encode(text)
        framed = ours.frame(ids, ids[:3])[0]
        for some in (ids, framed, ids[1:], ids[:-1]):
            decoder = StreamDecoder(ours)
            assert "".join(map(decoder.feed, some)) + decoder.flush() == ours.decode(some)
        if name in ("gpt2", "roberta", "llama"):
            assert ours.decode(ids) == (text.replace("▁", " ") if name == "llama" else text)
        if name in ("gpt2", "roberta", "qwen"):
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            assert ours.decode(framed) == theirs.decode(framed, **options)
    if ours.eos_id is not None:
        assert ours.decode([ours.eos_id] * 2) == ""


def test_wordpiece_decodes_to_words(pairs):
    ours, theirs = pairs["minilm"]
    ids = ours.encode("Unbelievable zyzzyvas, 中文!")
    assert ours.decode(ours.frame(ids)[0]) == "unbelievable zyzzyvas , 中 文 !"
    backend = theirs.backend_tokenizer
    backend.decoder = __import__("tokenizers").decoders.WordPiece(cleanup=False)
    assert ours.decode(ids) == backend.decode(ids)


@by_kind
def test_byte_lengths_add_up(pairs, lines, origin, name):
    ours, _ = pairs[name]
    lengths = ours.byte_lengths()
    assert lengths.shape == (len(ours),) and lengths.dtype == np.int64
    assert all(lengths[id] == 0 for id in range(len(ours)) if ours.is_special(id))
    text = [line.strip() for line in lines if line.strip()]
    if name in ("minilm", "bert-chinese"):
        text = [line for line in text if ours.unk_id not in ours.encode(line)]
    assert len(text) > (1500 if origin == "real" else 200)
    size = sum(len(line.encode()) for line in text)
    total = sum(lengths[ours.encode(line)].sum() for line in text)
    if name in ("gpt2", "roberta", "qwen"):
        assert total == size
    elif name == "llama":
        assert total == size + len(text)  # its space in front
    elif name != "cased":  # much of cased text is unknown to an uncased vocabulary
        assert total == pytest.approx(size, rel=0.05)


@by_kind
def test_words(pairs, name):
    ours, _ = pairs[name]
    opens, closes = ours.word_boundaries()
    assert opens.shape == closes.shape == (len(ours),) and opens.dtype == closes.dtype == bool
    assert all(opens[id] and closes[id] for id in range(len(ours)) if ours.is_special(id))
    text = "unbelievable zyzzyvas, hello 孙悟空."
    words: list[list[int]] = []
    for position, id in enumerate(ids := ours.encode(text)):
        if position == 0 or opens[id] or closes[ids[position - 1]]:
            words.append([])
        words[-1].append(id)
    found = [word for word in (ours.decode(word).strip() for word in words) if word not in ("", "\ufffd")]
    if name == "minilm":
        assert found == ["unbelievable", "zyzzyvas", ",", "hello", "[UNK]", "[UNK]", "."][:4] + [
            ours.decode([id]) for id in ours.encode("孙悟空") if not ours.is_special(id)
        ] + ["."]
    elif name in ("gpt2", "roberta", "qwen", "llama"):
        assert found == ["unbelievable", "zyzzyvas", ",", "hello", "孙", "悟", "空", "."]


@by_kind
def test_bytes_files_and_pickles_round_trip(pairs, tmp_path, name):
    ours, _ = pairs[name]
    ours.save(tmp_path / "tokenizer.model")
    ours.save(tmp_path / "folder")
    if isinstance(ours, HuggingFaceTokenizer):
        ours.save(tmp_path / "tokenizer.json")
        assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == ours.fingerprint
    text = "Hello, 世界 <s>"
    for same in (
        tokenizer_from_bytes(ours.to_bytes()),
        pickle.loads(pickle.dumps(ours)),
        load_tokenizer(tmp_path / "tokenizer.model"),
        load_tokenizer(tmp_path / "folder"),
    ):
        assert type(same) is type(ours) and same.to_bytes() == ours.to_bytes()
        assert same.fingerprint == ours.fingerprint and same.encode(text) == ours.encode(text)
        assert same.frame([1], [2]) == ours.frame([1], [2])
    if name in ("minilm", "roberta"):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ours.encode(text)
        assert theirs.mask_token_id == ours.mask_id and theirs.eos_token_id == ours.eos_id
        assert theirs("a", "b")["input_ids"] == ours.frame(ours.encode("a"), ours.encode("b"))[0]


@by_kind
def test_control_pieces_are_added_behind_the_others(pairs, lines, name):
    ours, _ = pairs[name]
    known = next(ours.piece(id) for id in range(len(ours)) if ours.is_special(id))
    size = len(ours)
    wider = ours.with_pieces(["<|one|>", known, "<|two|>", "<|one|>"])
    assert len(wider) == size + 2 and len(ours) == size
    assert [wider.id("<|one|>"), wider.id("<|two|>")] == [size, size + 1]
    assert wider.is_special(size) and wider.is_special(size + 1)
    assert wider.with_pieces(["<|two|>"]) is wider
    for text in ["<|one|> and <|two|>", *lines[::100]]:
        assert wider.encode(text) == ours.encode(text)
        assert wider.decode([size, *wider.encode(text), size + 1]) == ours.decode(ours.encode(text))
    assert wider.byte_lengths()[size:].tolist() == [0, 0]
    assert wider.word_boundaries()[0][size:].all()
    assert wider.frame([1], [2]) == ours.frame([1], [2])
    if name in ("minilm", "llama"):
        again = tokenizer_from_bytes(wider.to_bytes())
        assert again.id("<|two|>") == size + 1 and again.fingerprint == wider.fingerprint != ours.fingerprint


def test_an_added_mask_is_the_mask(pairs):
    for name, piece in (("gpt2", "<mask>"), ("llama", "<mask>"), ("qwen", "[MASK]")):
        ours, _ = pairs[name]
        wider = ours.with_pieces([piece])
        assert ours.mask_id is None and wider.mask_id == len(ours)
        assert wider.frame([1], [2]) == ours.frame([1], [2])


def test_a_piece_of_text_is_no_control_piece(tokenizer):
    with pytest.raises(UserError, match="self is a piece of text"):
        tokenizer.with_pieces(["self"])


def test_a_folder_says_what_its_sentencepiece_model_does_not(sources, tmp_path):
    shutil.copyfile(sources / "stories260K-hf" / "tokenizer.model", tmp_path / "tokenizer.model")
    plain = load_tokenizer(tmp_path)
    assert plain.to_bytes() == (tmp_path / "tokenizer.model").read_bytes()
    config = {
        "add_bos_token": False,
        "add_eos_token": True,
        "pad_token": "</s>",
        "mask_token": "[MASK]",
        "added_tokens_decoder": {"512": {"content": "<|im_start|>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert (tokenizer.id("<|im_start|>"), tokenizer.mask_id, tokenizer.pad_id) == (512, 513, 2)
    assert tokenizer.frame([7], [8])[0] == [7, 2, 8, 2]
    wider = tokenizer_from_bytes(tokenizer.with_pieces(["<|x|>"]).to_bytes())
    assert (len(wider), wider.pad_id, wider.frame([7])[0]) == (515, 2, [7, 2])
    assert wider.encode("Once upon a time") == plain.encode("Once upon a time")
    config["added_tokens_decoder"] = {"600": {"content": "<|im_start|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="gaps"):
        load_tokenizer(tmp_path)


def test_llama_3_frames_by_its_template(pairs, tmp_path):
    document = json.loads(pairs["qwen"][0].to_bytes())["tokenizer"]
    names = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    size = len(pairs["qwen"][0])
    for number, piece in enumerate(names):
        document["added_tokens"].append(
            {**document["added_tokens"][0], "id": size + number, "content": piece}
        )
    bos = {"SpecialToken": {"id": names[0], "type_id": 0}}
    a, b = ({"Sequence": {"id": text, "type_id": int(text == "B")}} for text in "AB")
    bytes_ = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    specials = {names[0]: {"id": names[0], "ids": [size], "tokens": [names[0]]}}
    template = {"type": "TemplateProcessing", "single": [bos, a], "pair": [bos, a, bos, b]}
    document["post_processor"] = {
        "type": "Sequence",
        "processors": [bytes_, template | {"special_tokens": specials}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": names[0], "eos_token": names[1]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (size, size + 1)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.frame([64], [65]) == ([size, 64, size, 65], [0, 0, 0, 1])
    assert theirs("a", "b")["input_ids"] == [size, 64, size, 65]


def test_a_vocabulary_s_settings_frame_it(sources, tmp_path):
    config = {"add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"}
    folder = gpt2_files(sources, tmp_path / "gpt2", {"model_type": "gpt2"}, tokenizer_config=config)
    theirs = transformers.GPT2TokenizerFast.from_pretrained(folder)
    end = theirs.eos_token_id
    assert theirs("a", "b")["input_ids"] == [end, 64, end, 65]
    assert load_tokenizer(folder).frame([64], [65])[0] == theirs("a", "b")["input_ids"]


def test_a_tokenizer_json_alone(sources, tmp_path):
    shutil.copyfile(sources / "minilm-l6-config" / "tokenizer.json", tmp_path / "tokenizer.json")
    alone = load_tokenizer(tmp_path / "tokenizer.json")
    whole = load_tokenizer(sources / "minilm-l6-config")
    assert alone.fingerprint == whole.fingerprint
    assert (alone.pad_id, alone.unk_id, alone.bos_id, alone.eos_id, alone.mask_id) == (0, 100, 101, 102, 103)
    assert len(alone.encode("word " * 400)) == 400, "the file's truncation to 128 is not ours"
    assert tokenizer_from_bytes((tmp_path / "tokenizer.json").read_bytes()).fingerprint == whole.fingerprint
    # The settings beside it win over its own, as in transformers.
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tmp_path).encode("Hello") != whole.encode("Hello")


def test_bad_input_gets_one_clear_line(sources, tmp_path):
    def error(path) -> str:
        with pytest.raises(UserError) as caught:
            load_tokenizer(path)
        message = str(caught.value)
        assert "\n" not in message and str(tmp_path) in message
        return message

    assert "holds no tokenizer: there should be tokenizer.json" in error(tmp_path)
    whole = (sources / "minilm-l6-config" / "tokenizer.json").read_text()
    path = tmp_path / "tokenizer.json"
    for text, reason in (
        (whole[:5000], "not whole JSON"),
        ("", "not whole JSON"),
        ("[1, 2]", "should hold a JSON object"),
        ("{}", "don't fit together"),
        (whole.replace('"type":"WordPiece","unk_token"', '"type":"Letters","unk_token"'), "tokenizer that"),
        (json.dumps(json.loads(whole) | {"added_tokens": [{"id": 5}]}), "don't fit together"),
    ):
        path.write_text(text)
        assert reason in error(tmp_path)
    path.write_bytes(b"\xff\xfe{}")
    assert "tokenizer.json" in error(tmp_path)
    path.unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[CLS]\n[SEP]\nhello\n")
    assert "has no [UNK] token" in error(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("[UNK]\né".encode("latin-1"))
    assert "not text in UTF-8" in error(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na c\n")
    assert "merges.txt, line 3" in error(tmp_path)
    (tmp_path / "vocab.json").write_text("[1]")
    assert "vocab.json is not a vocabulary" in error(tmp_path)
    assert "cannot read the tokenizer" in error(tmp_path / "absent")


def test_reading_needs_no_torch_and_no_transformers(sources):
    code = (
        "import sys; from lm.tokenizer import load_tokenizer; assert 'tokenizers' not in sys.modules\n"
        f"load_tokenizer({str(sources / 'minilm-l6-config')!r}).encode('a')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_library_the_message_says_what_to_install(sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[finetune\]'"):
        load_tokenizer(sources / "bert-base-chinese-vocab")
