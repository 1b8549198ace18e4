"""What only the notebooks use: set-up, plots, the system map, exercise checks and widgets.

Everything loads on first use, so that `import minikontext` stays light.
"""

from importlib import import_module

_MODULES = (
    "attention",
    "browser",
    "checks",
    "easel",
    "editing",
    "exercises",
    "failures",
    "few_steps",
    "fits",
    "flow_pictures",
    "gallery",
    "latents",
    "live",
    "live_ladd",
    "map",
    "own_code",
    "parts",
    "patches",
    "plane_ladd",
    "plots",
    "positions",
    "predictions",
    "progress",
    "safety_desk",
    "samples",
    "scale",
    "sepia",
    "sequence",
    "session",
    "start",
    "style",
    "tiny_flux",
    "trajectory",
    "verdict",
    "voters",
    "who_sees",
)

_HOMES = {
    "setup": "start",
    "check": "checks",
    "mine": "own_code",
    "predict": "predictions",
    "score": "predictions",
    "show_system": "map",
    "show_images": "plots",
    "show_latents": "plots",
    "bars": "plots",
    "sheet": "plots",
    "pictures": "samples",
    "more_pictures": "samples",
    "prompts": "samples",
    "show_sequence": "sequence",
    "watch_edit": "attention",
    "AttentionWidget": "attention",
    "EditingWidget": "editing",
    "replay": "session",
    "LatentWidget": "latents",
    "RopeWidget": "positions",
    "FlowWidget": "flow_pictures",
    "LiveTraining": "live",
    "TrajectoryWidget": "trajectory",
    "FewStepsWidget": "few_steps",
    "PlanWidget": "scale",
    "FailuresWidget": "failures",
    "SafetyWidget": "safety_desk",
    "FitsWidget": "fits",
    "WhoSeesWidget": "who_sees",
    "run_processes": "scale",
}

__all__ = [*_MODULES, *_HOMES]


def __getattr__(name: str) -> object:
    """Import a module or function when it is first asked for (PEP 562)."""
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
