"""Writing files so that a crash, a full disk or Ctrl-C never leaves a broken or lost one."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from minikontext.errors import ConfigError, OutputError

FULL_IN_RUST = re.compile(rf"os error ({errno.ENOSPC}|{errno.EFBIG}|{errno.EDQUOT})\b")
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no more room, for one reason or another
LOG = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]


def shipped(*parts: str) -> Path:
    """The place of what is shipped: `shipped("data", "weights")`.

    In the repository it lies beside the package, in an installed wheel inside of it.
    """
    installed = PACKAGE / "shipped"
    return (installed if installed.is_dir() else PACKAGE.parent).joinpath(*parts)


@contextmanager
def replacing(path: str | Path, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block ends well.

    Missing parent folders are made. Whatever stood at `path` stays untouched until the new file
    is complete and on the disk, and hands on its permissions. The temporary name is one that nobody
    can guess or has prepared, so several writers never meet. new: never replace a file, not even
    one that came while the block ran.
    Raises OutputError when the place cannot be written.
    """
    path = Path(path)
    check_writable(path)
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _create(temporary, path)
        yield temporary
        _finish(temporary, mode)
        _put(temporary, path, new)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own way
        raise _cannot_write(path, error) from error
    finally:
        _remove(temporary)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}.tmp")


def _create(temporary: Path, path: Path) -> int:
    """Make an empty file, through no link; give the permissions that the finished one gets."""
    before = stat.S_IMODE(path.stat().st_mode) if path.is_file() else None
    # O_EXCL: fails where something is, a dangling link included. What replaces a private file is
    # private from its first byte on.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    handle = os.open(temporary, flags, 0o666 if before is None else 0o600)
    try:
        return before if before is not None else stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _finish(temporary: Path, mode: int) -> None:
    """Give a file its permissions, and wait until the disk has it: a rename may be faster."""
    if not stat.S_ISREG(temporary.lstat().st_mode):
        raise OSError(f"{temporary.name} is no ordinary file any more")
    temporary.chmod(mode)  # safetensors' own files can be read by nobody else
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())


def _put(temporary: Path, path: Path, new: bool) -> None:
    try:
        if new:
            _claim(temporary, path)
        else:
            os.replace(temporary, path)
    except FileExistsError as error:
        raise OutputError(f"Cannot write {path}: it is there already. Name another.") from error


def _claim(temporary: Path, path: Path) -> None:
    """Give a file its name, which must be free. Raises FileExistsError if it is not."""
    try:
        os.link(temporary, path)  # unlike a rename it fails where something is
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as on most memory cards
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)


def _sync(place: Path) -> None:
    """Wait until the disk has a folder's new entries, or a file, on systems that can say so."""
    with suppress(OSError):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the entries of a new folder, and of those in it, before its name."""
    for inner in (*folder.rglob("*"), folder):
        if inner.is_dir() and not inner.is_symlink():
            _sync(inner)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it into place if the block ends well.

    Raises OutputError when the place cannot be written, or is there already. If the block ends
    badly, nothing is left of the folder.
    """
    path = Path(path)
    check_writable(path)
    temporary = _temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()  # fails where something is, a link included
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _finish(file, stat.S_IMODE(file.stat().st_mode))
        _sync_folder(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error, temporary) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


WEIGHTS = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?\.(safetensors|sft)(\.index\.json)?")


@contextmanager
def updating_folder(
    path: str | Path, index: str = "config.json", without: Collection[str] = ()
) -> Iterator[Path]:
    """Yield a temporary folder whose files come into the folder `path` all at once, or not at all.

    Other files of that folder stay, but for those named in `without`, and for weights that new
    ones of their name replace, in one file or in shards. index: the file without which nobody takes
    the folder for weights. Killed at any moment, the folder is the old one or the new one; between
    two renames the old one lies beside it for a moment (`set_aside_name`); another one that lies
    there is never deleted, and what is done with it is told. Where a folder cannot be renamed, the
    index goes first and comes last.
    Raises OutputError when the place cannot be written.
    """
    check_writable(Path(path) / index)
    path = Path(os.path.realpath(path))
    put_back(path, index)
    stuck = path.exists() and (
        os.path.ismount(path)
        or not os.access(path.parent, os.W_OK)
        or Path(os.path.realpath(os.curdir)).is_relative_to(path)  # we stand in it
    )
    temporary = _temporary_name(path / path.name if stuck else path)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()  # fails where something is, a link included
        yield temporary
        plain = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        for file in (file for file in temporary.rglob("*") if file.is_file()):
            old = path / file.relative_to(temporary)
            _finish(file, stat.S_IMODE(old.stat().st_mode) if old.is_file() else plain)
        if stuck:
            _move_in(temporary, path, index, without)
        else:
            _exchange(temporary, path, without)
        _sync(path if stuck else path.parent)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error, temporary) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def set_aside_name(path: Path) -> Path:
    """Where a folder lies for the moment in which `updating_folder` exchanges it."""
    return path.with_name(f".{path.name}.before-update")


def put_back(path: Path, index: str = "") -> None:
    """Undo an exchange that was killed between its two renames, and tell it.

    It is told because anybody may have put such a folder there. One without its index is left
    alone.
    """
    aside = set_aside_name(path)
    with suppress(OSError):
        if not aside.is_symlink() and (aside / index).exists() and not os.path.lexists(path):
            os.rename(aside, path)
            LOG.warning("%s was %s: a save was killed. It is taken for the folder of before.",
                        path, aside.name)  # fmt: skip


def _exchange(temporary: Path, path: Path, without: Collection[str]) -> None:
    """Put a folder in the place of another one, whose remaining files it takes over."""
    if not path.exists():
        _sync_folder(temporary)
        os.rename(temporary, path)
        return
    for old, new in _staying(path, temporary, without):
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError:  # a disk that knows no second names
            shutil.copy2(old, new, follow_symlinks=False)
            _sync(new)
    _sync_folder(temporary)
    temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    aside = set_aside_name(path)
    if os.path.lexists(aside):  # of one that was killed after its second rename, or a stranger's
        other = aside.with_name(f"{aside.name}.{secrets.token_hex(8)}")
        os.rename(aside, other)
        LOG.warning("%s was in the way and is now %s. Remove it if it is no use.", aside, other)
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _staying(path: Path, temporary: Path, without: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """The files of a folder that an update does not replace, and their names in the new one."""
    for old in path.rglob("*"):
        new = temporary / old.relative_to(path)
        inside = temporary == old or temporary in old.parents
        if inside or new.exists() or (old.is_dir() and not old.is_symlink()):
            continue
        if old.parent == path and old.name in without:
            continue
        stems = {m["stem"] for f in new.parent.glob("*.s*") if (m := WEIGHTS.fullmatch(f.name))}
        found = WEIGHTS.fullmatch(old.name)
        if not (found and found["stem"] in stems):
            yield old, new


def _move_in(temporary: Path, path: Path, index: str, without: Collection[str]) -> None:
    """Move files into a folder that cannot be renamed; half moved, it is no weights' folder."""
    files = [file for file in temporary.rglob("*") if file.is_file()]
    staying = {old for old, _ in _staying(path, temporary, without)}
    (path / index).unlink(missing_ok=True)
    _sync(path)
    for old in [p for p in path.rglob("*") if p.is_file() and temporary not in p.parents]:
        if old not in staying:
            old.unlink()
    for file in sorted(files, key=lambda file: file == temporary / index):
        new = path / file.relative_to(temporary)
        new.parent.mkdir(parents=True, exist_ok=True)
        if file == temporary / index:  # the disk has all others before it
            _sync_folder(path)
        os.replace(file, new)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


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
    there = _asked(path.exists)
    if there and path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Name a file in it.")
    if there and not path.is_file():
        raise OutputError(f"Cannot write {path}: it is a device or a pipe. Choose another name.")
    if there and not path.stat().st_mode & 0o222:
        raise OutputError(f"Cannot write {path}: the file is read-only. Choose another name.")
    if not parent.is_dir():
        raise OutputError(f"Cannot write {path}: {parent} is a file, not a folder.")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"Cannot write {path}: the folder {parent} is read-only.")


def try_writing(path: str | Path) -> None:
    """As `check_writable`, and a file is made and removed there: root may write to all but some."""
    check_writable(path)
    temporary = _temporary_name(_nearest_existing(Path(path).parent) / Path(path).name)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise _cannot_write(Path(path), error) from error
    finally:
        _remove(temporary)


def lies_in(folder: Path, name: str) -> bool:
    """Whether a name from a file stays in a folder, after links: no `..`, no absolute path."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or links in a circle
        return False


def exists(path: str | Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    return _asked(Path(path).is_file)


def read_bytes(path: str | Path, most: int = 1 << 28) -> bytes:
    """An ordinary file's bytes.

    Raises OSError, also for a pipe or a device, at which one would wait for ever, and for a file of
    more than `most` bytes.
    """
    if not exists(path):
        raise FileNotFoundError("it is no file, or leads nowhere")
    if (size := Path(path).stat().st_size) > most:
        raise OSError(f"it has {size:,} bytes; expected at most {most:,}")
    return Path(path).read_bytes()


def read_text(path: str | Path, most: int = 1 << 28) -> str:
    """An ordinary file's text in UTF-8, with or without its mark, as `read_bytes` reads it.

    Raises OSError and ValueError.
    """
    return read_bytes(path, most).decode("utf-8-sig").replace("\r\n", "\n")


def tell_if_hidden(name: str | Path, home: Path) -> None:
    """Log a warning if a folder here bears the name of what is shipped, and so hides it."""
    here, there = Path(name), home / name
    if is_folder(here) and is_folder(there) and here.resolve() != there.resolve():
        LOG.warning("The folder %s hides the shipped %r. For that give %s.", here.resolve(),
                    str(name), there)  # fmt: skip


def real(path: str | Path) -> Path:
    """Where a path leads; a circle of links leads to itself, at which `Path.resolve` may raise."""
    return Path(os.path.realpath(path))


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder. Raises ConfigError for one that may not be looked into."""
    if (found := _asked(Path(path).is_dir)) and not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"You may not read the folder {path}. Allow it (chmod u+rx), or copy it.")
    return found


def inside(folder: str | Path) -> list[Path]:
    """What lies in a folder, in order, but not `._NAME`, where macOS notes things of NAME."""
    return sorted(path for path in Path(folder).iterdir() if not path.name.startswith("._"))


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
    while not _asked(folder.exists) and folder != folder.parent:
        folder = folder.parent
    return folder


def _cannot_write(path: Path, error: Exception, temporary: object = None) -> OutputError:
    if isinstance(error, OutputError):  # of a file in a temporary folder, whose name says nothing
        return OutputError(str(error).replace(str(temporary), str(path)))
    why = getattr(error, "strerror", None) or error
    full = getattr(error, "errno", None) in FULL or FULL_IN_RUST.search(str(error))
    what = "Make room on the disk" if full else "Choose another place"
    return OutputError(f"Cannot write {path}: {why}. {what}.")


def _remove(temporary: Path) -> None:
    # The block may have failed because the folder itself is gone or sealed: nothing to remove then.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
