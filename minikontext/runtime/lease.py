"""Files that nobody may write to for a moment: while they are mapped and read.

A page of a mapped file that another program has cut away ends the process (SIGBUS). Linux lets the
owner of a file take a lease on it: whoever opens it for writing, or cuts it, then has to wait until
the lease is given back, 45 seconds at most. On other systems, and for another user's file, nothing
is held: `unheld` names those, and where the process ends Python says in which line.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from threading import Lock, get_ident
from types import TracebackType

from minikontext.errors import WeightsError

try:
    import fcntl
except ImportError:  # Windows, where a mapped file cannot be cut
    fcntl = None  # type: ignore[assignment]


class Lease:
    """Leases on some files, held while any thread has entered it.

    A thread that Ctrl-C kept from leaving is forgotten when it enters or leaves the next time.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths, self._lock = list(paths), Lock()
        self._held: dict[Path, int] = {}  # descriptors
        self._inside: set[int] = set()  # threads

    def __enter__(self) -> Lease:
        """Take the leases. Raises WeightsError for a file that is open for writing elsewhere."""
        with self._lock:
            self._leave()
            _let_death_speak()
            try:
                for path in self.paths if hasattr(fcntl, "F_SETLEASE") else ():
                    if path not in self._held:
                        self._take(path)
            except WeightsError:
                self._leave()
                raise
            self._inside.add(get_ident())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Give them back: who waits can go on."""
        with self._lock:
            self._leave()

    def unheld(self) -> list[Path]:
        """Inside: files that another program could cut, so that this process would end."""
        return [path for path in self.paths if fcntl and path not in self._held]

    def check(self) -> None:
        """Raise WeightsError if somebody waits for one of the files, to write to it."""
        with self._lock:
            for path, handle in self._held.items():
                if fcntl.fcntl(handle, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
                    raise WeightsError(
                        f"Another program is about to write to {path}, which is being read. "
                        "Let it end, restore the file, and load the weights again."
                    )

    def _take(self, path: Path) -> None:
        with suppress(OSError):  # gone, of another user, or on a disk without leases
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                # We ask by ourselves: no signal is wanted, and SIGIO would end the process.
                fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                fcntl.fcntl(handle, fcntl.F_SETOWN, 0)
            except OSError as error:
                os.close(handle)
                if error.errno == errno.EAGAIN:
                    raise WeightsError(
                        f"Another program has {path} open for writing. Let it end, and try again."
                    ) from error
                raise
            self._held[path] = handle

    def _leave(self) -> None:
        self._inside.discard(get_ident())
        while self._held and not self._inside:
            handle = self._held.popitem()[1]
            with suppress(OSError):  # of a fork, closing would not be enough
                fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(handle)


def held(module: object) -> AbstractContextManager[None]:
    """Hold a module's files for who calls its parts, so that its own hooks do not run."""
    return getattr(module, "held", nullcontext)()


def _let_death_speak() -> None:
    """A fatal signal writes the lines that every thread is in to the standard error output."""
    if not faulthandler.is_enabled():
        with suppress(RuntimeError, AttributeError, ValueError, OSError):  # no such output
            faulthandler.enable()
