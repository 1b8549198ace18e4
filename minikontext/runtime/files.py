"""Writing files so that a crash, a full disk or Ctrl-C never leaves a broken or lost one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from minikontext.errors import OutputError

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(*parts: str) -> Path:
    """The place of what is shipped: `shipped("data", "weights")`.

    In the repository it lies beside the package, in an installed wheel inside of it.
    """
    installed = PACKAGE / "shipped"
    return (installed if installed.is_dir() else PACKAGE.parent).joinpath(*parts)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block ends well.

    Missing parent folders are made. Whatever stood at `path` stays untouched until the new file
    is complete. Raises OutputError when the place cannot be written.
    """
    path = Path(path)
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors' own files can be read by nobody else
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own way
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it into place if the block ends well.

    Raises OutputError when the place cannot be written, or is there already. If the block ends
    badly, nothing is left of the folder.
    """
    path = Path(path)
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """Raise OutputError if `path` cannot become a file; ask before the long work, not after it."""
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            text = getattr(error, "strerror", None) or error  # a name too long, or with a NUL
            raise OutputError(f"Cannot write {str(path)[:99]!r}: {text}. Rename it.") from error
    parent = _nearest_existing(path.parent)
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if path.exists() and not path.stat().st_mode & 0o222:
        raise OutputError(f"Cannot write {path}: the file is read-only. Choose another name.")
    if not parent.is_dir():
        raise OutputError(f"Cannot write {path}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"Cannot write {path}: the folder {parent} is read-only.")


def lies_in(folder: Path, name: str) -> bool:
    """Whether a name from a file stays in a folder, after links: no `..`, no absolute path."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or links in a circle
        return False


def exists(path: str | Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    return _asked(Path(path).is_file)


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder."""
    return _asked(Path(path).is_dir)


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def fingerprint(paths: Iterable[str | Path], whole: int = 1 << 30) -> str:
    """64 hex digits that tell files apart, all of them together in the order of their names.

    No SHA-256 that `sha256sum` would give: of a file above `whole` bytes, only its size and one
    megabyte of every 64 are looked at, so that a first picture need not wait.
    """
    digest = hashlib.sha256()
    for path in sorted(map(Path, paths), key=lambda path: path.name):
        size = path.stat().st_size
        step = 1 << 20 if size <= whole else 1 << 26
        digest.update(b"" if size <= whole else str(size).encode())
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(1 << 20))
    return digest.hexdigest()


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _cannot_write(path: Path, error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    why = getattr(error, "strerror", None) or error
    return OutputError(f"Cannot write {path}: {why}. Choose another place.")


def _remove(temporary: Path) -> None:
    # The block may have failed because the folder itself is gone or sealed: nothing to remove then.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
