"""A shard as a file: unpacked once, bounded, and its members by sample."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from minikontext.errors import ConfigError, OutputError
from minikontext.runtime import files

SPLIT = re.compile(r"(train|test|val(?:idation)?|dev|eval)(?![a-z])", re.IGNORECASE)
COUNTED = re.compile(r"(.*?)-?\d{5}-of-(\d{5})\.")
log = logging.getLogger(__name__)
# What tarfile raises for broken shards; RecursionError: for headers that announce one another.
BROKEN_TAR = (tarfile.TarError, OSError, ValueError, ArithmeticError, EOFError, RecursionError)
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def plain_files(source: Path, *endings: str) -> list[Path]:
    """Files of some names. Raises ConfigError for a pipe or a device, which would have no end."""
    found = sorted(path for ending in endings for path in source.glob(ending))
    if odd := [path for path in found if not files.exists(path)]:
        raise ConfigError(f"{odd[0]} is no ordinary file, or leads nowhere. Move it away.")
    tell_mixed(source, [path.name for path in found])
    return found


def tell_mixed(source: Path, names: list[str]) -> None:
    """Log a warning where tables or shards are of several splits, or some of a series are gone."""
    if len(splits := sorted({m[1] for name in names if (m := SPLIT.match(name))})) > 1:
        log.warning("%s: %s are read together: move away what is not to be learned", source,
                    " and ".join(splits))  # fmt: skip
    counted = Counter(m.groups() for name in names if (m := COUNTED.match(name)))
    for (series, total), there in sorted(counted.items()):
        if int(total) != there:
            log.warning("%s: %s has %d of %d files", source, series, there, int(total))


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """A shard's plain tar, to jump about in: a packed one would be unpacked anew for each sample.

    Raises OSError for one that grows beyond all measure: pictures hardly shrink when packed. Raises
    OutputError where there is no room for it.
    """
    with open(path, "rb") as packed:
        head = packed.read(6)
        packed.seek(0)
        opener = next((PACKED[magic] for magic in PACKED if head.startswith(magic)), None)
        if opener is None:
            yield packed
            return
        room, ended = 64 * path.stat().st_size + (1 << 24), None
        with opener(packed) as stream, tempfile.TemporaryFile() as plain:
            while True:
                try:
                    block = stream.read1(1 << 20)
                except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:  # cut or damaged
                    block, ended = b"", error
                if not block:
                    break
                room -= _written(plain, block)
                if room < 0:
                    raise OSError("it unpacks to more than 64 times its size; pack it as .tar")
            plain.seek(0)
            yield plain
        if ended:  # what is there has been read
            raise EOFError(ended)


def _written(plain: IO[bytes], block: bytes) -> int:
    try:
        count = plain.write(block)
        plain.flush()
        return count
    except OSError as error:  # a fault of this machine, not of the shard, which is not left out
        raise OutputError(
            f"Cannot unpack a shard into {tempfile.gettempdir()}: {error.strerror}. Make room "
            "there, let TMPDIR name another place, or unpack the shard to .tar."
        ) from error


def grouped(tar: tarfile.TarFile, groups: dict[str, list[tarfile.TarInfo]]) -> Exception | None:
    """Members by sample; returns what ended the shard early, if anything did."""
    try:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if not (member.isdir() or name.startswith("._") or "__MACOSX" in folder):
                groups.setdefault(_stem(member.name), []).append(member)
    except BROKEN_TAR as error:
        return error
    return None


def _stem(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}" if folder else file.split(".")[0]
