"""How much does the autoencoder lose? PSNR, SSIM, perceptual distance and sign letters.

`minikontext bench autoencoder --weights toy`, and for the paper's Table 1 in small, two
autoencoders trained with equal budgets: `minikontext bench autoencoder --channels 4 16`
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from minikontext import training
from minikontext.autoencoder import AutoEncoder
from minikontext.bench import report
from minikontext.toyworld import Scene, psnr, read, render, sample_edit
from minikontext.toyworld.sizes import Size
from minikontext.training.models import find_autoencoder, load_autoencoder
from minikontext.training.pictures import pixels


def held_out_scenes(count: int) -> list[Scene]:
    """Targets of the test split of the whole world."""
    return [sample_edit(i, 4, split="test").target for i in range(count)]


@torch.no_grad()
def round_trip(
    model: AutoEncoder, scenes: list[Scene], size: Size = (64, 64)
) -> Iterable[np.ndarray]:
    """Encode and decode rendered scenes: uint8 (h, w, 3) each."""
    device = next(model.parameters()).device
    for first in range(0, len(scenes), 16):
        x = pixels(scenes[first : first + 16], size).to(device)
        y = (model(x).clamp(-1, 1) * 127.5 + 127.5).round().byte()
        yield from y.permute(0, 2, 3, 1).cpu().numpy()


def sharpness(picture: np.ndarray, right: np.ndarray) -> float:
    """How strong the edges are, as a share of the original's: a blur gives less than 1."""
    steps = [np.abs(np.diff(p.astype(np.float32), axis=1)).mean() for p in (picture, right)]
    return float(steps[0] / max(steps[1], 1e-6))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two 0..255 pictures (Wang et al. 2004), mean of the channels.

    Their settings: a Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    x, y = (_planes(picture) for picture in (a, b))
    offsets = torch.arange(11) - 5.0
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    mean_x, mean_y, xx, yy, xy = (F.conv2d(z, window) for z in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return float((structure * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)).mean())


def perceptual(a: np.ndarray, b: np.ndarray, levels: int = 4) -> float:
    """Distance of two pictures' Laplacian pyramids: mean absolute difference, summed over levels.

    Stands in for the paper's distance in VGG features, which need a download: edges of every
    size count alike, so a blur costs more here than in PSNR. 0 is equal.
    """
    x, y = (_planes(picture) for picture in (a, b))
    total = 0.0
    for _ in range(levels):
        small_x, small_y = (F.avg_pool2d(z, 2) for z in (x, y))
        bands = [
            z - F.interpolate(small, size=z.shape[-2:], mode="bilinear")
            for z, small in ((x, small_x), (y, small_y))
        ]
        total += float((bands[0] - bands[1]).abs().mean())
        x, y = small_x, small_y
    return total + float((x - y).abs().mean())


def _planes(picture: np.ndarray) -> Tensor:
    """(h, w, 3) of 0..255 -> (3, 1, h, w) of 0..1."""
    return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[:, None] / 255


def measure(model: AutoEncoder, scenes: list[Scene]) -> dict[str, float]:
    """PSNR of the mean squared error and of the median picture in dB; letters read back in %.

    `sharpness` is the mean share of edge strength that is left: the question an adversarial loss
    would answer.
    """
    values, sharp, similar, distance, right, letters = [], [], [], [], 0, 0
    for scene, picture in zip(scenes, round_trip(model, scenes), strict=True):
        values.append(psnr(picture, render(scene)))
        sharp.append(sharpness(picture, render(scene)))
        similar.append(ssim(picture, render(scene)))
        distance.append(perceptual(picture, render(scene)))
        if scene.sign and scene.style != "pixel":  # its blocks swallow letters
            found = read(picture, scene.change(sign="I" * len(scene.sign)), ("sign",)).sign
            right += sum(a == b for a, b in zip(found, scene.sign, strict=False))
            letters += len(scene.sign)
    error = np.mean([10 ** (-value / 10) for value in values])
    return {
        "scenes": len(scenes),
        "psnr": round(float(-10 * np.log10(error)), 2),
        "psnr_median": round(float(np.median(values)), 2),
        "ssim": round(float(np.mean(similar)), 4),
        "perceptual": round(float(np.mean(distance)), 4),
        "sharpness": round(float(np.mean(sharp)), 4),
        "letters": letters,
        "letters_read": round(100 * right / max(1, letters), 2),
    }


# ---------------------------------------------------------------- equal budgets


def train(channels: int, steps: int, folder: Path, batch: int = 16, seed: int = 0) -> AutoEncoder:
    """Train a toy autoencoder with so many latent channels and steps; a trained one is kept."""
    place = folder / f"channels-{channels}-steps-{steps}"
    if not (place / "weights" / "config.json").exists():
        loop = {"steps": steps, "lr": 3e-3, "muon_lr": 5e-3, "warmup": 30, "decay": 0.6}
        dials = {"pixels": batch * 64 * 64, "sizes": [[64, 64]], "seed": seed}
        config = {"kind": "world_autoencoder", "seed": seed, "run": str(place)}
        config |= {"autoencoder": {"z_channels": channels}, "output": str(place / "weights")}
        training.run_job(training.build_job(config | {"training": dials, "loop": loop}))
    return load_autoencoder(place / "weights", torch.device("cpu"))


def table(results: dict[str, dict[str, float]]) -> str:
    """Autoencoders side by side, as in the paper's Table 1."""
    columns = {"perceptual": "distance ↓", "ssim": "SSIM ↑", "psnr": "PSNR, dB ↑",
               "letters_read": "letters read, % ↑"}  # fmt: skip
    rows = [[name, *(found[key] for key in columns)] for name, found in results.items()]
    return report.table(["", *columns.values()], rows)


def plot(results: dict[str, dict[str, float]]) -> Figure:
    """PSNR, SSIM and distance as bars."""
    figure = Figure(figsize=(9, 0.8 + 0.5 * len(results)), layout="constrained")
    titles = {"psnr": "PSNR, dB ↑", "ssim": "SSIM ↑", "perceptual": "distance ↓"}
    for axes, (key, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        bars = axes.barh(list(results), [found[key] for found in results.values()])
        axes.bar_label(bars, padding=3)
        axes.set_xlim(right=1.35 * max(found[key] for found in results.values()))
        axes.set_title(title)
    return figure


def save(results: dict[str, dict[str, float]], folder: Path) -> None:
    """Write autoencoder.json, .md and .png; rows of other names in the JSON stay."""
    results = report.read_json(folder / "autoencoder.json", {}) | results
    report.write_json(results, folder / "autoencoder.json")
    report.write_text(table(results), folder / "autoencoder.md")
    report.write_figure(plot(results), folder / "autoencoder.png")


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.autoencoder_bench"
) -> dict[str, dict[str, float]]:
    """Command line: measure a weights folder, or train with equal budgets and compare."""
    parser = report.parser(prog, "What the autoencoder loses.", steps=..., seed=...)
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes (default: 1000)")
    parser.add_argument("--channels", type=int, nargs="+", help="train these instead: 4 16")
    parser.add_argument("--steps", type=int, default=1500, help="training steps (default: 1500)")
    parser.add_argument("--runs", type=Path, default=Path("runs/autoencoders"))
    options = parser.parse_args(arguments)
    report.positive(options, "scenes", "steps", "channels")
    part = f"{options.scenes} scenes" if options.scenes < 1000 else ""
    place = report.folder(options, part, find_autoencoder)
    scenes, results = held_out_scenes(options.scenes), {}
    for channels in options.channels or ():
        model = train(channels, options.steps, options.runs)
        results[f"{channels} channels, {options.steps} steps"] = measure(model, scenes)
    if not options.channels:
        folder = find_autoencoder(options.weights)
        model = load_autoencoder(folder, torch.device("cpu"))
        results[f"{folder.name}, as shipped"] = measure(model, scenes)
    save(results, place)
    print(table(results))
    print(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
