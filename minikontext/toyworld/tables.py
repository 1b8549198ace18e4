"""The tables of words, which lie beside this module as TOML: easier to read and edit than code."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Values = Mapping[str, Any]


def read_table(name: str) -> dict[str, Any]:
    """The table `name`.toml as nested dicts."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def lines(text: str) -> tuple[str, ...]:
    """The lines of a text of several, each a sentence."""
    return tuple(text.strip("\n").split("\n")) if text else ()


def fill(sentences: Sequence[str], names: Mapping[str, str | Sequence[str]]) -> tuple[str, ...]:
    """Every sentence with every choice of what stands in for {it}, {new} and so on.

    Words in braces that `names` lacks are left for later.
    """
    choices = [(value,) if isinstance(value, str) else value for value in names.values()]
    found = []
    for sentence, values in itertools.product(sentences, itertools.product(*choices)):
        for name, value in zip(names, values, strict=True):
            sentence = sentence.replace(f"{{{name}}}", value)
        found.append(sentence)
    return tuple(found)


def read_families(table: Values) -> dict[str, tuple[str, ...]]:
    """name -> sentences of families that several operations share; one may continue another."""
    found: dict[str, tuple[str, ...]] = {}
    for name, entry in table.items():
        found[name] = said(entry, found)
    return found


def said(entry: str | Values, families: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What a row of a table says: its lines, or a family's with names filled in.

    before, after: lines around those of the family `of`. upto: so many of the family's alone.
    """
    if isinstance(entry, str):
        return lines(entry)
    family = families[entry["of"]] if "of" in entry else ()
    shared = fill(family[: entry.get("upto")], entry.get("with", {}))
    return (*lines(entry.get("before", "")), *shared, *lines(entry.get("after", "")))
