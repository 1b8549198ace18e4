"""The LADD laboratory, tiny: every arm trains and is examined; what is there is not done twice."""

import json

import numpy as np
import pytest

from benchmarks import ladd_lab, ladd_report
from benchmarks.ladd_lab import ARMS, Plan, gather
from benchmarks.ladd_report import Run
from minikontext.errors import ConfigError, TrainingError

pytestmark = pytest.mark.filterwarnings("ignore:Unknown word", "ignore:The prompt has")
TINY = Plan(steps=2, answers=1, tokens=1400, batches=2, cases=4, prompts=1, draws=2, head_start=1)


@pytest.fixture
def lab(tiny, tmp_path):
    """Run arms of the tiny plan on a tiny random editor."""
    pipe = tiny()

    def run(arms, plan=TINY, seeds=1, place="lab.json"):
        return ladd_lab.run(plan, arms, seeds, tmp_path / place, tmp_path / "work", lambda _: pipe)

    run.folder = tmp_path
    return run


def test_arms_are_trained_examined_and_kept(lab, monkeypatch):
    arms = ["start", "flow", "regression", "guidance", "ladd", "ladd, own states"]
    runs = lab(arms)
    assert list(runs) == [f"{name} / 0" for name in arms]
    for one in runs.values():
        assert not one.error and [*one.outcomes] == ["1", "2", "4", "8"]
        assert all(len(found) == 4 for found in one.outcomes.values()) and len(one.distinct) == 1
    assert {"heads", "told_apart", "spread"} <= set(runs["ladd / 0"].log[-1])
    assert "heads" not in runs["flow / 0"].log[-1] and runs["start / 0"].log == []
    monkeypatch.setattr(ladd_lab, "experiment", None)  # nothing may be done twice
    assert lab(arms) == runs
    with pytest.raises(ConfigError, match="another --output"):
        lab(arms, Plan(steps=3))
    with pytest.raises(ConfigError, match="No arm is called 'gan'"):
        lab(["gan"])


@pytest.mark.parametrize("name", [name for name in ARMS if ARMS[name].dials or ARMS[name].text])
def test_every_break_is_a_ladd_that_can_be_trained(lab, tiny, name):
    given = gather(TINY, ARMS[name], tiny(), lab.folder / "stream")
    model, loss = ladd_lab.build_loss(TINY, ARMS[name], 0, given, None)
    loss(1)[0].backward()
    assert all(any(p.grad is not None for p in part.parameters()) for part in model.children())


def test_the_mix_of_text_and_edits_is_what_the_arm_says(lab, tiny):
    def share(text):
        arm = ladd_lab.Arm("ladd", text=text)
        mixed = gather(TINY, arm, tiny(), lab.folder / "stream").data
        return np.mean([mixed.of(step) is mixed.text for step in range(400)])

    assert (share(0.0), share(1.0)) == (0, 1) and share(0.1) == pytest.approx(0.1, abs=0.05)
    given = gather(TINY, ladd_lab.Arm("ladd", text=0.0), tiny(), lab.folder / "stream")
    assert given.answers.batch(0).contexts and given.data.batch(0).contexts


def test_a_run_that_fails_stays_with_its_log(lab, monkeypatch):
    def fail(plan, name, seed, given, mu_16, folder):
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(json.dumps({"step": 10, "heads": 0.0}) + "\n")
        raise TrainingError("the loss is nan at step 11")

    monkeypatch.setattr(ladd_lab, "train", fail)
    runs = lab(["ladd"])
    assert runs["ladd / 0"].error.startswith("the loss is nan") and runs["ladd / 0"].log
    text = ladd_report.page("plan", runs, [True, False, True, False])
    assert "| ladd | 0 | failed" in text and "- ladd / 0: the loss is nan" in text


def outcomes(rate, seed, cases=200):
    rng = np.random.default_rng(seed)
    return {str(n): "".join(map(str, (rng.random(cases) < rate).astype(int))) for n in (1, 2, 4, 8)}


def test_the_page_decides_by_case_and_says_what_it_cannot():
    def one(arm, seed, rate, distinct, log=()):
        return Run(arm, seed, outcomes(rate, 10 * seed + len(arm)), distinct, [*log])

    log = {"step": 9, "heads": 1.9, "told_apart": 0.55, "on_real": 0.1, "on_fake": 0.0, "spread": 1}
    found = [one("start", 0, 0.5, [20.0] * 8), one("flow", 0, 0.5, [20.0] * 8)]
    found += [one("ladd", seed, 0.9, [10.0 + i for i in range(8)], [log]) for seed in (1, 2)]
    runs = {run.name: run for run in found}
    page = ladd_report.page("a plan", runs, [True] * 100 + [False] * 100)
    closed = page[page.index("## Closed cases: 100") :]
    row = next(line for line in closed.splitlines() if line.startswith("| ladd |"))
    assert row.count("(better / better)") == 4 and row.startswith("| ladd | 2 |")
    row = next(line for line in closed.splitlines() if line.startswith("| flow |"))
    assert "not decided" in row
    halves = page[page.index("## At half the steps") : page.index("## Distinct")]
    assert next(x for x in halves.splitlines() if x.startswith("| ladd")).count("(yes)") == 3
    assert "| ladd | 13.5 | not decided |" in page or "| ladd | 13.5 | worse |" in page
    assert "| ladd | 1.9 | 0.55 | 0.1 | 0.0 | 1" in page
