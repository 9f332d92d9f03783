"""When two configurations are one run."""

from lm.run_folder import differences, identity

CONFIGURATION = {
    "name": "a",
    "seed_everything": 0,
    "data": {"init_args": {"batch_size": 8, "seq_len": 4, "num_workers": 0}},
    "model": {"init_args": {"backbone": {"num_layers": 2}}},
    "trainer": {"accumulate_grad_batches": 2, "devices": 1, "max_steps": 5, "callbacks": None},
}


def changed(**changes) -> list[str]:
    """The differences that dotted keys (with __ for a dot) make."""
    other = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIGURATION.items()}
    for key, value in changes.items():
        *path, last = key.split("__")
        tree = other
        for part in path:
            tree[part] = dict(tree[part])
            tree = tree[part]
        tree[last] = value
    return differences(identity(other), identity(CONFIGURATION))


def test_where_and_how_it_runs_is_no_part_of_a_run():
    assert changed(name="b", trainer__devices="auto", trainer__callbacks=["X"]) == []
    assert changed(data__init_args__batch_size=4, trainer__accumulate_grad_batches=4) == []


def test_what_is_learned_is():
    assert changed(seed_everything=1) == ["seed_everything 0 → 1"]
    assert changed(trainer__max_steps=6) == ["trainer.max_steps 5 → 6"]
    assert changed(data__init_args__seq_len=8) == ["data.seq_len 4 → 8"]
    assert changed(model__init_args__backbone={"num_layers": 3}) == ["model.backbone.num_layers 2 → 3"]


def test_the_configuration_is_left_as_it_is():
    before = repr(CONFIGURATION)
    identity(CONFIGURATION)
    assert repr(CONFIGURATION) == before
