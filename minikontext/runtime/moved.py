"""Where the modules of version 0.1 went: `mk.weights` and others work for one more release."""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType

# Old module -> new ones, searched in this order. What is called otherwise now: `RENAMED`.
MOVED = {
    "arguments": ("editing.request",),
    "caching": ("runtime.step_cache",),
    "checkpoints": (
        "pretrained.layouts", "pretrained.convert", "pretrained.summary",
        "pretrained.config_mapping",
    ),
    "classifiers": ("safety.classifiers",),
    "configs": ("runtime.config",),
    "device": ("runtime.device", "runtime.attention", "layers"),
    "doctor": ("cli.doctor",),
    "files": ("runtime.files",),
    "float8": ("runtime.quantization",),
    "lora": ("pretrained.lora", "pretrained.lora_layers", "pretrained.lora_files"),
    "memory": ("runtime.memory_plan", "runtime.offload", "runtime.quantization"),
    "provenance": ("images.provenance", "images.inspect"),
    "tiling": ("runtime.tiling",),
    "towers": ("safety.clip",),
    "velocity": ("denoiser",),
    "watermark": ("images.watermark",),
    "weights": (
        "pretrained.safetensors_io", "pretrained.key_mapping", "pretrained.convert",
        "pretrained.summary", "pretrained.file_kinds", "errors",
    ),
}  # fmt: skip
RENAMED = {
    ("configs", "build"): "build_config",
    ("configs", "make"): "make_config",
    ("configs", "require"): "require_entries",
    ("configs", "fits"): "fits_type",
    ("files", "sha256"): "fingerprint",
    ("lora", "Thin"): "LoraLayer",
    ("lora", "Strength"): "LoraScaling",
    ("provenance", "withhold"): "without_prompts",
    ("towers", "load_towers"): "load_clip",
    ("weights", "few"): "shorten_list",
    ("velocity", "Velocity"): "Denoiser",
    ("device", "pick"): "select_device",
    ("device", "explain"): "explain_device",
    ("weights", "convert"): "rewrite",
    ("towers", "TowersConfig"): "ClipConfig",
    ("float8", "convert"): "to_float8",
    ("float8", "use"): "use_float8",
    ("float8", "is_usable"): "float8_usable",
}


class Moved(ModuleType):
    """An old module: its names are looked up in the new ones."""

    def __init__(self, name: str) -> None:
        super().__init__(f"minikontext.{name}")
        self._old = name
        self._new = [import_module(f"minikontext.{place}") for place in MOVED[name]]

    def __getattr__(self, name: str) -> object:
        wanted = RENAMED.get((self._old, name), name)
        for module in self._new:
            if not wanted.startswith("__") and hasattr(module, wanted):
                return getattr(module, wanted)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def find(name: str) -> Moved:
    """The stand-in of an old module, with a DeprecationWarning at the line that asked for it.

    Raises AttributeError for a name that never was one.
    """
    if name not in MOVED:
        raise AttributeError(f"module 'minikontext' has no attribute {name!r}")
    places = " and ".join(f"minikontext.{place}" for place in MOVED[name])
    text = f"minikontext.{name} is now {places}; the old name goes with version 0.3."
    warnings.warn(DeprecationWarning(text), stacklevel=3)
    return Moved(name)
