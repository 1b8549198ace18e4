"""The LADD laboratory: what does distillation buy that more training does not?

`python -m benchmarks.ladd_lab --preset small --arms teacher start flow ladd`

Every arm starts from the same weights and gets the same extra steps, or minutes, on the same stream
of batches: more flow training, regression on the teacher's answers, guidance distillation, LADD,
LADD on states of its own, π-Flow; and breaks of LADD, one dial each. Then all edit the same
held-out cases with 1, 2, 4 and 8 steps. An arm is compared with the start, and with more flow
training, case by case; a case's training seeds are a cluster. What was not decided is called so,
and the claim of distillation, `ladd_report.CLAIM`, is decided for every arm beside the teacher. A
run that failed stays in the table with its log. Runs that are there are kept, and interrupted ones
go on: `--arms` of another day are added. `--arms` without a name writes down plan and claim alone.
`weights:NAME` examines a student as it is: a shipped name or a folder.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import ladd_report
from benchmarks.ladd_report import STEPS, Run
from minikontext import flow, sampler
from minikontext.bench import report, study
from minikontext.bench.diversity import diversity
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
from minikontext.toyworld import Case
from minikontext.toyworld.edits import sample_case
from minikontext.training.editor import Editor, editor_loss
from minikontext.training.loop import Loop, LoopConfig, LossFunction
from minikontext.training.models import averaged
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Batch, Inputs, Source, Stream, StreamConfig
from minikontext.training.world_editor import WorldEditorTraining

CPU = torch.device("cpu")
CONTEXTS = (0, 1, 2)


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

    steps, minutes: of extra training; with minutes, the clock ends a run. scale, answers: guidance
    and steps of the teacher. tokens, batches: of the stream. cases: closed and open ones to edit,
    of the dev split. prompts, draws: open prompts, and pictures of each, for distinct answers.
    """

    weights: str = "toy"
    steps: int = 700
    minutes: float = 0.0
    scale: float = 1.5
    answers: int = 10
    tokens: int = 2048
    batches: int = 250
    cases: int = 300
    prompts: int = 8
    draws: int = 64
    lr: float = 1e-5
    heads: float = 100.0
    head_start: int = 100


PRESETS = {
    "full": Plan(),
    # about two to three hours of one core for the toy at 64 x 64; the rates of toy_pro
    "small": Plan(
        steps=160, tokens=1024, batches=120, cases=200, draws=32, lr=5e-5, heads=20.0, head_start=40
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


def gather(plan: Plan, arm: Arm, pipe: KontextPipeline, folder: Path) -> Material:
    """The material of an arm; encoded batches and answers are kept in `folder` for all arms."""
    defaults, text = pipe.defaults, pipe.text_encoder
    teacher = Editor(pipe.transformer, text, defaults.context_layout).requires_grad_(False).eval()
    tokens = max(1, int(plan.tokens * arm.tokens))
    words = "grammar" if text.config.ngrams else "templates"
    how = TeacherSamplesConfig(plan.answers, plan.scale)
    mark, null = pipe.weights_fingerprint[:12], teacher.text.tokenize([""])[0]

    def both(contexts: tuple[int, ...]) -> tuple[Stream, TeacherStream]:
        name = f"{tokens}-{''.join(map(str, contexts))}"
        dials = StreamConfig(tokens=tokens, batches=plan.batches, other_size=0.0, words=words,
                             sizes=((64, 64),), contexts=contexts)  # fmt: skip
        stream = Stream(dials, pipe.autoencoder, folder / name)
        place = folder / f"{name}-answers"
        return stream, TeacherStream(stream, teacher, null, place, mark, how, defaults.mu_16)

    if arm.text is None:
        return Material(teacher, *both(CONTEXTS), defaults)
    kinds = zip(both(CONTEXTS[:1]), both(CONTEXTS[1:]), strict=True)
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


def train(plan: Plan, name: str, seed: int, given: Material, folder: Path) -> Editor:
    """The student of an arm after its extra training; goes on from a checkpoint in `folder`."""
    arm = arm_called(name)
    if not arm.trained:
        return given.teacher
    model, loss = build_loss(plan, arm, seed, given)
    steps = plan.steps + plan.head_start * (arm.kind == "ladd")  # the student's steps are equal
    how = LoopConfig(
        steps, lr=plan.lr, muon_lr=0.0, warmup=min(20, steps), decay=0.4, ema=0.99,
        minutes=plan.minutes, log_every=10, rates={"heads": plan.heads}, adam_beta=arm.beta,
    )  # fmt: skip
    facts = {"arm": f"{name} {arm}", "seed": str(seed), "plan": str(plan)}
    loop = Loop(model, how, folder, made_from=facts)
    loop.resume()
    loop.run(loss)
    found = averaged(loop, model)
    return found.student if isinstance(found, Ladd) else found


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Exam:
    """The cases that every student edits: closed and open ones, and open prompts."""

    plan: Plan

    @cached_property
    def cases(self) -> list[Case]:
        """Of the dev split, as many with one answer as with many."""
        return (
            self._found(False)[: self.plan.cases // 2]
            + self._found(True)[: self.plan.cases - self.plan.cases // 2]
        )

    @cached_property
    def prompts(self) -> list[Case]:
        """Open prompts with a context picture."""
        return [case for case in self._found(True) if case.contexts][: self.plan.prompts]

    def _found(self, free: bool) -> list[Case]:
        wanted, found, i = max(self.plan.cases, 2 * self.plan.prompts), [], 0
        while len(found) < wanted:
            case, i = sample_case(i, 4, "dev"), i + 1
            if bool(case.free) == free and len(case.contexts) in CONTEXTS:
                found.append(case)
        return found

    def take(
        self, at: Callable[[int], KontextPipeline], steps: Sequence[int] = STEPS, cfg: float = 1.0,
        variety: int = ladd_report.CLAIM.variety,
    ) -> dict[str, Any]:  # fmt: skip
        """Outcomes by steps, and each open prompt's distinct valid answers with `variety` steps.

        at: the pipeline for so many steps. cfg: the scale of classifier-free guidance.
        """
        outcomes = {}
        for n in steps:
            setting = SamplerSetting(at(n).name, n, cfg)
            outcomes[str(n)] = study.measure(at(n), setting, self.cases, "dev")[0].outcomes[0]
        call = {"num_inference_steps": variety, "true_cfg_scale": cfg}
        seeds = range(self.plan.draws)
        found = [diversity(at(variety), [case], seeds, **call) for case in self.prompts]
        return {"outcomes": outcomes, "distinct": [one.distinct for one in found]}


def run(
    plan: Plan, arms: list[str], seeds: int, place: Path, work: Path,
    load_pipe: Callable[[str], KontextPipeline] = KontextPipeline.from_pretrained,
) -> dict[str, Run]:  # fmt: skip
    """Train and examine what is missing in `place`; each run is stored when it is there.

    Raises ConfigError for an unknown arm, or where the file holds runs of another plan.
    """
    kinds = {name: arm_called(name) for name in arms}
    stored, runs = load(place)
    if place.exists() and stored != plan:
        raise ConfigError(f"{place} is for {stored}, not for {plan}: use another --output.")
    pipe, exam = load_pipe(plan.weights), Exam(plan)
    save(plan, runs, place)  # what is to be decided stands before it is measured
    for name, arm in kinds.items():
        for seed in range(seeds if arm.trained else 1):
            if Run(name, seed).name not in runs:
                looked_at = load_pipe(name[len(WEIGHTS) :]) if arm.kind == "weights" else pipe
                one = experiment(plan, name, seed, looked_at, exam, work)
                runs[one.name] = one
                save(plan, runs, place)
    return runs


def experiment(
    plan: Plan, name: str, seed: int, pipe: KontextPipeline, exam: Exam, work: Path
) -> Run:
    """One arm and seed, to its end or to where it failed."""
    folder, arm = work / re.sub(r"[^\w-]+", "-", name) / str(seed), arm_called(name)
    if arm.kind == "teacher":  # as it made the answers, with guidance
        steps = [many for many, _ in ladd_report.CLAIM.pairs]
        return Run(name, seed, **exam.take(lambda n: pipe, steps, plan.scale, max(steps)))
    given = gather(plan, arm, pipe, work / "stream")
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


def save(plan: Plan, runs: dict[str, Run], place: Path) -> None:
    """Write the claim, the plan and all runs as JSON."""
    found = [asdict(one) for one in runs.values()]
    claim = asdict(ladd_report.CLAIM)
    report.write_json({"claim": claim, "plan": asdict(plan), "runs": found}, place)


def load(place: Path) -> tuple[Plan, dict[str, Run]]:
    """The plan and the runs of a file; none if there is no such file."""
    stored = report.read_json(place, {"plan": {}, "runs": []})
    runs = [Run(**values) for values in stored["runs"]]
    return Plan(**stored["plan"]), {one.name: one for one in runs}


def main(arguments: list[str] | None = None) -> dict[str, Run]:
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
    plan = replace(PRESETS[options.preset], **{k: v for k, v in given.items() if v is not None})
    whole = plan == PRESETS[options.preset] and options.seeds >= 3
    place = report.folder(options, "" if whole else "ladd lab") / f"ladd_lab_{options.preset}.json"
    work = options.work / (options.preset if whole else "part")
    runs = run(plan, options.arms, options.seeds, place, work)
    text = ladd_report.page(str(plan), runs, [bool(case.free) for case in Exam(plan).cases])
    report.write_text(text, place.with_suffix(".md"))
    print(text)
    return runs


if __name__ == "__main__":
    main()
