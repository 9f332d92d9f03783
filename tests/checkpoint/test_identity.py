"""A model's hash: of all that makes its answers, and of nothing else."""

from dataclasses import replace

import pytest

import lm as package
from lm.checkpoint import Model, identity


@pytest.fixture
def gpt(trained) -> Model:
    return package.load(trained / "checkpoints/gpt").model


def test_what_only_training_asks_for_is_no_part_of_it(gpt):
    config = replace(gpt.config, dropout=0.3, init_std=0.5)
    assert identity(replace(gpt, config=config)) == identity(gpt)
    language = {**gpt.record, "head": {"kind": "language"}}  # as fine-tuned ones say
    assert identity(replace(gpt, record=language)) == identity(gpt)


def test_what_changes_its_answers_is(gpt):
    task = {**gpt.record, "task": "lm.tasks.InstructionTuning"}
    others = [
        replace(gpt, config=replace(gpt.config, rope_theta=20_000.0)),
        replace(gpt, record={**gpt.record, "labels": ["a", "b"]}),
        replace(gpt, record={**gpt.record, "kind": "multi"}),
        replace(gpt, record=task),  # it chats now
        replace(gpt, chat_template="{{ messages }}"),
        replace(gpt, chat_template="{{ messages }}\n"),
    ]
    assert len({identity(each) for each in [gpt, *others]}) == len(others) + 1


def test_it_is_never_taken_from_what_a_file_says_of_itself(gpt):
    said = {**gpt.record, "onnx": {"sha256": identity(gpt)}}
    assert identity(replace(gpt, record=said)) != identity(gpt)
