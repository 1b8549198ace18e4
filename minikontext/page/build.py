"""The folder of the page: what is exported, what is copied, and what the page must know."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import minikontext
from minikontext.errors import ConfigError, OutputError, SafetyWarning, plain, warn
from minikontext.images.change import LITTLE, VISIBLE
from minikontext.page.export import export
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.config import write_json
from minikontext.text import NGRAMS_PER_WORD, SPECIAL, ToyTextEncoder
from minikontext.tokens import SPAN
from minikontext.toyworld.scene import MAX_SIGN

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
    A page that is there becomes the new one all at once, or stays as it was. Filters that the
    weights ask for are not in it: a warning says so.
    Raises ConfigError for weights that the page cannot run or a folder without the runtime,
    OutputError for a place that is taken or full, and MissingPackageError without onnx.
    """
    if why := _missing(pipe):
        raise ConfigError(f"{pipe.name}: the page has no {why}. Take other weights, say toy-max.")
    folder, runtime = places(folder, runtime)
    with files.updating_folder(folder, "editor.json") as new:
        for file in STATIC.iterdir():
            shutil.copy(file, new / file.name)
        (new / "ort").mkdir()
        for name in RUNTIME:
            shutil.copy(runtime / name, new / "ort" / name)
        samples = copy_samples(new)
        export(pipe, new)
        write_json(new / "editor.json", facts(pipe, samples) | {"bytes": weights(new)})
    if pipe.safety:
        warn(SafetyWarning(f"{pipe.name} asks for filters on prompts and pictures; the page has "
                           "none. Think twice before you show it to others."))  # fmt: skip
    return folder


def places(folder: str | Path, runtime: str | Path) -> tuple[Path, Path]:
    """Where the page goes, and where its runtime lies: to be looked at before weights are loaded.

    Raises ConfigError and OutputError as `build` does.
    """
    folder, runtime = Path(folder), Path(runtime)
    if missing := [name for name in RUNTIME if not files.exists(runtime / name)]:
        raise ConfigError(
            f"{runtime} lacks {', '.join(missing)}. Get them with `npm install onnxruntime-web`, "
            "and give node_modules/onnxruntime-web/dist."
        )
    taken = files.is_folder(folder) and any(folder.iterdir())
    if taken and not files.exists(folder / "editor.json"):
        raise OutputError(f"{folder} is not empty and holds no page. Name another folder.")
    return folder, runtime


def _missing(pipe: KontextPipeline) -> str:
    """What weights need that the page cannot do; empty if it can run them."""
    text, defaults = pipe.text_encoder, pipe.defaults
    if not isinstance(text, ToyTextEncoder):
        return "text encoder but the toy's"
    if defaults.guidance_scale or defaults.true_cfg_scale != 1:
        return "guidance"
    if defaults.isolated:
        return "isolated contexts"
    if defaults.context_layout == "offset":
        return "contexts beside each other"
    return ""


def copy_samples(folder: Path) -> list[dict[str, str]]:
    """Copy the sample pictures; -> what the page says of each."""
    (folder / "images").mkdir(exist_ok=True)
    found = []
    for name, prompt in SAMPLES.items():
        source = files.shipped("data", "images", f"{name}.png")
        shutil.copy(source, folder / "images" / source.name)
        found.append({"file": f"images/{name}.png", "label": name, "prompt": prompt})
    return found


def weights(folder: Path) -> dict[str, int]:
    """The exported files, and what each weighs, so that the page can show how far it has come."""
    return {path.stem: path.stat().st_size for path in sorted(folder.glob("*.onnx"))}


def facts(pipe: KontextPipeline, samples: list[dict[str, str]]) -> dict[str, Any]:
    """What the page must know of an editor."""
    config, defaults, text = pipe.transformer.config, pipe.defaults, pipe.text_encoder
    parameters = (p.numel() for module in pipe.modules.values() for p in module.parameters())
    return {
        "name": plain(pipe.name),
        "version": minikontext.__version__,
        "parameters": sum(parameters),
        "words": list(text.words),
        "special": list(SPECIAL),
        "absent": [word for word, _ in text.config.absent],
        "ngrams": text.config.ngrams,
        "groups": NGRAMS_PER_WORD,
        "max_length": text.max_length,
        "channels": pipe.autoencoder.config.z_channels,
        "axes_dim": list(config.axes_dim),
        "theta": config.theta,
        "span": SPAN if defaults.context_layout == "scaled" else 0,
        "blocks": config.depth + config.depth_single_blocks,
        "steps": min(defaults.num_inference_steps, 8),
        "schedule": {"shifted": defaults.shifted, "mu_16": defaults.mu_16},
        "change": {"visible": VISIBLE, "little": LITTLE},
        "least_psnr": defaults.least_psnr,
        "max_sign": MAX_SIGN,
        "sizes": [list(size) for size in defaults.sizes],
        "samples": samples,
    }
