"""Folders that can't be followed: each is refused with a line that says what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm.convert import open_model
from lm.convert.fields import Fields, rope
from lm.errors import UserError

from .conftest import GROUPED, MODERN, SIZES


@pytest.fixture
def llama(make_foreign):
    """The folder of a Llama that is as it should be."""
    return make_foreign("LlamaForCausalLM", **GROUPED).folder


def assert_refused(folder, text: str) -> None:
    with pytest.raises(UserError) as caught:
        open_model(folder)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)


def set_fields(folder, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **fields}))


def test_nothing_there(tmp_path):
    assert_refused(tmp_path / "none", "nothing is downloaded: give a folder on your disk")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "holds no model: no best.ckpt or last.ckpt of a run, and no config")
    (tmp_path / "empty/seed-1").mkdir()
    (tmp_path / "empty/seed-1/best.ckpt").touch()
    assert_refused(tmp_path / "empty", f"several seeds do, such as {tmp_path / 'empty/seed-1'}")
    (tmp_path / "empty/last.ckpt").touch()
    assert_refused(tmp_path / "empty", "empty/last.ckpt is not a checkpoint")
    (tmp_path / "empty/best.ckpt").touch()
    assert_refused(tmp_path / "empty", "empty/best.ckpt is not a checkpoint")
    (tmp_path / "empty/config.json").write_text("{}")
    assert_refused(tmp_path / "empty", "holds two models: ")
    (tmp_path / "file").write_text("hello")
    assert_refused(tmp_path / "file", "is not a checkpoint")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json line 1 is not JSON"),
        ("[1]", "not a group of fields, but a list"),
        ("{}", "no model_type; known here are gpt2, llama, qwen2, qwen3, roberta, bert, modernbert"),
        ('{"model_type": "mamba"}', "family 'mamba' is not known here: gpt2, llama,"),
        ('{"model_type": "llama"}', "hidden_size is missing"),
        ('{"model_type": "llama", "hidden_size": "8"}', "hidden_size is '8', not a number"),
    ],
)
def test_config_that_says_nothing(text, message, llama):
    (llama / "config.json").write_text(text)
    assert_refused(llama, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "xielu"}, "hidden_act 'xielu' is not supported here: it can be silu,"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn' is not supported here"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' is not supported here"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope type 'linear' lacks factor"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported here, only 1.0"),
        ({"quantization_config": {"bits": 4}}, "may change what the model computes: quantization_config"),
        (
            {"residual_multiplier": 0.2, "logits_scaling": 8, "a": 1, "b": 2},
            "residual_multiplier '0.2', logits_scaling '8', a '1' and 1 more",
        ),
        ({"attention_bias": "yes"}, "attention_bias is 'yes', neither true nor false"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
        ({"num_attention_heads": 0}, "config.json: a field is not what it should be"),
        ({"hidden_size": float("inf")}, "config.json: hidden_size is inf, not a number"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps is nan, not a number"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "config.json: rope_theta is nan, not a number"),
        ({"architectures": 5}, "config.json: architectures is 5, not a list of names"),
        ({"model_type": ["llama"]}, "config.json: a model of the family ['llama'] is not known"),
        (
            {"num_hidden_layers": 20_000},
            "num_hidden_layers is 20000: it must be from 1 to 10,000",
        ),
    ],
)
def test_fields_that_matter(fields, message, llama):
    set_fields(llama, **fields)
    assert_refused(llama, message)


def test_fields_that_do_not_matter(llama):
    """What says no, or nothing, or is bookkeeping."""
    set_fields(llama, use_mrope=False, extra=None, temperature=0.7, _name_or_path="x", unsloth_version="1")
    assert open_model(llama).has_head


@pytest.mark.parametrize(
    ("kind", "settings", "fields", "message"),
    [
        ("BertForMaskedLM", SIZES, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("BertForMaskedLM", SIZES, {"is_decoder": True}, "is_decoder True is not supported here"),
        (
            "BertForMaskedLM",
            SIZES,
            {"hidden_act": "relu"},
            "mlp relu is not supported beside a language-model",
        ),
        ("BertForMaskedLM", SIZES, {"hidden_act": "silu"}, "hidden_act 'silu'"),
        ("ModernBertForMaskedLM", MODERN, {"classifier_activation": "relu"}, "classifier_activation 'relu'"),
        (
            "ModernBertForMaskedLM",
            MODERN,
            {"layer_types": ["sliding_attention", *["full_attention"] * 4]},
            "not a window in all blocks but every n-th",
        ),
        ("Qwen3ForCausalLM", GROUPED, {"layer_types": ["sliding_attention"] * 2}, "sliding_window have none"),
        (
            "Qwen3ForCausalLM",
            GROUPED,
            {"layer_types": None, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "a window in some layers only",
        ),
    ],
)
def test_fields_of_other_families(kind, settings, fields, message, make_foreign):
    folder = make_foreign(kind, **settings).folder
    set_fields(folder, **fields)
    assert_refused(folder, message)


def change(folder, what) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    what(tensors)
    save_file(tensors, path, {"format": "pt"})


def test_missing_tensors(llama):
    change(llama, lambda t: [t.pop(f"model.layers.{i}.mlp.up_proj.weight") for i in range(3)])
    assert_refused(
        llama, "lack layers.0.mlp.up_proj.weight, layers.1.mlp.up_proj.weight, layers.2.mlp.up_proj"
    )
    change(llama, lambda t: [t.pop(f"model.layers.{i}.mlp.down_proj.weight") for i in range(2)])
    assert_refused(llama, " and 2 more")


def test_a_missing_head(llama):
    change(llama, lambda t: t.pop("lm_head.weight"))
    assert_refused(llama, "lack lm_head.weight")


def test_foreign_tensors(llama):
    names = [f"model.layers.{i}.self_attn.q_norm.weight" for i in range(3)] + ["zebra"]
    change(
        llama, lambda t: t.update(dict.fromkeys(names, torch.ones(8)) and {n: torch.ones(8) for n in names})
    )
    assert_refused(llama, "no place for these of its weights: layers.0.self_attn.q_norm.weight, layers.1")
    assert_refused(llama, "and 1 more")


def test_more_layers_than_config_says(llama):
    set_fields(llama, num_hidden_layers=2)
    assert_refused(llama, "no place for these of its weights: layers.2.input_layernorm.weight")


def test_many_more_layers_than_there_are_weights(llama, monkeypatch):
    """Found out before a model of that size is built, which takes a minute."""
    monkeypatch.setattr("lm.convert.folder._shapes", lambda config: pytest.fail("built"))
    set_fields(llama, num_hidden_layers=9_000)
    assert_refused(llama, "too few for the 9000 layers of its config.json")


def test_wrong_shapes(llama):
    set_fields(llama, intermediate_size=40)
    assert_refused(llama, "mlp.gate_proj.weight has the shape (48, 32), by config.json it is (40, 32)")


def test_heads_that_do_not_divide(llama):
    set_fields(llama, num_key_value_heads=3)
    assert_refused(llama, "num_kv_heads 3 does not divide")


def test_half_written_weights(llama):
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert_refused(llama, "model.safetensors is cut short or damaged")
    path.write_bytes(b"")
    assert_refused(llama, "model.safetensors is cut short or damaged")


def test_only_pickled_weights(llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    assert_refused(llama, "pytorch_model.bin only, pickled Python objects")
    (llama / "pytorch_model.bin").unlink()
    assert_refused(llama, "has no weights")


def test_an_index_that_points_outside(llama):
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    assert_refused(llama, "names a file outside its folder: ../secret.safetensors")
    (llama / "model.safetensors.index.json").write_text("{}")
    assert_refused(llama, "no weight_map")


def test_no_tokenizer(llama):
    (llama / "tokenizer.model").unlink()
    assert_refused(llama, "tokenizer")


def test_rope_as_a_table_of_cases(tmp_path):
    def found(**content):
        fields = Fields(content, tmp_path / "config.json")
        return rope(fields)

    assert found() == {"rope_theta": 10000.0, "rope_type": "default"}
    assert found(rope_theta=5e5) == {"rope_theta": 5e5, "rope_type": "default"}
    assert found(rope_theta=1.0, rope_parameters={"rope_theta": 2.0}) == {
        "rope_theta": 2.0,
        "rope_type": "default",
    }
    llama3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
    assert found(
        rope_theta=5e5,
        rope_scaling={"rope_type": "llama3", **llama3, "original_max_position_embeddings": 8192},
    ) == {
        **{"rope_theta": 5e5, "rope_type": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": 1.0},
        **{"rope_high_freq_factor": 4.0, "rope_original_len": 8192},
    }
