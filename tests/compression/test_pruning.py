"""Pruning: which weights become zero, what is left of a shape, and training on."""

import json
from functools import partial

import pytest
import torch
import yaml

import lm as package
from lm.backbone import BackboneConfig, LanguageModel
from lm.backbone.linear import Linear
from lm.checkpoint import Model
from lm.compression import quantise, shrink, sparsify
from lm.compression.calibration import calibration
from lm.compression.saving import save as save_model
from lm.compression.sparsity import cut, pattern_of
from lm.compression.structure import deepest, heads_left, number
from lm.compression.variants import outcome
from lm.convert import open_model
from lm.run.folder import identity

from ..commands.test_apply import CLASSES, KINDS, head_of, save
from ..tasks.conftest import scramble

SHAPES = {
    "llama": {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True},
    "gpt2": {"mlp": "gelu_tanh", "norm": "layer", "bias": True, "positions": "learned"},
    "bert": {
        "causal": False,
        "mlp": "gelu",
        "norm": "layer",
        "norm_position": "after",
        "bias": True,
        "positions": "learned",
        "segments": 2,
    },
}


def made(tokenizer, kind: str, seed: int = 0, **changes) -> Model:
    small = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "mlp_hidden_size": 48, "max_seq_len": 24}
    config = BackboneConfig(**{**small, **SHAPES[kind], **changes, "vocab_size": tokenizer.vocab_size})
    net = scramble(LanguageModel(config), seed)
    weights = {name: value.detach() for name, value in net.state_dict().items()}
    if config.tie_embeddings:
        weights.pop("head.weight")
    return Model(config, weights, tokenizer, "tiny")


@pytest.fixture
def tokens(tokenizer) -> torch.Tensor:
    return torch.randint(tokenizer.vocab_size, (6, 24), generator=torch.Generator().manual_seed(1))


def listen(heard, name, layer, args, out) -> None:
    heard[name] = args[0].flatten(0, 1)


@torch.no_grad()
def said(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    return model.network(tokens)


def linears(model: Model) -> dict[str, torch.Tensor]:
    backbone = model.network.backbone
    return {name: each.weight.detach() for name, each in backbone.named_modules() if isinstance(each, Linear)}


# Zeros.


def test_which_weights_become_zero():
    weight = torch.tensor([[4.0, -1, 2, 3], [0.5, 8, -6, 7]])
    whole = weight.clone()
    cut(whole, 0.5)  # the four least of all eight
    assert whole.tolist() == [[4, 0, 0, 0], [0, 8, -6, 7]]
    rows = weight.clone()
    cut(rows, 0.25, norms=torch.tensor([1.0, 10, 1, 1]))  # one of each row, by |w| · norm
    assert rows.tolist() == [[4, -1, 0, 3], [0, 8, -6, 7]]
    pairs = weight.clone()
    cut(pairs, 0.5, pattern_of("1:2"))
    assert pairs.tolist() == [[4, 0, 0, 3], [0, 8, 0, 7]]
    equal = torch.ones(2, 4)
    cut(equal, 0.5, pattern_of("2:4"))
    assert equal.tolist() == [[0, 0, 1, 1]] * 2  # exactly two, also among equals


@pytest.mark.parametrize("kind", SHAPES)
def test_wanda_looks_at_what_pruned_layers_make(tokenizer, tokens, kind):
    """Layer by layer by hand: the norms of a layer's inputs in the model whose earlier blocks are pruned."""
    model = made(tokenizer, kind)
    before = {name: value.clone() for name, value in linears(model).items()}
    pruned = sparsify(model, 0.5, tokens=tokens)
    assert all(torch.equal(before[name], value) for name, value in linears(model).items())
    for depth in range(3):
        # The pruned model, with the weights of this block and of those above as they were.
        reference = made(tokenizer, kind)
        layers = dict(reference.network.backbone.named_modules())
        heard: dict[str, torch.Tensor] = {}
        for name, value in linears(pruned).items():
            if int(name.split(".")[1]) < depth:
                layers[name].weight.data.copy_(value)
            elif int(name.split(".")[1]) == depth:
                hook = partial(listen, heard, name)
                layers[name].register_forward_hook(hook)
        said(reference, tokens)
        for name, x in heard.items():
            scores = before[name].abs() * x.norm(dim=0)
            expected = before[name].clone()
            for row, own in enumerate(scores):
                expected[row, own.argsort()[: len(own) // 2]] = 0
            torch.testing.assert_close(dict(linears(pruned))[name], expected)
    assert pruned.record["pruned"] == {"sparsity": 0.5, "method": "wanda"}


def test_zeros_by_a_pattern(tokenizer, tokens):
    model = made(tokenizer, "llama")
    for found in (
        sparsify(model, pattern=pattern_of("2:4")),
        sparsify(model, 0.5, pattern_of("2:4"), tokens),
    ):
        assert found.record["pruned"]["pattern"] == "2:4"
        for weight in linears(found).values():
            assert ((weight.view(-1, 4) != 0).sum(1) == 2).all()
    table = "backbone.embeddings.tokens.weight"
    assert torch.equal(found.weights[table], model.weights[table])


# Shapes.


@torch.no_grad()
def silenced(model: Model, heads: list[int], features: list[int]) -> Model:
    """With heads and features of every layer that add nothing."""
    for block in model.network.backbone.blocks:
        dim = block.attention.dim
        for head in heads:
            block.attention.output.weight[:, head * dim : (head + 1) * dim] = 0
        block.mlp.down.weight[:, features] = 0
    return model


@torch.no_grad()
def idle(model: Model) -> Model:
    """With a second layer that adds nothing."""
    block = model.network.backbone.blocks[1]
    for part in (block.attention.output, block.mlp.down):
        part.weight.zero_()
    return model


@pytest.mark.parametrize(
    ("kind", "heads", "left"),
    [
        ("llama", [2, 3], (2, 1)),  # a key/value head with all that it serves
        ("gpt2", [1], (3, 3)),
        ("bert", [0, 3], (2, 2)),
    ],
)
def test_what_adds_nothing_goes_and_nothing_changes(tokenizer, tokens, kind, heads, left):
    features = [0, 5, 6, 40]
    model = silenced(made(tokenizer, kind), heads, features)
    found = shrink(model, tokens, heads=4 - len(heads), mlp=44)
    assert (found.config.num_heads, found.config.kv_heads, found.config.mlp_width) == (*left, 44)
    assert found.config.dim_per_head == model.config.dim_per_head
    torch.testing.assert_close(said(found, tokens), said(model, tokens), rtol=1e-4, atol=1e-4)
    assert sum(v.numel() for v in found.weights.values()) < sum(v.numel() for v in model.weights.values())


def test_heads_go_from_each_group_where_no_group_can(tokenizer, tokens):
    """Nine query heads in three groups: six are left, two of each."""
    shape = {"hidden_size": 36, "num_heads": 9, "num_kv_heads": 3, "head_dim": 4, "qk_norm": False}
    model = silenced(made(tokenizer, "llama", **shape), [1, 3, 8], [])
    assert heads_left(6, model.config) == 6 and heads_left(0.75, model.config) == 6
    found = shrink(model, tokens, heads=2 / 3)
    # 6 = two whole groups, or two of each: whole groups shrink the cache, too.
    assert (found.config.num_heads, found.config.kv_heads) == (6, 2)
    five = made(tokenizer, "llama", hidden_size=32, num_heads=8, num_kv_heads=2, head_dim=4, qk_norm=False)
    five = silenced(five, [1, 6], [])
    found = shrink(five, tokens, heads=6)
    assert (found.config.num_heads, found.config.kv_heads) == (6, 2)
    torch.testing.assert_close(said(found, tokens), said(five, tokens), rtol=1e-4, atol=1e-4)


def test_what_is_left_makes_up_for_what_is_gone(tokenizer, tokens):
    """A feature that another one repeats can go: least squares hand its part to the other."""
    model = made(tokenizer, "gpt2")
    twice, of = slice(36, 48), slice(12, 24)
    with torch.no_grad():
        for block in model.network.backbone.blocks:
            block.mlp.up.weight[twice], block.mlp.up.bias[twice] = (
                block.mlp.up.weight[of],
                block.mlp.up.bias[of],
            )
            block.mlp.down.weight[:, twice] *= 0.1  # so that these add the least
    whole = said(model, tokens)
    fitted = said(shrink(model, tokens, mlp=36), tokens)
    with torch.no_grad():
        for block in model.network.backbone.blocks:
            block.mlp.down.weight[:, twice] = 0
    left_out = said(model, tokens)
    assert (fitted - whole).abs().mean() < 0.5 * (left_out - whole).abs().mean()


def test_the_layer_that_does_nothing_goes(tokenizer, tokens):
    model = idle(made(tokenizer, "llama"))
    found = shrink(model, tokens, layers=2)
    assert found.record["pruned"] == {"layers": [0, 2]} and found.config.num_layers == 2
    assert torch.equal(said(found, tokens), said(model, tokens))


def test_numbers_and_shares():
    assert number(0.75, 1536, "mlp", 32) == 1152 and number(0.7, 1000, "mlp", 32) == 704
    assert number(3, 4, "layers") == 3 and number(0.5, 3, "layers") == 2
    # A step is for what is wider than it, and a share is never more than there is.
    assert number(0.5, 16, "mlp", 32) == 8 and number(0.99, 340, "mlp", 32) == 340


def test_what_a_record_says_of_what_was_pruned_twice(tokenizer, tokens):
    model = made(tokenizer, "llama", num_layers=4)
    zeros = sparsify(model, pattern=pattern_of("2:4"))
    assert sparsify(zeros, 0.7).record["pruned"] == {"sparsity": 0.7, "method": "magnitude"}
    narrow = shrink(zeros, tokens, mlp=16)  # its projections are fitted anew, without zeros
    assert narrow.record["pruned"] == {"mlp": 16} and outcome(narrow, zeros).startswith("4 layers, 4 heads")
    assert quantise(zeros, 8).record["pruned"] == zeros.record["pruned"]
    rounded = quantise(zeros, 4)
    assert rounded.record["pruned"] == {} and "no longer zero with 4 bits" in rounded.notes[0]
    (fewer := made(tokenizer, "llama", num_layers=4)).record["pruned"] = {"layers": [0, 2, 5, 7]}
    kept = deepest(fewer, tokens, 2)
    assert shrink(fewer, tokens, layers=2).record["pruned"]["layers"] == [[0, 2, 5, 7][n] for n in kept]


def test_layers_that_see_further_than_they_did_are_told(tokenizer, tokens):
    model = idle(made(tokenizer, "llama", num_layers=4, window=6, global_every=3))
    found = shrink(model, tokens, layers=3)
    assert found.record["pruned"] == {"layers": [0, 2, 3]}  # the last sees everything no longer
    assert found.notes == ["some of the layers that are kept see further, or less far, than they did"]


def test_windows_of_a_text(tokenizer):
    text = "".join(f"line {n}\n" for n in range(2000))
    for kind in ("llama", "bert"):
        model = made(tokenizer, kind)
        found = calibration(model, text)
        assert found.shape == (64, 24)
        start = tokenizer.start_id if kind == "llama" else tokenizer.frame([])[0][0]
        assert (found[:, 0] == start).all()
    ids = tokenizer.encode(text)
    assert found[-1, 1:-1].tolist() == ids[-22:] and found[0, 1:-1].tolist() == ids[:22]


# The command.


@pytest.fixture(scope="module")
def texts(code_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text.py"
    path.write_text(code_text.read_text()[:20_000])
    return path


def test_pruned_checkpoints_are_used_like_any_other(lm, trained, tmp_path, texts, code_text):
    run = trained / "checkpoints/gpt"
    options = (
        "--mlp=0.5",
        "--sparsity=0.5",
        "--method",
        "wanda",
        "magnitude",
        "--bits=8",
        f"--texts={texts}",
    )
    done = lm("compress", run, *options, "--out=.", f"--report={texts}")
    assert done.status == 0, done.err
    names = ["mlp0.5", *(f"mlp0.5-{m}0.5{b}" for b in ("", "-int8") for m in ("wanda", "magnitude"))]
    assert sorted(p.stem for p in tmp_path.glob("*.ckpt")) == sorted(f"gpt-{name}" for name in names)
    assert all(name in done.out for name in ("as it is", *names))
    for name in names:
        path = tmp_path / f"gpt-{name}.ckpt"
        assert lm("generate", path, "def parse", "--tokens=4", "--temperature=0").status == 0
    assert "50% zeros by wanda" in lm("info", tmp_path / "gpt-mlp0.5-wanda0.5.ckpt").out
    # By the trainer, which makes the network anew by the checkpoint's configuration.
    done = lm("validate", tmp_path / "gpt-mlp0.5.ckpt", f"--data.corpus={code_text}")
    assert done.status == 0, done.err


def recover(start, corpus, *task, steps=2):
    """The words of `lm fit` that train on, with a class of its own named before its options."""
    words = ("recover", *task, f"--model.init_from={start}", f"--data.corpus={corpus}", "--data.seq_len=32")
    return (*words, "--data.batch_size=2", f"--trainer.max_steps={steps}", "--sample.tokens=0")


def with_the_same_zeros(start, end):
    """The weights of both."""
    before, after = (linears(open_model(path)) for path in (start, end))
    assert all(torch.equal(before[name] == 0, after[name] == 0) for name in before)
    return before, after


def test_training_on_keeps_zeros_and_goes_on_exactly(
    lm, trained, tmp_path, texts, code_text, ends_alike_though_killed
):
    run = trained / "checkpoints/gpt"
    assert lm("compress", run, "--pattern=2:4", f"--texts={texts}", "--out=.").status == 0
    start = tmp_path / "gpt-wanda2of4.ckpt"
    words = (*recover(start, code_text, steps=8), "--trainer.val_check_interval=4", "--monitor.window=3")
    words += ("--checkpoint.every_n_steps=2", "--trainer.log_every_n_steps=1")
    ends_alike_though_killed(*words, at="step 6/", saved=4)
    config = yaml.safe_load((tmp_path / "checkpoints/whole/config.yaml").read_text())
    assert config["data"]["init_args"]["tokenizer"] == str(start)  # the model's, where none is given
    before, after = with_the_same_zeros(start, tmp_path / "checkpoints/whole/last.ckpt")
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items())
    # Measured when what it began with is gone: its own tokenizer stands in.
    expected = json.loads((tmp_path / "checkpoints/whole/summary.json").read_text())
    start.unlink()
    done = lm("validate", "checkpoints/whole")
    assert done.status == 0, done.err
    assert f"{expected['val_loss']:.4f}" in done.out


def test_zeros_are_counted_over_all_processes(start_lm, trained, tmp_path, code_text):
    """Sharded, and one process has nothing but zeros of a layer."""
    model = sparsify(open_model(trained / "checkpoints/gpt"), pattern=pattern_of("2:4"))
    weight = model.network.backbone.blocks[0].mlp.up.weight.data
    weight[: len(weight) // 2] = 0
    save_model(model, tmp_path / "start.ckpt")
    words = (*recover("start.ckpt", code_text), "--config=fsdp", "--trainer.strategy.compute=fp32")
    words += ("--trainer.accelerator=cpu", "--trainer.devices=2")
    process = start_lm("fit", *words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    before, _ = with_the_same_zeros(tmp_path / "start.ckpt", tmp_path / "checkpoints/recover/last.ckpt")
    share = sum(int((w == 0).sum()) for w in before.values()) / sum(w.numel() for w in before.values())
    assert f"{share:.1%} of the blocks' weights are zero, and stay so" in err


def test_recovery_with_what_it_was_made_of_as_teacher(lm, trained, tmp_path, texts, code_text):
    whole = trained / "checkpoints/gpt"
    assert lm("compress", whole, "--mlp=0.5", f"--texts={texts}", "--out=.").status == 0
    task = ("--model=lm.compression.DistilledCausalPretraining", f"--model.teacher={whole}")
    words = ("fit", *recover("gpt-mlp0.5.ckpt", code_text, *task))
    done = lm(*words)
    assert done.status == 0, done.err
    assert open_model(tmp_path / "checkpoints/recover").config.mlp_width == 64
    done = lm(*words, "--model.keep_layers=1", "--name=both")
    assert done.status == 2 and "give them or --model.init_from, not both" in done.err


STILL = ("--model.optimizer.lr=0", "--model.optimizer.adamw_lr=0")


def test_callbacks_that_change_training_belong_to_a_run():
    plain = {
        "trainer": {"callbacks": [{"class_path": "lm.evaluation.Evaluation", "init_args": {"tasks": []}}]}
    }
    assert identity(plain) == identity({"trainer": {"callbacks": None}})
    kept = {"trainer": {"callbacks": [{"class_path": "lm.compression.KeepZeros"}]}}
    assert identity(kept) != identity(plain)
    bits = [
        {
            "trainer": {
                "callbacks": [{"class_path": "lm.compression.QuantisationAware", "init_args": {"bits": n}}]
            }
        }
        for n in (4, 8)
    ]
    assert identity(bits[0]) != identity(bits[1])


def test_zeros_that_no_one_pruned_are_not_kept(lm, tiny_gpt, tmp_path):
    zero = ("--model.backbone.residual_init=zero", "--trainer.callbacks+=lm.compression.KeepZeros")
    done = lm("fit", *tiny_gpt, *zero, "--trainer.max_steps=2")
    assert done.status == 2 and "which model is trained on? Give --model.init_from MODEL" in done.err
    assert lm("fit", *tiny_gpt, *zero[:1], "--trainer.max_steps=1", *STILL, "--name=none").status == 0
    done = lm("fit", *tiny_gpt, zero[1], "--trainer.max_steps=2", "--model.init_from=checkpoints/none")
    assert done.status and "has nothing but zeros: begin from a pruned model" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sparsity=1"], "--sparsity 1: it must be above 0, below 1"),
        (["--sparsity=0"], "--sparsity 0"),
        (["--pattern=4:2"], "give two numbers such as 2:4"),
        (["--pattern=1:7"], "no multiple of 7"),
        (["--sparsity=0.5", "--pattern=2:4"], "not both"),
        (["--method=magnitude"], "give --sparsity or --pattern"),
        (["--sparsity=0.5", "--method=wanda"], "give --texts FILE"),
        (["--layers=1"], "give --texts FILE"),
        (["--layers=9", "--texts=T"], "the model has 2; give how many are left"),
        (["--layers=1.5", "--texts=T"], "--layers 1.5"),
        (["--mlp=0", "--texts=T"], "--mlp 0"),
        (["--mlp=0.0001", "--texts=T"], "or a share below 1 that leaves at least one"),
        (["--heads=0.0001", "--texts=T"], "--heads 0.0001: of 2, with 2 key/value heads, 1, 2 can be left"),
        (["--heads=7", "--texts=T"], "can be left"),
        (["--bits=8", "--texts=T"], "leave it out"),
        (["--mlp=0.5", "--texts=short.txt"], "the calibration text has"),
        (["--mlp=0.5", "--texts=none.txt"], "none.txt"),
        (["--mlp=0.5", "--texts=."], ". is a folder: give one file of text"),
        (["--bits=8", "--picture=x.png"], "give --report FILE"),
        (["--layers=nan", "--texts=T"], "--layers nan: the model has 2"),
        (["--mlp=inf", "--texts=T"], "--mlp inf: the model has"),
        (["--sparsity=0.5", "--bits=3"], "--bits 3: they can be 8 or 4"),
        (["--bits=8", "--group=64"], "--group is of 4 bits"),
        (["--bits=8", "--report=T", "--picture=x.gif"], "a picture's name ends in"),
        (["--bits=8", "--report=T", "--picture=no/x.png"], "there is no folder no"),
    ],
)
def test_what_cannot_be_pruned_so(lm, trained, tmp_path, texts, options, said):
    (tmp_path / "short.txt").write_text("a b")
    options = [option.replace("=T", f"={texts}") for option in options]
    done = lm("compress", trained / "checkpoints/gpt", *options, "--out=.")
    assert done.status and said in done.err, done.err
    assert done.err.count("\n") == 1 and not list(tmp_path.glob("*.ckpt"))


def test_a_classifier_is_pruned_and_measured(lm, tokenizer, tmp_path, texts):
    """Its head is its own, though its backbone's configuration ties a language model's."""
    task, extra = KINDS["single"]
    path = save(tmp_path / "c.ckpt", tokenizer, CLASSES[task.__name__], head_of("single", extra), **extra)
    assert open_model(path).config.tie_embeddings
    rows = [{"text": line, "label": "bad"} for line in texts.read_text().splitlines() if line.strip()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    words = ("--layers=1", "--heads=2", "--mlp=0.5", "--sparsity=0.5", f"--texts={texts}")
    words += ("--report=test.jsonl", f"--beside={path}", "--json")
    done = lm("compress", path, *words)
    assert done.status == 0, done.err
    found = {each["name"]: each for each in json.loads(done.out)}
    name = "layers1-heads2-mlp0.5"
    assert list(found) == ["as it is", name, f"{name}-wanda0.5", "c.ckpt"]
    assert found[f"{name}-wanda0.5"]["zeros"] == pytest.approx(0.5) and not found[name]["zeros"]
    small = open_model(tmp_path / f"c-{name}.ckpt")
    assert (small.config.num_layers, small.config.num_heads, small.config.mlp_width) == (1, 2, 64)
    assert torch.equal(small.weights["head.weight"], open_model(path).weights["head.weight"])
    assert lm("classify", tmp_path / f"c-{name}.ckpt", "raise").status == 0


def test_models_of_the_same_name_stand_beside_each_other(lm, trained, tmp_path, texts):
    best = trained / "checkpoints/gpt/best.ckpt"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.ckpt").write_bytes(best.read_bytes())
    done = lm("compress", best, "--beside", "a/best.ckpt", "b/best.ckpt", f"--report={texts}", "--json")
    assert done.status == 0, done.err
    assert [each["name"] for each in json.loads(done.out)] == ["as it is", "a/best.ckpt", "b/best.ckpt"]


def test_integers_cannot_be_pruned(lm, trained, tmp_path, texts):
    assert lm("compress", trained / "checkpoints/gpt", "--out=.").status == 0
    for options in (["--sparsity=0.5"], ["--mlp=0.5", f"--texts={texts}"]):
        done = lm("compress", "gpt-int8.ckpt", *options)
        assert done.status and "quantised already: give the model that it was made of" in done.err


def test_a_pruned_model_is_loaded_in_python(trained, texts):
    model = open_model(trained / "checkpoints/gpt")
    small = shrink(model, calibration(model, texts.read_text()), mlp=64)
    assert len(package.Predictor(small).generate("def parse", tokens=5, temperature=0)) > 0
