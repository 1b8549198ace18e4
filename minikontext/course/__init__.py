"""What only the notebooks use. Everything loads on first use.

start          set-up: seeds, look, one line about this machine; progress: what has been reached
map            the system map; style: the one look; plots: sheets of pictures, small plots
samples        pictures and prompts; sepia: an edit for a LoRA; tiny_flux: a folder in FLUX's layout
checking       `check`; checks: what a check is made of; exercises: one module a notebook
solutions      their solutions and known mistakes; own_code: the model with a student's functions
predictions    guess before you measure
parts          what widgets are made of; browser: what they do there; patches: to be clicked
editing        the editing widget; easel: its picture; gallery: its pictures; verdict: what came out
session        edits as one file, to be redone
latents        the widget of 01; flow_pictures: flow in the plane; positions: rotary embedding
sequence       the row of tokens; attention: where they look; who_sees: who may see whom
trajectory     the sampler's path; few_steps: students beside their teacher
live           a training to watch; live_ladd: LADD to watch; plane_ladd: LADD in the plane
scale          what a training takes; fits: will the full weights fit?
failures       a benchmark's answers; voters: simulated votes; safety_desk: filters on and off
"""

from minikontext import lazy

MODULES = (
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

__all__ = [*MODULES, *_HOMES]

__getattr__ = lazy(__name__, MODULES, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
