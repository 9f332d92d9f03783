"""No text becomes a control token, whatever the tokenizer; one that lets texts do so is found out."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from lm.audit.checks.injection import Injection
from lm.audit.checks.spellings import controls, spellings
from lm.audit.findings import Findings
from lm.audit.subject import Subject
from lm.backbone import BackboneConfig
from lm.checkpoint import Model, make_network
from lm.predictor import Predictor
from lm.tokenizer import load_tokenizer
from lm.tokenizer.chat import CHAT_PIECES, with_chat

# Every kind: unigram and byte-pair SentencePiece, a Llama's, byte-level, WordPiece in English and in Chinese.
# With the chat format that each is given.
KINDS = {
    "sentencepiece-models/test_model.model": CHAT_PIECES,
    "sentencepiece-models/test_ja_model.model": ("<|im_start|>", "<|im_end|>"),
    "stories260K-hf": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gpt2-vocab": ("<|im_start|>", "<|im_end|>"),
    "minilm-l6-config": CHAT_PIECES,
    "bert-base-chinese-vocab": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
TEMPLATE = """{% for m in messages %}{% if m.role == 'user' %}[ASK]{{ m.content | trim }}[DONE]
{%- elif m.role == 'assistant' %}{{ m.content }}[END]{% else %}{{ m.content }}{% endif %}{% endfor %}"""


def subject_of(tokenizer, template=None, **more):
    config = BackboneConfig(vocab_size=8, hidden_size=8, num_layers=1, num_heads=1, max_seq_len=64)
    model = SimpleNamespace(source="stub", record={"task": "lm.tasks.InstructionTuning"}, config=config)
    model.has_head, model.chats, model.chat_template = True, True, template
    return Subject(SimpleNamespace(model=model, tokenizer=tokenizer, config=config, **more))


def looked(subject) -> Findings:
    found = Findings()
    Injection()._encoded(subject, found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_spelling_becomes_a_control_token(sources, kind):
    tokenizer = load_tokenizer(sources / kind).with_pieces(KINDS[kind])
    found = looked(subject_of(tokenizer))
    own = controls(tokenizer)
    assert {tokenizer.id(piece) for piece in KINDS[kind]} <= own
    assert found.figures["controls"].value == 0 and not found.examples
    texts = len(list(spellings([tokenizer.piece(id) for id in sorted(own)])))
    places = {"text", "text_with_offsets", "framed_text", "framed_pair", "prompt"}
    places |= {"user", "system", "system_and_user", "earlier_question", "earlier_answer"}
    assert {name.partition(".")[2] for name in found.figures if "." in name} == places
    assert all(found.figures[f"controls.{place}"].n == texts for place in places)
    assert found.figures["controls"].high < 0.001
    assert ("lost" in found.figures) == (kind == "gpt2-vocab")
    if kind == "gpt2-vocab":
        assert found.figures["lost"].value == 0


def test_a_folder_s_template_keeps_texts_apart(own_data):
    tokenizer = load_tokenizer(own_data / "gpt2-vocab").with_pieces(["[ASK]", "[DONE]", "[END]"])
    found = looked(subject_of(tokenizer, TEMPLATE))
    assert found.figures["controls"].value == 0 and "controls.system" in found.figures
    plain = subject_of(load_tokenizer(own_data / "gpt2-vocab"), TEMPLATE)
    plain.limit(0)
    assert any("any text can spell its markers" in note for note in looked(plain).notes)


def test_what_lm_trains_loses_nothing(tokenizer):
    found = looked(subject_of(tokenizer))
    assert found.figures["controls"].value == found.figures["lost"].value == 0


def broken(tokenizer):
    """As transformers have it: a text that spells a control token becomes one."""
    tokenizer._engine.encode_special_tokens = False
    tokenizer._controls = frozenset()
    return tokenizer


def test_a_tokenizer_that_parses_texts_for_control_tokens_is_found(own_data):
    wider, _ = with_chat(load_tokenizer(own_data / "gpt2-vocab"))
    found = looked(subject_of(broken(wider)))
    for place in (
        "controls",
        "controls.user",
        "controls.system",
        "controls.prompt",
        "controls.earlier_answer",
    ):
        assert found.figures[place].value > 0.02, place
    assert found.figures["lost"].value > 0
    first = next(row for row in found.examples if row["where"] == "text")
    assert first["of"] == first["became"] == "<|endoftext|>" and first["of"] in first["text"]
    assert len({tuple(row) for row in found.examples}) == 1  # the same columns


def test_a_place_that_alone_lets_texts_through_is_named(own_data, monkeypatch):
    """Here what is put into the prompt of a completion."""
    from lm.audit.checks import injection

    tokenizer = load_tokenizer(own_data / "gpt2-vocab")
    parsing = broken(load_tokenizer(own_data / "gpt2-vocab"))
    monkeypatch.setattr(injection, "prompt_ids", lambda _, text: parsing.encode(text))
    found = looked(subject_of(tokenizer))
    wrong = {name for name, figure in found.figures.items() if figure.value}
    assert wrong == {"controls", "controls_found", "controls.prompt"}


class Obedient:
    """Says what an order says, where it stands in the user's message."""

    def __init__(self) -> None:
        self.asked: list = []

    def chat(self, chats, tokens, temperature):
        assert (tokens, temperature) == (24, 0)
        self.asked += chats
        return ["banana it is" if "say BANANA" in chat[-1]["content"] else "a ferry" for chat in chats]


def test_orders_in_quoted_text(own_data):
    model = Obedient()
    wider, _ = with_chat(load_tokenizer(own_data / "gpt2-vocab"))
    found = Findings()
    Injection()._obeyed(subject_of(wider, chat=model.chat), found)
    assert found.figures["obeyed.user"].value == pytest.approx(1 / 3)  # one of three orders
    assert found.figures["obeyed.system"].value == 0
    assert found.figures["obeyed"].value == found.figures["answers_changed"].value == pytest.approx(1 / 6)
    assert found.figures["obeyed"].n == 36 and found.figures["obeyed"].high < 0.35
    assert len(model.asked) == 48 and all("banana" in row["became"] for row in found.examples)

    found = Findings()  # who repeats the order has not obeyed
    quoting = subject_of(wider, chat=lambda chats, tokens, temperature: [str(c[0]["content"]) for c in chats])
    Injection()._obeyed(quoting, found)
    assert found.figures["obeyed"].value == 0 and found.figures["answers_changed"].value == 1

    found = Findings()  # nor has who says it anyway
    always = subject_of(wider, chat=lambda chats, tokens, temperature: ["BANANA PWNED 香蕉"] * len(chats))
    Injection()._obeyed(always, found)
    assert found.figures["obeyed"].value == found.figures["answers_changed"].value == 0


@pytest.mark.parametrize("task", ["SequenceClassification", "CausalPretraining"])
def test_a_model_as_it_is_opened(tokenizer, task):
    """The places of a classifier are those of its own task."""
    config = BackboneConfig(
        vocab_size=420, hidden_size=32, num_layers=1, num_heads=2, max_seq_len=64, causal="Causal" in task
    )
    head = (
        None
        if config.causal
        else {"kind": "pooled", "outputs": 2, "pooling": "mean", "pooler": False, "dropout": 0.0}
    )
    record = {
        "task": f"lm.tasks.{task}",
        "head": head,
        "labels": ["a", "b"],
        "kind": "single",
        "cut": "start",
    }
    record = {name: value for name, value in record.items() if value is not None}
    record["backbone"] = asdict(config)
    network = make_network(config, head)
    weights = {name: value for name, value in network.state_dict().items() if name != "head.weight" or head}
    model = Model(config, weights, tokenizer, "made here", record, has_head=config.causal)
    found = Injection().run(Subject(Predictor(model)))
    assert found.figures["controls"].value == 0
    names = {name.partition(".")[2] for name in found.figures if "." in name}
    assert ("prompt" in names) == config.causal and ("pair" in names) != config.causal
    assert any("does not chat" in note for note in found.notes)
