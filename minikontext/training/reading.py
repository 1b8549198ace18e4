"""How a source of samples is read: its columns, its text, what is done to each; and a sample."""

from __future__ import annotations

import codecs
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from minikontext.errors import ConfigError, PromptError, shorten_list
from minikontext.runtime import files
from minikontext.text import check_prompts

COLUMNS = ("file_name", "contexts", "prompt")
TRIGGER = "[trigger]"
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Letters have sides, too.
SIDES = re.compile(
    r"\b(left|right|mirror|flip|clockwise|letter|text|word|sign|writ|say|read)", re.IGNORECASE
)
ANY, LATIN = re.compile(r"[\s\S]*"), re.compile("[\0-\u024f\u2010-\u2040\u20ac]*")
# An empty cell, as pandas and others write it where it is taken for text; or nothing to be seen.
EMPTY = re.compile(r"\W*(nan|n/?a|null|none|nil|nat|undefined|1\.#(ind|qnan))\W*|"
                   r"[\s\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064]+", re.I)  # fmt: skip
# How files begin that are no caption: a pointer of Git LFS, a page of the web, RTF, PDF, JSON.
FOREIGN = re.compile(
    r"\s*(version https://git-lfs|<!doctype|<\?xml|<html|\{\\rtf|%PDF-|\{\s*\"|\[\s*[{\"])",
    re.IGNORECASE,
)
BROKEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")  # no text has these


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    columns: names of its columns -> ours. encoding: of text that is not Unicode, for example
    "cp1252"; without it, such samples are left out. trigger: a word for what is learned; it takes
    the place of [trigger] in a prompt, or goes in front of one that lacks it. flips: every sample
    comes mirrored as well, unless its prompt speaks of sides, mirrors or writing.
    max_aspect, upscale: the most by which a picture's proportions may change, and by which it may
    be enlarged, on its way to a trained size; others are left out. 0: any, and it is told.
    """

    columns: dict[str, str] = field(default_factory=dict)
    encoding: str | None = None
    trigger: str = ""
    flips: bool = False
    max_aspect: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    upscale: Annotated[float, Interval(ge=0, le=1000)] = 0.0

    def __post_init__(self) -> None:
        if unknown := sorted({*self.columns.values()} - {*COLUMNS, ""}):
            raise ConfigError(f"[data.columns] maps to {shorten_list(unknown)}; ours are {COLUMNS}")
        try:
            bytes(4).decode(self.encoding or "utf-8")  # a whole character of any coding
        except (LookupError, ValueError) as error:
            problem = f"encoding = {self.encoding!r:.80}: expected a text encoding, as cp1252"
            raise ConfigError(problem) from error
        if len(self.trigger) > 200 or not self.trigger.isprintable():
            raise ConfigError(f"trigger = {self.trigger!r:.80}: expected a word or a few")
        if any(0 < limit < 1 for limit in (self.max_aspect, self.upscale)):
            raise ConfigError("max_aspect and upscale are factors from 1; 0 leaves nothing out")

    def decode(self, data: bytes) -> str:
        """Text in UTF-8, UTF-16 with its mark, or `encoding`. Raises PromptError for any other."""
        codings = ["utf-16" if data.startswith(MARKS) else "utf-8", self.encoding]
        if self.encoding and data.isascii() and "a".encode(self.encoding) == b"a":
            codings.reverse()  # UTF-7 and HZ look like plain text
        texts = []
        for coding in filter(None, codings):
            with suppress(UnicodeDecodeError):
                texts.append(data.decode(coding).replace("\ufeff", ""))
        texts = [text for text in texts if "\0" not in text]  # UTF-16 without its mark, or UTF-32
        if texts:  # ISO-2022 is ASCII, too, with escapes
            return next((text for text in texts if not BROKEN.search(text)), texts[0])
        odd = next(byte for byte in data if byte == 0 or byte > 127)
        raise PromptError(
            f"it is not {self.encoding or 'UTF-8'} (byte {odd:#04x} at {data.index(odd)}). Save it "
            'as UTF-8, or name its encoding: [data] encoding = "cp1252" for Windows-1252'
        )

    def caption(self, data: bytes) -> str:
        """A caption's text. Raises PromptError for one that is no text."""
        (prompt,) = check_prompts([self.decode(data).strip()])
        return prompt

    def with_trigger(self, prompt: str) -> str:
        """The prompt that is learned from. Raises PromptError for one that is broken, or that

        wants a trigger where there is none.
        """
        word = self.trigger
        if broken := misread(prompt):
            raise PromptError(f"its prompt has {broken!a:.80}, as text that was decoded wrongly")
        if EMPTY.fullmatch(prompt):
            raise PromptError(f"its prompt is {prompt!a:.80}, as an empty cell is written. Write "
                              "one, or take the sample out")  # fmt: skip
        if found := FOREIGN.match(prompt):
            raise PromptError(f"its prompt begins with {found[0]!a:.80}: it is a file of another "
                              "kind. Write the words alone, or take the sample out")  # fmt: skip
        if TRIGGER in prompt and not word:
            raise PromptError(f"its prompt has {TRIGGER}, and [data] names no trigger")
        if TRIGGER in prompt:
            (prompt,) = check_prompts([prompt.replace(TRIGGER, word)])
        elif word and not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE):
            prompt = f"{word}, {prompt}" if prompt else word
        return prompt


def misread(text: str) -> str:
    """What of a text shows that it was decoded wrongly; empty for nothing.

    That is what no text has; Latin letters in UTF-7, and HZ; and UTF-8 read as Windows-1252.
    """
    if found := BROKEN.search(text):
        return found[0]
    # "door+window" is UTF-7, too, but of no Latin letters.
    for shown, coding, signs in (("ascii", "utf-7", LATIN), ("ascii", "hz", ANY),
                                 ("cp1252", "utf-8", ANY)):  # fmt: skip
        with suppress(UnicodeError):
            meant = text.encode(shown).decode(coding)
            if signs.fullmatch(meant) and not (meant.isascii() or BROKEN.search(meant)):
                return text
    return ""


AS_IT_IS = Reading()


# -------------------------------------------------------------------------------------- samples

Picture = Path | bytes


@dataclass(frozen=True)
class Triplet:
    """One sample as it came: its name, prompt, picture, and what the picture was made from.

    mirrored: left and right of all its pictures are to be exchanged.
    """

    key: str
    prompt: str
    image: Picture
    contexts: tuple[Picture, ...]
    mirrored: bool = False

    def identity(self, quick: bool) -> tuple[object, ...]:
        """What it is told apart by: the bytes of its pictures; `quick`: size and times of files."""
        tell = _seen if quick else _content
        return (self.key, self.prompt, self.mirrored, *map(tell, (self.image, *self.contexts)))


@dataclass(frozen=True)
class Bad:
    """A sample that cannot be used, and why."""

    key: str
    why: str

    def identity(self, quick: bool) -> tuple[object, ...]:
        """What it is told apart by."""
        return (self.key, self.why)


def _content(picture: Picture) -> str:
    """What a picture's bytes are told apart by; its name if there are none."""
    try:
        data = picture if isinstance(picture, bytes) else files.read_bytes(picture)
    except OSError:
        return picture.name
    return hashlib.sha256(data).hexdigest()


def _seen(picture: Picture) -> object:
    """What changes whenever a file does, without reading it: a copy may set its first time back,

    but no program the second one.
    """
    try:
        facts = None if isinstance(picture, bytes) else picture.stat()
    except OSError:
        facts = None
    times = facts and (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return (picture.name, *times) if times else _content(picture)
