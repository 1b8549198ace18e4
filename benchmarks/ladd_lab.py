"""The LADD laboratory: what does distillation buy that more training does not?

`python -m benchmarks.ladd_lab --preset small --arms teacher start flow ladd`

Every arm starts from the same weights and gets the same extra minutes of the processor, on the same
stream of batches: more flow training, regression on the teacher's answers, guidance distillation,
LADD, LADD on states of its own, π-Flow; and breaks of LADD, one dial each. What a step of an arm
costs is measured before the first run, in turns, in processor time; each arm then has as many steps
as take as long as LADD's. So the numbers of steps stand in the file, and a run does not depend on
what else the machine does. Encoding and the teacher's answers are made before, for all arms, and
are told apart.

Then all edit the same held-out cases with 1, 2, 4 and 8 steps. An arm is compared with the start,
and with more flow training, case by case; a case's training seeds are a cluster. What was not
decided is called so, and the claim of distillation, `ladd_report.CLAIM`, is decided for every arm
beside the teacher. A run that failed stays in the table with its log. Runs that are there are kept,
and interrupted ones go on: `--arms` of another day are added. `--arms` without a name writes down
plan and claim alone. `--weights` is the teacher, of either edition; `weights:NAME` examines a
student as it is: a shipped name or a folder.
"""

from __future__ import annotations

import copy
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks import ladd_report
from benchmarks.ladd_report import STEPS, Run
from minikontext import flow, sampler
from minikontext.bench import report, study
from minikontext.bench.diversity import answers, distinct
from minikontext.bench.study import SamplerSetting
from minikontext.denoiser import PATCH
from minikontext.distillation import losses
from minikontext.distillation.guidance import guided_velocity
from minikontext.distillation.ladd import Discriminator, Ladd, LaddLossConfig, ladd_loss
from minikontext.distillation.latents import TeacherSamplesConfig, TeacherStream
from minikontext.distillation.policy import PolicySteps, imitation_loss, policy_student
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Score, wishes
from minikontext.toyworld.edits import sample_case
from minikontext.training.editor import Editor, editor_loss
from minikontext.training.loop import Loop, LoopConfig, LossFunction
from minikontext.training.models import averaged
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.runs import alone
from minikontext.training.stream import Batch, Inputs, Source, Stream, StreamConfig
from minikontext.training.world_editor import WorldEditorTraining

CPU = torch.device("cpu")
SIDE, CONTEXTS = 64, (0, 1, 2)  # of every picture, and how many are given
ROUNDS, TIMED = 3, 8  # in which arms take turns, and steps of each, to learn what a step costs


@dataclass(frozen=True)
class Arm:
    """A way to use the extra training.

    kind: teacher, start, weights, flow, regression, guidance, policy or ladd. dials: LADD's that
    differ. text: the share of batches without a context picture, in place of the stream's own.
    tokens: the batch's size, as a part of the plan's. beta: Adam's first, None for 0.9.
    """

    kind: str
    dials: dict[str, Any] = field(default_factory=dict)
    text: float | None = None
    tokens: float = 1.0
    beta: float | None = None

    @property
    def trained(self) -> bool:
        """Whether anything is learned, or weights are only looked at."""
        return self.kind not in ("teacher", "start", "weights")


ARMS = {
    "teacher": Arm("teacher"),
    "start": Arm("start"),
    "flow": Arm("flow"),
    "regression": Arm("regression"),
    "guidance": Arm("guidance"),
    "pi-flow": Arm("policy"),
    "ladd": Arm("ladd"),
    "ladd, own states": Arm("ladd", {"own_states": 0.5}),
    "ladd, judged at mu 1": Arm("ladd", {"renoise_mu": 1.0}),
    "ladd, heads on latents": Arm("ladd", {"features": False}),
    "ladd, an eighth of the batch": Arm("ladd", tokens=0.125),
    "ladd, R1": Arm("ladd", {"r1": 1.0}),
    "ladd, mismatched pairs": Arm("ladd", {"mismatched": True}),
    "ladd, text to edits 0:1": Arm("ladd", text=0.0),
    "ladd, text to edits 1:9": Arm("ladd", text=0.1),
    "ladd, text to edits 5:5": Arm("ladd", text=0.5),
    "ladd, text to edits 9:1": Arm("ladd", text=0.9),
}
# both players of LADD forget fast, as in configs/lineage/toy_pro.toml; one break does not
ARMS = {n: replace(arm, beta=0.5) if arm.kind == "ladd" else arm for n, arm in ARMS.items()}
ARMS["ladd, Adam's beta 0.9"] = Arm("ladd")
POINTS = 8  # of a policy
WEIGHTS = "weights:"


def arm_called(name: str) -> Arm:
    """Raises ConfigError for an unknown one."""
    if name in ARMS:
        return ARMS[name]
    if name.startswith(WEIGHTS):
        return Arm("weights")
    raise ConfigError(f"No arm is called {name!r}; there are {', '.join(ARMS)}, weights:NAME.")


@dataclass(frozen=True)
class Plan:
    """What all arms share.

    steps: of LADD after its head start; every other arm has as many as take equally long. scale,
    answers: guidance and steps of the teacher. tokens, batches: of the stream. cases: closed and
    open ones to edit, of the dev split. prompts, draws: open prompts, and pictures of each, for
    the claim's distinct answers. many: pictures of each prompt, open and closed, for the answers by
    number of steps.
    """

    weights: str = "toy"
    steps: int = 700
    scale: float = 1.5
    answers: int = 10
    tokens: int = 2048
    batches: int = 250
    cases: int = 300
    prompts: int = 8
    draws: int = 64
    many: int = 64
    lr: float = 1e-5
    heads: float = 100.0
    head_start: int = 100


PRESETS = {
    "full": Plan(),
    # for the toy at 64 x 64 on a few hours of one core; the rates of toy_pro
    "small": Plan(
        steps=320, tokens=1024, batches=120, cases=200, draws=32, lr=5e-5, heads=20.0, head_start=40
    ),
}


# ---------------------------------------------------------------- what is learned from


@dataclass(frozen=True)
class Mixed:
    """Batches without a context picture and batches with some, `share` of them the first kind."""

    text: Source
    edits: Source
    share: float

    def of(self, step: int) -> Source:
        """Where a step's batch comes from."""
        draw = torch.Generator().manual_seed(7_000_003 + step)
        return self.text if float(torch.rand((), generator=draw)) < self.share else self.edits

    def batch(self, step: int) -> Batch:
        """Latents and words of a step."""
        return self.of(step).batch(step)

    def determined(self, step: int) -> Tensor:
        """Which cases of a step have one right answer only, (b,), bool."""
        return self.of(step).determined(step)


@dataclass(frozen=True)
class Material:
    """What an arm learns from: the teacher, the stream's own pictures, the teacher's answers.

    defaults: as the teacher samples, and so its students.
    """

    teacher: Editor
    data: Source
    answers: Source
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def null(self) -> Tensor:
        """Token ids of the empty prompt, (m,)."""
        return self.teacher.text.tokenize([""])[0]

    def inputs(self) -> Inputs:
        """The teacher's answers as the distillations take them."""
        return Inputs(self.answers, self.teacher.text)

    def times(self, steps: int, patches: int = 16) -> Tensor:
        """What a sampler of so many steps visits, (steps + 1,)."""
        shifted, mu_16 = self.defaults.shifted, self.defaults.mu_16
        return sampler.schedule(steps, patches, shifted=shifted, mu_16=mu_16)


def contexts_of(pipe: KontextPipeline) -> tuple[int, ...]:
    """How many pictures the weights may be given, of those that are tried here."""
    least, most = pipe.defaults.min_contexts, pipe.defaults.max_contexts
    return tuple(n for n in CONTEXTS if least <= n <= most)


def words_of(pipe: KontextPipeline) -> str:
    """Whose sentences the weights read: the second edition's text encoder knows letter groups."""
    return "grammar" if pipe.text_encoder.config.ngrams else "templates"


def gather(plan: Plan, arm: Arm, pipe: KontextPipeline, folder: Path, seed: int = 0) -> Material:
    """The material of an arm; encoded batches and answers are kept in `folder` for all arms.

    seed: of the stream; the arms learn from that of 0.
    """
    defaults, text = pipe.defaults, pipe.text_encoder
    teacher = Editor(pipe.transformer, text, defaults.context_layout).requires_grad_(False).eval()
    teacher.isolated = defaults.isolated
    seen = contexts_of(pipe)
    largest = text.config.max_length + (1 + max(seen)) * (SIDE // 16) ** 2
    tokens = max(int(plan.tokens * arm.tokens), 2 * largest)  # a turn compares samples
    how = TeacherSamplesConfig(plan.answers, plan.scale)
    mark, null = pipe.weights_fingerprint[:12], teacher.text.tokenize([""])[0]

    def both(contexts: tuple[int, ...]) -> tuple[Stream, TeacherStream]:
        name = f"{tokens}-{''.join(map(str, contexts))}"
        dials = StreamConfig(seed=seed, tokens=tokens, batches=plan.batches, other_size=0.0,
                             words=words_of(pipe), sizes=((SIDE, SIDE),),
                             contexts=contexts)  # fmt: skip
        stream = Stream(dials, pipe.autoencoder, folder / name)
        place = folder / f"{name}-answers"
        times = {"mu_16": defaults.mu_16, "shifted": defaults.shifted}
        return stream, TeacherStream(stream, teacher, null, place, mark, how, **times)

    if arm.text is None:
        return Material(teacher, *both(seen), defaults)
    if len(seen) < 2 or seen[0]:
        raise ConfigError(f"{pipe.name} is given {seen} pictures: no mix of text and edits.")
    kinds = zip(both(seen[:1]), both(seen[1:]), strict=True)
    return Material(teacher, *(Mixed(text, edits, arm.text) for text, edits in kinds), defaults)


# ---------------------------------------------------------------- what is learned


def build_loss(plan: Plan, arm: Arm, seed: int, given: Material) -> tuple[nn.Module, LossFunction]:
    """The model of an arm, a copy of the start, and the loss of its steps."""
    torch.manual_seed(seed)
    if arm.kind == "policy":
        student = policy_student(given.teacher, POINTS)
        return student, policy_loss(plan, seed, student, given)
    student = copy.deepcopy(given.teacher).requires_grad_(True)
    if arm.kind == "flow":
        flow_dials = WorldEditorTraining(
            seed=seed, mu_16=given.defaults.mu_16, layout=student.layout, bf16=False
        )
        source = Inputs(given.data, student.text)
        null = student.text.tokenize([""])[0]
        return student, editor_loss(student, source, null, flow_dials, CPU)
    dials = LaddLossConfig(
        seed=seed, head_start=plan.head_start, bf16=False, times=given.times(4)[:-1].tolist(),
        switch=plan.head_start + plan.steps // 5, **{"renoise_mu": 0.0} | arm.dials,
    )  # fmt: skip
    if arm.kind == "ladd":
        model = Ladd(student, Discriminator(given.teacher, dials.features))
        return model, ladd_loss(model, given.teacher, given.inputs(), dials, CPU)
    return student, one_loss(plan, arm, student, given, dials)


def one_loss(
    plan: Plan, arm: Arm, student: Editor, given: Material, dials: LaddLossConfig
) -> LossFunction:
    """Regression on the teacher's answers at LADD's times, or on its guided velocity at any."""

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(dials.seed * 9_000_011 + step)
        x, words, contexts = given.inputs().inputs(step, draw)
        noise, t = torch.randn(x.shape, generator=draw), torch.rand(len(x), generator=draw)
        if arm.kind == "regression":  # no head start here: all of its steps teach
            patches = x.shape[-2] * x.shape[-1] // PATCH**2
            t = dials.draw_times(len(x), plan.head_start + step, draw, patches)
        z = flow.interpolate(x, noise, t)
        v = student(z, t, words, contexts)
        if arm.kind == "regression":
            value = F.mse_loss(flow.clean_estimate(z, v, t), x)
        else:
            w = torch.full_like(t, plan.scale)
            right = guided_velocity(given.teacher, z, t, words, given.null, contexts, w)
            value = losses.guidance_loss(v, right)
        return value, {"mse": float(value.detach())}

    return loss


def policy_loss(plan: Plan, seed: int, student: Editor, given: Material) -> LossFunction:
    """π-Flow: the student's policy imitates the guided teacher, from all times of four steps."""
    starts = given.times(4)[:-1]

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(seed * 9_000_011 + step)
        x, words, contexts = given.inputs().inputs(step, draw)
        noise, share = torch.randn(x.shape, generator=draw), torch.rand(len(x), generator=draw)
        start = starts[torch.randint(len(starts), (len(x),), generator=draw)]

        def teacher(z: Tensor, t: Tensor) -> Tensor:
            w = torch.full_like(t, plan.scale)
            return guided_velocity(given.teacher, z, t, words, given.null, contexts, w)

        def policies(z: Tensor, t: Tensor) -> Tensor:
            return student(z, t, words, contexts).unflatten(1, (POINTS, -1))

        z = flow.interpolate(x, noise, start)
        value = imitation_loss(policies, teacher, z, start, share)
        return value, {"mse": float(value.detach())}

    return loss


Costs = dict[str, list[float]]  # of an arm: seconds of a step, and of one of LADD's head start


def measured_costs(plan: Plan, names: Iterable[str], pipe: KontextPipeline, folder: Path) -> Costs:
    """Processor seconds of a step of each arm. The arms take turns; the median round counts."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for i in tqdm(range(ROUNDS), "what a step costs"):
        for name, found in rounds.items():
            arm = arm_called(name)
            found.append(_round(plan, arm, gather(plan, arm, pipe, folder), i * TIMED))
    medians = {name: np.median(found, axis=0) for name, found in rounds.items()}
    return {name: [round(float(x), 4) for x in median] for name, median in medians.items()}


def _round(plan: Plan, arm: Arm, given: Material, first: int) -> list[float]:
    """The mean of some steps from `first` on, without what is made once and kept."""
    model, loss = build_loss(plan, arm, 0, given)
    optimizer, means = torch.optim.AdamW(model.parameters(), lr=0.0), []
    for begin in (plan.head_start + first, first) if arm.kind == "ladd" else (first,):
        for step in range(begin, begin + TIMED + 1):
            if step == begin + 1:  # the first one warms up
                start = time.process_time()
            loss(step)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        means.append((time.process_time() - start) / TIMED)
    return [means[0], means[1] if len(means) > 1 else 0.0]


def prepare(arm: Arm, given: Material, batches: int) -> float:
    """Encode all that an arm sees and let the teacher answer it, once; processor seconds."""
    begin, source = time.process_time(), given.data if arm.kind == "flow" else given.answers
    mixed = isinstance(source, Mixed)
    for one in [source.edits, source.text][: 1 + bool(arm.text)] if mixed else [source]:
        for step in range(batches):  # an epoch
            one.batch(step)
    return time.process_time() - begin


def steps_of(plan: Plan, name: str, costs: Costs) -> int:
    """How many steps of an arm cost as much as all of LADD's, the head start included."""
    step, head_start = costs["ladd"]
    budget = plan.steps * step + plan.head_start * head_start
    own, start = costs[name]
    return max(1, round((budget - plan.head_start * start) / own))


def planned_minutes(plan: Plan, name: str, costs: Costs) -> float:
    """Processor minutes of an arm's steps and head start, by what they cost before the runs."""
    own, start = costs[name]
    return (steps_of(plan, name, costs) * own + plan.head_start * start) / 60


def train(plan: Plan, name: str, seed: int, given: Material, folder: Path) -> Editor:
    """The student of an arm after `plan.steps`, averaged."""
    loop = trained(plan, name, seed, given, folder)
    found = averaged(loop, loop.model)
    return found.student if isinstance(found, Ladd) else found


def trained(plan: Plan, name: str, seed: int, given: Material, folder: Path) -> Loop:
    """An arm's loop at its end, its model as it stands; goes on from a checkpoint in `folder`."""
    arm = arm_called(name)
    model, loss = build_loss(plan, arm, seed, given)
    steps = plan.steps + plan.head_start * (arm.kind == "ladd")
    how = LoopConfig(
        steps, lr=plan.lr, muon_lr=0.0, warmup=min(20, steps), decay=0.4, ema=0.99,
        log_every=10, adam_beta=arm.beta, rates={"heads": plan.heads} if arm.kind == "ladd" else {},
    )  # fmt: skip
    facts = {"arm": f"{name} {arm}", "seed": str(seed), "plan": str(plan)}
    loop = Loop(model, how, folder, made_from=facts)
    loop.resume()
    loop.run(clocked(loss))
    return loop


def clocked(loss: LossFunction) -> LossFunction:
    """The loss, with the processor seconds of the step before in its metrics."""
    last: list[float] = []

    def timed(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        now = time.process_time()
        spent = {"processor": now - last.pop()} if last else {}
        last.append(now)
        value, metrics = loss(step, microbatch)
        return value, metrics | spent

    return timed


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Exam:
    """The cases that every student edits: closed and open ones, and open prompts.

    words, contexts: as the teacher reads and is given.
    """

    plan: Plan
    words: str = "templates"
    contexts: tuple[int, ...] = CONTEXTS

    @cached_property
    def cases(self) -> list[Case]:
        """Of the dev split, as many with one answer as with many."""
        return (
            self._found(False)[: self.plan.cases // 2]
            + self._found(True)[: self.plan.cases - self.plan.cases // 2]
        )

    @cached_property
    def prompts(self) -> list[Case]:
        """Open prompts, with a context picture where the weights may be given one."""
        return self._prompts(True)

    def _prompts(self, free: bool) -> list[Case]:
        found = self._found(free)
        return ([case for case in found if case.contexts] or found)[: self.plan.prompts]

    def _found(self, free: bool) -> list[Case]:
        wanted, found, i = max(self.plan.cases, 2 * self.plan.prompts), [], 0
        while len(found) < wanted:
            case, i = sample_case(i, 4, "dev"), i + 1
            if bool(case.free) == free and len(case.contexts) in self.contexts:
                found.append(case)
        return [self._asked(case, i) for i, case in enumerate(found)]

    def _asked(self, case: Case, i: int) -> Case:
        """Every second one in a phrasing that no training hears."""
        if self.words == "templates":  # `sample_case` has done so
            return case
        rng = random.Random(f"laboratory/{case.free}/{i}")
        return replace(case, prompt=wishes.ask(case, rng, unheard=i % 2 == 1))

    def take(
        self, at: Callable[[int], KontextPipeline], steps: Sequence[int] = STEPS, cfg: float = 1.0,
        variety: int = ladd_report.CLAIM.variety,
    ) -> dict[str, Any]:  # fmt: skip
        """Outcomes by steps, and each open prompt's distinct valid answers with `variety` steps.

        at: the pipeline for so many steps. cfg: the scale of classifier-free guidance. Of `many`
        seeds also, by steps: `varied`, the distinct valid answers of each open prompt, and `sure`,
        the share of valid answers, in percent, of each closed one.
        """
        outcomes = {}
        for n in steps:
            setting = SamplerSetting(at(n).name, n, cfg)
            outcomes[str(n)] = study.measure(at(n), setting, self.cases, "dev")[0].outcomes[0]

        def drawn(case: Case, seeds: int, n: int) -> list[Score]:
            call = {"num_inference_steps": n, "true_cfg_scale": cfg}
            return answers(at(n), case, range(seeds), **call)

        few, many = self.plan.draws, self.plan.many
        found: dict[str, Any] = {"outcomes": outcomes, "varied": {}, "sure": {}}
        found["distinct"] = [distinct(case, drawn(case, few, variety)) for case in self.prompts]
        for n in [n for n in steps if n <= max(variety, ladd_report.CLAIM.variety)]:
            found["varied"][str(n)] = [distinct(c, drawn(c, many, n)) for c in self.prompts]
            right = [drawn(case, many, n) for case in self._prompts(False)]
            found["sure"][str(n)] = [100 * sum(s.success for s in one) / many for one in right]
        return found


@dataclass
class Book:
    """What a laboratory's file holds. costs: of each arm, see `Costs`; teacher: its name and
    fingerprint; prepared: processor minutes of encoding and of the teacher's answers; free: of
    each case a 1 if it is open."""

    plan: Plan
    teacher: str = ""
    costs: Costs = field(default_factory=dict)
    prepared: float = 0.0
    free: str = ""
    runs: dict[str, Run] = field(default_factory=dict)

    def save(self, place: Path) -> None:
        """Write the claim, the plan and all runs as JSON."""
        claim, runs = asdict(ladd_report.CLAIM), [asdict(one) for one in self.runs.values()]
        report.write_json({"claim": claim, **asdict(self), "runs": runs}, place)

    @classmethod
    def load(cls, place: Path) -> Book | None:
        """What is in a file, None if there is no such file."""
        stored = report.read_json(place)
        if stored is None:
            return None
        runs = [Run(**values) for values in stored["runs"]]
        facts = {name: stored[name] for name in ("teacher", "costs", "prepared", "free")}
        return cls(Plan(**stored["plan"]), **facts, runs={one.name: one for one in runs})


def called(pipe: KontextPipeline) -> str:
    """What the laboratory calls a teacher: its name and fingerprint."""
    return f"{pipe.name} {pipe.weights_fingerprint[:12]}".strip()


def folder_of(pipe: KontextPipeline) -> str:
    """Where, in its work folder, the laboratory keeps what it learned from a teacher."""
    return re.sub(r"[^\w-]+", "-", called(pipe))


def open_book(plan: Plan, pipe: KontextPipeline, place: Path) -> Book:
    """The file of this plan and teacher. Raises ConfigError if it is another one's."""
    book = Book.load(place) or Book(plan)
    teacher = called(pipe)
    if replace(book.plan, weights=plan.weights) != plan:
        raise ConfigError(f"{place} is for {book.plan}, not for {plan}: use another --output.")
    if book.runs and book.teacher != teacher:
        raise ConfigError(f"{place} is of {book.teacher}, not of {teacher}: use another --output.")
    return book if book.teacher == teacher else Book(plan, teacher)


def run(
    plan: Plan, arms: list[str], seeds: int, place: Path, work: Path,
    load_pipe: Callable[[str], KontextPipeline] = KontextPipeline.from_pretrained,
) -> Book:  # fmt: skip
    """Train and examine what is missing in `place`; each run is stored when it is there.

    Raises ConfigError for an unknown arm, or where the file holds runs of another plan or teacher;
    TrainingError where another process works in the file, or in the folder of a run.
    """
    with alone(place):  # two processes would each forget the other's runs
        return _run(plan, arms, seeds, place, work, load_pipe)


def _run(
    plan: Plan, arms: list[str], seeds: int, place: Path, work: Path,
    load_pipe: Callable[[str], KontextPipeline],
) -> Book:  # fmt: skip
    kinds = {name: arm_called(name) for name in arms}
    pipe = sized(load_pipe(plan.weights))
    exam = Exam(plan, words_of(pipe), contexts_of(pipe))
    book = open_book(plan, pipe, place)
    work = work / folder_of(pipe)
    book.free = "".join(str(int(bool(case.free))) for case in exam.cases)
    book.save(place)  # what is to be decided stands before it is measured
    calibrate(book, [n for n, arm in kinds.items() if arm.trained], pipe, work / "stream")
    book.save(place)
    for name, arm in kinds.items():
        for seed in range(seeds if arm.trained else 1):
            as_is, known = arm.kind == "weights", book.runs.get(Run(name, seed).name)
            looked_at = sized(load_pipe(name[len(WEIGHTS) :])) if as_is else pipe
            mark = looked_at.weights_fingerprint[:12] if as_is else ""
            if known and (known.varied or known.error) and known.weights in ("", mark):
                continue
            own = replace(plan, steps=steps_of(plan, name, book.costs)) if arm.trained else plan
            one = replace(experiment(own, name, seed, looked_at, exam, work), weights=mark)
            book.runs[one.name] = one
            book.save(place)
    return book


def calibrate(book: Book, arms: Sequence[str], pipe: KontextPipeline, folder: Path) -> None:
    """Prepare what the arms learn from, and note what their steps cost where it is not known."""
    missing = [name for name in arms if name not in book.costs]
    if not missing:
        return
    names = [*dict.fromkeys(["ladd", *missing])]
    for name in names:
        given = gather(book.plan, arm_called(name), pipe, folder)
        seconds = prepare(arm_called(name), given, book.plan.batches)
        book.prepared = round(book.prepared + seconds / 60, 3)
    book.costs = agreed(book.costs, measured_costs(book.plan, names, pipe, folder))


def sized(pipe: KontextPipeline) -> KontextPipeline:
    """The weights at the size of the laboratory, whatever else they know."""
    defaults = replace(pipe.defaults, width=SIDE, height=SIDE)
    parts = pipe.transformer, pipe.autoencoder, pipe.text_encoder
    return KontextPipeline(*parts, defaults, pipe.name, pipe.folder, pipe.weight_files, pipe.safety)


def agreed(known: Costs, found: Costs) -> Costs:
    """Costs of two days in one unit, by what LADD's step took in each."""
    unit = known["ladd"][0] / found["ladd"][0] if "ladd" in known else 1.0
    return {name: [round(x * unit, 4) for x in cost] for name, cost in found.items()} | known


def experiment(
    plan: Plan, name: str, seed: int, pipe: KontextPipeline, exam: Exam, work: Path
) -> Run:
    """One arm and seed, to its end or to where it failed."""
    folder, arm = work / re.sub(r"[^\w-]+", "-", name) / str(seed), arm_called(name)
    if arm.kind == "teacher":  # as it made the answers, with guidance
        steps = [many for many, _ in ladd_report.CLAIM.pairs]
        return Run(name, seed, **exam.take(lambda n: pipe, steps, plan.scale, max(steps)))
    if not arm.trained:
        return Run(name, seed, **exam.take(lambda n: pipe))
    given = gather(plan, arm, pipe, work / "stream")
    with alone(folder):  # held by another, it is no run that failed
        try:
            student = train(plan, name, seed, given, folder)
        except TrainingError as error:
            return Run(name, seed, log=_log(folder), error=str(error))

    def at(steps: int) -> KontextPipeline:
        net: Any = student.transformer
        net = PolicySteps(net, given.times(steps)) if arm.kind == "policy" else net
        return KontextPipeline(net, pipe.autoencoder, student.text, pipe.defaults, name)

    return Run(name, seed, **exam.take(at), log=_log(folder))


def _log(folder: Path, lines: int = 40) -> list[dict[str, float]]:
    """About so many lines of a run's log, the last one among them."""
    path = folder / "log.jsonl"
    found = [*map(json.loads, path.read_text().splitlines())] if path.exists() else []
    return found[:: -max(1, len(found) // lines)][::-1]


def main(arguments: list[str] | None = None) -> Book:
    """Command line: train, examine, store, and print what is decided."""
    parser = report.parser("python -m benchmarks.ladd_lab", __doc__, weights=..., steps=...,
                           seed=...)  # fmt: skip
    parser.add_argument("--preset", choices=PRESETS, default="small", help="(default: small)")
    parser.add_argument("--arms", nargs="*", default=[*ARMS], help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default: 3)")
    parser.add_argument("--work", type=Path, default=Path("runs/ladd_lab"), help="checkpoints")
    for name, default in asdict(Plan()).items():
        flag, other = f"--{name.replace('_', '-')}", "in place of the preset's"
        parser.add_argument(flag, type=type(default), help=other)
    options = parser.parse_args(arguments)
    report.positive(options, "seeds", "steps", "cases", "prompts", "draws", "tokens", "batches")
    given = {name: getattr(options, name) for name in asdict(Plan())}
    preset = PRESETS[options.preset]
    plan = replace(preset, **{k: v for k, v in given.items() if v is not None})
    whole = replace(plan, weights=preset.weights) == preset and options.seeds >= 3
    place = report.folder(options, "" if whole else "ladd lab") / f"ladd_lab_{options.preset}.json"
    work = options.work / (options.preset if whole else "part")
    book = run(plan, options.arms, options.seeds, place, work)
    about = f"{plan}. Teacher: {book.teacher}."
    free = [one == "1" for one in book.free]
    planned = {name: planned_minutes(plan, name, book.costs) for name in book.costs}
    text = ladd_report.page(about, book.runs, free, book.prepared, planned, plan.draws, plan.many)
    report.write_text(text, place.with_suffix(".md"))
    print(text)
    return book


if __name__ == "__main__":
    main()
