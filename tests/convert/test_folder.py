"""Folders of every sort: bodies alone, other tasks' heads, half precision, shards, old names; real models."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm.convert import open_model
from lm.errors import UserError

from .conftest import CASES, GPT2, GROUPED, MODERN, SIZES

IDS = torch.randint(5, 420, (2, 33), generator=torch.Generator().manual_seed(3))
BODIES = {
    "gpt2": ("GPT2Model", GPT2, True),
    "llama": ("LlamaModel", GROUPED, False),
    "llama tied": ("LlamaModel", {**GROUPED, "tie_word_embeddings": True}, True),
    "qwen3": ("Qwen3Model", {**GROUPED, "head_dim": 16}, False),
    "bert": ("BertModel", SIZES, False),
    "roberta": ("RobertaModel", {**SIZES, "type_vocab_size": 1}, False),
    "modernbert": ("ModernBertModel", MODERN, False),
}


def body_of(model):
    """A model of transformers without its head."""
    return getattr(model, model.base_model_prefix, model)


@torch.no_grad()
def assert_same_body(start, model) -> None:
    from lm.backbone import Backbone

    backbone = Backbone(start.config).eval()
    weights = {n.removeprefix("backbone."): t for n, t in start.weights.items() if n.startswith("backbone.")}
    backbone.load_state_dict(weights)
    theirs = body_of(model)(input_ids=IDS).last_hidden_state
    assert theirs.std() > 0.3
    torch.testing.assert_close(backbone(IDS), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings", "has_head"), BODIES.values(), ids=BODIES)
def test_a_body_alone(kind, settings, has_head, make_foreign):
    foreign = make_foreign(kind, **settings)
    start = open_model(foreign.folder)
    assert start.has_head is has_head
    assert_same_body(start, foreign.model)
    pooled = {n for n in start.weights if n.startswith("pooler.")}
    assert pooled == (
        {"pooler.dense.weight", "pooler.dense.bias"} if hasattr(foreign.model, "pooler") else set()
    )


@torch.no_grad()
def test_the_pooler_is_berts(make_foreign):
    from lm.backbone import Classifier

    foreign = make_foreign("BertForSequenceClassification", **SIZES, num_labels=3)
    start = open_model(foreign.folder)
    ours = Classifier(start.config, 3, "first", pooler=True).eval()
    head = foreign.model.classifier.state_dict()
    ours.load_weights({**start.weights, **{f"head.{name}": tensor for name, tensor in head.items()}})
    mask = torch.ones_like(IDS)
    mask[1, 20:] = 0
    segments = (torch.arange(33) > 9).long().expand(2, -1)
    theirs = foreign.model(input_ids=IDS, attention_mask=mask, token_type_ids=segments).logits
    torch.testing.assert_close(ours(IDS, mask - 1, segments=segments), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "left"),
    [
        ("GPT2ForSequenceClassification", GPT2, "score.weight"),
        ("LlamaForSequenceClassification", GROUPED, "score.weight"),
        ("Qwen3ForSequenceClassification", {**GROUPED, "head_dim": 16}, "score.weight"),
        ("BertForSequenceClassification", SIZES, "classifier.bias"),
        ("BertForQuestionAnswering", SIZES, "qa_outputs.bias"),
        ("RobertaForSequenceClassification", {**SIZES, "type_vocab_size": 1}, "classifier.dense.bias"),
        ("RobertaForTokenClassification", {**SIZES, "type_vocab_size": 1}, "classifier.bias"),
        ("ModernBertForSequenceClassification", MODERN, "head.dense.weight"),
        ("ModernBertForTokenClassification", {**MODERN, "decoder_bias": False}, "head.dense.weight"),
    ],
)
def test_the_body_under_another_tasks_head(kind, settings, left, make_foreign):
    foreign = make_foreign(kind, **settings)
    start = open_model(foreign.folder)
    ours = not kind.startswith("ModernBert")  # whose classifiers have a dense layer that ours lack
    assert any("left out" in note and left in note for note in start.notes) is not ours
    assert start.has_head is kind.startswith("GPT2")  # tied: the embeddings are the head
    assert_same_body(start, foreign.model)


def test_bert_for_pretraining(make_foreign):
    foreign = make_foreign("BertForPreTraining", **SIZES)
    start = open_model(foreign.folder)
    assert start.has_head
    with torch.no_grad():
        theirs = foreign.model(input_ids=IDS).prediction_logits
        torch.testing.assert_close(start.network(IDS), theirs, atol=1e-4, rtol=1e-4)
    assert start.notes[0].startswith("left out, another task's head: cls.seq_relationship")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_fp32(dtype, make_foreign):
    foreign = make_foreign("LlamaForCausalLM", **GROUPED)
    path = foreign.folder / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path, {"format": "pt"})
    start = open_model(foreign.folder)
    assert {tensor.dtype for tensor in start.weights.values()} == {torch.float32}
    name = "backbone.blocks.1.mlp.up.weight"
    assert torch.equal(start.weights[name], tensors["model.layers.1.mlp.up_proj.weight"].to(dtype).float())


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a folder by name."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, {"format": "pt"})


def assert_same_after(foreign, change) -> None:
    before = open_model(foreign.folder)
    rewrite(foreign.folder, change)
    after = open_model(foreign.folder)
    assert after.config == before.config and after.has_head is before.has_head
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())


def test_old_names(make_foreign):
    def old(tensors) -> None:
        for name in list(tensors):
            renamed = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[renamed] = tensors.pop(name)

    assert_same_after(make_foreign("BertForMaskedLM", **SIZES), old)


@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("gpt2", {"transformer.h.0.attn.bias": (1, 1, 40, 40), "transformer.h.1.attn.masked_bias": ()}),
        ("gpt2", {"h.0.attn.bias": (1, 1, 40, 40)}),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}),
        ("bert", {"bert.embeddings.position_ids": (1, 40)}),
        ("roberta", {"roberta.embeddings.position_ids": (1, 42)}),
    ],
)
def test_tables_that_are_no_weights(case, more, make_foreign):
    architecture, settings = CASES[case]
    foreign = make_foreign(architecture, **settings)
    assert_same_after(foreign, lambda t: t.update({name: torch.ones(shape) for name, shape in more.items()}))


@pytest.mark.parametrize(
    ("case", "prefix"), [("gpt2", "transformer."), ("bert", "bert."), ("llama", "model.")]
)
def test_names_without_the_prefix(case, prefix, make_foreign):
    def strip(tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    architecture, settings = CASES[case]
    assert_same_after(make_foreign(architecture, **settings), strip)


@pytest.mark.parametrize(
    ("case", "table", "output"),
    [
        ("gpt2", "transformer.wte.weight", "lm_head.weight"),
        ("llama 3, tied", "model.embed_tokens.weight", "lm_head.weight"),
        ("bert", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("roberta", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("modernbert", "model.embeddings.tok_embeddings.weight", "decoder.weight"),
    ],
)
def test_a_tied_matrix_that_is_stored_twice(case, table, output, make_foreign):
    architecture, settings = CASES[case]
    foreign = make_foreign(architecture, **settings)
    assert_same_after(foreign, lambda tensors: tensors.update({output: tensors[table]}))
    # Two that differ are two.
    rewrite(foreign.folder, lambda tensors: tensors.update({output: tensors[table] + 1}))
    start = open_model(foreign.folder)
    assert start.config.tie_embeddings is False
    assert any("tied; the weights say not" in note for note in start.notes)


def test_shards(make_foreign):
    foreign = make_foreign("LlamaForCausalLM", **GROUPED)
    whole = open_model(foreign.folder)
    (foreign.folder / "model.safetensors").unlink()
    foreign.model.save_pretrained(foreign.folder, max_shard_size="30KB")
    assert len(list(foreign.folder.glob("model-*.safetensors"))) > 2
    start = open_model(foreign.folder)
    assert all(torch.equal(start.weights[name], tensor) for name, tensor in whole.weights.items())
    first = min(foreign.folder.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(UserError, match=rf"lacks {first.name}, which model.safetensors.index.json names"):
        open_model(foreign.folder)


def test_config_as_older_versions_wrote_it(make_foreign):
    """Rotary fields apart, ModernBERT's layers by a number."""
    for architecture, settings in (CASES["llama 3, tied"], CASES["modernbert"]):
        foreign = make_foreign(architecture, **settings)
        before = open_model(foreign.folder).config
        path = foreign.folder / "config.json"
        config = json.loads(path.read_text())
        rope = config.pop("rope_parameters")
        if "full_attention" in rope:
            config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
            config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
            del config["layer_types"]
            config["global_attn_every_n_layers"] = 3
        else:
            config["rope_theta"] = rope.pop("rope_theta")
            config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
        path.write_text(json.dumps(config))
        assert open_model(foreign.folder).config == before
        assert before.rope_type == "llama3" or (before.global_every, before.window) == (3, 5)


def test_a_checkpoint_of_lm(trained):
    from lm.checkpoint import open_checkpoint

    for name in ("gpt", "bert"):
        path = trained / f"checkpoints/{name}/best.ckpt"
        start, loaded = open_model(path), open_checkpoint(path)
        assert start.has_head and start.record["task"] == loaded.record["task"]
        assert "head.weight" not in start.weights  # tied
        assert start.config == loaded.config
        tokens = torch.arange(20, 36)[None]
        with torch.no_grad():
            assert torch.equal(start.network(tokens), loaded.network(tokens))


def test_stories(real_data):
    """A trained Llama of 260 thousand parameters goes on as its authors' program does."""
    from lm.inference.generate import Sampling, generate_text

    start = open_model(real_data / "stories260K-hf")
    text = generate_text(start.network, start.tokenizer, "Once upon a time", 40, Sampling(temperature=0))
    wanted = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert text.startswith(wanted)


@torch.no_grad()
def test_a_trained_bert(minilm):
    """Sentences that mean the same lie close, and the tokens' states are transformers'."""
    import transformers

    start = open_model(minilm)
    assert not start.has_head and start.config.num_layers == 6 and start.config.segments == 2
    from lm.backbone import Backbone

    backbone = Backbone(start.config).eval()
    weights = {n.removeprefix("backbone."): t for n, t in start.weights.items() if n.startswith("backbone.")}
    backbone.load_state_dict(weights)
    texts = [
        "A man plays the guitar.",
        "Someone is playing guitar.",
        "The stock market fell by 3% on Monday!",
    ]
    framed = [start.tokenizer.frame(start.tokenizer.encode(text))[0] for text in texts]
    longest = max(map(len, framed))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in framed])
    mask = (torch.arange(longest) < torch.tensor([[len(row)] for row in framed])).long()
    hidden = backbone(ids, mask - 1)

    words = transformers.AutoTokenizer.from_pretrained(minilm)
    inputs = words(texts, padding=True, return_tensors="pt")
    assert torch.equal(inputs.input_ids, ids)
    theirs = transformers.AutoModel.from_pretrained(minilm)(**inputs).last_hidden_state
    torch.testing.assert_close(hidden[mask.bool()], theirs[mask.bool()], atol=1e-4, rtol=1e-4)
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    alike = torch.nn.functional.cosine_similarity(mean[:1], mean[1:])
    assert alike[0] > 0.8 and alike[1] < 0.2
