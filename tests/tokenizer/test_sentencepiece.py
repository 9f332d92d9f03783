"""The tokenizer's laws: exact round trips, byte counts, special pieces by id only, words."""

import argparse
import inspect
import pickle
import subprocess
import sys
import typing

import numpy as np
import pytest
import sentencepiece

from lm.errors import UserError
from lm.tokenizer import (
    StreamDecoder,
    Tokenizer,
    load_tokenizer,
    split_lines,
    tokenizer_from_bytes,
    train_tokenizer,
)

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    "\ttab\t\tTab\t",
    "lines\r\nof\rall\n\nkinds\u2028\x85\x0b\x0c",
    "\x00nul\x00\x00 and \x01\x1b\x7f controls",
    "\u2581 the space marker\u2581\u2581x \u2581",
    "<s></s><pad><unk><mask><|user|> <0x0A>",
    "\u2047 \ufffd \ufeff bom \u200b\u202e",
    "孙悟空一个筋斗十万八千里，翻了过去。\u3000",
    "😀👩‍👩‍👧‍👦 e\u0301 é ﬁ Å",
    "def f(x: int = 12345) -> str:\n\treturn f'{x!r}'\n",
    "\U0010ffff\U000f0000\ue000",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([inspect.getsource(argparse), inspect.getsource(typing)], 700)


@pytest.mark.parametrize("vocab_size", [290, 320])
def test_a_text_without_spaces_makes_a_tokenizer_that_knows_them(vocab_size):
    """Else SentencePiece's marker for one, in bytes, would come back in its place: Chinese has none."""
    trained = train_tokenizer(
        ["孙悟空一个筋斗十万八千里，翻了过去。猴王又笑了一声，只见山上花开花落。" * 9], vocab_size
    )
    for text in AWKWARD:
        assert trained.decode(trained.encode(text)) == text


def test_special_pieces_have_their_ids(tokenizer):
    assert [tokenizer.piece(id) for id in range(9)] == SPECIAL
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4)
    assert [tokenizer.id(piece) for piece in SPECIAL] == list(range(9))
    assert tokenizer.id("no such piece") is None
    assert len(tokenizer) == tokenizer.vocab_size == 700
    with pytest.raises(IndexError):
        tokenizer.piece(700)


@pytest.mark.parametrize("text", AWKWARD)
def test_round_trip_is_exact_and_bytes_add_up(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert not set(ids) & set(range(9)), "text made a special piece"


def test_round_trip_of_random_unicode(tokenizer):
    random = np.random.default_rng(0)
    for _ in range(300):
        codes = random.integers(0, 0x110000 if random.random() < 0.5 else 0x300, size=random.integers(1, 40))
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


def test_long_text_is_encoded_in_chunks_without_loss(tokenizer):
    text = ("x" * 1000 + "\n") * 70 + "no line end " * 12_000
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


def test_split_lines_loses_nothing():
    text = "ab\ncdefghij\n\nk"
    assert list(split_lines(text, 4)) == ["ab\n", "cdef", "ghij", "\n\nk"]
    assert list(split_lines("", 4)) == []


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    assert train_tokenizer(["ab\ud800 " * 50], 270).decode([]) == ""


def test_decode_leaves_special_pieces_out(tokenizer):
    ids = [
        tokenizer.bos_id,
        *tokenizer.encode("one"),
        tokenizer.mask_id,
        *tokenizer.encode(" two"),
        tokenizer.eos_id,
    ]
    assert tokenizer.decode(ids) == "one two"


def test_stream_decoder_gives_text_as_soon_as_it_is_whole(tokenizer):
    text = "a😀中 \u2581\x00 b"
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.feed(id) for id in ids]
    assert "".join(parts) + decoder.flush() == text
    assert "😀" in parts, "a character must come out whole, with its last byte"
    broken = ids[:3]
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.feed, broken)) + decoder.flush() == tokenizer.decode(broken)


def test_training_is_deterministic_and_saved_exactly(tokenizer, tmp_path):
    again = train_tokenizer([inspect.getsource(argparse), inspect.getsource(typing)], 700)
    assert again.to_bytes() == tokenizer.to_bytes()
    tokenizer.save(tmp_path / "t.model")
    for same in (load_tokenizer(tmp_path / "t.model"), pickle.loads(pickle.dumps(tokenizer))):
        assert same.fingerprint == tokenizer.fingerprint
        assert same.encode("def main():") == tokenizer.encode("def main():")


def test_training_uses_text_with_the_character_that_sentencepiece_drops_sentences_for():
    tokenizer = train_tokenizer(["characters and \u2585 in every line\n" * 50], 290)
    assert tokenizer.id("ch") is not None


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (["hello world"], 9000, "`vocab_size` 291 or less"),
        (["hello world"], 20, r"`vocab_size` \d+ or more"),
        ([], 300, "no text"),
        (["  \n"], 300, "no text"),
    ],
)
def test_impossible_vocabularies_say_what_is_possible(texts, vocab_size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts, vocab_size)


def test_the_largest_vocabulary_named_is_possible():
    with pytest.raises(UserError) as error:
        train_tokenizer(["hello world, hello word"], 9000)
    most = int(str(error.value).split("`vocab_size` ")[1].split()[0])
    assert len(train_tokenizer(["hello world, hello word"], most)) == most


def test_what_is_no_model_is_refused(tmp_path):
    for data in (b"", b"not a model at all"):
        with pytest.raises(UserError, match="not a SentencePiece model"):
            tokenizer_from_bytes(data)
    with pytest.raises(UserError, match=r"absent\.model"):
        load_tokenizer(tmp_path / "absent.model")


def test_words(tokenizer):
    """The words that the borders cut a text into, whatever its pieces are."""
    opens, closes = tokenizer.word_boundaries()
    assert opens[:9].all() and closes[:9].all()

    def words(text: str) -> list[str]:
        ids = tokenizer.encode(text)
        groups: list[list[int]] = []
        for position, id in enumerate(ids):
            if position == 0 or opens[id] or closes[ids[position - 1]]:
                groups.append([])
            groups[-1].append(id)
        return [tokenizer.decode(group) for group in groups]

    assert words("unbelievable zyzzyva42 snake_cased") == ["unbelievable", " zyzzyva42", " snake_cased"]
    assert words("孙悟空") == ["孙", "悟", "空"]
    assert words("naïve Привет") == ["naïve", " Привет"]
    assert words("hello, qqq.") == ["hello", ",", " qqq", "."]


def test_importing_needs_no_torch():
    code = "import sys, lm.tokenizer, lm.data, lm.commands.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "stories260K-hf/tokenizer.model",
        "sentencepiece-models/test_model.model",
        "sentencepiece-models/test_ja_model.model",
    ],
)
def test_brought_models_encode_and_decode_as_sentencepiece_does(sources, name):
    path = sources / name
    tokenizer = load_tokenizer(path)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (None, 0, 1, 2)
    assert tokenizer.mask_id is None
    for text in ["Once upon a time", "  Hello  world ", " 吾輩は猫である。", "a\u2581b", "", " ", "\n\n x"]:
        ids = plain.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == plain.decode(ids)
    opens, closes = tokenizer.word_boundaries()
    assert len(opens) == len(closes) == len(tokenizer.byte_lengths()) == len(tokenizer)


def test_real_texts_round_trip(sources):
    classic = (sources / "chinese-classics" / "西游记.txt").read_bytes().decode()[:200_000]
    play = (sources / "tinyshakespeare" / "input.txt").read_text()[:200_000]
    assert "\r\n" in classic
    tokenizer = train_tokenizer([classic, play], 4096)
    for text in (classic, play):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


def test_more_characters_than_pieces_are_spelt_in_bytes():
    """Chinese and a small vocabulary: the commonest characters have pieces, the round trip is exact."""
    rare = "".join(chr(0x4E00 + n) for n in range(3000))
    text = ("行者道：师父，" * 400 + "\n") * 10 + rare
    tokenizer = train_tokenizer([text], 400)
    assert tokenizer.coverage == pytest.approx(1 - 3000 / len(text), abs=5e-3)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("行者道")) == 1
    assert len(tokenizer.encode(rare[-1])) == 3
