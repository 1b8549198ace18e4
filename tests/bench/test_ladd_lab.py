"""The LADD laboratory, tiny: every arm trains and is examined; what is there is not done twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import ladd_lab, ladd_report
from benchmarks.ladd_lab import ARMS, Plan, gather
from benchmarks.ladd_report import Run
from minikontext import sampler
from minikontext.errors import ConfigError, TrainingError
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import grammar
from minikontext.training.runs import alone

pytestmark = pytest.mark.filterwarnings("ignore:Unknown word", "ignore:The prompt has")
TINY = Plan(steps=2, answers=1, tokens=1400, batches=2, cases=4, prompts=1, draws=2, many=2,
            head_start=1)  # fmt: skip


@pytest.fixture(autouse=True)
def short_clocks(monkeypatch):
    """What a step costs is measured on two steps, once."""
    monkeypatch.setattr(ladd_lab, "ROUNDS", 1)
    monkeypatch.setattr(ladd_lab, "TIMED", 2)


@pytest.fixture
def lab(tiny, tmp_path):
    """Run arms of the tiny plan on a tiny random editor."""
    pipe = tiny()

    def run(arms, plan=TINY, seeds=1, place="lab.json"):
        return ladd_lab.run(plan, arms, seeds, tmp_path / place, tmp_path / "work", lambda _: pipe)

    run.folder = tmp_path
    return run


def test_arms_are_trained_examined_and_kept(lab, monkeypatch):
    arms = ["teacher", "start", "flow", "regression", "guidance", "pi-flow", "ladd",
            "ladd, own states", "weights:a student"]  # fmt: skip
    book = lab(arms)
    runs = book.runs
    assert list(runs) == [f"{name} / 0" for name in arms]
    for one in runs.values():
        steps = ["28", "4", "2"] if one.arm == "teacher" else ["1", "2", "4", "8"]
        assert not one.error and [*one.outcomes] == steps
        assert all(len(found) == 4 for found in one.outcomes.values()) and len(one.distinct) == 1
        counted = steps if one.arm == "teacher" else steps[:3]
        assert [*one.varied] == [*one.sure] == counted
        assert all(len(x) == 1 for x in (*one.varied.values(), *one.sure.values()))
    assert {"heads", "told_apart", "spread"} <= set(runs["ladd / 0"].log[-1])
    assert "heads" not in runs["flow / 0"].log[-1] and runs["start / 0"].log == []
    assert book.costs.keys() == {name for name in arms if ladd_lab.arm_called(name).trained}
    steps = {name: ladd_lab.steps_of(TINY, name, book.costs) for name in book.costs}
    assert steps["ladd"] == TINY.steps
    assert runs["ladd / 0"].log[-1]["step"] == TINY.steps + TINY.head_start
    assert runs["flow / 0"].log[-1]["step"] == steps["flow"]
    assert runs["ladd / 0"].log[-1]["processor"] > 0 and book.prepared >= 0
    planned = {name: ladd_lab.planned_minutes(TINY, name, book.costs) for name in book.costs}
    page = ladd_report.page("a plan", runs, [False, False, True, True], 1.5, planned)
    assert f"| flow | {steps['flow']} | {planned['flow']:.1f} |" in page
    assert "for all, 1.5 minutes" in page
    assert book.free == "0011"
    monkeypatch.setattr(ladd_lab, "experiment", None)  # nothing may be done twice
    assert lab(arms).runs == runs
    with pytest.raises(ConfigError, match="another --output"):
        lab(arms, Plan(steps=3))
    with pytest.raises(ConfigError, match="No arm is called 'gan'"):
        lab(["gan"])


def test_plan_and_claim_are_written_before_the_first_run_and_stay(lab):
    assert lab([]).runs == {}
    stored = json.loads((lab.folder / "lab.json").read_text())
    assert stored["claim"]["pairs"] == [[28, 4], [4, 2], [2, 1]] and not stored["runs"]
    assert stored["plan"]["steps"] == TINY.steps
    with pytest.raises(ConfigError, match="another --output"):
        lab([], Plan(steps=3))


def test_the_small_laboratory_is_committed_with_the_claim_of_the_code():
    path = ladd_lab.report.STORED / "ladd_lab_small.json"
    book = ladd_lab.Book.load(path)
    claim = json.loads(json.dumps(ladd_lab.asdict(ladd_report.CLAIM)))
    assert book.plan == ladd_lab.PRESETS["small"] and json.loads(path.read_text())["claim"] == claim
    students = {f"weights:{name}" for name in ("toy-pro", "toy-max", "runs/toy_pro/weights")}
    assert {one.arm for one in book.runs.values()} <= {*ARMS, *students}


def test_two_laboratories_neither_share_a_file_nor_a_training(lab):
    folder = lab.folder / "work/tiny/flow/0"
    for held, told in ((lab.folder / "lab.json", "works in .*lab.json"), (folder, "works in .*/0")):
        with alone(held), pytest.raises(TrainingError, match=told):
            lab(["flow"])
    assert not folder.exists()  # not a step was done, and no failed run is noted
    assert not lab(["flow"]).runs["flow / 0"].error
    assert not [*lab.folder.rglob(".*.lock")]  # nothing is left beside them


COSTS = {"ladd": [0.4, 0.2], "flow": [0.1, 0.0], "ladd, R1": [0.5, 0.3], "guidance": [9.0, 0.0]}


def test_every_arm_has_as_many_steps_as_take_as_long_as_ladd():
    plan = Plan(steps=100, head_start=40)  # 48 seconds
    steps = {name: ladd_lab.steps_of(plan, name, COSTS) for name in COSTS}
    assert steps == {"ladd": 100, "flow": 480, "ladd, R1": 72, "guidance": 5}
    minutes = [ladd_lab.planned_minutes(plan, name, COSTS) for name in COSTS]
    assert minutes == pytest.approx([48 / 60] * 4, abs=0.06)  # one step of "guidance" is 9 s
    again = {"ladd": [0.8, 0.4], "pi-flow": [1.0, 0.0]}  # a machine half as fast
    both = ladd_lab.agreed(COSTS, again)
    assert both["pi-flow"] == [0.5, 0.0] and both["ladd"] == COSTS["ladd"]
    assert ladd_lab.agreed({}, again) == again


def test_another_teacher_needs_another_file_and_keeps_its_batches_apart(lab, tiny, tmp_path):
    lab(["start"])
    other = tiny()
    other.name = "another"
    with pytest.raises(ConfigError, match="is of tiny, not of another"):
        ladd_lab.run(TINY, ["start"], 1, tmp_path / "lab.json", tmp_path / "work", lambda _: other)
    place = tmp_path / "other.json"
    book = ladd_lab.run(TINY, ["flow"], 1, place, tmp_path / "work", lambda _: other)
    assert book.teacher == "another" and not book.runs["flow / 0"].error
    assert (tmp_path / "work" / "another" / "stream").is_dir()


def test_a_teacher_of_the_second_edition_is_asked_in_its_words_at_one_size(tiny, tmp_path):
    sizes = {"width": 16, "depth": 1, "heads": 2, "pooled": 12, "max_length": 32, "ngrams": 64}
    pipe = tiny()
    pipe.text_encoder = ToyTextEncoder(ToyTextConfig(grammar.vocabulary(), **sizes)).eval()
    pipe.defaults = replace(pipe.defaults, width=128, height=128, max_contexts=4)
    given = ladd_lab.sized(pipe)
    assert ladd_lab.words_of(given) == "grammar" and ladd_lab.contexts_of(given) == (0, 1, 2)
    exam = ladd_lab.Exam(TINY, "grammar")
    assert [c.prompt for c in exam.cases] != [c.prompt for c in ladd_lab.Exam(TINY).cases]
    arm = "ladd, an eighth of the batch"  # 175 tokens: too few for two samples of two pictures
    book = ladd_lab.run(TINY, [arm], 1, tmp_path / "lab.json", tmp_path, lambda _: pipe)
    (one,) = book.runs.values()
    assert not one.error and len(one.outcomes["1"]) == 4


def test_a_policy_is_examined_on_its_own_path(lab, tiny, monkeypatch):
    """With equal estimates it edits as the start does; a bent one edits otherwise."""
    seen = {}

    def look(exam, at, *_, **__):
        call = {"prompt": "make the hat red", "seed": 0, "progress": False}
        seen[bend] = {n: at(n)(**call, num_inference_steps=n).latents for n in (1, 2, 4)}
        return {}

    pipe, real = tiny(), ladd_lab.train
    monkeypatch.setattr(ladd_lab.Exam, "take", look)
    for bend in (0.0, 0.05):

        def train(*args, bend=bend):
            student = real(*args)
            last = student.transformer.final_layer.linear
            last.weight.data += bend * torch.randn_like(last.weight)
            return student

        monkeypatch.setattr(ladd_lab, "train", train)
        plan = replace(TINY, lr=0.0)
        work = lab.folder / f"work {bend}"
        ladd_lab.experiment(plan, "pi-flow", 0, pipe, ladd_lab.Exam(plan), work)
    for n in (1, 2, 4):
        call = {"prompt": "make the hat red", "seed": 0, "progress": False}
        right = pipe(**call, num_inference_steps=n).latents
        torch.testing.assert_close(seen[0.0][n], right, atol=1e-4, rtol=1e-4)
        assert (seen[0.05][n] - right).abs().max() > 1e-2


@pytest.mark.parametrize("name", [name for name in ARMS if ARMS[name].dials or ARMS[name].text])
def test_every_break_is_a_ladd_that_can_be_trained(lab, tiny, name):
    given = gather(TINY, ARMS[name], tiny(), lab.folder / "stream")
    model, loss = ladd_lab.build_loss(TINY, ARMS[name], 0, given)
    loss(1)[0].backward()
    assert all(any(p.grad is not None for p in part.parameters()) for part in model.children())


def test_ladd_learns_the_times_at_which_it_is_examined(lab, tiny, monkeypatch):
    found = {}
    monkeypatch.setattr(ladd_lab, "ladd_loss", lambda *args: found.update(dials=args[3]))
    given = gather(TINY, ARMS["ladd"], tiny(), lab.folder / "stream")
    ladd_lab.build_loss(TINY, ARMS["ladd"], 0, given)
    right = sampler.schedule(4, 16)[:-1].tolist()  # the tiny editor's, and toy's, is shifted
    assert [*found["dials"].times] == right and right[1] > 0.76 and found["dials"].mu_16 is None
    assert ARMS["ladd, R1"].beta == 0.5 and ARMS["ladd, Adam's beta 0.9"].beta is None


def test_the_mix_of_text_and_edits_is_what_the_arm_says(lab, tiny):
    def share(text):
        arm = ladd_lab.Arm("ladd", text=text)
        mixed = gather(TINY, arm, tiny(), lab.folder / "stream").data
        return np.mean([mixed.of(step) is mixed.text for step in range(400)])

    assert (share(0.0), share(1.0)) == (0, 1) and share(0.1) == pytest.approx(0.1, abs=0.05)
    given = gather(TINY, ladd_lab.Arm("ladd", text=0.0), tiny(), lab.folder / "stream")
    assert given.answers.batch(0).contexts and given.data.batch(0).contexts


def test_a_run_that_fails_stays_with_its_log(lab, monkeypatch):
    def fail(plan, name, seed, given, folder):
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(json.dumps({"step": 10, "heads": 0.0}) + "\n")
        raise TrainingError("the loss is nan at step 11")

    monkeypatch.setattr(ladd_lab, "train", fail)
    runs = lab(["ladd"]).runs
    assert runs["ladd / 0"].error.startswith("the loss is nan") and runs["ladd / 0"].log
    text = ladd_report.page("plan", runs, [True, False, True, False])
    assert (
        "| ladd | 0 | failed" in text
        and "- ladd / 0: the loss is nan at step 11 Its log: step 10" in text
    )


def outcomes(rate, seed, cases=200):
    rng = np.random.default_rng(seed)
    return {str(n): "".join(map(str, (rng.random(cases) < rate).astype(int))) for n in (1, 2, 4, 8)}


def test_the_page_decides_by_case_and_says_what_it_cannot():
    def one(arm, seed, rate, distinct, log=()):
        return Run(arm, seed, outcomes(rate, 10 * seed + len(arm)), distinct, [*log])

    log = {"step": 9, "heads": 1.9, "told_apart": 0.55, "on_real": 0.1, "on_fake": 0.0, "spread": 1}
    found = [one("start", 0, 0.5, [20.0] * 8), one("flow", 0, 0.5, [20.0] * 8)]
    teacher = outcomes(0.5, 7) | {"28": outcomes(0.5, 8)["1"]}
    found += [Run("teacher", 0, {n: teacher[n] for n in ("28", "4", "2")}, [20.0] * 8)]
    found += [one("ladd", seed, 0.9, [10.0 + i for i in range(8)], [log]) for seed in (1, 2)]
    runs = {run.name: run for run in found}
    free = [True] * 100 + [False] * 100
    page = ladd_report.page("a plan", runs, free)
    closed = page[page.index("## Closed cases: 100") :]
    row = next(line for line in closed.splitlines() if line.startswith("| ladd |"))
    assert row.count("(better / better)") == 4 and row.startswith("| ladd | 2 |")
    row = next(line for line in closed.splitlines() if line.startswith("| flow |"))
    assert "not decided" in row
    claims = page[page.index("## The claim") : page.index("## Closed")]
    ladd, flow = (next(x for x in claims.splitlines() if x.startswith(f"| {n} ")) for n in
                  ("ladd", "flow"))  # fmt: skip
    assert ladd.count("(yes)") == 3 and ladd.endswith("| no | no |")  # 13.5 of 16 answers are left
    assert flow.endswith("| yes | not decided |")
    assert "| ladd | 4 | 13.5 |" in page and "| teacher | 28 | 20.0 |" in page
    shown = ladd_report.page("a plan", runs, free, draws=32)
    assert "|  | steps | of 32 seeds, mean of 8 prompts |" in shown
    assert "by steps" not in page
    many = [{str(n): [float(n * base)] * 8 for n in (1, 2, 4)} for base in (3, 4)]
    drawn = {name: replace(run, varied=many[run.arm == "ladd"], sure={"4": [50.0] * 8})
             for name, run in runs.items()}  # fmt: skip
    by_steps = ladd_report.page("a plan", drawn, free, many=64).split("### ")
    assert "Of 64 seeds a prompt" in by_steps[0]
    assert "| ladd | 2 | 4.0 (better / better) | 8.0 (better / better)" in by_steps[1]
    assert "| start | 1 | 3.0 | 6.0 | 12.0 |" in by_steps[1]
    assert "| ladd | 2 | 50.0 (not decided / not decided) |" in by_steps[2]
    assert "| ladd | 1.9 | 0.55 | 0.1 | 0.0 | 1.0 | 1.9 |" in page
    lines = [{"step": i, "heads": loss} for i, loss in enumerate((2, 2, 1.5, 1.5, 1, 1))]
    long = {"ladd / 0": one("ladd", 0, 0.5, [], lines)}
    assert "| 2.0, 1.5, 1.0 |" in ladd_report.page("a plan", long, free)


def test_a_student_of_another_teacher_tests_no_claim_and_the_page_says_so():
    names = ["start", "weights:toy-pro", *ladd_report.ANOTHER_TEACHER]
    runs = {name: Run(name, 0, outcomes(0.5, 1), [20.0] * 8) for name in names}
    many = {str(n): outcomes(0.5, 2)["1"] for n in (28, 4, 2)}
    runs["teacher"] = Run("teacher", 0, many, [20.0] * 8)
    page = ladd_report.page("a plan", runs, [True, False] * 100)
    claims, rest = page.split("## Closed")
    assert "| weights:toy-pro |" in claims and "| weights:toy-max |" not in claims
    assert "Not here: `weights:toy-max`" in claims and "| weights:toy-max |" in rest


def test_the_page_never_says_that_answers_cost_nothing():
    log = [{"step": 10, "seconds": 60.0, "processor": 6.0}]
    runs = {"flow / 0": Run("flow", 0, outcomes(0.5, 1), [], log)}
    for prepared, told in ((0.045, "were not measured"), (0.4, "0.4 minutes")):
        page = ladd_report.page("a plan", runs, [True, False] * 100, prepared, {"flow": 0.9})
        assert "| flow | 10 | 0.9 | 1.0 | 1.0 |" in page
        assert told in page and "0.0 minutes" not in page


def test_weights_that_are_others_by_now_are_examined_anew(tiny, tmp_path, monkeypatch):
    teacher, student, seen = tiny(), tiny(), []
    monkeypatch.setattr(ladd_lab, "sized", lambda pipe: pipe)
    monkeypatch.setattr(ladd_lab, "experiment", lambda _, name, seed, pipe, *__: (
        seen.append(pipe.weights_fingerprint) or Run(name, seed, varied={"1": [2.0]})))  # fmt: skip
    for student.weights_fingerprint in ("one", "one", "two"):
        ladd_lab.run(TINY, ["start", "weights:x"], 1, tmp_path / "lab.json", tmp_path / "work",
                     lambda name: student if name == "x" else teacher)  # fmt: skip
    assert seen == ["", "one", "two"]


def test_a_student_is_examined_beside_arms_that_are_trained(tiny, tmp_path, monkeypatch):
    """Its batches are the teacher's, not the student's own: of those it needs none."""
    teacher, student = tiny(), tiny()
    monkeypatch.setattr(ladd_lab, "sized", lambda pipe: pipe)
    student.weights_fingerprint = "of other weights"
    book = ladd_lab.run(
        TINY, ["flow", "ladd", "weights:x"], 1, tmp_path / "lab.json", tmp_path / "work",
        lambda name: student if name == "x" else teacher,
    )  # fmt: skip
    found = book.runs["weights:x / 0"]
    assert found.weights == "of other weights"[:12] and not found.error
    assert [*found.outcomes] == ["1", "2", "4", "8"]
