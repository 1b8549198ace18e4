"""minikontext: FLUX.1 Kontext, small enough to train on a laptop, exact enough to run the weights.

The paper lies at the top, one file an idea, to be read in this order:

    tokens        latents ↔ tokens; the context joins the target's sequence
    rope          three-axis positions: virtual time, row, column
    layers        attention, modulation, double-stream and single-stream blocks
    transformer   velocity of a token sequence
    flow          the straight path, its loss, the shift of time
    sampler       schedule, Euler steps, guidance
    autoencoder   pixels ↔ latents
    text          prompt → token features and one pooled vector
    denoiser      latents in, velocity out
    pipeline      one edit in ten numbered steps

Everything else has a wing of its own:

    editing/        around one call: request, contexts, codec, output, defaults
    images/         pictures in and out, where they come from, and what became of them
    pretrained/     weights in and out, in our layout and in the published ones
    runtime/        device, attention kernels, memory plans, offloading, quantisation, files
    safety/         filters on prompts and pictures
    cli/            the `minikontext` command
    toyworld/       a picture world in which the right answer is known; knows no model
    training/       the loop, data, parallelism
    distillation/   guidance distillation, LADD, own states
    bench/          what is measured
    course/         what only the notebooks use
    page/           the editor in a web page

Modules and the main classes load on first use, so that `import minikontext` costs next to nothing.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

__version__ = "0.2.0"

IDEAS = (
    "autoencoder", "denoiser", "errors", "flow", "layers", "pipeline", "rope", "sampler", "text",
    "tokens", "transformer",
)  # fmt: skip
WINGS = (
    "bench", "cli", "course", "distillation", "editing", "images", "page", "pretrained", "runtime",
    "safety", "toyworld", "training",
)  # fmt: skip

_HOMES = {
    "AutoEncoder": "autoencoder", "AutoEncoderConfig": "autoencoder", "Denoiser": "denoiser",
    "FluxTextEncoder": "pretrained.text_encoders", "KontextOutput": "editing.output",
    "KontextPipeline": "pipeline", "KontextTransformer": "transformer",
    "MinikontextError": "errors", "ResizePlan": "images.resize", "Safety": "safety.filters",
    "StepCache": "runtime.step_cache", "TextFeatures": "text", "ToyTextConfig": "text",
    "ToyTextEncoder": "text", "TransformerConfig": "transformer", "Verdict": "safety.filters",
    "replay": "course.session",
}  # fmt: skip

__all__ = ["__version__", *IDEAS, *WINGS, *_HOMES]


def lazy(package: str, modules: tuple[str, ...], homes: dict[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): its modules, and names by the module that has them."""

    def find(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def __getattr__(name: str) -> Any:
    """Import a module or class when it is first asked for (PEP 562)."""
    if name in IDEAS or name in WINGS:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        value = import_module(f"{__name__}.runtime.moved").find(name)  # names of version 0.1
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
