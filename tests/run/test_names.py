"""Classes by their last name, and an optimizer that replaces another."""

import pytest
import yaml

from lm.run.names import in_tree, in_words


def test_our_classes_in_a_configuration():
    tree = {
        "name": "TextData",
        "data": {"class_path": "TextData", "init_args": {"train": "TagData"}},
        "model": {"class_path": "SequenceClassification", "init_args": {"optimizer": "Muon"}},
    }
    assert in_tree(tree) == {
        "name": "TextData",
        "data": {"class_path": "lm.data.TextData", "init_args": {"train": "TagData"}},
        "model": {
            "class_path": "lm.tasks.SequenceClassification",
            "init_args": {"optimizer": "lm.optim.Muon"},
        },
    }
    assert in_tree({"data": {"class_path": "my.Data"}}) == {"data": {"class_path": "my.Data"}}


def test_our_classes_among_words():
    words = ["fit", "--data", "TextData", "--model=Foo", "--name", "TextData", "--model.schedule", "Cosine"]
    expected = [*words[:2], "lm.data.TextData", *words[3:7], "lm.optim.Cosine"]
    assert in_words(words) == expected
    assert in_words(["fit", "--data.help", "TagData"])[2] == "lm.data.TagData"
    assert in_words(["fit", "--model.optimizer.class_path=Muon"])[1].endswith("=lm.optim.Muon")


def test_short_names_are_whole_ones_in_the_run_s_configuration(lm, tmp_path):
    (tmp_path / "my.yaml").write_text(
        "data: {class_path: TextData, init_args: {train: a.csv}}\n"
        "model: {class_path: SequenceClassification, init_args: {schedule: {class_path: Cosine}}}\n"
    )
    tree = yaml.safe_load(lm("fit", "my.yaml", "--print_config").out)
    assert tree["data"]["class_path"] == "lm.data.TextData"
    assert tree["model"]["init_args"]["schedule"]["class_path"] == "lm.optim.Cosine"


def test_the_options_of_a_class_by_its_name(lm):
    assert "--data.columns" in lm("fit", "--data.help", "TextData").out


def test_a_class_that_there_is_not(lm):
    result = lm("fit", "gpt-nano", "--model.optimizer", "Adamm")
    assert result.status == 2
    assert "there is no class 'Adamm'" in result.err


def optimizer(lm, *words):
    result = lm("fit", "gpt-nano", *words, "--print_config")
    return yaml.safe_load(result.out)["model"]["init_args"]["optimizer"], result.err


@pytest.mark.parametrize("words", [("--model.optimizer", "AdamW"), ("--model.optimizer=torch.optim.AdamW",)])
def test_another_optimizer_begins_with_its_own_values(lm, words):
    made, said = optimizer(lm, *words)
    assert made["class_path"] == "torch.optim.AdamW"
    assert made["init_args"]["lr"] == 0.001
    assert made["init_args"]["weight_decay"] == 0.01  # Muon has 0
    assert said == "AdamW begins with its own learning rate, 0.001, not Muon's (--model.optimizer.lr)\n"
    made, said = optimizer(lm, *words, "--model.optimizer.lr=0.1")
    assert (made["init_args"]["lr"], said) == (0.1, "")


def test_torch_s_optimizers_have_two_names(lm, tmp_path):
    text = "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.25}}}}\n"
    (tmp_path / "over.yaml").write_text(text)
    made, said = optimizer(lm, "--config", "over.yaml", "--model.optimizer", "AdamW")
    assert (made["init_args"]["lr"], said.count("AdamW begins")) == (0.25, 0)


def test_an_overlay_with_another_optimizer(lm, tmp_path):
    text = "model: {init_args: {optimizer: {class_path: AdamW, init_args: {weight_decay: 0.5}}}}\n"
    (tmp_path / "over.yaml").write_text(text)
    made, _ = optimizer(lm, "--config", "over.yaml")
    assert (made["init_args"]["lr"], made["init_args"]["weight_decay"]) == (0.001, 0.5)


def test_the_same_optimizer_keeps_what_the_configuration_gives(lm):
    made, said = optimizer(lm, "--model.optimizer", "Muon")
    assert (made["init_args"]["lr"], said) == (0.03, "")
