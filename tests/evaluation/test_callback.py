"""Tasks while training: figures on TensorBoard, and a training that does not notice."""

import json

import pytest

from tests.conftest import scalars
from tests.evaluation.test_measure import CHOICES, ROWS

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

CALLBACK = """
trainer:
  callbacks+:
    - class_path: lm.evaluation.Evaluation
      init_args: {tasks: [TASK], every_n_validations: 2, data_dir: .}
"""


def test_training_goes_on_as_without(lm, tmp_path, trained_alike_with):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.yaml").write_text(CHOICES)
    (tmp_path / "callback.yaml").write_text(CALLBACK.replace("TASK", "mine.yaml"))
    trained_alike_with("callback.yaml")
    found = scalars(tmp_path / "checkpoints/with", "eval/mine/acc")
    assert list(found) == [2, 4, 6]
    last = lm("eval", "checkpoints/with/last.ckpt", "--tasks", "mine.yaml", "--json", "--data_dir", ".")
    value = json.loads(last.out)["tasks"][0]["metrics"]["acc"]["value"]
    assert found[6] == pytest.approx(value)


def test_a_classifier_is_refused(lm, tmp_path, trained):
    """Whose network is made after the callbacks are."""
    (tmp_path / "mine.yaml").write_text(CHOICES)
    (tmp_path / "mine.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "callback.yaml").write_text(CALLBACK.replace("TASK", "mine.yaml"))
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    words = (
        "--data.train",
        "texts.csv",
        "--model.init_from",
        trained / "checkpoints/bert",
        "--trainer.max_steps=1",
    )
    failed = lm("fit", "texts", *words, "--config", "callback.yaml", "--trainer.accelerator=cpu")
    assert failed.status == 1 and "Evaluation measures models that write or fill gaps" in failed.err


def test_a_task_that_is_not_there_is_said_first(lm, tmp_path, tiny_gpt):
    (tmp_path / "callback.yaml").write_text(CALLBACK.replace("TASK", "nothing.yaml"))
    failed = lm("fit", *tiny_gpt, "--config", "callback.yaml")
    assert failed.status == 2 and failed.err.splitlines()[-1].endswith("there is no task file nothing.yaml")
