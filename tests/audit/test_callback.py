"""An audit while training: figures on TensorBoard, and a training that does not notice."""

import json
from types import SimpleNamespace

import pytest

from tests.conftest import scalars

CALLBACK = """
trainer:
  callbacks+:
    - class_path: lm.audit.Auditing
      init_args: {config: small.yaml, every_n_validations: 2, seconds: 60}
"""
SMALL = """
checks:
- class_path: Extraction
  init_args: {prompt: 4, continuation: 4, passages: 8}
- class_path: Membership
  init_args: {windows: 8}
thresholds:
  extraction.extracted: {most: 0}
"""


def test_training_goes_on_as_without(lm, tmp_path, trained_alike_with):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "callback.yaml").write_text(CALLBACK)
    trained_alike_with("callback.yaml")
    found = scalars(tmp_path / "checkpoints/with", "audit/extraction.tokens_alike")
    assert list(found) == [2, 4, 6]
    assert set(scalars(tmp_path / "checkpoints/with", "audit/not_kept").values()) == {1.0}
    # What it has seen is known within a run as it is from the checkpoint afterwards.
    assert lm("audit", "checkpoints/with/last.ckpt", "--config", "small.yaml").status == 1
    report = json.loads((tmp_path / "checkpoints/with/audit-last/audit.json").read_text())
    alike = report["checks"][0]["figures"]["tokens_alike"]["value"]
    assert found[6] == pytest.approx(alike)


def test_what_private_training_has_seen_is_drawn_by_lot(trained):
    from lm.audit.callback import _seen
    from lm.audit.private.training import PrivateTraining
    from lm.data.corpus.shards import Corpus

    pytest.importorskip("opacus")
    corpus = Corpus.open(next(trained.glob("data/*/manifest.json")).parent)
    state = {"loader": {"epoch": 0, "samples": 8}, "step_samples": 4}
    data = SimpleNamespace(
        corpus=corpus, mixed=False, source="c", seq_len=8, seed=0, state_dict=lambda: state
    )

    def seen(*callbacks, overfit_batches=0):
        return _seen(SimpleNamespace(datamodule=data, callbacks=callbacks, overfit_batches=overfit_batches))[
            1
        ]

    private, secret = (PrivateTraining(noise_multiplier=1, secure=each) for each in (False, True))
    assert seen(private).run.lots and not seen().run.lots
    assert seen(secret) is None and seen(overfit_batches=1) is None


def test_a_configuration_that_is_not_there_is_said_first(lm, tmp_path, tiny_gpt):
    (tmp_path / "callback.yaml").write_text(CALLBACK)
    failed = lm("fit", *tiny_gpt, "--config", "callback.yaml")
    assert failed.status == 2 and "no such configuration file: small.yaml" in failed.err
