"""The second line of every notebook: what it lets through."""

import importlib
import re
import warnings
from pathlib import Path

import minikontext
from minikontext import course
from minikontext.errors import WeightsWarning, warn
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import log

PACKAGE = Path(minikontext.__file__).parent


def ours():
    """Every class of warning that a module of the package defines."""
    for path in PACKAGE.rglob("*.py"):
        if re.search(r"^class \w+\(\w*Warning\)", path.read_text(encoding="utf-8"), re.M):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            importlib.import_module(".".join(parts))
    found, kinds = set(), [Warning]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found |= {kind} if kind.__module__.startswith("minikontext.") else set()
    return found


def test_every_warning_of_ours_is_one_of_the_notes():
    found = ours()
    assert {"PictureWarning", "DamageWarning", "LongSign"} <= {kind.__name__ for kind in found}
    assert not [kind for kind in found if not issubclass(kind, log.NOTES)]


def test_no_warning_of_ours_is_silent_after_setup():
    found = sorted(ours(), key=str)
    with warnings.catch_warnings(record=True) as shown:
        course.setup(seed=0)
        shown.clear()  # what libraries said before
        for kind in found * 2:  # every time, not once
            warn(kind.__new__(kind, "something"))
        warnings.warn("a library's", FutureWarning, stacklevel=1)
    assert [one.category for one in shown] == found * 2


def test_a_scale_beyond_the_training_is_told_after_setup():
    pipe = KontextPipeline.from_pretrained("toy", device="cpu")
    call = {"seed": 0, "num_inference_steps": 1, "progress": False}
    with warnings.catch_warnings(record=True) as shown:
        course.setup(seed=0)
        for _ in range(2):
            pipe("make the hat red", course.pictures()["cat"], true_cfg_scale=20, **call)
    assert [one.category for one in shown] == [WeightsWarning] * 2
