"""What AutoTokenizer makes of an exported tokenizer: our ids, exactly."""

import inspect
import json
import random
from pathlib import Path

import pytest

from lm.backbone import BackboneConfig
from lm.convert.tokenizer_files import read_tokenizer, write_tokenizer
from lm.errors import UserError
from lm.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_bytes, train_tokenizer
from lm.tokenizer.chat import chat_format

transformers = pytest.importorskip("transformers")
GPT, BERT = BackboneConfig(max_seq_len=1 << 20), BackboneConfig(causal=False, segments=2, max_seq_len=1 << 20)

ODD = (
    *("", " ", "  ", "a", " a", "a ", "\n", "\n\n  \t x", "a\u2581b", "\u2581", "\u0000", "\ufffd", "\u200b"),
    *("e\u0301", "👩‍👩‍👧", "ﬁne ①", "\u3000全角　空格", "<0x41>", "< s>", "<|end |>"),
)


def ids_there(folder: Path, text: str) -> list[int]:
    there = transformers.AutoTokenizer.from_pretrained(folder)
    return there(text, add_special_tokens=False).input_ids


def write(tokenizer: Tokenizer, folder: Path, config: BackboneConfig = GPT):
    folder.mkdir(exist_ok=True)
    write_tokenizer(tokenizer, folder, config, writes=config.causal)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts(sources) -> dict[str, str]:
    """English, Chinese and code, 60,000 characters each."""
    import argparse

    chinese = min((sources / "chinese-classics").rglob("*.txt")).read_bytes().decode("utf-8-sig")
    return {
        "English": (sources / "tinyshakespeare/input.txt").read_text()[:60_000],
        "Chinese": chinese[:60_000],
        "code": inspect.getsource(argparse)[:60_000],
    }


@pytest.fixture(scope="module")
def trilingual(texts) -> Tokenizer:
    return train_tokenizer(texts.values(), 3000)


def test_our_ids_on_real_text(trilingual, texts, tmp_path):
    there = write(trilingual, tmp_path)
    for text in texts.values():
        ids = there(text, add_special_tokens=False).input_ids
        assert ids == trilingual.encode(text)
        assert there.decode(ids) == text


def test_our_ids_on_odd_text(tokenizer, tmp_path):
    there = write(tokenizer, tmp_path)
    draw = random.Random(0)
    alphabet = [*"  ab\n\t.", "\u2581", "é", "中", "😀", "\u0000", "<", "s", ">"]
    texts = [*ODD, *("".join(draw.choices(alphabet, k=draw.randrange(30))) for _ in range(300))]
    for text in texts:
        ids = there(text, add_special_tokens=False).input_ids
        if "<s>" not in text:
            assert ids == tokenizer.encode(text), repr(text)
            assert there.decode(ids) == text


def test_framed_as_the_model_knows_text(tokenizer, tmp_path):
    a, b = tokenizer.encode("def f"), tokenizer.encode("(x)")
    there = write(tokenizer, tmp_path / "gpt")
    assert there("def f").input_ids == [tokenizer.bos_id, *a]
    assert there.padding_side == "left" and there.pad_token_id == tokenizer.pad_id
    there = write(tokenizer, tmp_path / "bert", BERT)
    assert there("def f").input_ids == tokenizer.frame(a)[0]
    pair = there("def f", "(x)")
    assert (pair.input_ids, pair.token_type_ids) == tokenizer.frame(a, b)
    assert there.mask_token_id == tokenizer.mask_id and there.cls_token_id == tokenizer.bos_id


def test_chats(tokenizer, tmp_path):
    there = write(tokenizer, tmp_path)
    chat = [("system", "Be brief."), ("user", "Hi  there\n"), ("assistant", "Yes"), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in chat]
    made = there.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert made == chat_format(tokenizer).render(chat, answer_next=True)[0]
    assert write(tokenizer, tmp_path / "bert", BERT).chat_template is None


def test_read_back_as_it_was(tokenizer, tmp_path):
    write(tokenizer, tmp_path)
    assert read_tokenizer(tmp_path).to_bytes() == tokenizer.to_bytes()
    # Changed by somebody else, tokenizer.json is what counts.
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["added_tokens"][-1]["special"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(document, indent=1))
    again = read_tokenizer(tmp_path)
    assert again.to_bytes() != tokenizer.to_bytes()
    assert again.encode("def f(x): pass") == tokenizer.encode("def f(x): pass")


def test_pieces_added_later(tokenizer, tmp_path):
    wider = tokenizer.with_pieces(["<|tool|>"])
    there = write(wider, tmp_path)
    assert there.convert_tokens_to_ids("<|tool|>") == wider.id("<|tool|>") == tokenizer.vocab_size
    assert ids_there(tmp_path, "def <|tool|>")[-1] == wider.id("<|tool|>")


@pytest.mark.parametrize(
    "name",
    [
        "stories260K-hf/tokenizer.model",
        "sentencepiece-models/test_model.model",
        "sentencepiece-models/test_ja_model.model",
    ],
)
def test_sentencepiece_models_brought_along(name, sources, texts, tmp_path):
    """Byte-pair and unigram, with a space in front, normalised, spaces joined."""
    tokenizer = load_tokenizer(sources / name)
    there = write(tokenizer, tmp_path)
    ends = ("  two  spaces ", "\n lines\n  ", " \n", "\u3000wide\xa0", "a \u2581")
    for text in (*texts.values(), "ﬁne ①", *ends):
        assert there(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    assert read_tokenizer(tmp_path).to_bytes() == tokenizer.to_bytes()


def test_a_word_model_is_refused(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 10),
        model_writer=model,
        model_type="word",
        vocab_size=8,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="neither byte-pair nor unigram"):
        write(tokenizer_from_bytes(model.getvalue()), tmp_path)


def test_wordpiece_goes_back_as_it_came(tmp_path, minilm):
    tokenizer = load_tokenizer(minilm)
    there = write(tokenizer, tmp_path, BERT)
    before = transformers.AutoTokenizer.from_pretrained(minilm)
    for text in ("Héllo, WORLD!! 3.14 of naïve 中文", "unbelievably[MASK]"):
        assert there(text).input_ids == before(text).input_ids
    pair = there("one", "two")
    assert (pair.input_ids, pair.token_type_ids) == tokenizer.frame(
        tokenizer.encode("one"), tokenizer.encode("two")
    )
    assert read_tokenizer(tmp_path).encode("unbelievably") == tokenizer.encode("unbelievably")


def test_byte_level_bpe_goes_back_as_it_came(sources, texts, tmp_path):
    tokenizer = load_tokenizer(sources / "gpt2-vocab")
    there = write(tokenizer, tmp_path)
    for text in (*texts.values(), *ODD):
        ids = there(text[:20_000], add_special_tokens=False).input_ids
        assert ids == tokenizer.encode(text[:20_000])
    assert there.eos_token_id == tokenizer.id("<|endoftext|>") == len(tokenizer) - 1
    assert read_tokenizer(tmp_path).encode("naïve  text") == tokenizer.encode("naïve  text")
