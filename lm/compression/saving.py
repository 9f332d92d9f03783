"""A compressed model as a checkpoint."""

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import yaml

from lm import checkpoint as checkpoints
from lm.backbone import BackboneConfig
from lm.checkpoint import Model

_PRETRAINED = {True: "lm.tasks.CausalPretraining", False: "lm.tasks.MaskedPretraining"}


def save(model: Model, path: Path) -> None:
    """Write a checkpoint that is used like any other, and says what was done to it.

    Args:
        model: with `quantised` in its record, and whatever the model that it was made of had there.
    """
    task = model.record.get("task") or _PRETRAINED[model.config.causal]
    record = {**model.record, **checkpoints.make_record(task, model.config, model.processor)}
    if "configuration" in record:
        record["configuration"] = _of_shape(record["configuration"], model.config)
    if model.chat_template is not None:
        record["chat_template"] = model.chat_template
    weights = model.network.state_dict()  # with a head that is tied, as Lightning would have it
    state = {f"{checkpoints.MODEL_PREFIX}{name}": value for name, value in weights.items()}
    content = {"lm": record, "state_dict": state, "global_step": model.step, "epoch": 0}
    # What Lightning asks of a checkpoint that it is to measure.
    checkpoints.write({**content, "pytorch-lightning_version": version("lightning")}, path)


def _of_shape(configuration: str, config: BackboneConfig) -> str:
    """A run's configuration for a model of another shape: `lm validate` makes it anew by that."""
    tree = yaml.safe_load(configuration)
    own = {each.name: getattr(config, each.name) for each in fields(config) if not each.metadata}
    tree["model"].setdefault("init_args", {})["backbone"] = own
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
