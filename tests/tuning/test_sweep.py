"""`lm sweep` as a person uses it: with real trials, and where kills and sharing matter with stubs of them."""

import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from optuna.trial import TrialState

from lm.tuning import Budget, Range, Sweep, read

STUB = [sys.executable, str(Path(__file__).with_name("stub.py"))]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LR = {"model.optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}}
# One process imports what takes seconds, the others are its forks; the rest is what tests/conftest.py has.
TASKS = ("lm.tasks.text.causal", "lm.tasks.text.masked")
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["lm.run.start", *TASKS, "lm.data", "tensorboard", "lm.tuning.workers"]
)
AS_A_COMMAND = """
import os, sys
os.environ |= environment
os.setsid()
os.chdir(folder)
sys.stdout = sys.stderr = open("out.txt", "a", buffering=1)
os.dup2(sys.stdout.fileno(), 1); os.dup2(sys.stdout.fileno(), 2)
import lm.tuning.trial
lm.tuning.trial.COMMAND = command
sys.argv = ["lm", "sweep", *words]
from lm.cli import main
main()
"""


@pytest.fixture
def stub(monkeypatch):
    """Trials in this process's sweeps are the stub's."""
    monkeypatch.setattr("lm.tuning.trial.COMMAND", STUB)


@pytest.fixture
def start(tmp_path):
    """Starts a sweep of stubs as a process of its own."""
    started = []

    def start_one(*words, **environment):
        given = {"folder": str(tmp_path), "command": STUB, "words": [str(word) for word in words]}
        given["environment"] = environment
        process = multiprocessing.get_context("forkserver").Process(target=exec, args=(AS_A_COMMAND, given))
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def write(folder, **fields):
    """A sweep's file."""
    whole = {"name": "s", "config": "gpt-nano", "space": LR, "trials": 6, "budget": {"steps": 8}} | fields
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def journal(folder, name="s"):
    """The study's trials, as Optuna reads them."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(
        JournalFileBackend(str(folder / f"checkpoints/{name}/study.journal"))
    )
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def notes(folder):
    """What the stubs wrote: trial, and what happened."""
    return [tuple(line.split(" ", 1)) for line in (folder / "notes.txt").read_text().splitlines()]


def children(process):
    """The processes that another has begun."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_real_trial_killed_with_its_sweep_goes_on_and_the_best_learns_the_same(
    lm, start_lm, tmp_path, tiny_gpt, monkeypatch
):
    config, *words = tiny_gpt[1:]
    options = dict(word[2:].split("=", 1) for word in words) | {"checkpoint.every_n_steps": 5}
    for name in ("trainer.max_steps", "trainer.val_check_interval", "data.batch_size"):
        del options[name]
    space = {"model.optimizer.lr": {"choices": [1e-9, 0.03]}, "data.batch_size": {"choices": [4, 8]}}
    # The given one has lr 0.03 and 8 windows of 32 tokens.
    fields = {"config": config, "options": options, "space": space, "trials": 1}
    path = write(tmp_path, **fields, budget={"tokens": 8192})
    process = start_lm("sweep", path)
    folder = tmp_path / "checkpoints/s"
    until((folder / "trial-0000/last.ckpt").exists)
    (child,) = children(process)
    process.kill()  # both at once, as when the power fails
    os.kill(child, signal.SIGKILL)
    process.wait()
    assert not (folder / "trial-0000/summary.json").exists()

    # The second process has imported what takes seconds.
    begun = []
    popen = SimpleNamespace(
        DEVNULL=None, Popen=lambda words, **_: begun.append(start_lm(*words[3:])) or begun[-1]
    )
    monkeypatch.setattr("lm.tuning.trial.subprocess", popen)
    result = lm("sweep", path)
    assert result.status == 0, result.err
    (again,) = begun
    log = again.communicate()[1]
    assert int(re.search(r"goes on from step (\d+)", log)[1]) >= 5 and " starts: " not in log
    assert (folder / "trial-0000/trial.log").read_text().count(" starts: ") == 1
    summary = json.loads((folder / "trial-0000/summary.json").read_text())
    assert (summary["steps"], summary["tokens_seen"]) == (32, 8192)
    best = summary["best_val_loss"]
    assert [trial.value for trial in journal(tmp_path)] == [best]
    assert f"{best:.4f}" in result.out and "best.yaml" in result.out
    page = (folder / "sweep.html").read_text()
    assert f"{best:.4f}" in page and page.count("<svg") == 4 and "http" not in page

    again = lm("sweep", path)
    assert "is finished: nothing to do" in again.err and again.out == result.out
    # The file is a whole configuration: it learns the same, to the last bit, without a kill.
    fitted = lm("fit", folder / "best.yaml")
    assert fitted.status == 0, fitted.err
    again = json.loads((tmp_path / "checkpoints/s-best/summary.json").read_text())
    assert again["best_val_loss"] == best


def test_each_trial_learns_from_as_much_and_is_measured_as_often(study):
    """The steps, and the batches between two validations, by batch size, length and accumulation."""
    cuts = "trainer.accumulate_grad_batches"
    space = {"data.batch_size": {"choices": [4, 8]}, "data.seq_len": {"choices": [64, 128]}}
    made = study(space=space | {cuts: {"choices": [1, 2]}}, budget={"tokens": 32768}).configurations
    found = set()
    for batch, length, cut in itertools.product((4, 8), (64, 128), (1, 2)):
        params = {"data.batch_size": batch, "data.seq_len": length, cuts: cut}
        steps = made.steps(made.tree(params))
        assert steps * batch * length * cut == 32768
        words = made.words(params, steps)
        assert f"--trainer.max_steps={steps}" in words
        assert f"--trainer.val_check_interval={steps * cut // 4}" in words
        found.add(steps)
    assert found == {16, 32, 64, 128}


def until(said, seconds=60):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_sigkill_at_five_moments_loses_no_trial_and_does_none_twice(start, tmp_path, monkeypatch):
    path = write(tmp_path, trials=6, sampler="random", pruner="none", budget={"steps": 12})
    chance, written = random.Random(3), tmp_path / "notes.txt"
    finished: dict[int, float] = {}
    for _ in range(5):
        size = written.stat().st_size if written.exists() else 0
        process = start(path)
        before = len(finished)
        until(lambda size=size: written.exists() and written.stat().st_size > size)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.join()
        done = {t.number: t.value for t in journal(tmp_path) if t.state.is_finished()}
        assert done.items() >= finished.items() and len(done) >= before
        finished = done
    process = start(path)
    process.join()
    assert process.exitcode == 0, (tmp_path / "out.txt").read_text()
    trials = journal(tmp_path)
    assert len(trials) == 6 and all(trial.state.is_finished() for trial in trials)
    assert {trial.number: trial.value for trial in trials}.items() >= finished.items()
    happened = notes(tmp_path)
    assert Counter(name for name, what in happened if what == "finished") == {
        f"trial-{n:04d}": 1 for n in range(6)
    }
    assert not [name for name, what in happened if what == "again"]
    assert any(re.fullmatch(r"from [1-9]\d*", what) for _, what in happened)  # one went on where it was
    # What is tried doesn't depend on the kills.
    (tmp_path / "whole").mkdir()
    monkeypatch.setattr("lm.tuning.trial.COMMAND", STUB)
    monkeypatch.chdir(tmp_path / "whole")
    monkeypatch.setenv("STUB_SLEEP", "0")
    from lm.tuning import run

    run(*read(str(path)))
    assert [trial.params for trial in journal(tmp_path / "whole")] == [trial.params for trial in trials]


def test_two_workers_at_once_do_no_trial_twice(start, tmp_path):
    path = write(tmp_path, trials=8, pruner="none", sampler="tpe")
    processes = [start(path), start(path, "--workers", "2")]
    for process in processes:
        process.join()
        assert process.exitcode == 0, (tmp_path / "out.txt").read_text()
    trials = journal(tmp_path)
    assert [trial.number for trial in trials] == list(range(8))
    assert len({trial.params["model.optimizer.lr"] for trial in trials}) == 8
    begun = Counter(name for name, what in notes(tmp_path) if what == "from 0")
    assert begun == {f"trial-{n:04d}": 1 for n in range(8)}
    said = (tmp_path / "out.txt").read_text()
    assert said.count("best configuration") == 2  # each waits for the other's last ones


def test_a_bad_trial_is_ended_early_and_the_given_one_never(lm, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SLEEP", "0")
    monkeypatch.setenv("STUB_WAITS", "1")
    # The given one, 0.03, is worse than 0.01 and much better than 1.
    space = {"model.optimizer.lr": {"choices": [0.01, 0.02, 0.5, 1.0, 0.012, 0.03]}}
    result = lm("sweep", write(tmp_path, space=space, trials=6, budget={"steps": 40}))
    assert result.status == 0, result.err
    trials = journal(tmp_path)
    ended = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert ended and all(trial.params["model.optimizer.lr"] >= 0.5 for trial in ended)
    assert trials[0].state.name == "COMPLETE" and trials[0].params == {"model.optimizer.lr": 0.03}
    asked = dict(what for what in notes(tmp_path) if "asked to stop" in what[1])
    for trial in ended:
        assert len(trial.intermediate_values) < 4
        assert int(asked[f"trial-{trial.number:04d}"].rpartition(" ")[2]) < 40
    assert len(list((tmp_path / "checkpoints/s/hparams").glob("*/events*"))) == 6
    best = yaml.safe_load((tmp_path / "checkpoints/s/best.yaml").read_text())
    assert best["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert "ended early at step 20 of 40" in result.err
    assert "given configuration at the same budget" in result.out


def test_a_trial_that_something_else_kills_goes_on(start, tmp_path, monkeypatch):
    process = start(write(tmp_path, trials=1, budget={"steps": 30}))
    state = tmp_path / "checkpoints/s/trial-0000/step"
    until(lambda: state.exists() and int(state.read_text()) > 5)
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    process.join()
    assert process.exitcode == 0
    first, second, last = (what for _, what in notes(tmp_path))
    assert (first, last) == ("from 0", "finished") and int(second.removeprefix("from ")) > 5


def test_ctrl_c_saves_and_the_same_command_goes_on(start, tmp_path):
    path = write(tmp_path, trials=2, budget={"steps": 20})
    process = start(path)
    state = tmp_path / "checkpoints/s/trial-0000/step"
    until(state.exists)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert "The same command goes on" in (tmp_path / "out.txt").read_text()
    assert [trial.state.name for trial in journal(tmp_path)] == ["RUNNING"]
    process = start(path)
    process.join()
    assert [trial.state.name for trial in journal(tmp_path)] == ["COMPLETE"] * 2
    assert [what for _, what in notes(tmp_path)].count("from 0") == 2


def test_ctrl_c_again_ends_what_does_not_hear_the_first(start, tmp_path):
    process = start(write(tmp_path, trials=1, budget={"steps": 10_000}), STUB_DEAF="1")
    until((tmp_path / "checkpoints/s/trial-0000/step").exists)
    (child,) = children(process)
    os.kill(process.pid, signal.SIGINT)
    until(lambda: "Ctrl-C again" in (tmp_path / "out.txt").read_text())
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_grid_tries_each_once_and_seconds_become_steps_by_the_measured_speed(
    lm, stub, tmp_path, monkeypatch
):
    monkeypatch.setenv("STUB_SLEEP", "0")
    space = {
        "model.optimizer.lr": {"choices": [0.01, 0.02]},
        "model.backbone.num_layers": {"low": 3, "high": 4},
    }
    path = write(tmp_path, space=space, sampler="grid", trials=50, budget={"seconds": 0.2}, pruner="none")
    result = lm("sweep", path)
    assert result.status == 0, result.err
    trials = journal(tmp_path)
    # lr 0.03, the given one, is none of the grid.
    assert trials[0].params == {"model.backbone.num_layers": 3}
    tried = [tuple(trial.params[name] for name in space) for trial in trials[1:]]
    assert sorted(tried) == [(0.01, 3), (0.01, 4), (0.02, 3), (0.02, 4)]
    assert {trial.user_attrs["steps"] for trial in trials} == {10}  # 50 a second, by the stub
    assert [what for _, what in notes(tmp_path)].count("from 0") == 10  # five trials, five probes
    assert not [path for path in (tmp_path / "checkpoints/s").iterdir() if path.name.startswith(".trial")]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of trials that nobody runs: `study(**fields of a sweep)`."""

    def make(**fields):
        from lm.tuning.configuration import Configurations
        from lm.tuning.study import Study

        monkeypatch.chdir(tmp_path)
        sweep, _ = read(str(write(tmp_path, **fields)))
        return Study(sweep, Configurations(sweep))

    return make


@pytest.mark.parametrize("sampler", ["grid", "tpe", "random"])
def test_every_value_is_tried_once_where_they_are_few(study, sampler):
    """The given configuration, 0.6 and three layers, is one of them; 0.4 + 0.2 isn't quite 0.6."""
    space = {
        "model.schedule.decay": {"low": 0.4, "high": 1.0, "step": 0.2},
        "model.backbone.num_layers": {"low": 2, "high": 5},
    }
    few = study(space=space, sampler=sampler, trials=50)
    tried = []
    while claim := few.claim():
        tried.append(tuple(claim.trial.params[name] for name in space))
        few.tell(claim.trial, TrialState.COMPLETE, float(len(tried) % 3))
        os.close(claim.lock)
    assert len(tried) == len(set(tried)) == 16
    assert set(tried) == {(decay, layers) for decay in (0.4, 0.6, 0.8, 1.0) for layers in (2, 3, 4, 5)}


def test_a_trial_is_not_ended_when_it_is_at_its_end(study):
    """It would be no result, and nothing would be saved."""
    from lm.tuning.trial import Runner, Stop

    made = study(trials=8)
    for value in (1.0, 1.0, 1.0):
        claim = made.claim()
        made.report(claim.trial, [value] * 4)
        made.tell(claim.trial, TrialState.COMPLETE, value)
        os.close(claim.lock)
    claim = made.claim()
    os.close(claim.lock)
    judged = []
    runner, later = (Runner(made, claim, Stop()) for _ in range(2))
    runner.steps = later.steps = 8
    runner.folder.mkdir()
    for step in (2, 4, 6, 8):
        with (runner.folder / "validations.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "figures": {"loss": 9.0}}) + "\n")
        judged.append(runner._judge())
        if step == 6:  # where this one was killed before it ended the trial
            assert later._judge().state == TrialState.PRUNED
    assert judged[0] is None and judged[3] is None  # before its middle, and at its end
    assert [each.state for each in judged[1:3]] == [TrialState.PRUNED] * 2


def test_hyperband_ends_most_of_the_bad_ones_and_never_the_given_one(study):
    made = study(trials=16, pruner="hyperband", sampler="random")
    ended = []
    for number in range(16):
        claim = made.claim()
        figure = 99.0 if number == 0 else float(number)  # each is worse than those before it
        reports = [made.report(claim.trial, [figure] * count) for count in range(1, 5)]
        ended.append(any(reports))
        if ended[-1]:
            made.tell(claim.trial, TrialState.PRUNED)
        else:
            made.tell(claim.trial, TrialState.COMPLETE, figure)
        os.close(claim.lock)
    assert not ended[0] and not ended[1] and sum(ended) >= 8


def test_options_that_do_not_go_together_are_a_failed_trial(lm, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SLEEP", "0")
    space = {
        "model.optimizer": {"choices": ["lm.optim.Muon", "torch.optim.SGD"]},
        "model.optimizer.adamw_lr": {"choices": [0.01, 0.02]},
    }
    result = lm("sweep", write(tmp_path, space=space, trials=5, sampler="grid"))
    assert result.status == 0, result.err
    states = {trial.params.get("model.optimizer"): trial.state.name for trial in journal(tmp_path)}
    assert (states["lm.optim.Muon"], states["torch.optim.SGD"]) == ("COMPLETE", "FAIL")


def test_every_trial_failed(lm, stub, tmp_path):
    result = lm("sweep", write(tmp_path), "--data.corpus", "none.txt")
    assert result.status == 1
    first, second = result.err.strip().splitlines()[-2:]
    assert first == "lm sweep: every trial failed (3), the first one so: no such file: none.txt"
    assert (
        second == "checkpoints/s/trial-0000/trial.log has all of it; once it is mended, delete checkpoints/s"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"space": {"model.optimizer.lrr": {"low": 1, "high": 2}}}, "did you mean --model.optimizer.lr?"),
        ({"space": {"model.optimizer.lr": {"low": 0.1, "high": 0.1}}}, "from 0.1 to 0.1 is an empty range"),
        ({"space": {"model.optimizer.lr": {"choices": []}}}, "is an empty range"),
        (
            {"space": {"model.optimizer.lr": {"low": 0, "high": 1, "log": True}}},
            "with `log` it has to be above 0",
        ),
        (
            {"space": {"model.backbone.num_layers": {"low": 1.5, "high": 3}}},
            "space: model.backbone.num_layers: in",
        ),
        ({"space": {"model.optimizer.lr": {"low": 0.1}}}, "give `low` and `high`"),
        ({"space": {}}, "space: there is nothing to choose from"),
        ({"space": {"model.optimizer.lr": {"low": 1, "hihg": 2}}}, "did you mean 'high'?"),
        ({"trails": 3}, "did you mean 'trials'?"),
        ({"trials": 0}, "trials: 0 has to be at least 1"),
        ({"budget": {"steps": 5, "tokens": 5}}, "give one of tokens and steps"),
        ({"config": "gpt-nanno"}, "did you mean gpt-nano?"),
        ({"options": {"data.corpsu": "x"}}, "did you mean --data.corpus?"),
        ({"options": {"trainer.max_steps": 5}}, "trainer.max_steps says how long a trial is, too"),
        ({"sampler": "grid"}, "a grid needs `choices` or a `step`"),
        ({"config": "texts", "budget": {"tokens": 5}}, "rows of TextData have no fixed number of tokens"),
    ],
)
def test_bad_input_is_a_line(lm, tmp_path, fields, said):
    result = lm("sweep", write(tmp_path, **fields))
    assert result.status == 2
    assert said in result.err and len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_a_storage_of_another_study(lm, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SLEEP", "0")
    path = write(tmp_path, trials=1)
    assert lm("sweep", path).status == 0
    kept = tmp_path / "checkpoints/s/study.journal"
    before = kept.read_bytes()
    write(tmp_path, trials=1, budget={"steps": 9})
    result = lm("sweep", path)
    assert result.status == 1 and "is of another sweep: budget.steps 8 → 9" in result.err
    write(tmp_path, trials=1, options={"data.batch_size": 4})  # which a run may change and go on
    assert "is of another sweep: data.batch_size 8 → 4" in lm("sweep", path).err
    write(tmp_path, trials=1, name="t")
    (tmp_path / "checkpoints/t").mkdir()
    (tmp_path / "checkpoints/t/study.journal").write_bytes(before)
    result = lm("sweep", path)
    assert result.status == 1 and "is of the sweep 's', not of 't'" in result.err
    (tmp_path / "checkpoints/t/study.journal").write_text("what is this\n")
    result = lm("sweep", path)
    assert result.status == 1 and "can't be read as a sweep's storage" in result.err
    assert len(journal(tmp_path)) == 1
    write(tmp_path, trials=3)  # more trials are no other study
    assert lm("sweep", path).status == 0
    assert len(journal(tmp_path)) == 3


def test_half_a_line_in_the_journal_is_no_loss(lm, stub, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_SLEEP", "0")
    path = write(tmp_path, trials=2)
    assert lm("sweep", path).status == 0
    with (tmp_path / "checkpoints/s/study.journal").open("a") as file:
        file.write('{"op_code":4,"stu')
    result = lm("sweep", path, "--trials", "3")
    assert result.status == 0, result.err
    assert [trial.state.name for trial in journal(tmp_path)] == ["COMPLETE"] * 3


def test_a_run_s_folder_is_no_study_s(lm, tmp_path):
    (tmp_path / "checkpoints/s").mkdir(parents=True)
    (tmp_path / "checkpoints/s/config.yaml").write_text("name: s")
    result = lm("sweep", write(tmp_path))
    assert result.status == 1 and "is a run's folder" in result.err


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_ones_can_be(path, tmp_path, monkeypatch):
    from lm.tuning.configuration import Configurations

    monkeypatch.chdir(tmp_path)
    sweep, _ = read(path.stem)
    assert sweep.name == path.stem and sweep.trials == 16
    configurations = Configurations(sweep)
    assert configurations.given.keys() == sweep.space.keys()  # the shipped values lie within
    assert configurations.steps(configurations.base)


def test_ranges():
    assert Range(1, 4).count == 4 and Range(0.0, 1.0).count is None and Range(0.4, 1.0, step=0.2).count == 4
    assert Range(0.4, 1.0, step=0.2).holds(0.6) and not Range(0.4, 1.0, step=0.2).holds(0.5)
    assert not Range(1, 4).holds(2.5) and Range(choices=[[0.9, 0.95], None]).holds([0.9, 0.95])
    assert Range(2, 9, step=3).distribution().high == 8
    sweep = Sweep("a", "gpt-nano", {"x": Range(1, 3), "y": Range(choices=[1, 2])}, budget=Budget(tokens=5))
    assert sweep.combinations == 6


def test_axes():
    from lm.metrics.axes import Axis, upright

    axis = Axis(0, 100, 1e-4, 1, log=True)
    assert axis.at(1e-2) == 50 and [text for _, text in axis.ticks()] == [
        "0.0001",
        "0.001",
        "0.01",
        "0.1",
        "1",
    ]
    assert Axis(100, 0, 0, 10).at(2.5) == 75 and Axis(0, 90, words=["a", "b", "c"]).at("b") == 45
    assert [text for _, text in Axis(0, 1, 0, 10).ticks()] == ["0", "5", "10"]
    assert upright([1.0, 2.0, float("nan")], 0, 1).low < 1.0
