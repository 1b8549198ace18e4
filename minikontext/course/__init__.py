"""What only the notebooks use: set-up, plots, the system map, exercise checks and widgets.

Everything loads on first use, so that `import minikontext` stays light.
"""

from minikontext import lazy

_MODULES = (
    "attention", "browser", "checking", "checks", "easel", "editing", "exercises", "failures",
    "few_steps", "fits", "flow_pictures", "gallery", "latents", "live", "live_ladd", "map",
    "own_code", "parts", "patches", "plane_ladd", "plots", "positions", "predictions", "progress",
    "safety_desk", "samples", "scale", "sepia", "sequence", "session", "solutions",
    "start", "style", "tiny_flux", "trajectory", "verdict", "voters", "who_sees",
)  # fmt: skip
# Names by the module that has them.
_HOMES = {
    name: module
    for module, names in {
        "start": "setup",
        "checking": "check",
        "own_code": "mine",
        "predictions": "predict score",
        "map": "show_system",
        "plots": "show_images show_latents bars sheet",
        "samples": "pictures more_pictures prompts",
        "sequence": "show_sequence",
        "attention": "watch_edit AttentionWidget",
        "editing": "EditingWidget",
        "session": "replay",
        "latents": "LatentWidget",
        "positions": "RopeWidget",
        "flow_pictures": "FlowWidget",
        "live": "LiveTraining",
        "trajectory": "TrajectoryWidget",
        "few_steps": "FewStepsWidget",
        "scale": "PlanWidget run_processes",
        "failures": "FailuresWidget",
        "safety_desk": "SafetyWidget",
        "fits": "FitsWidget",
        "who_sees": "WhoSeesWidget",
    }.items()
    for name in names.split()
}

__all__ = [*_MODULES, *_HOMES]

__getattr__ = lazy(__name__, _MODULES, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
