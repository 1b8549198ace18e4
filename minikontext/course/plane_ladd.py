"""LADD on points in the plane, with several seeds side by side: what notebook 07 breaks.

`python -m minikontext.course.plane_ladd`
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minikontext import flow, sampler
from minikontext.bench import compare, report
from minikontext.course.flow_pictures import answers
from minikontext.distillation import losses

STORED = report.STORED / "plane_ladd.json"
TIMES, SHARES = (1.0, 0.75, 0.5, 0.25), (0.7, 0.1, 0.1, 0.1)
STEPS = (1, 2, 4)
LR, HEADS = 5e-4, 6.0  # of the student; the heads' is so many times as large
MOMENTUM = 0.5  # Adam's first beta: with more, each chases where the other one was
PLAIN = "the game as in the notebook"
# What is changed in the game, and its short name for plots; all else stays.
VARIANTS: dict[str, dict[str, float | bool]] = {
    PLAIN: {},
    "judged at t = 0.73 in the median, as LADD": {"mu": 1.0},
    "judged at t = 0.05, nearly clean": {"mu": -3.0},
    "R1, approximated by noise": {"r1": 1.0},
    "momentum of 0.9 for both": {"momentum": 0.9},
    "heads on points, not on features": {"features": False},
    "batch of 2": {"batch": 2},
    "no discriminator: squared error": {"mse": True},
}


class Copies(nn.Module):
    """A linear layer for each of several seeds: x (s, b, i) -> (s, b, o)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor, learns: bool = True) -> Tensor:
        weight, bias = (
            (self.weight, self.bias) if learns else (self.weight.detach(), self.bias.detach())
        )
        return torch.baddbmm(bias[:, None], x, weight)

    @classmethod
    def of(cls, layer: nn.Linear, seeds: int) -> Copies:
        """The same layer for every seed."""
        weight, bias = layer.weight.detach().T, layer.bias.detach()
        return cls(weight.expand(seeds, *weight.shape), bias.expand(seeds, *bias.shape))

    @classmethod
    def new(cls, wide: int, out: int, seeds: int) -> Copies:
        """Another random layer for every seed."""
        weight = torch.randn(seeds, wide, out) / wide**0.5
        return cls(weight, torch.zeros(seeds, out))


class Net(nn.Module):
    """The velocity of points z (..., 2) at times t (...), and what its two hidden layers see."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)]
        )

    def features(self, z: Tensor, t: Tensor) -> list[Tensor]:
        """The hidden activations, one tensor (..., width) a layer."""
        first, second, _ = self.layers
        hidden = F.silu(first(torch.cat([z, t[..., None]], dim=-1)))
        return [hidden, F.silu(second(hidden))]

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.layers[-1](self.features(z, t)[-1])


def flow_teacher(x: Tensor, steps: int = 2000, seed: int = 0) -> Net:
    """A net that has learned the flow from noise to points x (n, 2)."""
    torch.manual_seed(seed)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        data, noise, t = x[torch.randint(len(x), (256,))], torch.randn(256, 2), torch.rand(256)
        loss = flow.loss(net(flow.interpolate(data, noise, t), t), data, noise)
        update(optimizer, loss)
    return net.requires_grad_(False)


def students(teacher: Net, seeds: int) -> Net:
    """Copies of the teacher that learn on their own: z (s, b, 2), t (s, b) -> (s, b, 2)."""
    net = Net()
    net.layers = nn.ModuleList(Copies.of(layer, seeds) for layer in teacher.layers)
    return net


class Discriminator(nn.Module):
    """A small head on every hidden layer of the teacher, or on the points; one for each seed."""

    def __init__(self, teacher: Net, seeds: int, features: bool = True, width: int = 64) -> None:
        super().__init__()
        self.teacher, self.seeds = teacher, seeds
        self.features = teacher.features if features else lambda y, t: [y]
        sizes = [layer.out_features for layer in teacher.layers[:2]] if features else [2]
        self.ins = nn.ModuleList(Copies.new(size + 1, width, seeds) for size in sizes)
        self.outs = nn.ModuleList(Copies.new(width, 1, seeds) for _ in sizes)

    def heads(self, seen: list[Tensor], t: Tensor, learns: bool) -> Tensor:
        """Features (s b, d) of every layer, times (s b,) -> logits (s, b, heads)."""
        logits = []
        for first, last, x in zip(self.ins, self.outs, seen, strict=True):
            given = torch.cat([x, t[:, None]], -1).unflatten(0, (self.seeds, -1))
            logits.append(last(F.silu(first(given, learns)), learns))
        return torch.cat(logits, dim=-1)


def ladd(
    teacher: Net, real: Tensor, steps: int = 1200, seeds: int = 8, batch: int = 192,
    mu: float = 0.0, features: bool = True, mse: bool = False, r1: float = 0.0,
    momentum: float = MOMENTUM,
) -> Net:  # fmt: skip
    """Students distilled from the teacher's own answers `real` (n, 2), by `losses.ladd_turn`.

    mu: of the logit-normal time at which points are judged. features: False judges the points
    themselves. mse: no discriminator, but the squared distance to an answer of the teacher. r1:
    weight of the penalty on the discriminator's slope.
    """
    torch.manual_seed(0)
    net, judges = students(teacher, seeds), Discriminator(teacher, seeds, features)
    both = optimizer(net, judges, momentum)
    dials = {"adversarial": 0.0, "mse": 1.0} if mse else {"r1": r1}

    def student(z: Tensor, t: Tensor) -> Tensor:
        return net(z.unflatten(0, (seeds, -1)), t.view(seeds, -1)).flatten(0, 1)

    for _ in range(steps):
        draws = draw(real, seeds * batch, mu)
        shake = 0.1 * torch.randn_like(draws.x) if r1 else None
        judge = losses.Judge(judges.features, judges.heads)
        turn = losses.ladd_turn(student, judge, draws, shake=shake, **dials)
        update(both, turn.heads + turn.student)
    return net.requires_grad_(False)


def draw(real: Tensor, count: int, mu: float) -> losses.Draws:
    """The draws of a turn: some of the teacher's answers, noises and times."""
    x, noise, again = real[torch.randint(len(real), (count,))], *torch.randn(2, count, 2)
    t = torch.tensor(TIMES)[torch.multinomial(torch.tensor(SHARES), count, replacement=True)]
    return losses.Draws(x, noise, again, t, flow.sample_timesteps(count, mu))


def optimizer(
    student: nn.Module, heads: nn.Module, momentum: float = MOMENTUM
) -> torch.optim.Optimizer:
    """One optimiser for both: the student creeps, the fresh heads run."""
    rates = ((student, LR), (heads, HEADS * LR))
    groups = [{"params": net.parameters(), "lr": lr} for net, lr in rates]
    return torch.optim.AdamW(groups, betas=(momentum, 0.99), weight_decay=0.0)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of an optimiser down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def sample(net: Net, steps: int, count: int = 600, seeds: int = 0) -> Tensor:
    """Points after some Euler steps, (count, 2), or (seeds, count, 2) of students."""
    shape = (seeds, count, 2) if seeds else (count, 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    times = sampler.schedule(steps, shifted=False).tolist()
    for t, t_next in pairwise(times):
        noise = noise + (t_next - t) * net(noise, torch.full(shape[:-1], t))
    return noise


def good(points: Tensor, answers: Tensor, within: float = 0.2) -> Tensor:
    """The share of points (..., n, 2) that lie near an answer, in percent."""
    return 100 * (torch.cdist(points, answers).amin(dim=-1) < within).float().mean(dim=-1)


# ---------------------------------------------------------------- what came out


@dataclass(frozen=True)
class Result:
    """Points near an answer, in percent, with 1, 2 and 4 steps: a list of seeds for each."""

    name: str
    good: dict[str, list[float]]


def study(seeds: int = 8, steps: int = 1200) -> list[Result]:
    """Train every variant from one teacher; the teacher itself comes first."""
    x = answers("six", 600)
    teacher = flow_teacher(x, 2 * steps)
    real = sample(teacher, 28, 4000)
    plain = {str(n): [round(float(good(sample(teacher, n), x)), 1)] for n in (*STEPS, 28)}
    found = [Result("the teacher", plain)]
    for name, dials in VARIANTS.items():
        net = ladd(teacher, real, steps, seeds, **dials)
        shares = {str(n): good(sample(net, n, seeds=seeds), x).tolist() for n in STEPS}
        found.append(Result(name, {n: [round(v, 1) for v in row] for n, row in shares.items()}))
    return found


def load(path: Path = STORED) -> list[Result]:
    """The results that the notebook shows."""
    return [Result(**row) for row in json.loads(path.read_text())]


def decided(results: list[Result], steps: int = 1) -> dict[str, str]:
    """Each variant beside the plain game, student for student: better, worse, or not decided."""
    plain = next(r for r in results if r.name == PLAIN).good[str(steps)]
    return {r.name: compare.paired(r.good[str(steps)], plain).word() for r in results
            if r.name in VARIANTS and r.name != PLAIN}  # fmt: skip


def table(results: list[Result]) -> str:
    """Mean over the seeds, with the lowest and the highest, as a Markdown table."""
    rows, beside = [], decided(results)
    for result in results:
        shares = [result.good[str(n)] for n in STEPS]
        cells = [
            f"{sum(row) / len(row):.0f} ({min(row):.0f} to {max(row):.0f})" if len(row) > 1
            else f"{row[0]:.0f}" for row in shares
        ]  # fmt: skip
        rows.append((result.name, len(shares[0]), *cells, beside.get(result.name)))
    heads = ("", "seeds", "one step", "two steps", "four steps", "one step, beside the plain game")
    return report.table(heads, rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line: train all variants and print the table."""
    parser = report.parser(
        "python -m minikontext.course.plane_ladd", __doc__, weights=..., steps=..., seed=...
    )
    parser.add_argument("--seeds", type=int, default=8, help="students of each (default: 8)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of each")
    options = parser.parse_args(arguments)
    whole = options.seeds >= 8 and options.steps >= 1200  # each of them: tuples compare otherwise
    place = report.folder(options, "" if whole else "another budget") / "plane_ladd.json"
    results = study(options.seeds, options.steps)
    report.write_json([asdict(r) for r in results], place)
    print(table(results))


if __name__ == "__main__":
    main()
