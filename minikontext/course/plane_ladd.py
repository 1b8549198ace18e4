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
from minikontext.bench import report
from minikontext.course.flow_pictures import answers
from minikontext.distillation import losses

STORED = report.STORED / "plane_ladd.json"
TIMES, SHARES = (1.0, 0.75, 0.5, 0.25), (0.7, 0.1, 0.1, 0.1)
STEPS = (1, 2, 4)
SHORT = {  # for the labels of a plot
    "judged at t = 0.73 in the median, as LADD": "LADD's time",
    "judged at t = 0.5": "t = 0.5",
    "judged at t = 0.05, nearly clean": "t = 0.05",
    "judges see points, not features": "no features",
    "batch of 2": "batch of 2",
    "no judges: squared error": "squared error",
    "the teacher": "teacher",
}
VARIANTS: dict[str, dict[str, float | bool]] = {
    "judged at t = 0.73 in the median, as LADD": {},
    "judged at t = 0.5": {"mu": 0.0},
    "judged at t = 0.05, nearly clean": {"mu": -3.0},
    "judges see points, not features": {"features": False},
    "batch of 2": {"batch": 2},
    "no judges: squared error": {"mse": True},
}


class Copies(nn.Module):
    """A linear layer for each of several seeds: x (s, b, i) -> (s, b, o)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)

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
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.requires_grad_(False)


def students(teacher: Net, seeds: int) -> Net:
    """Copies of the teacher that learn on their own: z (s, b, 2), t (s, b) -> (s, b, 2)."""
    net = Net()
    net.layers = nn.ModuleList(Copies.of(layer, seeds) for layer in teacher.layers)
    return net


class Discriminator(nn.Module):
    """The judges: a small head on every hidden layer of the teacher, or on the points."""

    def __init__(self, teacher: Net, seeds: int, features: bool = True, width: int = 64) -> None:
        super().__init__()
        self.teacher, self.features = teacher, features
        sizes = [layer.out_features for layer in teacher.layers[:2]] if features else [2]
        self.ins = nn.ModuleList(Copies.new(size + 1, width, seeds) for size in sizes)
        self.outs = nn.ModuleList(Copies.new(width, 1, seeds) for _ in sizes)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """Noised points y (s, b, 2) at times t (s, b) -> logits (s, b, heads)."""
        seen = self.teacher.features(y, t) if self.features else [y]
        heads = zip(self.ins, self.outs, seen, strict=True)
        time = t[..., None]
        return torch.cat([o(F.silu(i(torch.cat([x, time], -1)))) for i, o, x in heads], dim=-1)


def ladd(
    teacher: Net, real: Tensor, steps: int = 1200, seeds: int = 3, batch: int = 192,
    mu: float = 1.0, features: bool = True, mse: bool = False,
) -> Net:  # fmt: skip
    """Students distilled from the teacher's own answers `real` (n, 2).

    mu: of the logit-normal time at which points are judged. features: False judges the points
    themselves. mse: no judges, but the squared distance to an answer of the teacher.
    """
    torch.manual_seed(0)
    net, judges = students(teacher, seeds), Discriminator(teacher, seeds, features)
    slow = torch.optim.AdamW(net.parameters(), lr=5e-4, betas=(0.5, 0.99))
    heads = [*judges.ins.parameters(), *judges.outs.parameters()]
    fast = torch.optim.AdamW(heads, lr=3e-3, betas=(0.5, 0.99))
    many = (seeds, batch)
    for _ in range(steps):
        x, other = (real[torch.randint(len(real), many)] for _ in range(2))
        chosen = torch.multinomial(torch.tensor(SHARES), seeds * batch, replacement=True)
        t = torch.tensor(TIMES)[chosen].reshape(many)
        z = _mix(x, t)
        made = z - t[..., None] * net(z, t)
        if mse:
            update(slow, losses.student_loss(torch.zeros(1), made, x, adversarial=0.0, mse=1.0))
            continue
        at = torch.sigmoid(mu + torch.randn(many))
        on_real, on_fake = judges(_mix(other, at), at), judges(_mix(made.detach(), at), at)
        update(fast, losses.discriminator_loss(on_real, on_fake))
        update(slow, losses.student_loss(judges(_mix(made, at), at), made, x))
    return net.requires_grad_(False)


def _mix(x: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(x, torch.randn_like(x), t[..., None])


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


def study(seeds: int = 3, steps: int = 1200) -> list[Result]:
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


def table(results: list[Result]) -> str:
    """Mean over the seeds, with the lowest and the highest, as a Markdown table."""
    rows = []
    for result in results:
        shares = [result.good[str(n)] for n in STEPS]
        cells = [
            f"{sum(row) / len(row):.0f} ({min(row):.0f} to {max(row):.0f})" if len(row) > 1
            else f"{row[0]:.0f}" for row in shares
        ]  # fmt: skip
        rows.append((result.name, len(shares[0]), *cells))
    return report.table(("", "seeds", "one step", "two steps", "four steps"), rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line: train all variants and print the table."""
    parser = report.parser(
        "python -m minikontext.course.plane_ladd", __doc__, weights=..., steps=..., seed=...
    )
    parser.add_argument("--seeds", type=int, default=3, help="students of each (default: 3)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of each")
    options = parser.parse_args(arguments)
    part = "" if (options.seeds, options.steps) >= (3, 1200) else "another budget"
    place = report.folder(options, part) / "plane_ladd.json"
    results = study(options.seeds, options.steps)
    report.write_json([asdict(r) for r in results], place)
    print(table(results))


if __name__ == "__main__":
    main()
