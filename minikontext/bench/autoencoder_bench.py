"""How much does the autoencoder lose? PSNR and sign letters on held-out scenes.

`python -m minikontext.bench.autoencoder_bench --weights toy`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from minikontext.autoencoder import AutoEncoder
from minikontext.pipeline import find_weights
from minikontext.toyworld import Scene, psnr, read, render, sample_edit


def held_out_scenes(count: int) -> list[Scene]:
    """Targets of the test split of the whole world."""
    return [sample_edit(i, 4, split="test").target for i in range(count)]


@torch.no_grad()
def round_trip(model: AutoEncoder, scenes: list[Scene]) -> Iterable[np.ndarray]:
    """Encode and decode rendered scenes: uint8 (64, 64, 3) each."""
    device = next(model.parameters()).device
    for first in range(0, len(scenes), 32):
        images = np.stack([render(scene) for scene in scenes[first : first + 32]])
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device) / 127.5 - 1
        y = (model(x).clamp(-1, 1) * 127.5 + 127.5).round().byte()
        yield from y.permute(0, 2, 3, 1).cpu().numpy()


def sharpness(picture: np.ndarray, right: np.ndarray) -> float:
    """How strong the edges are, as a share of the original's: a blur gives less than 1."""
    steps = [np.abs(np.diff(p.astype(np.float32), axis=1)).mean() for p in (picture, right)]
    return float(steps[0] / max(steps[1], 1e-6))


def measure(model: AutoEncoder, scenes: list[Scene]) -> dict[str, float]:
    """PSNR of the mean squared error and of the median picture in dB; letters read back in %.

    `sharpness` is the mean share of edge strength that is left: the question an adversarial loss
    would answer.
    """
    values, sharp, right, letters = [], [], 0, 0
    for scene, picture in zip(scenes, round_trip(model, scenes), strict=True):
        values.append(psnr(picture, render(scene)))
        sharp.append(sharpness(picture, render(scene)))
        if scene.sign and scene.style != "pixel":  # its blocks swallow letters
            found = read(picture, scene.change(sign="I" * len(scene.sign)), ("sign",)).sign
            right += sum(a == b for a, b in zip(found, scene.sign, strict=False))
            letters += len(scene.sign)
    error = np.mean([10 ** (-value / 10) for value in values])
    return {
        "scenes": len(scenes),
        "psnr": round(float(-10 * np.log10(error)), 2),
        "psnr_median": round(float(np.median(values)), 2),
        "sharpness": round(float(np.mean(sharp)), 4),
        "letters": letters,
        "letters_read": round(100 * right / max(1, letters), 2),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Command line: measure the autoencoder of a weights folder."""
    from minikontext.training.recipes import load_autoencoder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes (default: 1000)")
    options = parser.parse_args(arguments)
    path = Path(options.weights)
    folder = path if (path / "autoencoder.safetensors").exists() else find_weights(path)
    found = measure(load_autoencoder(folder, torch.device("cpu")), held_out_scenes(options.scenes))
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
