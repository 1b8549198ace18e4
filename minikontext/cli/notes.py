"""What `minikontext edit` and `draw` tell of a picture on stderr: notes, sizes, what changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minikontext.errors import warn
from minikontext.runtime import log

if TYPE_CHECKING:
    from minikontext.editing.output import KontextOutput
    from minikontext.pipeline import KontextPipeline


@contextmanager
def noting(name: str) -> Iterator[None]:
    """Tell each note of a picture once, and of every picture; of several, with its name."""
    tell, heard = warnings.showwarning, set[str]()

    def show(message: Warning | str, *rest: Any) -> None:
        if str(message) not in heard:
            heard.add(str(message))
            tell(f"{name}: {message}" if name else message, *rest)

    with warnings.catch_warnings():
        for kind in log.NOTES:
            warnings.simplefilter("always", kind)
        warnings.showwarning = show
        yield


def tell_what_cannot_be(pipe: KontextPipeline, pictures: list, prompt: str) -> None:
    """What the toy world lacks of a prompt, or a picture of it does not show: before any work."""
    from minikontext.course import verdict
    from minikontext.toyworld import Scene

    if not _is_toy(pipe):
        return
    notes = verdict.cannot(prompt)
    # A picture takes a moment to be read: only where an empty scene would lack something.
    if len(pictures) == 1 and len(verdict.cannot(prompt, Scene())) > len(notes):
        notes = verdict.cannot(prompt, verdict.known(pictures[0]))
    for note in notes:
        warn(note)


def _is_toy(pipe: KontextPipeline) -> bool:
    """Whether these weights know the toy world alone."""
    from minikontext.text import ToyTextEncoder

    return isinstance(pipe.text_encoder, ToyTextEncoder)


def tell_size(picture: Any, result: KontextOutput, name: str) -> None:
    """A changed size has had its warning; a size that was asked for is no picture's."""
    if picture.size != result.plan.original:
        sizes = [f"{width}×{height}" for width, height in (picture.size, result.plan.original)]
        told = f"{sizes[0]}, result: {sizes[1]}"
    elif result.plan.changed:
        return
    else:
        told = str(result.plan)
    print(log.printable(f"{name}: {told}", 5000), file=sys.stderr)


def tell_outcome(pipe: KontextPipeline, prompt: str, pictures: list, result: KontextOutput) -> None:
    """How much of the first picture changed; of one that was drawn, only that it is blurred."""
    from minikontext.course.verdict import blurred
    from minikontext.images.change import told_change

    for seed, image in zip(result.seeds, result.images, strict=True):
        if pictures:
            print(f"seed {seed}: {told_change(pictures[0], image)}", file=sys.stderr)
        elif _is_toy(pipe) and (found := blurred(prompt, image)):
            print(f"seed {seed}: {found.text}", file=sys.stderr)
