"""Errors and warnings raised on purpose: each says what was got, expected, and is to be done."""

import sys
import threading
import warnings
from collections.abc import Iterable


class MinikontextError(Exception):
    """Base of all errors of this package: `except MinikontextError` catches each of them."""

    def __str__(self) -> str:
        return plain(super().__str__())  # it may quote a stranger's file


class WeightsError(MinikontextError, ValueError):
    """A weights file or folder is missing, broken, unsafe, or does not fit the model."""


class ImageError(MinikontextError, ValueError):
    """An image cannot be read, or has a type, size or content that cannot be used."""


class MetadataError(MinikontextError, ValueError):
    """What a picture's file says about how it was made is broken, or of a newer version."""


class SizeError(MinikontextError, ValueError):
    """A height, width or count is not positive, too large, or does not fit its neighbour."""


class PromptError(MinikontextError, ValueError):
    """A prompt is not text, or the number of prompts does not fit the call."""


class ConfigError(MinikontextError, ValueError):
    """A configuration, an option or an environment variable has a value that makes no sense."""


class NonFiniteError(MinikontextError, ArithmeticError):
    """A tensor became NaN or infinite; the message names the step where it happened."""


class TrainingError(MinikontextError, RuntimeError):
    """A training run cannot start, go on, or be resumed."""


class OutputError(MinikontextError, OSError):
    """A result cannot be written to the place that was asked for."""


class MissingPackageError(MinikontextError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class NotEnoughMemoryError(MinikontextError, MemoryError):
    """A model does not fit into the memory of the device; the message has the arithmetic."""


class SafetyError(MinikontextError, ValueError):
    """A filter refused a prompt or a picture; `verdict` says which layer, score and threshold."""

    def __init__(self, message: str, verdict: object = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class Cancelled(MinikontextError, RuntimeError):
    """The user stopped the work; raise it in a step callback to stop sampling."""


class PromptWarning(UserWarning):
    """A prompt is usable but not fully understood: unknown words, or text cut off."""


class SafetyWarning(UserWarning):
    """A filter withheld a picture; a grey card is in its place."""


class WeightsWarning(UserWarning):
    """Weights are used, but not all of a file, or not as its maker may have meant."""


class ResizeWarning(UserWarning):
    """An image is resized on the way into the model, so fine detail can be lost."""


class MetadataWarning(UserWarning):
    """What a picture's file says of its history or its colours is broken, or cannot be used."""


def plain(text: str, keep: str = "\n") -> str:
    """A stranger's text: controls, marks of direction and half pairs written out as in Python."""
    return "".join(x if x.isprintable() or x in keep else ascii(x)[1:-1] for x in text)


def shorten_list(items: Iterable[str], limit: int = 3) -> str:
    """The first names of many, for a message."""
    items = [plain(item, "") for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def warn(warning: Warning) -> None:
    """Warn at the nearest line that is neither ours nor torch's: there the caller can act."""
    f, level, warning.args = sys._getframe(1), 2, (plain(str(warning)),)
    if (heard := getattr(threading.current_thread(), "heard", None)) is not None:
        return heard.append(warning)  # a widget's work: `catch_warnings` would be for all threads
    while f.f_back and f.f_globals.get("__name__", "").split(".")[0] in ("minikontext", "torch"):
        f, level = f.f_back, level + 1
    warnings.warn(warning, stacklevel=level)
