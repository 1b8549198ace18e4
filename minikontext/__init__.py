"""minikontext: FLUX.1 Kontext, small enough to train on a laptop, exact enough to run the weights.

Modules and the main classes load on first use, so that `import minikontext` costs next to nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_MODULES = (
    "arguments",
    "autoencoder",
    "bench",
    "caching",
    "checkpoints",
    "classifiers",
    "cli",
    "configs",
    "course",
    "device",
    "distillation",
    "doctor",
    "errors",
    "files",
    "float8",
    "flow",
    "images",
    "layers",
    "lora",
    "memory",
    "pipeline",
    "pretrained",
    "provenance",
    "rope",
    "safety",
    "sampler",
    "text",
    "tiling",
    "tokens",
    "towers",
    "toyworld",
    "training",
    "transformer",
    "velocity",
    "watermark",
    "weights",
)

_HOMES = {
    "AutoEncoder": "autoencoder",
    "AutoEncoderConfig": "autoencoder",
    "KontextTransformer": "transformer",
    "TransformerConfig": "transformer",
    "ToyTextEncoder": "text",
    "ToyTextConfig": "text",
    "FluxTextEncoder": "text",
    "TextFeatures": "text",
    "StepCache": "caching",
    "KontextPipeline": "pipeline",
    "KontextOutput": "pipeline",
    "ResizePlan": "images",
    "Safety": "safety",
    "Verdict": "safety",
    "MinikontextError": "errors",
}

__all__ = ["__version__", *_MODULES, *_HOMES]


def __getattr__(name: str) -> object:
    """Import a module or class when it is first asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
