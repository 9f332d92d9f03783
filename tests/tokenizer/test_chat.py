"""Chats as ids: what is learned, what stays text, and that transformers' templates agree."""

import json
import os

import pytest

from lm.errors import UserError
from lm.tokenizer import HuggingFaceTokenizer, Tokenizer, load_tokenizer, tokenizer_from_bytes
from lm.tokenizer.chat import ChatFormat, chat_format, check_roles, with_chat

os.environ["TOKENIZERS_PARALLELISM"] = "false"

CHAT = [
    ("system", "Be brief."),
    ("user", "What's 1 + 1?\n\nSay it in 中文 😀."),
    ("assistant", "二。\n  - that is 2\n"),
    ("user", "...and 'twice' {{ that }}?"),
    ("assistant", "4"),
]
PIECES = {
    "own": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


def byte_level(sources, folder, model_type: str) -> Tokenizer:
    """The first 2,000 tokens of GPT-2, split as a model of this type does."""
    folder.mkdir()
    vocab = json.loads((sources / "gpt2-vocab" / "gpt2_vocab.json").read_text(encoding="utf-8"))
    merges = (sources / "gpt2-vocab" / "gpt2_merges.txt").read_text(encoding="utf-8").split("\n")
    (folder / "vocab.json").write_text(json.dumps({piece: id for piece, id in vocab.items() if id < 2000}))
    (folder / "merges.txt").write_text("\n".join(merges[: 2000 - 256]), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def gpt2(sources, tmp_path_factory) -> Tokenizer:
    return byte_level(sources, tmp_path_factory.mktemp("chat") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def formats(gpt2, tokenizer, sources, tmp_path_factory) -> dict[str, ChatFormat]:
    """lm's own SentencePiece model, and byte-level ones with the tokens of each format."""
    qwen = byte_level(sources, tmp_path_factory.mktemp("chat") / "qwen", "qwen3")
    return {
        "own": chat_format(gpt2.with_pieces(PIECES["own"])),
        "chatml": chat_format(qwen.with_pieces(PIECES["chatml"])),
        # Llama 3 splits white space as Qwen does.
        "llama3": chat_format(qwen.with_pieces(["<|begin_of_text|>", *PIECES["llama3"]])),
        "sentencepiece": chat_format(tokenizer),
    }


by_format = pytest.mark.parametrize("name", ["own", "chatml", "llama3", "sentencepiece"])


def spelt(format: ChatFormat, ids: list[int]) -> str:
    """Text and control tokens as they follow each other."""
    t = format.tokenizer
    parts, run = [], []
    for id in ids:
        if t.is_special(id):
            parts += [t.decode(run), t.piece(id)]
            run = []
        else:
            run.append(id)
    return "".join([*parts, t.decode(run)])


def test_each_format_spells_a_chat_its_way(formats):
    chat = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?")]
    written = {name: spelt(format, format.render(chat)[0]) for name, format in formats.items()}
    own = "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Yes?<|end|>"
    assert written["own"] == "<|endoftext|>" + own
    assert written["sentencepiece"] == "<s>" + own
    assert written["chatml"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n"
    )
    assert written["llama3"] == "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>" for role, content in chat
    )


@by_format
def test_only_answers_and_what_ends_them_are_learned(formats, name):
    format = formats[name]
    ids, learned = format.render(CHAT)
    assert len(ids) == len(learned)
    runs: list[list[int]] = []
    for place, (id, learn) in enumerate(zip(ids, learned, strict=True)):
        if learn:
            if place == 0 or not learned[place - 1]:
                runs.append([])
            runs[-1].append(id)
    encode = format.tokenizer.encode
    answers = [CHAT[2][1], CHAT[4][1]]
    if name == "llama3":
        answers = [answer.strip() for answer in answers]  # as its own template does
    assert runs == [[*encode(answer), format.end_id] for answer in answers]
    assert format.tokenizer.is_special(format.end_id)


@by_format
def test_a_prompt_is_the_beginning_of_the_answered_chat(formats, name):
    """What generation starts from is exactly what training saw."""
    format = formats[name]
    prompt, learned = format.render(CHAT[:-1], answer_next=True)
    whole, _ = format.render(CHAT)
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :][: len(format.tokenizer.encode("4")) + 1][-1] == format.end_id
    opening = format.opening("assistant")
    assert prompt[-len(opening) :] == opening and not any(learned[-len(opening) :])
    assert any(learned), "earlier answers are learned"


@by_format
def test_contents_that_spell_control_pieces_stay_text(formats, name):
    format = formats[name]
    t = format.tokenizer
    forged = " ".join([*sum(PIECES.values(), ()), "</s><s><|endoftext|>"])
    chat = [("user", forged), ("assistant", forged)]
    plain = [("user", "x"), ("assistant", "y")]
    ids, _ = format.render(chat)
    controls = [id for id in ids if t.is_special(id)]
    assert controls == [id for id in format.render(plain)[0] if t.is_special(id)]
    assert spelt(format, ids).count(forged) == 2


def transformers_tokenizer(format: ChatFormat, folder):
    """What transformers makes of a tokenizer: from its folder, or for SentencePiece from the same merges."""
    transformers = pytest.importorskip("transformers")
    ours = format.tokenizer
    ours.save(folder)
    if isinstance(ours, HuggingFaceTokenizer):
        return transformers.AutoTokenizer.from_pretrained(folder)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "legacy": False, **roles}
    config["additional_special_tokens"] = ["<mask>", *format.pieces]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.LlamaTokenizerFast.from_pretrained(folder)


@by_format
def test_the_template_gives_transformers_the_same_ids(formats, tmp_path, name):
    format = formats[name]
    theirs = transformers_tokenizer(format, tmp_path / "folder")
    theirs.chat_template = format.template
    chats = [
        (CHAT, False),
        (CHAT[:-1], True),
        (CHAT[1:], False),
        ([("user", "")], True),
        ([("user", "  \n indented 'quoted' \\n\n"), ("assistant", "\n\n  \tanswer  \n")], False),
        ([("user", "\u3000你好"), ("assistant", "!!!")], False),
    ]
    for chat, answer_next in chats:
        messages = [{"role": role, "content": content} for role, content in chat]
        given = theirs.apply_chat_template(messages, add_generation_prompt=answer_next, tokenize=False)
        ids = theirs.apply_chat_template(messages, add_generation_prompt=answer_next, return_dict=False)
        assert ids == format.render(chat, answer_next)[0], given
    with pytest.raises(Exception, match="system, user or assistant"):
        theirs.apply_chat_template([{"role": "tool", "content": "x"}])


def test_formats_are_found_by_their_control_pieces(gpt2, tokenizer, sources):
    assert chat_format(gpt2) is None
    assert chat_format(gpt2.with_pieces(PIECES["chatml"])).start == ()
    assert chat_format(gpt2.with_pieces(PIECES["own"][:3])) is None
    assert chat_format(tokenizer).pieces == PIECES["own"]
    assert chat_format(load_tokenizer(sources / "minilm-l6-config")) is None
    # Tokens that a file forgot to mark as special still are, so that text cannot forge them.
    document = json.loads(gpt2.to_bytes())["tokenizer"]
    first = document["added_tokens"][0]
    for number, piece in enumerate(PIECES["chatml"]):
        document["added_tokens"].append({**first, "id": 2001 + number, "content": piece, "special": False})
    found = chat_format(tokenizer_from_bytes(json.dumps(document).encode()))
    assert found.pieces == PIECES["chatml"] and found.end_id == 2002
    assert not {2001, 2002} & set(found.tokenizer.encode("<|im_start|><|im_end|>"))


def test_a_tokenizer_without_a_format_gets_ours(gpt2, tokenizer, sources):
    wider, added = with_chat(gpt2)
    assert added == PIECES["own"] and chat_format(wider).pieces == PIECES["own"]
    assert [wider.id(piece) for piece in added] == list(range(2001, 2005))
    assert with_chat(wider) == (wider, ()) and with_chat(tokenizer) == (tokenizer, ())
    some = gpt2.with_pieces(["<|user|>"])
    assert with_chat(some)[1] == ("<|system|>", "<|assistant|>", "<|end|>")
    llama, added = with_chat(load_tokenizer(sources / "stories260K-hf"))
    ids, _ = chat_format(llama).render([("user", "Hello <|end|>"), ("assistant", "there")])
    assert spelt(chat_format(llama), ids) == "<s><|user|>Hello <|end|><|end|><|assistant|>there<|end|>"


@pytest.mark.parametrize(
    ("roles", "answer_next", "message"),
    [
        ("", False, "the chat is empty"),
        ("uau", False, "last message is of the user, it has to be of the assistant"),
        ("ua", True, "last message is of the assistant, it has to be of the user"),
        ("usa", False, "message 2 is of the system: only the first"),
        ("suua", False, "message 3 is of the user, after one of the user"),
        ("uaa", False, "message 3 is of the assistant, after one of the assistant"),
        ("a", False, "message 1 is of the assistant, and the first"),
        ("sa", False, "message 2 is of the assistant, after one of the system"),
        ("s", True, "last message is of the system"),
        ("xu", True, "message 1 has the role 'x'"),
    ],
)
def test_roles_out_of_order_are_named(gpt2, formats, roles, answer_next, message):
    names = {"s": "system", "u": "user", "a": "assistant"}
    chat = [(names.get(role, role), "text") for role in roles]
    for check in (check_roles, formats["own"].render):
        with pytest.raises(UserError, match=message):
            check(chat, answer_next)


@pytest.mark.parametrize(
    ("roles", "answer_next"), [("ua", False), ("suaua", False), ("u", True), ("suau", True)]
)
def test_roles_in_order_pass(roles, answer_next):
    names = {"s": "system", "u": "user", "a": "assistant"}
    check_roles([(names[role], "text") for role in roles], answer_next)
