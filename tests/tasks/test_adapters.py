"""Adapters: nothing changes at the start, little is trained, and merged they are the same model."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lm import checkpoint as checkpoints
from lm.backbone.lowrank import is_adapter, merge
from lm.convert import open_model
from lm.data.examples.records import ChatExample, Message, TextExample
from lm.errors import UserError
from lm.tasks import InstructionTuning, SequenceClassification
from lm.tasks.adapters import Adapter
from lm.tokenizer import load_tokenizer

pytest.importorskip("peft")

TEXTS = [TextExample(f"def f{i}(self): return {i * 7} in parser", label="ab"[i % 2]) for i in range(8)]
CHATS = [
    ChatExample((Message("user", f"what is {i} + 1?"), Message("assistant", f"it is {i + 1}.")))
    for i in range(8)
]
CASES = {"bert": (SequenceClassification, TEXTS), "gpt": (InstructionTuning, CHATS)}


@pytest.fixture(params=["lora", "dora"])
def adapter(request) -> Adapter:
    return Adapter(kind=request.param, rank=4, alpha=8.0)


@pytest.fixture
def adapted(ready, made, starts):
    """A task with an adapter, on a GPT or a BERT."""

    def make(kind: str, adapter: Adapter, start: Path | None = None, examples=None, seq_len=32, **options):
        task, own = CASES[kind]
        data = made(examples or own, seq_len=seq_len)
        return ready(task, data, init_from=start or starts[kind], adapter=adapter, **options)

    return make


def outputs(net: torch.nn.Module, task) -> torch.Tensor:
    batch = task.collate(task.data.features("train")[:4])
    with torch.no_grad():
        return net(batch["tokens"], batch["documents"], segments=batch.get("segments"))


def plain(task) -> torch.nn.Module:
    """The task's network with its adapter merged."""
    net = checkpoints.make_network(task.config, task.head())
    net.load_weights(merge(dict(task.net.state_dict()), task.record()["adapter"]))
    return net.eval()


def write_beside(task, folder: Path) -> Path:
    """adapter.ckpt, as at the end of a validation."""
    task._trainer = SimpleNamespace(is_global_zero=True, callback_metrics={})
    task.save_beside(folder)
    return folder / "adapter.ckpt"


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_at_the_start_the_outputs_are_the_base_s(adapted, ready, made, starts, adapter, kind):
    task = adapted(kind, adapter)
    base = ready(type(task), made(task.data.examples("train")), init_from=starts[kind])
    if kind == "bert":  # the new head is drawn, in one and in the other
        base.net.head.load_state_dict(task.net.head.state_dict())
    found, expected = outputs(task.net.eval(), task), outputs(base.net.eval(), task)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_merged_equals_unmerged_after_training(adapted, adapter, learn, kind, tmp_path):
    task = adapted(kind, adapter)
    before = outputs(task.net.eval(), task)
    learn(task, [task.collate(task.data.features("train"))], count=5)
    after = outputs(task.net, task)
    assert (after - before).abs().max() > 1e-3, "nothing was learned"
    merged = plain(task).double()  # in double precision the two differ by what merging rounds, no more
    assert (outputs(merged, task) - outputs(task.net.double(), task)).abs().max() <= 1e-5
    made = checkpoints.make_record("lm.tasks.any", task.config, task.tokenizer)
    state = {f"net.{name}": tensor for name, tensor in task.net.state_dict().items()}
    checkpoints.write({"lm": {**made, **task.record()}, "state_dict": state}, tmp_path / "best.ckpt")
    loaded = checkpoints.open_checkpoint(tmp_path / "best.ckpt")
    assert not [name for name, _ in loaded.network.named_parameters() if is_adapter(name)]
    assert (outputs(loaded.network, task) - after).abs().max() <= 1e-5


def test_only_the_adapter_and_the_new_head_are_trained(adapted, adapter):
    task = adapted("bert", adapter)
    trained = {name for name, p in task.net.named_parameters() if p.requires_grad}
    assert {n for n in trained if not is_adapter(n)} == {"head.weight", "head.bias"}
    # query, key, value and output of the attention, up and down of the feed-forward network, in two blocks
    assert sum("lora_A" in n for n in trained) == 2 * 6
    assert all(is_adapter(n) for n, p in adapted("gpt", adapter).net.named_parameters() if p.requires_grad)


def test_layers_are_chosen_and_frozen_ones_get_none(adapted):
    task = adapted("bert", Adapter(layers=("query", "value")), freeze_layers=1)
    names = {name.partition(".lora_")[0] for name, _ in task.net.named_parameters() if is_adapter(name)}
    assert names == {f"backbone.blocks.1.attention.{layer}" for layer in ("query", "value")}
    with pytest.raises(UserError, match="no layer is left"):
        adapted("bert", Adapter(layers=("gate",)))


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"layers": ("querry",)}, {"layers": ()}])
def test_settings_that_can_not_be(options):
    with pytest.raises(UserError, match=rf"adapter\.{next(iter(options))}"):
        Adapter(**options)


def test_an_adapter_needs_a_model(ready, made):
    with pytest.raises(UserError, match=r"`model\.init_from`"):
        ready(SequenceClassification, made(TEXTS, vocab_size=300), adapter=Adapter())


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_the_file_beside_the_base_is_the_model(adapted, adapter, learn, kind, tmp_path, starts):
    """Also with a longer window than the base has positions, and through another path to the same base."""
    task = adapted(kind, adapter, seq_len=40)
    learn(task, [task.collate(task.data.features("train"))])
    path = write_beside(task, tmp_path)
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(starts[kind].read_bytes())
    for base in (None, moved):
        loaded = open_model(path, base=base)
        assert (outputs(loaded.network, task) - outputs(task.net, task)).abs().max() <= 1e-5
        assert loaded.tokenizer.fingerprint == task.tokenizer.fingerprint
        assert loaded.network.config.max_seq_len == 40
        assert loaded.record["labels"] == task.labels and "base" not in loaded.record
    content = torch.load(path, weights_only=True)
    assert "processor" not in content["lm"], "the base has it"
    assert not any("base_layer" in name for name in content["state_dict"])


def test_pieces_that_the_base_lacks_come_with_the_adapter(adapted, learn, make_start, tmp_path, sources):
    """A Llama's SentencePiece model has no chat tokens."""
    tokenizer = load_tokenizer(sources / "stories260K-hf/tokenizer.model")
    start = make_start(tmp_path / "start.ckpt", "gpt", tokenizer, tie_embeddings=False)
    task = adapted("gpt", Adapter(), start)
    learn(task, [task.collate(task.data.features("train"))])
    loaded = open_model(write_beside(task, tmp_path))
    assert loaded.tokenizer.vocab_size == tokenizer.vocab_size + 4
    assert outputs(loaded.network, task).shape[-1] == tokenizer.vocab_size + 4
    assert (outputs(loaded.network, task) - outputs(task.net, task)).abs().max() <= 1e-5


def test_what_does_not_belong_together_is_refused(adapted, make_start, tokenizer, tmp_path, starts):
    start = make_start(tmp_path / "start.ckpt", "bert", tokenizer)
    task = adapted("bert", Adapter(rank=2), start)
    path = write_beside(task, tmp_path)
    other = make_start(tmp_path / "other.ckpt", "bert", tokenizer, seed=1)
    with pytest.raises(UserError, match=rf"adapter.ckpt is for another model than .*other.ckpt.*{start}"):
        open_model(path, base=other)
    with pytest.raises(UserError, match="for another model"):
        open_model(path, base=starts["gpt"])
    with pytest.raises(UserError, match=r"use best\.ckpt beside it"):
        checkpoints.open_checkpoint(path)
    with pytest.raises(UserError, match="whole model"):
        open_model(start, base=other)
    with pytest.raises(UserError, match="no such checkpoint or folder"):
        open_model(path, base=tmp_path / "nowhere")
    start.unlink()
    with pytest.raises(UserError, match=r"which is not there: best\.ckpt needs none; or .* --base MODEL"):
        open_model(path)
    content = torch.load(path, weights_only=True)
    content["lm"]["format"] = 99
    checkpoints.write(content, path)
    with pytest.raises(UserError, match="newer lm"):
        open_model(path)


def test_a_damaged_file_is_refused(adapted, tmp_path, starts):
    path = write_beside(adapted("bert", Adapter(rank=2)), tmp_path)
    for spoil in (
        lambda content: content.pop("rows"),
        lambda content: content["state_dict"].pop("net.head.weight"),
        lambda content: content["lm"].pop("adapter"),
        lambda content: content["lm"].update(base={}),
    ):
        content = torch.load(path, weights_only=True)
        spoil(content)
        checkpoints.write(content, tmp_path / "bad.ckpt")
        with pytest.raises(UserError, match=r"bad.ckpt is damaged"):
            open_model(tmp_path / "bad.ckpt")


def test_a_whole_checkpoint_is_opened_as_it_is(starts):
    loaded = open_model(starts["gpt"])
    assert loaded.step == 7


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_of_a_real_model_little_is_trained_and_kept(adapted, minilm, tmp_path, kind, capsys):
    task = adapted("bert", Adapter(kind=kind), minilm)
    total = sum(p.numel() for p in task.net.parameters())
    trained = sum(p.numel() for p in task.net.parameters() if p.requires_grad)
    assert total > 22_000_000
    assert trained < 0.02 * total
    assert f"{trained:,} of {total:,} parameters are trained" in capsys.readouterr().err
    path = write_beside(task, tmp_path)
    assert path.stat().st_size < 2_000_000
    loaded = open_model(path)
    assert (outputs(loaded.network, task) - outputs(task.net.eval(), task)).abs().max() <= 1e-5
