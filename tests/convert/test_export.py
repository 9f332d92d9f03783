"""`lm export`: the folder, the card, precision, shards, classifiers, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lm.backbone import BackboneConfig, Classifier, LanguageModel
from lm.checkpoint import Model, open_checkpoint
from lm.convert import export_folder, open_model
from lm.errors import UserError
from lm.tokenizer import load_tokenizer

from .conftest import opened

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 420, "max_seq_len": 40}
BERT = {
    **{"causal": False, "norm": "layer", "embedding_norm": True, "norm_position": "after"},
    **{"positions": "learned", "mlp": "gelu", "bias": True, "segments": 2},
}
ROBERTA = {**BERT, "segments": 1}
NANO = {"mlp": "relu2", "qk_norm": True}
GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "bias": True}
LABELS = ["bad", "neutral", "good"]


def loaded(config: dict, tokenizer, head: dict | None = None, **record) -> Model:
    """A model with random weights, as if it came from a checkpoint."""
    torch.manual_seed(0)
    shape = BackboneConfig(**{**SMALL, **config})
    if head is None:
        model = LanguageModel(shape)
    else:
        model = Classifier(shape, **{name: value for name, value in head.items() if name != "kind"})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "head.bias" or not shape.causal:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    made = {"version": "0.1", "task": "lm.tasks.Task", "figures": {}, **record}
    if head is not None:
        made |= {"head": head, "labels": LABELS} | ({"kind": "single"} if head["kind"] == "pooled" else {})
    return opened(model.eval(), tokenizer, made)


def test_the_command_on_finished_runs(lm, trained, tmp_path):
    for name, kind in (("gpt", "Qwen3ForCausalLM"), ("bert", "ModernBertForMaskedLM")):
        path = trained / f"checkpoints/{name}/best.ckpt"
        done = lm("export", path, "--to", "hf", tmp_path / name)
        assert done.status == 0 and kind in done.out and not done.err
        assert ("vLLM and llama.cpp" in done.out) is (name == "gpt")
        ours, there = open_checkpoint(path), transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert there.chat_template is None  # though its tokenizer has what chats take
        architecture = getattr(transformers, kind)
        model = architecture.from_pretrained(tmp_path / name).eval()
        inputs = there("def f(x):\n    return x", return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(
                model(**inputs).logits, ours.network(inputs.input_ids), atol=1e-4, rtol=1e-4
            )
        files = {file.name for file in (tmp_path / name).iterdir()}
        assert files == {
            *(
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer.model",
                "tokenizer_config.json",
            ),
            *("README.md", *(("generation_config.json",) if name == "gpt" else ())),
        }
        card = (tmp_path / name / "README.md").read_text()
        figure, value = sorted(ours.record["figures"].items())[0]
        assert f"| {figure} | {value:.6g} |" in card
        assert "seq_len: 32" in card and "Licence" in card and f"{ours.network.num_parameters():,}" in card
        again = open_model(tmp_path / name)
        assert again.config == ours.network.config
        state = ours.network.state_dict()
        assert all(torch.equal(tensor, state[n]) for n, tensor in again.weights.items())


def test_the_masks_are_filled_by_transformers_too(trained, tmp_path):
    from lm.inference.fill import fill

    ours = open_checkpoint(trained / "checkpoints/bert/best.ckpt")
    export_folder(ours, tmp_path / "out")
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "out"))
    found = pipeline("def <mask>(self):", top_k=ours.tokenizer.vocab_size)
    # Ours guesses no control tokens.
    found = [guess for guess in found if not ours.tokenizer.is_special(guess["token"])]
    total = sum(guess["score"] for guess in found)
    (wanted,) = fill(ours.network, ours.tokenizer, "def <mask>(self):")
    for guess, (text, probability) in zip(found, wanted, strict=False):
        assert guess["score"] / total == pytest.approx(probability, rel=1e-3)
        assert ours.tokenizer.decode([guess["token"]]) == text


def test_words_of_the_command(lm, trained, tmp_path):
    path = trained / "checkpoints/gpt/best.ckpt"
    assert lm("export", "--help").status == 0
    assert lm("export", path).status == 2  # the folder is missing
    missing = lm("export", "none.ckpt", "--to", "hf", "a")
    assert missing.status == 1
    assert missing.err.startswith("lm export: no such checkpoint or folder: none.ckpt; nothing is downloaded")
    assert lm("export", path, "--to", "hf", "a", "--dtype", "bfloat16").status == 0
    taken = lm("export", path, "--to", "hf", "a")
    assert taken.status == 1 and "a is not empty: name another folder, or --force" in taken.err
    assert json.loads((tmp_path / "a/config.json").read_text())["torch_dtype"] == "bfloat16"
    (tmp_path / "a/stale.txt").write_text("old")
    assert lm("export", path, "--to", "hf", "a", "--force").status == 0
    assert json.loads((tmp_path / "a/config.json").read_text())["torch_dtype"] == "float32"
    assert not (tmp_path / "a/stale.txt").exists()
    lonely = lm("export", path, "--to", "hf", "b", "--base", "c")
    assert lonely.status == 2 and "is a whole model, no adapter: leave --base out" in lonely.err
    assert lm("export", path.parent, "--to", "hf", "b").status == 0  # a run is its best.ckpt
    assert (tmp_path / "b/model.safetensors").read_bytes() == (tmp_path / "a/model.safetensors").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    refused = lm("export", path, "--to", "hf", "mine", "--force")
    assert "holds no model" in refused.err and (tmp_path / "mine/letter.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "mine"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precision(dtype, tokenizer, tmp_path):
    model = loaded(NANO, tokenizer)
    exported = export_folder(model, tmp_path / "out", dtype)
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert there.dtype == dtype
    assert exported.nbytes == 2 * sum(p.numel() for p in there.parameters())
    name = "backbone.blocks.1.attention.key.weight"
    assert torch.equal(
        open_model(tmp_path / "out").weights[name], model.network.state_dict()[name].to(dtype).float()
    )


def test_values_beyond_half_precision(tokenizer, tmp_path):
    model = loaded(NANO, tokenizer)
    with torch.no_grad():
        model.network.backbone.norm.weight[3] = 70_000
    with pytest.raises(UserError, match=r"model.norm.weight has values beyond its range; use bfloat16"):
        export_folder(model, tmp_path / "out", torch.float16)
    assert not list(tmp_path.iterdir())  # nothing half-written
    export_folder(model, tmp_path / "out", torch.bfloat16)


def test_shards(tokenizer, tmp_path):
    model = loaded(NANO, tokenizer)
    export_folder(model, tmp_path / "out", shard_bytes=40_000)
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all(
        (tmp_path / "out" / file).stat().st_size < 60_000 for file in files
    )  # the table of tokens is larger than a shard
    start = open_model(tmp_path / "out")
    state = model.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in start.weights.items())
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert torch.equal(there["model.norm.weight"], state["backbone.norm.weight"])


def test_weights_of_a_failed_export_are_kept(tokenizer, tmp_path):
    export_folder(loaded(NANO, tokenizer), tmp_path / "out")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    broken = loaded(NANO, tokenizer)
    broken.network.config.norm = "layer"
    with pytest.raises(UserError):
        export_folder(broken, tmp_path / "out", force=True)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_other_folders_are_kept(tokenizer, tmp_path):
    """Many programs have a config.json."""
    (tmp_path / "server").mkdir()
    for name, text in (("config.json", '{"port": 8080}'), ("thesis.txt", "years")):
        (tmp_path / "server" / name).write_text(text)
    for text in ('{"port": 8080}', "no JSON", "[1]"):
        (tmp_path / "server/config.json").write_text(text)
        with pytest.raises(UserError, match="holds no model"):
            export_folder(loaded(NANO, tokenizer), tmp_path / "server", force=True)
    assert names(tmp_path / "server") == ["config.json", "thesis.txt"]
    assert names(tmp_path) == ["server"]


def test_into_the_folder_one_works_in_and_through_a_link(tokenizer, tmp_path, monkeypatch):
    model, work = loaded(NANO, tokenizer), tmp_path / "work"
    work.mkdir()
    (tmp_path / "link").symlink_to(work)
    monkeypatch.chdir(work)
    export_folder(model, ".")
    made = names(work)
    assert "config.json" in made and names(Path()) == made
    with pytest.raises(UserError, match=r"^\. is not empty: name another folder, or `force`"):
        export_folder(model, ".")
    for folder in (".", tmp_path / "link"):
        (work / "stale.txt").write_text("old")
        export_folder(model, folder, force=True)
        assert names(work) == names(Path()) == made
    assert names(tmp_path) == ["link", "work"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("failing", ["config.json", "README.md"])
def test_what_was_there_comes_back_where_it_cannot_be_replaced(failing, tokenizer, tmp_path, monkeypatch):
    """Whether an old file can't go or a new one can't come."""
    model, out = loaded(NANO, tokenizer), tmp_path / "out"
    export_folder(model, out)
    (out / "README.md").unlink()
    before = {name: (out / name).read_bytes() for name in names(out)}
    rename = Path.rename

    def refuse(path, target):
        if path.name == failing and ".old-" not in str(path):
            raise PermissionError(13, "not yours")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        export_folder(model, out, torch.bfloat16, force=True)
    assert {name: (out / name).read_bytes() for name in names(out)} == before
    assert names(tmp_path) == ["out"]


def test_old_files_that_cannot_be_deleted_are_said(tokenizer, tmp_path, monkeypatch):
    model, out = loaded(NANO, tokenizer), tmp_path / "out"
    export_folder(model, out)
    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: ".old-" in str(path) or remove(path, True))
    (note,) = (n for n in export_folder(model, out, force=True).notes if "could not be deleted" in n)
    assert (Path(note.rpartition(" ")[2]) / "config.json").exists()


IDS = torch.randint(9, 420, (2, 20), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(IDS)
MASK[1, 12:] = 0
IDS = torch.where(MASK.bool(), IDS, 0)
POOLED = {"kind": "pooled", "outputs": 3, "pooling": "first", "pooler": True}
LAST = {"kind": "pooled", "outputs": 3, "pooling": "last", "pooler": False}
TOKENS = {"kind": "tokens", "outputs": 3, "pooling": None, "pooler": False}
SPAN = {"kind": "span", "outputs": 2, "pooling": None, "pooler": False}


@pytest.mark.parametrize(
    ("config", "head", "architecture"),
    [
        (BERT, POOLED, "BertForSequenceClassification"),
        (BERT, TOKENS, "BertForTokenClassification"),
        (BERT, SPAN, "BertForQuestionAnswering"),
        (ROBERTA, POOLED, "RobertaForSequenceClassification"),
        (ROBERTA, TOKENS, "RobertaForTokenClassification"),
        (ROBERTA, SPAN, "RobertaForQuestionAnswering"),
        ({**BERT, "mlp": "relu", "segments": 0}, TOKENS, "BertForTokenClassification"),
        (NANO, LAST, "Qwen3ForSequenceClassification"),
        ({"mlp": "swiglu"}, LAST, "LlamaForSequenceClassification"),
        (GPT2, LAST, "GPT2ForSequenceClassification"),
    ],
)
@torch.no_grad()
def test_classifiers(config, head, architecture, tokenizer, tmp_path):
    model = loaded(config, tokenizer, head)
    exported = export_folder(model, tmp_path / "out")
    assert exported.architecture == architecture
    there = getattr(transformers, architecture).from_pretrained(tmp_path / "out").eval()
    made = there(input_ids=IDS, attention_mask=MASK)
    ours = model.network(IDS, MASK - 1)
    if head["kind"] == "span":
        ours = ours[MASK.bool()]
        theirs = torch.stack((made.start_logits, made.end_logits), -1)[MASK.bool()]
    elif head["kind"] == "tokens":
        ours, theirs = ours[MASK.bool()], made.logits[MASK.bool()]
    else:
        theirs = made.logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    kind = {"pooled": "single_label_classification"}.get(head["kind"])
    assert there.config.problem_type == kind
    if head["kind"] != "span":
        assert there.config.id2label == dict(enumerate(LABELS))
        assert there.config.label2id == {label: i for i, label in enumerate(LABELS)}
        assert "`neutral`" in (tmp_path / "out/README.md").read_text()
    # The body can be trained on.
    start = open_model(tmp_path / "out")
    assert start.has_head is (architecture.startswith(("GPT2", "Qwen3", "Llama")))
    weights = model.network.state_dict()
    name = "backbone.blocks.0.attention.query.weight"
    assert torch.equal(start.weights[name], weights[name])


@torch.no_grad()
@pytest.mark.parametrize("pad", [None, "<|endoftext|>", "<pad>"])
def test_a_text_through_gpt2s_own_tokenizer(sources, tmp_path, pad):
    """lm reads the token that ends a text, which GPT-2's tokenizer does not put there by itself."""
    source = tmp_path / "gpt2"
    source.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(sources / f"gpt2-vocab/gpt2_{name}", source / name)
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    if pad:
        (source / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    tokenizer = load_tokenizer(source)
    model = loaded({**GPT2, "vocab_size": tokenizer.vocab_size}, tokenizer, LAST)
    notes = export_folder(model, tmp_path / "out").notes
    assert any("one at a time" in note for note in notes) is (pad != "<pad>")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    there = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    for text in ("a good film", "naïve – no"):
        ids = tokenizer.frame(tokenizer.encode(text))[0]
        ours = model.network(torch.tensor([ids])).softmax(-1)
        torch.testing.assert_close(there(**words(text, return_tensors="pt")).logits.softmax(-1), ours)
    if pad == "<pad>":
        both = words([text, "a good film, and a long one"], return_tensors="pt", padding=True)
        torch.testing.assert_close(there(**both).logits.softmax(-1)[:1], ours, atol=1e-5, rtol=1e-4)
    again = open_model(tmp_path / "out").tokenizer
    assert again.frame([7], [8]) == tokenizer.frame([7], [8]) and again.eos_id == tokenizer.eos_id


@pytest.mark.parametrize(
    ("config", "head", "message"),
    [
        (BERT, {**POOLED, "pooler": False}, "through a pooler: a classifier with no pooler"),
        (BERT, {**POOLED, "pooling": "mean", "pooler": False}, "classifier with pooling 'mean'"),
        (NANO, {**LAST, "pooling": "first"}, "reads the last position of a sequence: .* pooling 'first'"),
        (NANO, TOKENS, "a head with tokens"),
        (
            {
                **{"causal": False, "norm": "layer", "embedding_norm": True, "first_attention_norm": False},
                "mlp": "geglu",
            },
            {**POOLED, "pooler": False},
            "ModernBERT classifiers have a dense layer",
        ),
    ],
)
def test_classifiers_that_have_no_place(config, head, message, tokenizer, tmp_path):
    with pytest.raises(UserError, match=message):
        export_folder(loaded(config, tokenizer, head), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_stories_there_and_back(sources, origin, tmp_path):
    """A Llama with its tokenizer, through here and on to transformers."""
    start = open_model(sources / "stories260K-hf")
    record = {"version": "0.1", "task": "none", "figures": {}}
    export_folder(opened(start.network, start.tokenizer, record), tmp_path / "out")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    made = model.generate(
        **words("Once upon a time", return_tensors="pt"), max_new_tokens=40, do_sample=False
    )
    scores = start.network(made[:, :-1])[0].argmax(-1)
    assert made.shape[1] > 30 and made[0, -20:].tolist() == scores[-20:].tolist()
    wanted = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert origin == "own" or words.decode(made[0], skip_special_tokens=True).startswith(wanted)
    again = open_model(tmp_path / "out")
    assert again.config == start.config
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in start.weights.items())
