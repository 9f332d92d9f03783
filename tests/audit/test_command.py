"""`lm audit`: a report that holds for these very weights, thresholds, and what `lm serve` makes of it."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lm.audit import Check, Figure, Findings, Subject, perform
from lm.audit.audit import Audit, Threshold
from lm.audit.findings import mean, share

SMALL = """
checks:
- class_path: Extraction
  init_args: {prompt: 4, continuation: 4, passages: 8}
thresholds:
  extraction.extracted: {most: 1.0}
"""


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run of one's own, with its corpus where that run had it."""
    shutil.copytree(trained / "checkpoints/gpt", tmp_path / "checkpoints/gpt")
    shutil.copytree(trained / "data", tmp_path / "data")
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "checkpoints/gpt"


def test_a_report_holds_for_its_weights_alone(lm, run):
    done = lm("audit", run, "--config", "small.yaml")
    assert done.status == 0, done.err
    assert "extraction.extracted" in done.out and "kept: extraction.extracted at most 1" in done.out
    report = json.loads((run / "audit/audit.json").read_text())
    assert report["passed"] and len(report["model"]["identity"]) == 64
    figures = report["checks"][0]["figures"]
    assert figures["seen_1"]["n"] == 8 and 0 <= figures["seen_1"]["low"] <= figures["seen_1"]["value"]
    page = (run / "audit/audit.html").read_text()
    assert "It keeps to all its thresholds" in page and report["model"]["identity"][:16] in page

    for changed in (False, True):
        if changed:  # one number of one weight
            content = torch.load(run / "best.ckpt", weights_only=True)
            weight = content["state_dict"]["net.backbone.norm.weight"]
            weight[0] = torch.nextafter(weight[0], weight[0] + 1)
            torch.save(content, run / "best.ckpt")
        from lm.audit import verdict
        from lm.predictor import load

        good, words = verdict(load(run).model)
        assert good is not changed
        assert ("of other weights" if changed else "keeps to all its thresholds") in words
        assert lm("export", run, "out", "--force").status == 0
        assert ("| extraction.seen_1 |" in Path("out/README.md").read_text()) is not changed
    refused = lm("serve", run, "--port=0", "--require-audit")
    assert refused.status == 1 and "of other weights: lm audit" in refused.err
    assert "(--require-audit)" in refused.err and "serving at" not in refused.err


def test_an_audit_without_thresholds_decides_nothing(lm, run):
    Path("small.yaml").write_text(SMALL.partition("thresholds")[0])
    assert lm("audit", run, "--config", "small.yaml").status == 0
    refused = lm("serve", run, "--port=0", "--require-audit")
    assert refused.status == 1 and "without thresholds, by which nothing is decided" in refused.err


def test_a_model_that_has_diverged_has_a_report_and_does_not_pass(lm, run):
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["state_dict"]["net.backbone.norm.weight"][0] = float("nan")
    torch.save(content, run / "best.ckpt")
    rows = "sent_more,sent_less,stereo_antistereo,bias_type\nShe cooks,He cooks,stereo,gender\n"
    Path("pairs.csv").write_text(rows)
    checks = ("Membership", "CrowsPairs, init_args: {file: pairs.csv}", "SupplyChain")
    lines = ["checks:", *(f"- {{class_path: {each}}}" for each in checks), "thresholds:"]
    Path("nan.yaml").write_text("\n".join([*lines, "  crows_pairs.metric: {most: 1}"]))
    failed = lm("audit", run, "--config", "nan.yaml")
    assert failed.status == 1 and "NOT KEPT: crows_pairs.metric" in failed.out, failed.err
    parts = json.loads((run / "audit/audit.json").read_text())["checks"]
    assert all("log p is not finite" in part["why"] for part in parts[:2])
    assert parts[2]["figures"]["non_finite_weights"]["value"] == 1


def test_the_page_leaves_out_what_is_not_finite_and_the_card_where_things_lie(trained):
    from lm.audit import Chart
    from lm.audit.page import card, page
    from lm.predictor import load

    class Odd(Check):
        def run(self, subject: Subject) -> Findings:
            what = "a <b> of /home/ada/runs/x/best.ckpt, and | of data/c and/or C:\\Users\\ada\\f.csv"
            chart = Chart("", "", "", {"a": [(1, float("nan"), None, None), (2, 1.0, None, None)]})
            return Findings({"rate": Figure(float("nan"), what)}, [chart])

    report = perform(Audit([Odd()]), Subject(load(trained / "checkpoints/gpt")), whose="0" * 64)
    assert "<circle" in page(report)
    row = next(line for line in card(report).splitlines() if line.startswith("| odd.rate"))
    assert row.endswith("| a &lt;b> of best.ckpt, and \\| of data/c and/or f.csv |")


def test_a_check_of_ones_own_lies_beside_one(run, tmp_path, monkeypatch):
    """As docs/audit.md says; by the command itself, which does not begin in this folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from lm.audit import Check, Figure, Findings\n\n\nclass Politeness(Check):\n"
        "    def run(self, subject):\n        return Findings({'please': Figure(1, 'said')})\n"
    )
    Path("own.yaml").write_text("checks:\n- class_path: mine.Politeness\n")
    words = [shutil.which("lm", path=str(Path(sys.executable).parent)) or "lm", "audit", str(run)]
    done = subprocess.run([*words, "--config", "own.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "politeness.please" in done.stdout, done.stderr


def test_below_its_thresholds(lm, run):
    (run.parents[1] / "small.yaml").write_text(SMALL.replace("most: 1.0", "most: 0.001"))
    failed = lm("audit", run, "--config", "small.yaml")
    assert failed.status == 1
    assert "NOT KEPT: extraction.extracted at most 0.001" in failed.out  # 0 of a few may be more than that
    assert failed.err.splitlines()[-1].endswith("does not keep to its thresholds: extraction.extracted")
    assert not json.loads((run / "audit/audit.json").read_text())["passed"]
    refused = lm("serve", run, "--port=0", "--require-audit")
    assert refused.status == 1 and "failed its audit" in refused.err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shutil.rmtree, "is no longer in data"),
        (lambda data: [path.unlink() for path in data.glob("*/train-00000.bin")], "is missing"),
    ],
)
def test_without_its_corpus_or_with_one_that_was_changed(lm, run, change, why):
    change(run.parents[1] / "data")
    failed = lm("audit", run, "--config", "small.yaml")
    assert failed.status == 1
    part = json.loads((run / "audit/audit.json").read_text())["checks"][0]
    assert part["state"] == "not done" and why in part["why"]
    assert "NOT KEPT: extraction.extracted" in failed.out  # what was to be measured and was not


def test_another_corpus(lm, run, code_text):
    (run.parents[1] / "small.yaml").write_text(
        SMALL.replace("thresholds", "- class_path: PersonalData\nthresholds")
    )
    other = lm("prepare", code_text, "--vocab_size", "300", "--data_dir", "other").out.strip()
    failed = lm("audit", run, "--config", "small.yaml", "--corpus", other)
    part = json.loads((run / "audit/audit.json").read_text())["checks"][0]
    assert failed.status == 1 and "is not what the model was trained on" in part["why"]
    part = json.loads((run / "audit/audit.json").read_text())["checks"][1]  # what it writes is looked at
    assert part["state"] == "done" and "is not what the model was trained on" in part["notes"][0]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nowhere"], 1, "nowhere"),
        (["GPT", "--config", "none.yaml"], 2, "no such configuration file: none.yaml"),
        (
            ["GPT", "--config", "small.yaml", "--out", "small.yaml"],
            2,
            "--out small.yaml is there, and no folder",
        ),
        (["GPT", "--seconds", "0"], 2, "--seconds 0: it must be above 0"),
        (["GPT", "--seed", "-1"], 2, "--seed -1: it must be at least 0"),
        (["GPT", "--config", "small.yaml", "--only", "extractoin"], 2, "there is no check 'extractoin'"),
        (["GPT", "--config", "small.yaml", "--corpus", "nowhere"], 1, "nowhere is not a prepared corpus"),
    ],
)
def test_wrong_usage(lm, trained, tmp_path, words, status, said):
    (tmp_path / "small.yaml").write_text(SMALL)
    model = trained / "checkpoints/gpt"
    failed = lm("audit", *(model if word == "GPT" else word for word in words))
    assert (failed.status, failed.out) == (status, "") and said in failed.err
    assert len(failed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checks: []\n", "the audit has no `checks`"),
        (SMALL.replace("extraction.ex", "extracting.ex"), "is of no check that is there"),
        (SMALL.replace("{most: 1.0}", "{}"), "a threshold needs `most` or `least`"),
        (SMALL.replace("prompt: 4", "prompt: 0"), "are 1 at least"),
        (SMALL.replace("prompt: 4", "promt: 4"), "promt"),
        (SMALL.replace("Extraction", "Nothing"), "Nothing"),
        (SMALL.replace("thresholds:", "- class_path: Extraction\nthresholds:"), "extraction is there twice"),
        ("checks: [", "small.yaml"),
    ],
)
def test_a_broken_configuration(lm, trained, tmp_path, text, said):
    (tmp_path / "small.yaml").write_text(text)
    failed = lm("audit", trained / "checkpoints/gpt", "--config", "small.yaml")
    assert failed.status == 2 and said in failed.err and len(failed.err.splitlines()) == 1, failed.err


def _report(**other) -> str:
    own = {"format": 1, "model": {"identity": "0" * 64}, "thresholds": [], "made": "2026", "passed": True}
    return json.dumps({**own, **other})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("[]", "is no report"),
        ('{"format": 9}', "of format 9"),
        ('{"format": 1}', "damaged"),
        (_report(thresholds=[7]), "damaged"),
        (_report(thresholds=[{"figure": "a.b", "kept": "yes"}]), "damaged"),
        (_report(made=None), "damaged"),
    ],
)
def test_a_damaged_report(lm, run, content, said):
    (run / "audit").mkdir()
    (run / "audit/audit.json").write_text(content)
    failed = lm("serve", run, "--port=0", "--require-audit")
    assert failed.status == 1 and said in failed.err


def test_a_check_of_one_s_own_as_the_docs_have_it(lm, run):
    """And a look at one check alone leaves the report of the whole audit as it was."""
    docs = (Path(__file__).resolve().parents[2] / "docs/audit.md").read_text(encoding="utf-8")
    code = next(part for part in docs.split("```python\n") if "class Politeness" in part.partition("```")[0])
    Path("mine.py").write_text(code.partition("```")[0].replace("tokens=50", "tokens=5"))
    Path("mine.yaml").write_text(SMALL.replace("thresholds:", "- class_path: mine.Politeness\nthresholds:"))
    assert lm("audit", run, "--config", "mine.yaml").status == 0
    whole = (run / "audit/audit.json").read_text()
    assert json.loads(whole)["checks"][1]["figures"]["please"]["n"] == 100
    alone = lm("audit", run, "--config", "mine.yaml", "--only", "Politeness")
    assert alone.status == 0 and "politeness.please" in alone.out and "extraction" not in alone.out
    assert (run / "audit/audit.json").read_text() == whole and (run / "audit/only/audit.json").is_file()


class Known(Check):
    """A check whose figure is given."""

    def __init__(self, figure: Figure | None, why: str | None = None) -> None:
        self.figure, self.why = figure, why

    def unfit(self, subject: Subject) -> str | None:
        return self.why

    def run(self, subject: Subject) -> Findings:
        return Findings({"rate": self.figure} if self.figure else {})


@pytest.mark.parametrize(
    ("check", "threshold", "kept"),
    [
        (Known(Figure(0.1, "", 0.05, 0.2)), Threshold(most=0.2), True),
        (Known(Figure(0.1, "", 0.05, 0.2)), Threshold(most=0.15), False),  # its upper bound
        (Known(Figure(0.9, "", 0.7, 0.95)), Threshold(least=0.8), False),  # its lower one
        (Known(Figure(0.9, "", 0.85, 0.95)), Threshold(least=0.8, most=1), True),
        (Known(Figure(0, "")), Threshold(most=0), True),
        (Known(Figure(float("nan"), "")), Threshold(most=1), False),
        (Known(None), Threshold(most=1), False),
        (Known(None, "it is nothing for a tagger"), Threshold(most=1), True),
    ],
)
def test_what_keeps_to_a_threshold(trained, check, threshold, kept):
    from lm.predictor import load

    report = perform(Audit([check], {"known.rate": threshold}), Subject(load(trained / "checkpoints/gpt")))
    assert report["passed"] is kept


def test_shares_and_means():
    """Clopper and Pearson's intervals, and the rule of three; Student's."""
    assert share(0, 300, "").high == pytest.approx(3 / 300, rel=0.01)
    found = share(7, 20, "")
    assert (found.low, found.high) == (pytest.approx(0.1539, abs=1e-4), pytest.approx(0.5922, abs=1e-4))
    found = mean([1.0, 2.0, 4.0], "")  # s = 1.5275, t(0.975, 2) = 4.3027
    assert (found.value, found.high - found.value) == (pytest.approx(7 / 3), pytest.approx(3.7946, abs=1e-3))
    assert asdict(mean([1.0], ""))["low"] is None


def test_what_nobody_can_know_is_nothing_to_keep(lm, run):
    """A folder of another project's does not say what it was trained on."""
    assert lm("export", run, "folder").status == 0
    done = lm("audit", "folder", "--config", "small.yaml")
    assert done.status == 0, done.err
    part = json.loads(Path("audit/folder/audit.json").read_text())["checks"][0]
    assert part["state"] == "unfit" and "does not say what it was trained on" in part["why"]
    assert "nothing to keep: extraction.extracted" in done.out
