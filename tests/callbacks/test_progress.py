"""A log file gets plain lines; numbers are short."""

from types import SimpleNamespace

import pytest

from lm.callbacks import Monitor
from lm.callbacks.progress import Progress, duration, quantity


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3599.6, "1:00:00"), (36000, "10:00:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (999, "999"), (12345, "12.3k"), (999_600, "1M"), (2.5e6, "2.5M")]
)
def test_quantities(number, text):
    assert quantity(number) == text


def test_a_log_has_steps_losses_speed_and_time_left_without_control_characters(lm, tiny_gpt):
    result = lm("fit", *tiny_gpt)
    assert result.status == 0
    steps = [line for line in result.err.splitlines() if line.startswith("step ")]
    assert len(steps) == 6 + 1  # each step, and the validation
    assert "loss " in steps[0] and " tokens/s " in steps[0] and steps[0].endswith(" left")
    assert "validation: loss " in steps[-1] and "bits per byte" in steps[-1]
    assert "\r" not in result.err and "\x1b" not in result.err
    assert "lm generate checkpoints/gpt-nano/best.ckpt" in result.out


def test_a_terminal_shows_the_batch_that_is_looked_at_and_a_log_does_not(capsys):
    trainer = SimpleNamespace(is_global_zero=True, num_test_batches=[7, 5])
    progress = Progress(Monitor())
    progress.on_test_batch_end(trainer, None, None, None, 3, 0)
    assert capsys.readouterr().err == ""
    progress._terminal = True
    progress.on_test_batch_end(trainer, None, None, None, 3, 0)
    assert capsys.readouterr().err == "\r\x1b[Ktest: batch 4/12"
    progress.on_test_end(trainer, None)
    assert capsys.readouterr().err == "\r\x1b[K", "the moving line goes"
