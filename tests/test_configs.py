"""Every configuration that ships: it is parsed, its model is built, and it has the published size."""

from pathlib import Path

import pytest
import torch
import yaml

from lm.backbone import BackboneConfig, LanguageModel, Pooler

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "llama-1b": 1_100_048_384,
    "qwen3-0.6b": 596_049_920,
}


def backbone_of(path: Path) -> BackboneConfig:
    tree = yaml.safe_load(path.read_text())
    data = tree["data"]["init_args"]
    shape = tree["model"]["init_args"]["backbone"]
    return BackboneConfig(vocab_size=data["vocab_size"], max_seq_len=data["seq_len"], **shape)


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize("name", names("pretrain"))
def test_it_is_parsed_and_built(lm, name):
    path = CONFIGS / f"pretrain/{name}.yaml"
    result = lm("fit", "--config", path, "--print_config")
    assert result.status == 0, result.err
    tree = yaml.safe_load(result.out)
    assert tree["name"] == name
    if name == "recover" or name.endswith("-masked"):  # has another's shape; see test_reconstruction.py
        return
    with torch.device("meta"):
        model = LanguageModel(backbone_of(path))
        logits = model(torch.zeros(1, 8, dtype=torch.long))
    assert logits.shape == (1, 8, tree["data"]["init_args"]["vocab_size"])
    if name in PUBLISHED:
        assert model.num_parameters() == PUBLISHED[name]


def test_bert_base_has_the_published_size_with_its_pooler():
    config = backbone_of(CONFIGS / "pretrain/bert-base.yaml")
    with torch.device("meta"):
        model, pooler = LanguageModel(config), Pooler(config)
    assert model.backbone.num_parameters() + sum(p.numel() for p in pooler.parameters()) == 109_482_240
    assert model.num_parameters() == 109_514_298


@pytest.mark.parametrize("overlay", names("trainer"))
@pytest.mark.parametrize("name", ["gpt-nano", "bert-nano"])
def test_every_overlay_goes_over_every_task(lm, name, overlay):
    overlay = CONFIGS / f"trainer/{overlay}.yaml"
    result = lm("fit", "--config", CONFIGS / f"pretrain/{name}.yaml", "--config", overlay, "--print_config")
    assert result.status == 0, result.err
    changed = yaml.safe_load(overlay.read_text())["trainer"]
    tree = yaml.safe_load(result.out)
    for key, value in changed.items():
        if not isinstance(value, dict):
            assert tree["trainer"][key] == value
    assert tree["data"]["init_args"]["corpus"] == "stdlib"


def test_the_debug_overlay_runs(lm, code_text):
    result = lm(
        "fit",
        "--config",
        CONFIGS / "pretrain/gpt-nano.yaml",
        "--config",
        CONFIGS / "trainer/debug.yaml",
        "--config",
        CONFIGS / "trainer/cpu.yaml",
        f"--data.corpus={code_text}",
        "--data.vocab_size=400",
    )
    assert result.status == 0, result.err
    assert Path("checkpoints/debug/summary.json").exists()
