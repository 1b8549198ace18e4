"""The second line of every notebook: seeds, look, quiet warnings, one line about this machine."""

import platform
import random
import time
import warnings

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display

import minikontext
from minikontext.course import plots, style
from minikontext.runtime import log
from minikontext.runtime.device import select_device

BEGAN: list[float] = []  # when the first cell ran, by a clock that nobody sets


def setup(seed: int = 0) -> None:
    """Seed all generators, set the course's look and print versions, device and seed."""
    if not BEGAN:
        BEGAN.append(time.monotonic())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    style.apply()
    if get_ipython():
        plots.with_texts()
        display({"text/html": style.PLOTS, "text/plain": ""}, raw=True)
    _quiet()
    device, dtype = select_device()
    log.show()  # now: what the package told until here is in the line below
    kind = str(dtype).removeprefix("torch.")
    print(
        f"minikontext {minikontext.__version__} · Python {platform.python_version()} · "
        f"torch {torch.__version__.split('+')[0]} · {device}, {kind} · seed {seed}"
    )


def _quiet() -> None:
    """Hide what libraries say to their own developers; show ours on one line, every time."""
    warnings.simplefilter("ignore")
    for kind in log.NOTES:
        warnings.simplefilter("always", kind)
    warnings.formatwarning = _one_line


def _one_line(message: Warning | str, *rest: object) -> str:
    return f"note: {message}\n"
