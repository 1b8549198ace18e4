"""Your own pictures as they lie on a disk: triplets of context(s), picture and prompt.

A source is a folder in one of these layouts, recognised in this order:

    metadata.jsonl      {"file_name": "after/1.png", "contexts": ["before/1.png"], "prompt": "…"}
    metadata.csv        the same columns; several contexts in one cell are a JSON list
    *.parquet           the same columns; pictures as names, bytes or {"bytes": …} (needs pyarrow)
    *.tar, *.tar.gz …   1.image.png, 1.context1.png, 1.txt (the prompt), in any order
    target/, control/   target/1.png, target/1.txt, control/1.png; also control1/, control2/ …
    1.png, 1.txt        pictures with captions, no contexts: text-to-image

`prompt` may be a list: one sample each. Other names of columns are mapped by [data.columns], for
example `conditioning_image = "contexts"`; `id = ""` leaves one out. Captions are UTF-8, UTF-16 with
its mark, or what `encoding` says. Whatever cannot be used becomes a `Bad` one, with its reason; all
else in the folder is named.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minikontext.errors import (
    ConfigError,
    MissingPackageError,
    OutputError,
    PromptError,
    shorten_list,
)
from minikontext.runtime import files
from minikontext.runtime.config import parse_json
from minikontext.text import check_prompts
from minikontext.training.reading import (
    AS_IT_IS,
    COLUMNS,
    MARKS,
    SIDES,
    Bad,
    Picture,
    Reading,
    Triplet,
)
from minikontext.training.shards import BROKEN_TAR, grouped, plain_files, unpacked

MOST_CONTEXTS = 64  # of a sample, as a call takes
LARGEST = 1 << 28  # bytes of one file in a shard, or of a caption's row; a picture stays below
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SHARDS = ("*.tar", "*.tar.gz", "*.tgz", "*.tar.bz2", "*.tar.xz")
CONTEXT = re.compile(r"(context|control|input|before|source|conditioning)[_-]?\d*")
TABLES = (".jsonl", ".csv", ".parquet")
PLAIN = (".json", ".txt")
_DIGITS = re.compile(r"(\d+)")
log = logging.getLogger(__name__)


Found = Iterator[Triplet | Bad]


def triplets(source: str | Path, how: Reading = AS_IT_IS) -> Found:
    """All samples of a source, in order; one that occurs again is a Bad one.

    Raises ConfigError for a folder that is no source, and for columns that are not ours.
    """
    seen: dict[str, set[tuple]] = defaultdict(set)
    numbers: Counter[str] = Counter()
    taken: set[str] = set()

    def named(sample: Triplet) -> Triplet:
        """One picture may come with several prompts or contexts: each has a name of its own."""
        key = sample.key
        while key in taken:
            numbers[sample.key] += 1
            key = f"{sample.key}#{1 + numbers[sample.key]}"
        taken.add(key)
        return replace(sample, key=key)

    for sample in _layout(Path(source), how):
        if isinstance(sample, Bad):
            yield sample
            continue
        if (count := len(sample.contexts)) > MOST_CONTEXTS:
            yield Bad(sample.key, f"it has {count} contexts; expected at most {MOST_CONTEXTS}")
            continue
        before = seen[sample.key]  # hashes: of a table or shard, pictures are bytes
        triplet = (sample.prompt, *map(hash, (sample.image, *sample.contexts)))
        if triplet in before:
            yield Bad(sample.key, "its name occurred before")
            continue
        before.add(triplet)
        try:
            sample = named(replace(sample, prompt=how.with_trigger(sample.prompt)))
        except PromptError as error:
            yield Bad(sample.key, str(error))
            continue
        yield sample
        if how.flips and not SIDES.search(sample.prompt):
            yield named(replace(sample, key=f"{sample.key}~", mirrored=True))


def check_source(source: str | Path, how: Reading = AS_IT_IS) -> None:
    """Raise ConfigError for a folder that is no source: before any work, from its first sample."""
    if next(triplets(source, how), None) is None:
        raise ConfigError(f"{source} holds no samples")


def _layout(source: Path, how: Reading) -> Found:
    """The samples of a source; what else lies there is named at the end."""
    samples, read = _recognised(source, how)
    yield from samples
    table = any(path.suffix in TABLES for path in read)
    maybe_named = (*ENDINGS, ".txt", "") if table else ()
    inside = (p for place in (source, *read) if place.is_dir() for p in place.glob("[!.]*"))
    if rest := sorted({p for p in inside if p not in read and p.suffix.lower() not in maybe_named}):
        names = [str(path.relative_to(source)) for path in rest]
        log.warning("%s: not read: %s", source, shorten_list(names, 6))


def _recognised(source: Path, how: Reading) -> tuple[Found, set[Path]]:
    """The samples of a source in the first layout that is there, and what they are read from."""
    if not files.is_folder(source):
        raise ConfigError(f"{str(source)[:200]!r} is no folder")
    if files.exists(lines := source / "metadata.jsonl"):
        return _from_rows(_json_lines(lines, how), source, how.columns), {lines}
    if files.exists(table := source / "metadata.csv"):
        return _from_rows(_csv_rows(table, how), source, how.columns), {table}
    if tables := plain_files(source, "*.parquet"):
        rows = itertools.chain(*map(_parquet_rows, tables))
        return _from_rows(rows, source, how.columns), {*tables}
    if shards := plain_files(source, *SHARDS):
        return itertools.chain.from_iterable(_from_tar(s, how) for s in shards), {*shards}
    folders = [p for p in source.glob("[!.]*") if p.is_dir()]
    pictures = next((p for p in folders if p.name.lower() == "target"), source)
    controls = [p for p in folders if p.name.lower().startswith("control")]
    if odd := [p for p in controls if not CONTEXT.fullmatch(p.name.lower())]:
        raise ConfigError(f"{odd[0]}: inputs lie in control/, control1/, control2/. Rename it so, "
                          "or move it away")  # fmt: skip
    controls.sort(key=lambda p: _counted(p.name))  # control10 comes after control2
    if found := _with_endings(pictures):
        captions = {p.with_suffix(".txt") for p in found}
        inputs = itertools.chain(*map(_with_endings, controls))
        read = {pictures, *controls, *found, *captions, *inputs}
        return _from_pictures(found, controls, how), read
    raise ConfigError(f"{source} holds neither metadata.jsonl, metadata.csv, .parquet nor .tar "
                      "files, and no pictures with captions (1.png, 1.txt) by themselves or in "
                      "target/")  # fmt: skip


# ----------------------------------------------------------------------------------------- rows


def _json_lines(path: Path, how: Reading) -> Iterator[dict | Bad]:
    with open(path, "rb") as file:
        if file.read(2) in MARKS:  # what is no text becomes \xd8, which is no JSON: its line is Bad
            lines: Any = path.read_bytes().decode("utf-16", "backslashreplace").split("\n")
        else:
            file.seek(0)
            lines = file
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line if isinstance(line, str) else how.decode(line))
                if not isinstance(row, dict):
                    raise TypeError(f"{row!r:.80} is no object")
                yield row
            except (ValueError, TypeError) as error:
                yield Bad(f"line {number}", f"no triplet: {type(error).__name__} {error}")


def _csv_rows(path: Path, how: Reading) -> Iterator[dict | Bad]:
    try:
        text = io.StringIO(how.decode(files.read_bytes(path)), newline="")
        reader = csv.DictReader(text, strict=True)
        if twice := [name for name, n in Counter(reader.fieldnames or ()).items() if n > 1]:
            raise ValueError(f"it has the column {twice[0]!r:.60} twice")
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                yield Bad(f"line {number}", 'more or fewer cells than columns: quote "red, please"')
                continue
            try:
                cells = {k: _cell(how.columns.get(k, k), v) for k, v in row.items() if v != ""}
            except ValueError as error:
                yield Bad(f"line {number}", f"its contexts are no JSON list: {error}")
                continue
            yield cells
    except (OSError, ValueError, csv.Error) as error:
        yield Bad(path.name, f"the table cannot be read on: {error}")


def _cell(column: str, text: str) -> Any:
    """What a cell says; several contexts or prompts are a JSON list."""
    try:
        listed = column in ("contexts", "prompt") and text.lstrip().startswith("[")
        return parse_json(text) if listed else text
    except ValueError:
        if column == "prompt":  # "[trigger], a hat"
            return text
        raise


def _parquet_rows(path: Path) -> Iterator[dict | Bad]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackageError("run pip install 'minikontext[parquet]' first") from error
    try:
        table = parquet.ParquetFile(path, page_checksum_verification=True)
        facts, size = table.metadata, path.stat().st_size
        whole = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        if facts.num_rows > size or whole > 64 * size + (1 << 24):  # pictures hardly shrink
            raise OSError("it has more rows than bytes, or unpacks to more than 64 times its size")
        for batch in table.iter_batches(batch_size=16):
            for i in range(len(batch)):
                try:
                    (row,) = batch.slice(i, 1).to_pylist()
                except (ValueError, ArithmeticError) as error:  # another coding, a wild time
                    row = Bad(path.name, f"no triplet: {error!s:.200}")
                yield row
    except (pyarrow.ArrowException, OSError) as error:
        yield Bad(path.name, f"the table ends early: {error!s:.200}")


def _from_rows(rows: Iterator[dict | Bad], folder: Path, columns: Mapping[str, str]) -> Found:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Bad):
            yield row
            continue
        goes = [columns.get(name, name) for name in row]
        named, times = dict(zip(goes, row.values())), Counter(goes)  # a row may have many columns
        twice = [name for name, to in zip(row, goes) if to and times[to] > 1]
        if odd := sorted(str(name) for name in named.keys() - {*COLUMNS, ""}) or twice:
            what = shorten_list([repr(name)[:60] for name in odd])
            problem = f"{what} {'mean one' if odd == twice else 'is no'} column of ours: " \
                      f"{', '.join(COLUMNS)}"  # fmt: skip
            if number == 1:
                more = f'{odd[0]!s:.40} = "contexts", or = "" to leave it out'
                raise ConfigError(f"{folder}: {problem}. Map yours in [data.columns]: {more}")
            yield Bad(f"line {number}", f"no triplet: {problem}")
            continue
        try:
            yield from _from_row(named, folder, number)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield Bad(f"line {number}", f"no triplet: {type(error).__name__} {error}")


def _from_row(row: Mapping[str, Any], folder: Path, number: int) -> list[Triplet]:
    """The triplets of a row, one for each of its prompts; pictures must lie in the folder."""
    contexts = [] if row.get("contexts") in (None, "") else row["contexts"]
    contexts = contexts if isinstance(contexts, list) else [contexts]
    key, image = _picture(row["file_name"], folder, f"row {number}")
    inputs = tuple(_picture(one, folder, "")[1] for one in contexts)
    prompts = row["prompt"] if isinstance(row["prompt"], list) else [row["prompt"]]
    if not prompts:
        raise ValueError("its list of prompts is empty")
    return [Triplet(key, prompt, image, inputs) for prompt in check_prompts(prompts)]


def _picture(value: object, folder: Path, key: str) -> tuple[str, Picture]:
    """A picture's name and place, or its bytes, as a row gives it."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return str(value.get("path") or key), value["bytes"]
    if isinstance(value, bytes):
        return key, value
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise TypeError(f"{value!r:.80} is no name of a file")
    if not files.lies_in(folder, name):
        raise ValueError(f"{name!r:.80} lies outside the folder")
    return name, folder / check_prompts([name])[0]


# ---------------------------------------------------------------------------------- tar shards


def _from_tar(path: Path, how: Reading) -> Found:
    """The samples of a shard, in the order of their first files; its members may be unsorted."""
    groups: dict[str, list[tarfile.TarInfo]] = {}
    ignored: Counter[str] = Counter()
    try:
        with unpacked(path) as file, tarfile.open(None, "r:", file, errors="replace") as tar:
            broken = grouped(tar, groups)
            for key, members in groups.items():
                yield _from_members(key, members, tar, ignored, how)
            if broken:
                raise broken
            if not groups:
                yield Bad(path.name, "the shard holds no files")
    except OutputError:  # no room to unpack it: no fault of the shard's
        raise
    except BROKEN_TAR as error:
        yield Bad(path.name, f"the shard ends early: {error}")
    if ignored:
        names = shorten_list([f"{name} × {n}" for name, n in ignored.most_common()], 6)
        log.warning("%s: not read: %s", path, names)


def _from_members(
    key: str, members: list[tarfile.TarInfo], tar: tarfile.TarFile, ignored: Counter[str],
    how: Reading,
) -> Triplet | Bad:  # fmt: skip
    """The sample of some files; no two may be the same of it, none is taken for another."""
    names = [member.name[len(key) + 1 :] for member in members]
    named: dict[str, tarfile.TarInfo] = {}
    strange: list[str] = []
    for name, member in zip(names, members, strict=True):
        if (role := _role(name)) is None:
            strange.append(name)
        elif role in named:
            return Bad(key, f"has two files for {role}: {', '.join(sorted(names))}")
        elif not member.isfile() or member.issparse() or not 0 <= member.size <= LARGEST:
            return Bad(key, f"{member.name!r:.80} is a link, sparse or above {LARGEST:,} bytes; "
                            "pack with tar --dereference --hard-dereference")  # fmt: skip
        else:
            named[role] = member
    if "image" not in named or "txt" not in named:
        return Bad(key, f"needs an image and a txt, has {', '.join(sorted(names))}")
    contexts = sorted((r for r in named if r not in ("image", "txt")), key=_counted)
    pictures = [name for name in strange if name.lower().endswith(ENDINGS)]
    if lost := [
        n
        for n in strange
        if CONTEXT.fullmatch(n.lower().rpartition(".")[0]) and not n.endswith(PLAIN)
    ]:
        return Bad(key, f"{shorten_list(lost)}: expected one of {', '.join(ENDINGS)}")
    if pictures and not contexts:
        return Bad(key, f"{shorten_list(pictures)}: contexts are called context1.png, context2.png")
    ignored.update(strange)
    try:
        prompt = how.caption(_content(tar, named["txt"]))
        image, *rest = (_content(tar, named[role]) for role in ("image", *contexts))
    except (PromptError, tarfile.TarError, OSError, ValueError) as error:
        return Bad(key, str(error))
    return Triplet(key, prompt, image, tuple(rest))


def _role(name: str) -> str | None:
    """What a file of a sample is: "image", "txt", a context's name, or None if it is not ours."""
    role, _, ending = name.lower().rpartition(".")
    if name.lower() in ("txt", "caption.txt", "prompt.txt"):
        return "txt"
    if f".{ending}" not in ENDINGS:
        return None
    if role in ("", "image", "target"):
        return "image"
    return role if CONTEXT.fullmatch(role) else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member; none becomes a file on the disk, whatever its name says."""
    data = tar.extractfile(member).read()
    if len(data) != member.size:
        raise tarfile.TarError(f"{member.name!r:.80} ends early")
    return data


def _counted(name: str) -> list[tuple[int, str]]:
    """A name to sort by, in which context10 comes after context2."""
    return [(int(run or 0), "") if run.isdecimal() else (0, run) for run in _DIGITS.split(name)]


# --------------------------------------------------------------------------- pictures and captions


def _with_endings(folder: Path) -> list[Path]:
    found = (p for p in folder.glob("[!.]*") if p.suffix.lower() in ENDINGS)
    return sorted(found, key=lambda p: _counted(p.name))


def _from_pictures(pictures: list[Path], controls: list[Path], how: Reading) -> Found:
    """Pictures with a .txt beside them; contexts have the same name in the folders of controls.

    With several inputs in one folder, they are called NAME_0.png, NAME_1.png, or from 1 on.
    """
    found = [_with_endings(folder) for folder in controls]
    targets = {picture.stem for picture in pictures}
    places = [{p.stem: p for p in paths} for paths in found]
    series = [_series(p for p in paths if p.stem not in targets) for paths in found]
    names = Counter((p.parent, p.stem) for paths in (pictures, *found) for p in paths)
    used: set[Path] = set()
    for picture in pictures:
        each = [_inputs(picture.stem, *both) for both in zip(places, series)]
        used.update(inputs := [path for paths in each for path in paths])
        if any(names[path.parent, path.stem] > 1 for path in (picture, *inputs)):
            yield Bad(picture.name, "two pictures share its name, or its caption's")
            continue
        lacks = next((i for i, paths in enumerate(each) if not paths), len(each))
        # A later context in the place of an earlier one would be another request.
        if controls and (lacks == 0 or any(each[lacks:])):
            yield Bad(picture.name, f"there is no picture of its name in {controls[lacks].name}/")
            continue
        try:
            prompt = how.caption(files.read_bytes(picture.with_suffix(".txt")))
            yield Triplet(picture.name, prompt, picture, tuple(inputs))
        except (OSError, PromptError) as error:
            lost = isinstance(error, OSError)
            yield Bad(picture.name, "it has no caption .txt beside" if lost else str(error))
    for path in (path for place in places for path in place.values() if path not in used):
        yield Bad(f"{path.parent.name}/{path.name}", "there is no target of its name")


def _series(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Pictures NAME_0, NAME_1 … by NAME, in order; a series with a gap is none."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in paths:
        name, _, number = path.stem.rpartition("_")
        if name and number.isdecimal():
            found[name][int(number)] = path
    return {
        name: [numbered[i] for i in sorted(numbered)]
        for name, numbered in found.items()
        if max(numbered) - min(numbered) == len(numbered) - 1 and min(numbered) <= 1
    }


def _inputs(stem: str, place: Mapping[str, Path], series: Mapping[str, list[Path]]) -> list[Path]:
    return [place[stem]] if stem in place else series.get(stem, [])
