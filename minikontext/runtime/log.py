"""What the package tells on the way goes to the logger "minikontext": silent until somebody asks.

The command line and the course's notebooks ask, with `show`. In a program of your own:
`logging.basicConfig(level="INFO")`.
"""

from __future__ import annotations

import argparse
import difflib
import html
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from minikontext.errors import (
    MetadataWarning,
    PromptWarning,
    ResizeWarning,
    SafetyWarning,
    WeightsWarning,
    plain,
)

LONGEST = 20_000  # characters of one message
# All that the package warns of, with what derives from these; nobody who asked may miss one.
NOTES = (PromptWarning, ResizeWarning, MetadataWarning, SafetyWarning, WeightsWarning)

LOGGER = logging.getLogger("minikontext")


class _Printer(logging.Handler):
    """Print messages as lines, to the stdout of the moment: it may be redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        print(printable(self.format(record), LONGEST, keep="\n"), file=sys.stdout, flush=True)


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names only; a mistake that it quotes is written out."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False} | options)
        # Of a command with words: takes those that stand behind an option. argparse forgets them.
        self.take_words: Callable[[argparse.Namespace, list[str]], None] | None = None
        self._files: list[str] = []  # of what is given, those that look like options
        # What begins as a number is a value, as it is to newer Pythons: `--seed -1,5`.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def parse_known_args(self, args: Any = None, *given: Any, **more: Any) -> Any:
        """As argparse does, but a command refuses what it does not know itself: with its usage."""
        self._files = [x for x in args or () if x[:1] == "-" and len(x) > 1 and os.path.isfile(x)]
        found, unknown = super().parse_known_args(args, *given, **more)
        if unknown and self.take_words and not any(x[:1] == "-" and x != "-" for x in unknown):
            self.take_words(found, unknown)
            unknown = []
        if unknown:
            word, known = unknown[0].partition("=")[0], self._option_string_actions
            near = difflib.get_close_matches(word, known, cutoff=0.75)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and the mistake, and exit with 2: a `*` brings in names of files."""
        if self._files:
            name = self._files[0]
            message += f" ({name} is taken for an option; for the file of that name: ./{name})"
        super().error(printable(message, 5000))


def place(text: str) -> str:
    """The name of a file or a folder. Raises ArgumentTypeError for none: `"$UNSET"` means no place.

    Without this it would stand for the folder that one works in.
    """
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def show() -> None:
    """Print what the package tells, from now on; a second call changes nothing."""
    LOGGER.setLevel(logging.INFO)
    if not any(isinstance(handler, _Printer) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Printer())


def say(*texts: object, keep: str = "\n") -> None:
    """Print lines to stdout, with whatever a stranger's file or name brought in written out."""
    print(*(printable(str(text), LONGEST, keep) for text in texts), sep="\n", flush=True)


def markup(text: str) -> str:
    """A stranger's text for a page: nothing of it is HTML, nor turns or hides what stands there."""
    return html.escape(plain(text))


def printable(text: str, limit: int = 500, keep: str = "") -> str:
    """Make a stranger's text harmless for a terminal and a log, and no longer than `limit`.

    Control characters, line ends, marks of writing direction and halves of surrogate pairs are
    written out as in Python. keep: characters that may stay, such as line ends of our own texts.
    """
    shown = plain(text[: limit + 1], keep)
    return shown if len(shown) <= limit else f"{shown[:limit]} … ({len(text)} characters)"
