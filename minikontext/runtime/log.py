"""What the package tells on the way goes to the logger "minikontext": silent until somebody asks.

The command line and the course's notebooks ask, with `show`. In a program of your own:
`logging.basicConfig(level="INFO")`.
"""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("minikontext")


class _Printer(logging.Handler):
    """Print messages as they are, to the stdout of the moment: it may be redirected."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        print(self.format(record), file=sys.stdout, flush=True)


def show() -> None:
    """Print what the package tells, from now on; a second call changes nothing."""
    LOGGER.setLevel(logging.INFO)
    if not any(isinstance(handler, _Printer) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Printer())
