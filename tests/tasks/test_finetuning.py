"""What all fine-tuning shares: what is taken over, what is frozen, how fast each layer learns, how a step is
cut into batches."""

import pickle

import pytest
import torch
from torch.nn import functional as F

from lm import checkpoint as checkpoints
from lm.data.examples.batches import TrainingExamples
from lm.data.examples.records import (
    ChatExample,
    Message,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)
from lm.errors import UserError
from lm.optim import Muon
from lm.tasks import (
    InstructionTuning,
    PreferenceTuning,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from lm.tasks.adapters import Adapter
from lm.tokenizer import load_tokenizer

TEXTS = [TextExample("x = parser" + ".add" * (i % 5), label="abc"[i % 3]) for i in range(9)]
TAGS = [
    TagExample(("def", f"f{i}", "return", "self")[: 2 + i % 3], ("O", "B-F", "O", "B-S")[: 2 + i % 3])
    for i in range(9)
]
QUESTIONS = [
    QuestionExample(str(i), "what is it?", f"it is a number, {i}" + " ok" * (i % 4), ((f"{i}", 16),))
    for i in range(9)
]
CHATS = [
    ChatExample((Message("user", "add" * (1 + i % 3)), Message("assistant", "the sum " * (1 + i % 4))))
    for i in range(9)
]
PAIRS = [
    PreferenceExample((Message("user", f"say {i}"),), "good " * (1 + i % 3), "bad " * (1 + i % 2))
    for i in range(9)
]
TASKS = {
    "texts": (SequenceClassification, TEXTS, "bert"),
    "tags": (TokenClassification, TAGS, "bert"),
    "questions": (QuestionAnswering, QUESTIONS, "bert"),
    "chats": (InstructionTuning, CHATS, "gpt"),
    "preferences": (PreferenceTuning, PAIRS, "gpt"),
}


def saved(task, path, **more):
    """The checkpoint of a task, as a run leaves it."""
    kind = f"{type(task).__module__}.{type(task).__qualname__}"
    made = {**checkpoints.make_record(kind, task.config, task.tokenizer), **task.record(), **more}
    state = {f"net.{name}": tensor for name, tensor in task.net.state_dict().items()}
    checkpoints.write({"lm": made, "state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    "name, backbone",
    [(name, kind) for name, (*_, only) in TASKS.items() for kind in ("bert", "gpt") if kind in ("gpt", only)],
)
def test_a_step_is_the_same_however_it_is_cut(ready, made, starts, batches, gradients, name, backbone):
    """One batch of eight, four of two, eight of one: lengths, and so what counts in the loss, differ."""
    task, examples, _ = TASKS[name]
    found = []
    for size in (8, 2, 1):
        tuned = ready(task, made(examples, batch_size=size, seq_len=24), init_from=starts[backbone])
        cut = batches(tuned, step=8)
        assert len(cut) == 8 // size
        found.append(gradients(tuned, cut))
    assert found[0][0] > 0.05
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for key, grad in found[0][1].items():
            torch.testing.assert_close(grads[key], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_processes_that_read_ahead_are_handed_no_network(ready, made, starts, name):
    """Where they are spawned, what they get is pickled."""
    task, examples, only = TASKS[name]
    tuned = ready(task, made(examples, seq_len=24), init_from=starts[only])
    tuned.unpicklable = lambda: None
    data = tuned.data
    dataset = TrainingExamples(data.features("train"), data.batch_size, 0, tuned.collate)
    ours, theirs = dataset[0, 0], pickle.loads(pickle.dumps(dataset))[0, 0]
    assert ours.keys() == theirs.keys() and torch.equal(ours["tokens"], theirs["tokens"])


@pytest.mark.parametrize("name", TASKS)
def test_data_of_another_kind_are_refused(ready, made, starts, name):
    task, _, backbone = TASKS[name]
    for other, (_, examples, _) in TASKS.items():
        if other != name:
            with pytest.raises(UserError, match=rf"{task.__name__} can't learn from Made: give `data`"):
                ready(task, made(examples), init_from=starts[backbone])


def test_data_for_pretraining_are_refused(starts, ready):
    class Other:
        seq_len, vocab_size = 16, 300

    with pytest.raises(UserError, match="needs examples"):
        ready(SequenceClassification, Other(), init_from=starts["bert"])


@pytest.mark.parametrize("name", ["chats", "preferences"])
def test_a_bert_does_not_write(ready, made, starts, name):
    with pytest.raises(UserError, match="needs a GPT"):
        ready(TASKS[name][0], made(TASKS[name][1]), init_from=starts["bert"])


def test_frozen_layers_stay_and_nothing_else_does(ready, made, starts, learn):
    for start, layers in (("bert", 1), ("bert", 2), ("gpt", 1)):
        task = ready(SequenceClassification, made(TEXTS), init_from=starts[start], freeze_layers=layers)
        before = {name: p.clone() for name, p in task.net.named_parameters()}
        learn(task, [task.collate(task.data.features("train"))])
        same = {name for name, p in task.net.named_parameters() if torch.equal(p, before[name])}
        blocks = tuple(f"backbone.blocks.{i}." for i in range(layers))
        frozen = {name for name in before if name.startswith(("backbone.embeddings.", *blocks))}
        # A key's bias moves all of a query's scores alike, which changes nothing: it has no gradient.
        assert {name for name in same if "key.bias" not in name or name in frozen} == frozen
        grouped = sum(p.numel() for group in task.parameter_groups() for p in group["params"])
        assert grouped == sum(p.numel() for name, p in before.items() if name not in frozen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze_layers": 3}, "freeze_layers is 3: it must be from 0 to 2"),
        ({"freeze_layers": -1}, "freeze_layers is -1"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0: it must be above 0, at most 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"backbone_scale": 0.0}, "backbone_scale is 0.0: it must be above 0"),
    ],
)
def test_settings_that_can_not_be(ready, made, starts, options, said):
    with pytest.raises(UserError, match=said):
        ready(SequenceClassification, made(TEXTS), init_from=starts["bert"], **options)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, Muon])
def test_each_layer_learns_more_slowly_than_the_one_above(ready, made, starts, optimizer):
    made_with = {
        torch.optim.AdamW: lambda groups: torch.optim.AdamW(groups, lr=0.1),
        Muon: lambda groups: Muon(groups, lr=0.1, adamw_lr=0.01),
    }[optimizer]
    task = ready(
        SequenceClassification, made(TEXTS), init_from=starts["bert"], layer_decay=0.5, optimizer=made_with
    )

    class Trainer:
        max_steps, precision = 10, "32-true"

    task._trainer = Trainer()
    configured = task.configure_optimizers()["optimizer"]
    names = {id(p): name for name, p in task.net.named_parameters()}
    rates = {names[id(p)]: group["initial_lr"] for group in configured.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    # Two layers: the head is at 0, the upper layer at 1, the lower at 2, the embeddings at 3.
    for name, depth in (
        ("head.weight", 0),
        ("head.bias", 0),
        ("backbone.blocks.1.attention.query.weight", 1),
        ("backbone.blocks.1.mlp_norm.bias", 1),
        ("backbone.blocks.0.attention.query.weight", 2),
        ("backbone.blocks.0.mlp.down.bias", 2),
        ("backbone.embeddings.tokens.weight", 3),
        ("backbone.embeddings.norm.weight", 3),
    ):
        matrix = "query" in name
        base = 0.1 if optimizer is torch.optim.AdamW or matrix else 0.01
        assert rates[name] == pytest.approx(base * 0.5**depth), name


def test_new_pieces_leave_the_old_ones_untouched(ready, made, make_start, sources, tmp_path, capsys):
    """A Llama's SentencePiece model and a real trained one's weights: no chat tokens."""
    task = ready(InstructionTuning, made(CHATS), init_from=sources / "stories260K-hf")
    said = capsys.readouterr().err
    assert "new tokens in the vocabulary" in said and "<|assistant|>" in said
    from lm.convert import open_model

    old = open_model(sources / "stories260K-hf")
    tokens = old.weights["backbone.embeddings.tokens.weight"]
    grown = task.net.backbone.embeddings.tokens.weight
    assert (len(tokens), len(grown)) == (512, 516) == (old.tokenizer.vocab_size, task.tokenizer.vocab_size)
    assert torch.equal(grown[:512], tokens)
    # The new ones are like the others: neither zero nor larger, and no two alike.
    lengths = tokens.norm(dim=1)
    assert (grown[512:].norm(dim=1) > lengths.min() / 2).all()
    assert (grown[512:].norm(dim=1) < lengths.max() * 2).all()
    assert torch.cdist(grown[512:], grown).fill_diagonal_(9).topk(2, largest=False).values[:, 1].min() > 0.1
    text = "Once upon a time"
    assert task.tokenizer.encode(text) == old.tokenizer.encode(text)
    with torch.no_grad():
        ids = torch.tensor([[1, *old.tokenizer.encode(text)]])
        expected = old.network(ids)
        assert torch.equal(task.net.eval()(ids)[..., :512], expected)


def test_new_pieces_can_not_be_frozen(ready, made, sources, starts, capsys):
    said = r"freeze_layers is 1: .* those of <\|system\|> .* have to be learned: leave it out"
    with pytest.raises(UserError, match=said) as caught:
        ready(InstructionTuning, made(CHATS), init_from=sources / "stories260K-hf", freeze_layers=1)
    assert caught.value.status == 2
    task = ready(InstructionTuning, made(CHATS), init_from=starts["gpt"], freeze_layers=1)
    assert not task.net.backbone.embeddings.tokens.weight.requires_grad, "nothing is new there"
    ready(
        InstructionTuning,
        made(CHATS),
        init_from=sources / "stories260K-hf",
        freeze_layers=1,
        adapter=Adapter(rank=2),
    )
    assert "which an adapter uses as they begin" in capsys.readouterr().err


def test_the_vocabulary_of_a_run_that_goes_on(ready, made, sources, tmp_path):
    """The shape is known before any data are read: what a run goes on from is compared with it."""
    task = ready(InstructionTuning, made(CHATS), init_from=sources / "stories260K-hf")
    record = checkpoints.read_record(checkpoints.read(saved(task, tmp_path / "a.ckpt")), "a.ckpt")
    again = InstructionTuning(
        task.config.__class__(max_seq_len=32), init_from=str(sources / "stories260K-hf")
    )
    assert again.config == checkpoints.config_of(record)
    again.prepare(made(CHATS), record)
    assert again.tokenizer.fingerprint == task.tokenizer.fingerprint
    old, new = task.net.state_dict(), again.net.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_more_positions_than_were_learned_are_said(ready, made, starts, capsys):
    from lm.convert import open_model

    task = ready(SequenceClassification, made(TEXTS, seq_len=80), init_from=starts["bert"])
    assert "has learned 32 positions: those up to 80 begin as copies" in capsys.readouterr().err
    known = open_model(starts["bert"]).weights["backbone.embeddings.positions.weight"]
    found = task.net.backbone.embeddings.positions.weight
    assert torch.equal(found, torch.cat((known, known, known[:16])))
    fewer = ready(SequenceClassification, made(TEXTS, seq_len=20), init_from=starts["bert"])
    assert torch.equal(fewer.net.backbone.embeddings.positions.weight, known[:20])
    assert "positions" not in capsys.readouterr().err


def test_a_head_for_other_labels_is_new(ready, made, starts, tmp_path, capsys):
    """Also where there are as many of them; the same labels go on with the head that there is."""
    first = ready(SequenceClassification, made(TEXTS), init_from=starts["bert"])
    torch.nn.init.normal_(first.net.head.weight)
    path = saved(first, tmp_path / "first.ckpt")
    capsys.readouterr()
    for labels, same in (("ab", False), ("xyz", False), ("abc", True)):
        texts = [TextExample(e.text, label=labels[i % len(labels)]) for i, e in enumerate(TEXTS)]
        task = ready(SequenceClassification, made(texts), init_from=path)
        assert ("new: head" in capsys.readouterr().err) is not same
        assert task.net.head.out_features == len(labels)
        if len(labels) == 3:
            assert torch.equal(task.net.head.weight, first.net.head.weight) is same
        body = task.net.backbone.state_dict()
        assert all(torch.equal(body[k], v) for k, v in first.net.backbone.state_dict().items())
    tags = ready(
        TokenClassification, made([TagExample(("x", "y", "z"), ("a", "b", "c"))] * 4), init_from=path
    )
    assert not torch.equal(tags.net.head.weight, first.net.head.weight), "another kind of head"


def test_a_classifier_s_head_is_no_language_model_s(ready, made, make_start, tokenizer, tmp_path, capsys):
    start = make_start(tmp_path / "gpt.ckpt", "gpt", tokenizer, tie_embeddings=False)
    path = saved(ready(SequenceClassification, made(TEXTS), init_from=start), tmp_path / "first.ckpt")
    capsys.readouterr()
    task = ready(InstructionTuning, made(CHATS), init_from=path)
    assert "new: head" in capsys.readouterr().err
    spread = task.net.head.weight.std().item()
    assert spread == pytest.approx(task.config.init_std, rel=0.1), "drawn, not a classifier's rows and more"


def test_from_nothing_a_tokenizer_is_learned_from_the_training_examples(ready, made):
    texts = [TextExample(f"zebra {i} crosses, zebra {i * 37} waits", label="ab"[i % 2]) for i in range(200)]
    task = ready(SequenceClassification, made(texts, vocab_size=300))
    assert task.tokenizer.vocab_size == task.config.vocab_size == 300
    assert len(task.tokenizer.encode("zebra")) <= 2
    assert task.net.backbone.embeddings.tokens.num_embeddings == 300


def test_a_tokenizer_of_one_s_own_that_lacks_chat_pieces(ready, made, sources):
    model = sources / "stories260K-hf/tokenizer.model"
    data = made(CHATS, tokenizer=str(model))
    assert data.vocab_size == 512
    task = ready(InstructionTuning, data)
    assert task.config.vocab_size == task.tokenizer.vocab_size == 516
    assert task.tokenizer.encode("a text") == load_tokenizer(model).encode("a text")


def test_dropout_is_the_starting_point_s_unless_given(ready, made, make_start, tokenizer, tmp_path):
    start = make_start(tmp_path / "start.ckpt", "bert", tokenizer, dropout=0.25)
    assert ready(SequenceClassification, made(TEXTS), init_from=start).net.dropout.p == 0.25
    task = ready(SequenceClassification, made(TEXTS), init_from=start, dropout=0.5)
    assert {m.p for m in task.net.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}


def test_class_weights_are_there_again_when_a_run_goes_on(ready, made, starts, tmp_path):
    texts = [TextExample("x", label="a")] * 6 + [TextExample("y", label="b")] * 2
    options = {"init_from": starts["bert"], "class_weights": "balanced", "label_smoothing": 0.1}
    task = ready(SequenceClassification, made(texts), **options)
    record = checkpoints.read_record(checkpoints.read(saved(task, tmp_path / "a.ckpt")), "a.ckpt")
    again = ready(SequenceClassification, made(texts), record=record, **options)
    for one in (task, again):
        logits = torch.tensor([[0.3, -0.2], [1.0, 0.5]])
        target = torch.tensor([0, 1])
        expected = F.cross_entropy(
            logits, target, weight=torch.tensor([8 / 12, 8 / 4]), label_smoothing=0.1, reduction="none"
        )
        torch.testing.assert_close(one.losses(logits, target, training=True), expected)
        torch.testing.assert_close(
            one.losses(logits, target, training=False), F.cross_entropy(logits, target, reduction="none")
        )


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_loaded_from_its_checkpoint_alone(ready, made, starts, tmp_path, name):
    task, examples, backbone = TASKS[name]
    tuned = ready(task, made(examples), init_from=starts[backbone])
    loaded = task.load(saved(tuned, tmp_path / "best.ckpt"))
    assert loaded.labels == tuned.labels and loaded.config == tuned.config
    assert not loaded.training
    tokens = torch.tensor([tuned.tokenizer.encode("def parse(self):")])
    with torch.no_grad():
        assert torch.equal(loaded.net(tokens), tuned.net.eval()(tokens))
