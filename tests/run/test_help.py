"""`lm fit --help`: short, without what is heavy, and nothing in it that there is not."""

import re
import subprocess
import sys

import pytest
import yaml

from lm.run.help import DATA, OPTIONS
from lm.tasks.table import TASKS


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_it_fits_on_a_screen_and_names_everything(lm, command):
    result = lm(command, "--help")
    assert result.status == 0
    lines = result.out.splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120
    for name in (*TASKS, *DATA, "Muon", "WarmupStableDecay", "Cosine"):
        assert name in result.out


def test_every_option_in_it_is_one(lm):
    parser = lm("fit", "--help", "all").out
    classes = lm("fit", "--model.help", "SequenceClassification").out
    for name in ("PretrainingData", "TextData"):
        classes += lm("fit", "--data.help", name).out
    # Of every optimizer, schedule and adapter: these have a help of their own.
    classes += "--model.optimizer.lr --model.schedule.warmup --model.adapter.kind"
    text = " ".join(f"{key} {what}" for table in OPTIONS.values() for key, what in table.items())
    for option in re.findall(r"--[\w.]+", text):
        assert option in parser or option in classes, option


def test_every_datamodule_is_in_it():
    import lm.data

    bases = {"TextExampleData", "ExampleData", "Example", "Skipped"}
    assert {name for name in dir(lm.data) if name[0].isupper()} - bases == set(DATA)


def test_it_imports_nothing_heavy():
    code = "import sys; from lm.cli import run; run(['fit', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("False\n")


def test_its_first_example_is_a_configuration(lm):
    assert yaml.safe_load(lm("fit", "gpt-nano", "ddp", "--print_config").out)["trainer"]["strategy"] == "ddp"
