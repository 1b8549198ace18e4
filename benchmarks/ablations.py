"""What if it were built otherwise? Small editors, equal budgets, one thing changed each time.

`python -m benchmarks.ablations --seeds 3`

Studies: how the context gets in (tokens after the target's, or channels beside them), how far it
lies in virtual time, and how training times are drawn. Notebooks 02, 03 and 05 show what came out.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import sampler
from minikontext.autoencoder import AutoEncoder
from minikontext.bench import report
from minikontext.bench.ablations import Run, load, table
from minikontext.bench.oracle_bench import held_out_cases, summarise
from minikontext.denoiser import Denoiser
from minikontext.errors import ConfigError
from minikontext.flow import interpolate, loss_per_sample
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Case, score, vocabulary
from minikontext.training.data import Pairs, build_cache, encode, load_cache
from minikontext.training.editor import Editor, EditorLossConfig, editor_loss
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.models import averaged
from minikontext.training.runs import alone
from minikontext.transformer import KontextTransformer, TransformerConfig


@dataclass(frozen=True)
class Setting:
    """The budget that every variant gets."""

    level: int = 2
    pairs: int = 8000
    steps: int = 800
    batch: int = 32
    cases: int = 200
    sampling_steps: int = 12
    lr: float = 1.5e-3
    muon_lr: float = 4e-3


@dataclass(frozen=True)
class Variant:
    """What is changed: the way in of the context, its virtual time, the training times."""

    channels: bool = False
    offset: int = 1
    timesteps: str = "shifted"


USUAL = Variant()
STUDIES: dict[str, dict[str, Variant]] = {
    "context": {"sequence": USUAL, "channel": Variant(channels=True)},
    "offset": {f"offset {i}": Variant(offset=i) for i in (0, 1, 2, 10)},
    "timesteps": {name: Variant(timesteps=name) for name in ("uniform", "logit-normal", "shifted")},
}


# ---------------------------------------------------------------- the variants


@dataclass(frozen=True)
class ChannelVelocity(Denoiser):
    """Context channels beside the target's in every token, as many older editors have it."""

    def join(self, target: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, c) -> (b, n, 2 c), and the target's ids alone."""
        return torch.cat((target, self.packed[0][0]), dim=-1), target_ids


@dataclass(frozen=True)
class OffsetVelocity(Denoiser):
    """The context at another virtual time than 1."""

    offset: int = 1

    def join(self, target: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
        """As always, with the first id of the context's tokens replaced."""
        img, ids = super().join(target, target_ids)
        ids[len(target_ids) :, 0] = self.offset
        return img, ids


class VariantEditor(Editor):
    """An editor in which one thing is otherwise."""

    def __init__(self, variant: Variant, seed: int) -> None:
        torch.manual_seed(seed)
        sizes = small(channels=variant.channels)
        words = ToyTextConfig(vocabulary=vocabulary(), width=sizes.context_in_dim)
        net = KontextTransformer(sizes).init_weights(torch.Generator().manual_seed(seed))
        super().__init__(net, ToyTextEncoder(words))
        self.variant = variant

    def forward(self, z: Tensor, t: Tensor, words: Tensor, contexts: list[Tensor]) -> Tensor:
        """Velocity of latents z (b, c, h, w) at times t (b,)."""
        return self.velocity(words, contexts)(z, t)

    def velocity(self, words: Tensor, contexts: list[Tensor]) -> Denoiser:
        """The variant's way from latents to their velocity."""
        modules = (self.transformer, self.text(words), contexts)
        if self.variant.channels:
            return ChannelVelocity(*modules)
        return OffsetVelocity(*modules, offset=self.variant.offset)


def small(channels: bool = False) -> TransformerConfig:
    """A quarter of the toy transformer; with channels, tokens as wide as two pictures'."""
    sizes = replace(
        TransformerConfig.toy(),
        hidden_size=128,
        axes_dim=(8, 12, 12),
        depth=1,
        depth_single_blocks=3,
    )
    return replace(sizes, in_channels=128) if channels else sizes


# ---------------------------------------------------------------- training and measuring


def train(
    variant: Variant, seed: int, setting: Setting, pairs: Pairs, test: Pairs, folder: Path
) -> tuple[VariantEditor, list[tuple[int, float]]]:
    """Train a variant, or go on where its folder stands; also returns its held-out curve."""
    model, device = VariantEditor(variant, seed), torch.device("cpu")
    dials = LoopConfig(setting.steps, setting.lr, setting.muon_lr, warmup=50, ema=0.995)
    loop = Loop(model, replace(dials, log_every=max(1, setting.steps // 12)), folder)
    how = EditorLossConfig(setting.batch, seed, timesteps=variant.timesteps, empty_prompts=0.0)
    notes = folder / "curve.json"
    before = json.loads(notes.read_text()) if loop.resume() and notes.exists() else []
    curve = [(seen, value) for seen, value in before if seen <= loop.step * setting.batch]

    def note(facts: dict) -> None:
        curve.append((facts["step"] * setting.batch, round(held_out_loss(model, test), 5)))
        notes.write_text(json.dumps(curve))

    if loop.step < setting.steps:
        loop.run(editor_loss(model, pairs, model.text.tokenize([""])[0], how, device), note)
    return averaged(loop, model), curve


@torch.no_grad()
def held_out_loss(model: Editor, test: Pairs, times: int = 8) -> float:
    """The loss at evenly spaced times on fixed noise: comparable between all variants."""
    draw = torch.Generator().manual_seed(0)
    x, context = test.target.float(), [test.contexts[:, 0].float()]
    noise = torch.randn(x.shape, generator=draw)
    t = (torch.arange(len(x)) % times + 0.5) / times
    v = model(interpolate(x, noise, t), t, test.tokens[:, 0], context)
    return float(loss_per_sample(v, x, noise).mean())


@torch.no_grad()
def edit(model: VariantEditor, autoencoder: AutoEncoder, test: Pairs, steps: int) -> list[Tensor]:
    """The edited pictures as uint8 (64, 64, 3); noise is the same for every variant."""
    noise = torch.randn(test.target.shape, generator=torch.Generator().manual_seed(1))
    predict = model.velocity(test.tokens[:, 0], [test.contexts[:, 0].float()])
    times = sampler.schedule(steps, noise.shape[-1] * noise.shape[-2] // 4)
    z = sampler.sample(predict, noise, times)
    pixels = (autoencoder.decode(z).clamp(-1, 1) * 127.5 + 127.5).round().byte()
    return list(pixels.permute(0, 2, 3, 1))


def prepare(setting: Setting, folder: Path) -> tuple[AutoEncoder, Pairs, Pairs, list[Case]]:
    """The shipped autoencoder, training pairs, and held-out cases as pairs."""
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    text = ToyTextEncoder(ToyTextConfig(vocabulary=vocabulary()))
    mark = files.fingerprint([pipe.folder / "autoencoder.safetensors"])[:12]
    build_cache(folder / "pairs", setting.level, setting.pairs, 0, pipe.autoencoder, mark)
    cases = held_out_cases(setting.cases, setting.level)
    tokens = text.tokenize([case.prompt for case in cases])[:, None]
    test = Pairs(tokens=tokens, **encode(cases, pipe.autoencoder, 0))
    return pipe.autoencoder, load_cache(folder / "pairs", text, setting.pairs), test, cases


def study(
    names: list[str], seeds: int, setting: Setting, folder: Path, out: Path, jobs: int = 1
) -> list[Run]:
    """Train every variant of some studies with several seeds; runs already in `out` are kept.

    Trainings in `folder` are kept, too: without `out`, they are only scored again.

    `jobs` trainings run side by side. A variant that belongs to several studies is trained once.
    """
    runs = load(out) if out.exists() else []
    if runs and (known := report.read_json(out)["setting"]) != asdict(setting):
        raise ConfigError(f"{out} is of {known}, not of {asdict(setting)}: use another --output.")
    wanted = {
        (v, seed): None for seed in range(seeds) for name in names for v in STUDIES[name].values()
    }
    known = {(STUDIES[run.study][run.variant], run.seed): run for run in runs}
    prepare(setting, folder)
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_alone, initargs=(jobs,)
    ) as pool:
        tasks = {
            pool.submit(train_and_score, *key, setting, folder): key
            for key in wanted
            if key not in known
        }
        for task in tqdm(as_completed(tasks), total=len(tasks), desc="trainings"):
            known[tasks[task]] = task.result()
            runs = _named(known)
            save(runs, setting, out)
    return runs


def _alone(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _named(known: dict[tuple[Variant, int], Run]) -> list[Run]:
    """Every run under the name that each study has for its variant."""
    return [
        replace(run, study=study, variant=label)
        for study, variants in STUDIES.items()
        for label, variant in variants.items()
        for (mine, _), run in sorted(known.items(), key=lambda item: item[0][1])
        if mine == variant
    ]


def train_and_score(variant: Variant, seed: int, setting: Setting, folder: Path) -> Run:
    """One training, and what the oracle says of its edits of held-out cases."""
    autoencoder, pairs, test, cases = prepare(setting, folder)
    facts = (setting.level, setting.pairs, setting.steps, setting.batch, *astuple(variant), seed)
    place = folder / "-".join(map(str, facts))
    with alone(place):
        model, curve = train(variant, seed, setting, pairs, test, place)
    pictures = edit(model, autoencoder, test, setting.sampling_steps)
    rows = [(c, score(p.numpy(), c)) for c, p in zip(cases, pictures, strict=True)]
    found = summarise(rows)
    return Run("", "", seed, found.success, found.followed, found.psnr_untouched, curve)


# ---------------------------------------------------------------- what came out


def save(runs: list[Run], setting: Setting, path: Path) -> None:
    """Write runs and their budget as JSON."""
    report.write_json({"setting": asdict(setting), "runs": [asdict(run) for run in runs]}, path)


def main(arguments: list[str] | None = None) -> None:
    """Command line: run the studies and print their tables."""
    parser = report.parser(
        "python -m benchmarks.ablations", __doc__, weights=..., steps=..., seed=...
    )
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    parser.add_argument("--steps", type=int, default=Setting.steps, help="training steps of each")
    parser.add_argument("--pairs", type=int, default=Setting.pairs, help="training pairs")
    parser.add_argument("--cases", type=int, default=Setting.cases, help="held-out cases")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side (default: 1)")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablations"))
    options = parser.parse_args(arguments)
    setting = Setting(steps=options.steps, pairs=options.pairs, cases=options.cases)
    part = "" if setting == Setting() and options.seeds >= 3 else "another budget"
    place = report.folder(options, part) / "ablations.json"
    runs = study(options.studies, options.seeds, setting, options.folder, place, options.jobs)
    for name in options.studies:
        print(f"\n{name}\n\n{table(runs, name)}")


if __name__ == "__main__":
    main()
