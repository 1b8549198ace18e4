"""Dataclasses from the values of a JSON or TOML file, which may hold anything.

pydantic checks them against the dataclass: no unknown key, no value of another type, none out of
the bounds that stand at the field, so that a file which asks for a billion layers is refused before
the first is made. The messages are ours. pydantic is imported with the first check, not before.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MaxLen

from minikontext.errors import ConfigError, MinikontextError, WeightsError
from minikontext.runtime import files
from minikontext.runtime.bounds import shown

LARGEST = 2**63  # whole numbers beyond it fit no tensor
DEEPEST = 32  # tables in tables; ours are three deep
DEEPEST_JSON = 100  # no file of anybody is deeper
SHOWN = 5  # mistakes that one message names


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def read_json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object; empty if nothing has that name: a link that leads nowhere is an error."""
    return read_json(path, WeightsError, "Download it again.") if os.path.lexists(path) else {}


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError if it cannot be read, or says a key twice.

    How deep Python reads differs by version; none of what walks through the value goes deeper.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    depth, layer = 0, [found]
    while layer := [x for one in layer for x in _inside(one) if isinstance(x, (dict, list))]:
        if (depth := depth + 1) > DEEPEST_JSON:
            raise ValueError("it is nested too deeply")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Python would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(name for name, _ in pairs)  # counted once: an object may have many
        twice = next(name for name in times if times[name] > 1)
        raise ValueError(f"it says {twice!r:.60} twice; keep one")
    return found


def read_json(path: Path, error: type[MinikontextError], what: str = "Restore the file.") -> dict:
    """A file's JSON object. Raises `error` for a file that cannot be read or holds something else.

    what: what the user can do about it.
    """
    try:
        found = parse_json(files.read_text(path))
    except (OSError, ValueError) as problem:
        raise error(f"Cannot read {path}: {problem}. {what}") from problem
    if not isinstance(found, dict):
        raise error(f"{path} holds no JSON object, but one was expected. {what}")
    return found


# ------------------------------------------------------------------------------ values to configs


def build_config(
    kind: type,
    values: Mapping[str, Any],
    base: Any = None,
    error: type[MinikontextError] = ConfigError,
) -> Any:
    """A dataclass of a file's values, on top of `base` if there is one.

    Bounds stand at the fields: `lr: Annotated[float, Interval(ge=0, le=10)]`. Lists become tuples
    where the field is one, tables become dataclasses.
    Raises `error` for fields that are unknown, missing, of another type or out of bounds.
    """
    if not isinstance(values, Mapping):
        raise error(f"{shown(values)} does not fit {kind.__name__}: expected a table")
    before = asdict(base) if base is not None else {}
    return _checked(kind, before | dict(values), f"A section does not fit {kind.__name__}: ", error)


def make_config(kind: type, **values: Any) -> Any:
    """`build_config` with the values as arguments. Raises ConfigError."""
    return build_config(kind, values)


@dataclass(frozen=True)
class Preset:
    """A section whose key `preset` names the classmethod of `kind` that the other keys change."""

    kind: type
    names: Sequence[str]
    default: str


def check_sections(
    values: Mapping[str, Any],
    keys: Mapping[str, Any],
    sections: Mapping[str, Any],
    where: str = "",
    error: type[MinikontextError] = ConfigError,
) -> dict[str, Any]:
    """Check a whole TOML file at once, at the door: its keys, and its sections as dataclasses.

    keys: name -> type; a union with None may be left out and is None then.
    sections: name -> a dataclass; or one, united with None: None if it is left out; or an instance,
    whose fields the section changes; or a `Preset`. A section in a section is a field of its
    dataclass. A dataclass that is left out is made from its defaults.

        check_sections(tomllib.loads(text), {"run": str, "seed": int | None},
                       {"loop": LoopConfig, "lora": LoraConfig | None}, "my.toml: ")

    Returns all keys and sections by name. Raises `error`, which starts with `where` and names every
    mistake (the first few of many) and the nearest known key.
    """
    inputs, hints = dict(values), dict(keys)
    for name, section in sections.items():
        hints[name], inputs[name] = _section(section, name, inputs.get(name), where, error)
    # A section that may be left out is a field that may be.
    found = [
        (name, hint, field(default=None)) if NoneType in get_args(hint) else (name, hint)
        for name, hint in hints.items()
    ]
    whole = make_dataclass("Config", sorted(found, key=len), frozen=True)
    return dict(vars(_checked(whole, inputs, where, error)))


def _section(
    section: Any, name: str, values: Any, where: str, error: type[MinikontextError]
) -> tuple[Any, Any]:
    """A section's type, and its values on top of what it starts from."""
    if values is not None and not isinstance(values, Mapping):
        raise error(f"{where}got {name} = {shown(values)}; expected a section [{name}]")
    if isinstance(section, Preset):
        values = dict(values or {})
        preset = values.pop("preset", section.default)
        if not isinstance(preset, str) or preset not in section.names:
            known = _choices(section.names)
            raise error(f"{where}got [{name}] preset = {shown(preset)}; expected {known}")
        section = getattr(section.kind, preset)()
    if is_dataclass(section) and not isinstance(section, type):
        return type(section), asdict(section) | dict(values or {})
    may_be_left_out = NoneType in get_args(section)
    return section, values if values is not None or may_be_left_out else {}


def require_entries(values: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> None:
    """Check that a table of a config has entries of certain types.

    wanted: a type, or a union with None for an entry that may be left out. Raises ConfigError.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}got {shown(values)}; expected a table")
    for name, hint in wanted.items():
        if not fits_type(values.get(name), hint):
            got = f"got {name} = {shown(values[name])}" if name in values else f"{name} is missing"
            raise ConfigError(f"{where}{got}; expected {_said(hint)}")


def fits_type(value: object, hint: Any) -> bool:
    """Whether a JSON or TOML value is what a type says; a list fits a tuple, an int a float."""
    from pydantic import ValidationError

    try:
        _adapter(hint).validate_json(_as_json(value), strict=True, extra="forbid")
    except (ValidationError, ConfigError):
        return False
    return True


def require_format(config: dict[str, Any], path: Path, expected: tuple[str, int]) -> None:
    """Raise WeightsError for a config.json of another format or a newer version."""
    found = (config.get("format"), config.get("format_version"))
    if found != expected:
        raise WeightsError(f"{path} says format and version {found}; expected {expected}.")


# ------------------------------------------------------------------------------------- the check


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _checked(kind: type, values: dict, where: str, error: type[MinikontextError]) -> Any:
    """The dataclass, as pydantic makes it. JSON on the way: in it a list may be a tuple."""
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(_as_json(values), strict=True, extra="forbid")
    except ConfigError as problem:
        raise error(f"{where}{problem}") from problem
    except ValidationError as problem:
        mistakes = list(dict.fromkeys(_mistake(kind, one) for one in problem.errors()))
        more = [f"and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        text = "\n  ".join(mistakes[:SHOWN] + more)
        raise error(where + ("\n  " + text if len(mistakes) > 1 else text)) from problem


def _as_json(values: object) -> str:
    """The values as strict JSON. Raises ConfigError for what JSON or a tensor cannot hold."""
    for path, value, expected in _odd(values, ()):
        got = f"{_named(path)} = {shown(value)}" if path else shown(value)
        raise ConfigError(f"got {got}; expected {expected}")
    return json.dumps(values)


def _odd(value: object, path: tuple) -> Iterator[tuple[tuple, object, str]]:
    """Values that no config can hold: where, what, and what was expected."""
    if len(path) > DEEPEST:
        yield path[:3], "…", f"at most {DEEPEST} tables or lists in each other"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _odd(one, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _odd(one, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, value, "a number"
    elif isinstance(value, int) and abs(value) >= LARGEST:
        yield path, "a number of many digits", "a number below 2⁶³"
    elif isinstance(value, str) and not _is_unicode(value):
        yield path, value, "text"
    elif not isinstance(value, (str, int, float, NoneType)):
        yield path, value, "a number, text, true or false, a list or a table"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


# ------------------------------------------------------------------------------------- the words


def _mistake(kind: Any, problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words."""
    loc, sort = problem["loc"], problem["type"]
    path, hint = _follow(kind, loc)
    if sort == "value_error":  # of a __post_init__
        return (f"{_named(path)}: " if path else "") + str(problem["ctx"]["error"])
    if sort.startswith("missing"):
        return f"{_named(path)} is missing; expected {_said(hint)}"
    if sort.startswith("unexpected"):
        return _unknown(path, get_type_hints(hint) if is_dataclass(hint) else {})
    got = f"{_named(path)} = " if path else ""
    return f"got {got}{shown(problem['input'])}; expected {_said(hint)}"


def _follow(hint: Any, loc: Sequence[str | int]) -> tuple[tuple, Any]:
    """Where a place of pydantic's lies in a file, and the type that is expected there."""
    path: tuple = ()
    for part in loc:
        hint, inner = _bare(hint), get_args(_bare(hint))
        if is_dataclass(hint):
            hints = get_type_hints(hint, include_extras=True)
            if part not in hints:
                return (*path, part), hint
            hint = hints[part]
        elif get_origin(hint) is dict and part != "[key]":
            hint = inner[1]
        elif get_origin(hint) is tuple and isinstance(part, int):
            hint = inner[0 if inner[-1] is Ellipsis else min(part, len(inner) - 1)]
        else:
            return path, hint
        path = (*path, part)
    return path, hint


def _unknown(path: tuple, known: Mapping[str, Any]) -> str:
    names = [name for name in known if not name.startswith("_")]
    near = difflib.get_close_matches(str(path[-1]), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(names))}"
    inside = f" in [{'.'.join(map(str, path[:-1]))}]" if path[1:] else ""
    return f"there is no {shown(path[-1])}{inside}; {hint}"


def _named(path: Sequence[str | int]) -> str:
    """A place of a file as people write it: ("loop", "rates", "a") is `[loop.rates] a`."""
    words = [one if str(one).isidentifier() else f"{one!r:.40}" for one in path]
    last = max((i for i, one in enumerate(path) if isinstance(one, str)), default=0)
    indices = "".join(f"[{one}]" for one in path[last + 1 :])
    section = f"[{'.'.join(map(str, words[:last]))}] " if last else ""
    return f"{section}{words[last]}{indices}"


def _bare(hint: Any) -> Any:
    """A type without its bounds and without None."""
    if get_origin(hint) is Annotated:
        return _bare(hint.__origin__)
    if get_origin(hint) in (Union, UnionType):
        inner = [one for one in get_args(hint) if one is not NoneType]
        return _bare(inner[0]) if len(inner) == 1 else hint
    return hint


def _said(hint: Any) -> str:
    """A type in words that fit a file."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_said(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is Annotated:
        return _said(hint.__origin__) + "".join(map(_bounds, hint.__metadata__))
    if get_origin(hint) is Literal:
        return _choices(get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} times "
        return f"a list of {count}{_said(inner[0])}"
    if is_dataclass(hint):
        return "a table"
    return _WORDS.get(get_origin(hint) or hint, str(hint))


def _bounds(bound: object) -> str:
    if isinstance(bound, MaxLen):
        return f", at most {bound.max_length} entries"
    if not isinstance(bound, Interval):
        return ""
    least = f"above {_number(bound.gt)}" if bound.gt is not None else f"from {_number(bound.ge)}"
    return f" {least} to {_number(bound.le)}"


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"


def _choices(names: Sequence[object]) -> str:
    return " or ".join(map(repr, names))


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_WORDS |= {dict: "a table", list: "a list"}
