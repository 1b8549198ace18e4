"""Filters by name or folder: found, loaded, chosen for a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from minikontext.errors import WeightsError
from minikontext.runtime import files
from minikontext.safety.filters import Safety, home, read_config

LOG = logging.getLogger(__name__)

NOTICE = (
    "notice: these weights run without a safety filter. The licence of the published FLUX.1 "
    "Kontext [dev] weights asks whoever uses them to filter what they draw, or to have people look "
    "at it before it is shown to others. See minikontext.safety; --safety NAME switches filters on."
)


# ---------------------------------------------------------------- loading
def load(name: str | Path) -> Safety:
    """The filters of a folder, or of a name in data/safety; never touches the network.

    The folder's config.json says its kind: "clip" is the toy's two-tower classifier ("towers" in
    version 0.1), and "classifiers" names local `transformers` folders. Raises WeightsError for a
    folder that is not there or does not fit: a filter that is requested is never left out silently.
    """
    folder = find(name)
    config = read_config(folder)
    from minikontext.safety import classifiers, clip  # each knows its own kind

    kinds: dict[str, Callable[[Path, dict], Safety]] = {
        clip.KIND: clip.load_safety,
        clip.OLD_KIND: clip.load_safety,
        "classifiers": classifiers.load_safety,
    }
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise WeightsError(f"{folder}: kind {kind!r:.80}; expected one of {', '.join(kinds)}.")
    return kinds[kind](folder, config)


def chosen(requested: Safety | str | Path | None, configured: object = None) -> Safety | None:
    """The filters of a pipeline: as requested, else by the name that its weights' config gives.

    "none" switches them off. A configured name is looked up in data/safety only: a file that came
    with weights does not choose which other files are read.
    """
    if isinstance(requested, Safety):
        return requested
    if requested is not None:
        return None if str(requested) == "none" else load(requested)
    if configured is None:
        return None
    if not isinstance(configured, str) or not configured.replace("-", "").isalnum():
        raise WeightsError(
            f"config.json says safety={configured!r}; expected the name of a folder in {home()}."
        )
    return load(home() / configured)


def find(name: str | Path) -> Path:
    """A filter's folder: a path, or a name in `home()`. Raises WeightsError with those there."""
    for folder in (Path(name), home() / name):
        if files.exists(folder / "config.json"):
            files.tell_if_hidden(name, home())
            return folder
    known = sorted(path.parent.name for path in home().glob("*/config.json"))
    raise WeightsError(
        f"No safety filter called {str(name)!r}: no config.json in {Path(name)} or "
        f"{home() / name}. Known names: {', '.join(known) or 'none'}; 'none' is no filter."
    )


_told: set[str] = set()


def tell_once(text: str = NOTICE) -> None:
    """Log a notice the first time, as a warning: a program shows it unless it chose not to."""
    if text not in _told:
        _told.add(text)
        LOG.warning(text)
