"""The folder of the page: what is exported, what is copied, and what the page must know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import minikontext
from minikontext.errors import ConfigError, OutputError, plain
from minikontext.page.export import export
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.text import ToyTextEncoder

STATIC = Path(__file__).parent / "static"
# Of the npm package onnxruntime-web: the part that computes on the CPU, in WebAssembly.
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SAMPLES = {
    "demo": "make the hat red",
    "frog": "change the background to a beach",
    "bunny": "make it night",
    "bear": "give the bear a red scarf",
    "ghost": "draw it in comic style",
    "robot": "remove the glasses",
}


def build(pipe: KontextPipeline, folder: str | Path, runtime: str | Path) -> Path:
    """Write a folder that any web server can serve, and that needs no network; -> the folder.

    runtime: the folder `dist` of the npm package onnxruntime-web.
    Raises ConfigError for weights that are not the toy's or a folder without the runtime,
    OutputError for a place that is taken, and MissingPackageError without onnx.
    """
    folder, runtime = Path(folder), Path(runtime)
    if not isinstance(pipe.text_encoder, ToyTextEncoder) or pipe.defaults.guidance_scale:
        raise ConfigError(
            f"{pipe.name}: the page takes the toy's weights without a guidance input."
        )
    if missing := [name for name in RUNTIME if not files.exists(runtime / name)]:
        raise ConfigError(
            f"{runtime} lacks {', '.join(missing)}. Get them with `npm install onnxruntime-web`, "
            "and give node_modules/onnxruntime-web/dist."
        )
    taken = files.is_folder(folder) and any(folder.iterdir())
    if taken and not files.exists(folder / "editor.json"):
        raise OutputError(f"{folder} is not empty and holds no page. Name another folder.")
    export(pipe, folder)
    shutil.copytree(STATIC, folder, dirs_exist_ok=True)
    (folder / "ort").mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copy(runtime / name, folder / "ort" / name)
    with files.replacing(folder / "editor.json") as temporary:
        temporary.write_text(json.dumps(facts(pipe, copy_samples(folder)), indent=1) + "\n")
    return folder


def copy_samples(folder: Path) -> list[dict[str, str]]:
    """Copy the sample pictures; -> what the page says of each."""
    (folder / "images").mkdir(exist_ok=True)
    found = []
    for name, prompt in SAMPLES.items():
        source = files.shipped("data", "images", f"{name}.png")
        shutil.copy(source, folder / "images" / source.name)
        found.append({"file": f"images/{name}.png", "label": name, "prompt": prompt})
    return found


def facts(pipe: KontextPipeline, samples: list[dict[str, str]]) -> dict[str, Any]:
    """What the page must know of an editor."""
    config, defaults, text = pipe.transformer.config, pipe.defaults, pipe.text_encoder
    parameters = (p.numel() for module in pipe.modules.values() for p in module.parameters())
    return {
        "name": plain(pipe.name),
        "version": minikontext.__version__,
        "parameters": sum(parameters),
        "words": list(text.words),
        "max_length": text.max_length,
        "channels": pipe.autoencoder.config.z_channels,
        "axes_dim": list(config.axes_dim),
        "theta": config.theta,
        "blocks": config.depth + config.depth_single_blocks,
        "steps": min(defaults.num_inference_steps, 8),
        "schedule": {"shifted": defaults.shifted, "mu_16": defaults.mu_16},
        "sizes": [[defaults.width, defaults.height]],
        "samples": samples,
    }
