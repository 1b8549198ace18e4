"""`minikontext edit` and `minikontext draw`: pictures by instruction, one or many in one start."""

from __future__ import annotations

import argparse
import glob
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minikontext.cli import notes
from minikontext.errors import ConfigError, ImageError, OutputError, SafetyError, SizeError
from minikontext.runtime import log
from minikontext.runtime.bounds import shown
from minikontext.runtime.files import inside, is_folder, real, try_writing

if TYPE_CHECKING:
    from minikontext.editing.output import KontextOutput
    from minikontext.pipeline import KontextPipeline

PIPE = "-"  # stdin among the pictures, stdout as the place of the result
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2")
MOST = 10_000  # results of one picture: each has a name, before any work is done
PLANS = ("auto", "resident", "encoders", "8-bit", "4-bit", "stream")

# What the library calls an argument, and what this command calls it.
TERMS = {
    "num_inference_steps": "--steps", "num_images_per_prompt": "--count", "dtype": "--dtype",
    "true_cfg_scale": "--cfg", "guidance_scale": "--guidance", "negative_prompt": "--negative",
    "context_layout": "--layout", "step_cache": "--step-cache", "offload": "--offload",
    "quality": "--quality", "device": "--device", "seed": "--seed",
    "resize": "--resize",
}  # fmt: skip
# What the library advises and this command has not, and what stands for it here.
ADVICE = {
    "For one image a prompt, give a list of lists.": "To edit each by itself, leave -i out.",
    "text_encoders='skip' for": "in Python text_encoders='skip' for",
}


def speak(text: object) -> str:
    """An error or a warning in the command's own words: `num_inference_steps=0` is `--steps 0`."""
    said = str(text)
    for advice, here in ADVICE.items():
        said = said.replace(advice, here)
    for name, option in TERMS.items():
        said = re.sub(rf"(?<![\w-]){name}=", f"{option} ", said)
        if "_" in name:
            said = re.sub(rf"\b{name}\b", option, said)
    return said


# ------------------------------------------------------------------------------------- options
def add(commands: argparse._SubParsersAction) -> None:
    """Describe `edit` and `draw`."""
    edit = commands.add_parser("edit", help="change pictures as an instruction says")
    edit.add_argument(
        "pictures", metavar="IMAGE", nargs="+",
        help="the picture to edit (PNG, JPEG, WebP …), a folder, a pattern, or - for stdin; of "
        "several, each is edited",
    )  # fmt: skip
    edit.add_argument("prompt", help='what to change, in quotes: "make the hat red"')
    edit.add_argument(
        "-i", "--image", action="append", default=[], metavar="IMAGE",
        help="one more picture that the prompt may speak of, or - for stdin; may be given again",
    )  # fmt: skip
    edit.set_defaults(run=run_edit)
    edit.take_words = _go_on_edit
    draw = commands.add_parser("draw", help="draw a picture from words alone")
    draw.add_argument(
        "prompt", help='what to draw, in quotes: "a green frog with a red hat on the beach"'
    )
    draw.add_argument("more", nargs="*", default=[], help=argparse.SUPPRESS)
    draw.set_defaults(run=run_draw, pictures=[], image=[])
    draw.take_words = lambda found, words: found.more.extend(words)
    for one in (edit, draw):
        _add_output(one)
        _add_sampling(one.add_argument_group("how it is drawn"))
        _add_machine(one.add_argument_group("what draws it"))
        one.set_defaults(speak=speak)


def _go_on_edit(found: argparse.Namespace, words: list[str]) -> None:
    """Options may stand among pictures and prompt: of all that is no option, the last is that."""
    *pictures, found.prompt = [found.prompt, *words]
    found.pictures = [*found.pictures, *pictures]


# fmt: off
def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", type=log.place, metavar="PLACE", help="a file (.png, .webp or .jpg), a "
        "folder, or - for stdout (default: NAME_edited.png here)")
    add("--quality", type=int, metavar="N", help="of JPEG and WebP, 1 to 100; pixels get lost")
    add("--no-prompt", action="store_true", default=None, help="keep prompts out of the file's "
        "metadata (always: MINIKONTEXT_NO_PROMPT=1)")
    add("--watermark", action="store_true", help="mark the pixels invisibly, from 256×256 on")
    add("-q", "--quiet", action="store_true", help="print the results' paths only")


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    add, number = group.add_argument, {"type": int, "metavar": "N"}
    add("--seed", type=seeds, metavar="N", default=(None,), help="the same seed gives the same "
        "picture; several: 1,2,7 or 1..8; -1: random (default)")
    add("--steps", **number, help="more is finer and slower")
    add("--step-cache", type=float, metavar="X", help="skip blocks where the first one changed by "
        "less than this share: faster, not exact")
    add("--count", **number, default=1, help="how many results (default: 1)")
    add("--width", **number, help="of the result (default: the picture's)")
    add("--height", **number, help="of the result (default: the picture's)")
    add("--guidance", type=float, metavar="G", help="for weights distilled with a guidance input")
    add("--cfg", type=float, metavar="S", help="classifier-free guidance; 1 is off, twice as slow")
    add("--negative", metavar="TEXT", help="what to stay away from; needs --cfg > 1")
    add("--resize", choices=("kontext", "none"), default="kontext", help="kontext: use the nearest "
        "trained size (default); none: keep the picture's size")
    layouts = ("index", "offset", "scaled")
    add("--layout", choices=layouts, help="how several pictures are told apart: the paper's "
        "way (index), side by side (offset), or each stretched over the result (scaled); default: "
        "as the weights have learned it")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--weights", default="toy", help="a shipped name or a folder (default: toy)")
    add("--lora", action="append", default=[], metavar="FILE[:SCALE]", help="a LoRA on top of the "
        "weights; may be given again (default scale: 1)")
    add("--offload", default="auto", choices=PLANS, help="for full-size weights: resident, "
        "encoders, 8-bit, 4-bit, stream (default: what fits)")
    add("--safety", metavar="NAME", help="safety filters, a shipped name (toy) or a folder; none: "
        "without (default: as the weights ask)")
    add("--float8", action="store_true", help="matrix products with fewer digits, for speed, on "
        "NVIDIA GPUs from Ada on")
    add("--device", help="cpu, cuda, cuda:1 or mps (default: the fastest here)")
    add("--dtype", help="float32 or bfloat16 (default: what the device does best)")
# fmt: on


# ------------------------------------------------------------------------------------ the work
@dataclass(frozen=True)
class Job:
    """One picture to edit, or none to draw from words, and a place for each result."""

    source: str | None
    paths: list[Path]


def seeds(text: str) -> tuple[int | None, ...]:
    """`7`, `1,2,7`, `1..8`, or -1 for a random one. Raises ArgumentTypeError for other texts."""
    found: list[int | None] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(-?\d+)(?:\.\.(\d+))?", part.strip())
        if not numbers or len(text) > 200:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no seed: use 7, 1,2,7 or 1..8")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not 0 <= last - first < 1000:
            raise argparse.ArgumentTypeError(f"{part!r} counts up, to at most 1000 seeds")
        found += [None if seed == -1 else seed for seed in range(first, last + 1)]
    return tuple(found)


def run_edit(options: argparse.Namespace) -> int:
    """Edit every picture; one of several that cannot be edited is told, and the rest go on."""
    sources = expand(options.pictures)
    _check_words(sources, options.prompt)
    total = options.count * len(options.seed)
    taken = [*sources, *options.image]
    if (count := taken.count(PIPE)) > 1:
        raise ConfigError(f"Got stdin ({PIPE}) for {count} pictures, but it brings one.")
    if len(sources) == 1 and not _is_folder(options.output):
        jobs = [Job(sources[0], output_paths(taken, options.output, total))]
    else:
        jobs = _many(sources, options.output, total, taken)
    return _run(jobs, options)


def run_draw(options: argparse.Namespace) -> int:
    """Draw what the prompt says."""
    if pictures := [*filter(_is_picture, [*options.more, options.prompt])]:
        words = options.prompt if pictures[0] != options.prompt else "make the hat red"
        raise ConfigError(
            "`draw` takes words alone. To change a picture: "
            f'minikontext edit {pictures[0]} "{words}"'
        )
    if options.more:
        words = " ".join([options.prompt, *options.more])
        raise ConfigError(f'Put the prompt in quotes: minikontext draw "{words}"')
    place = options.output
    if not place or _is_folder(place):
        place = str(_free_name("drawn", Path(place or "."), ""))
    paths = output_paths([], place, options.count * len(options.seed))
    return _run([Job(None, paths)], options)


def _run(jobs: list[Job], options: argparse.Namespace) -> int:
    from minikontext.images import provenance, watermark

    for path in (path for job in jobs for path in job.paths):
        provenance.check_format(Path("-.png") if str(path) == PIPE else path, options.quality)
    first = jobs[0].paths[0]
    if not options.quiet and provenance.is_lossy(first.suffix, options.quality):
        print(f"note: {log.printable(first.name)} loses pixels on writing: `inspect` cannot check "
              "them.", file=sys.stderr)  # fmt: skip
    extra = [_read(source) for source in options.image]
    pipe, failed = None, 0
    for job in jobs:
        pictures: list[Any] = []
        name = str(job.source) if len(jobs) > 1 else ""
        try:
            with notes.noting(name):
                pictures = [] if job.source is None else [_read(job.source), *extra]
            if options.watermark and pictures:
                width, height = pictures[0].size
                watermark.check((options.width or width, options.height or height))
            with _hushed(options.quiet):
                pipe = pipe or load(options)
            with notes.noting(name):
                notes.tell_what_cannot_be(pipe, pictures, options.prompt)
                _draw(pipe, pictures, job.paths, options, name)
        except (ImageError, SizeError, SafetyError) as error:
            words = getattr(getattr(error, "verdict", None), "layer", "") == "prompt"
            if len(jobs) == 1 or words or (pictures and isinstance(error, ImageError)):
                raise  # no other picture would fare better
            name = f"{job.source}: " if pictures else ""  # what cannot be read is named already
            print(f"error: {log.printable(name + speak(error), 5000)}", file=sys.stderr)
            failed = 2
    return failed


def _read(source: str) -> Any:
    from minikontext import images

    data = sys.stdin.buffer.read() if source == PIPE else source
    if not data:
        raise ImageError(f"stdin ({PIPE}) brought no picture: it was empty.")
    return images.read(data)


def _draw(
    pipe: KontextPipeline,
    pictures: list,
    paths: list[Path],
    options: argparse.Namespace,
    name: str,
) -> None:
    """Each seed is a call of its own, so that it gives what it gives alone."""
    for i, seed in enumerate(options.seed):
        with _hushed(options.quiet):
            result = pipe(options.prompt, image=pictures or None, **_sampling(options, seed))
        if i == 0 and pictures and not options.quiet:
            notes.tell_size(pictures[0], result, name or "picture")
        if not options.quiet and not result.withheld:
            notes.tell_outcome(pipe, options.prompt, pictures, result)
        _save(result, paths[i * options.count : (i + 1) * options.count], options)


def _save(result: KontextOutput, paths: list[Path], options: argparse.Namespace) -> None:
    from minikontext.images import provenance, watermark

    how = {"private": options.no_prompt, "quality": options.quality}
    for image, path, record in zip(result.images, paths, result.provenance, strict=True):
        image = watermark.mark(image) if options.watermark else image
        if str(path) == PIPE:
            sys.stdout.buffer.write(provenance.encode(image, record, **how))
            sys.stdout.buffer.flush()
        else:
            new = not options.output or _is_folder(options.output)
            log.say(provenance.save(image, path, record, **how, new=new), keep="")


def load(options: argparse.Namespace) -> KontextPipeline:
    """The pipeline that the options ask for."""
    from minikontext.pipeline import KontextPipeline

    pipe = KontextPipeline.from_pretrained(
        options.weights,
        device=options.device,
        dtype=options.dtype,
        offload=options.offload,
        safety=options.safety,
    )
    for path, scale in map(_lora, options.lora):
        pipe.load_lora(path, scale)
    return pipe.use_float8() if options.float8 else pipe


def _lora(option: str) -> tuple[str, float]:
    """FILE or FILE:SCALE, where a colon inside the name is none of ours."""
    path, _, scale = option.rpartition(":")
    try:
        return (path, float(scale)) if path else (option, 1.0)
    except ValueError:
        return option, 1.0


# ------------------------------------------------------------------------------------- places
def expand(inputs: Sequence[str]) -> list[str]:
    """Folders and patterns become the pictures in them, in order; the rest stays as it is.

    Hidden files are none: `._cat.png`, which macOS writes beside a picture, has no pixels.
    Raises ImageError where there is none, ConfigError for a folder that may not be read.
    """
    found: list[str] = []
    if "" in inputs:  # `"$FILE"` of no file: not all pictures here
        raise ImageError("Got a picture without a name. Give a file, a folder or a pattern.")
    for one in inputs:
        path = Path(one)
        if one != PIPE and is_folder(path):
            shown = [file for file in inside(path) if not file.name.startswith(".")]
            files = [str(file) for file in shown if not file.is_dir()]
            if not (pictures := [*filter(_is_picture, files)]):
                raise ImageError(f"There is no picture in the folder {path}.")
            found += pictures
        elif glob.has_magic(one) and len(inputs) < 1000 and not _is_existing(path):
            fitting = sorted(filter(_is_picture, glob.glob(one)))
            if not fitting and len(inputs) == 1:
                raise ImageError(f"No picture fits {one!r}.")
            found += fitting or [one]
        else:
            found.append(one)
    return found


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _is_existing(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a prompt in the place of the path is too long to be a name
        return False


def _check_words(sources: list[str], prompt: str) -> None:
    """Words of a prompt without quotes arrive as names of pictures; a picture, in their place."""
    if _is_picture(prompt) and _is_existing(Path(prompt)):
        there = any(one == PIPE or _is_existing(Path(one)) for one in sources)
        words = "make the hat red" if there else sources[0][:200]
        raise ConfigError(
            f"Pictures come first, then what to change, but {prompt!r} is a picture: "
            f'minikontext edit "{prompt}" "{words}"'
        )
    lost = [one for one in sources[1:] if one != PIPE and not _is_existing(Path(one))]
    if not all(map(_is_picture, lost)):
        raise ConfigError(
            f"There is no picture {lost[0][:80]!r}. Is it a word of the prompt? Put the prompt in "
            'quotes: minikontext edit fox.png "make the hat red"'
        )


def _is_folder(output: str | None) -> bool:
    return bool(output) and output != PIPE and (
        output.endswith(("/", "\\")) or (_is_existing(Path(output)) and Path(output).is_dir())
    )  # fmt: skip


def _many(sources: list[str], output: str | None, count: int, taken: list[str]) -> list[Job]:
    """A place for every result of every picture: in a folder, or here."""
    if output == PIPE:
        raise OutputError(f"{len(sources)} pictures do not fit into one stdout: name a folder.")
    if output and not _is_folder(output):
        raise OutputError(
            f"{len(sources)} pictures, and one file {output}: name a folder, {output}/."
        )
    jobs: list[Job] = []
    used: set[str] = set()
    for source in sources:
        stem = "stdin" if source == PIPE else Path(source).stem
        place = _free_name(stem, Path(output or "."), used=used)
        used.add(place.stem)
        jobs.append(Job(source, output_paths([source, *taken], str(place), count)))
    return jobs


def output_paths(sources: list[str], output: str | None, count: int) -> list[Path]:
    """Name the results before any work is done: never a source, by default never an old file.

    Raises OutputError for a place that cannot be written, SizeError for a count below 1.
    """
    if not 1 <= count <= MOST:
        raise SizeError(f"{shown(count)} results: ask for at least one, and at most {MOST:,}.")
    if output == PIPE:
        if count > 1:
            raise OutputError(f"{count} results do not fit into one stdout: name a folder.")
        if getattr(sys.stdout, "name", "") == os.devnull:  # see `app.main`
            raise OutputError("The result has no place: stdout (-) is closed.")
        return [Path(PIPE)]
    stem = "stdin" if sources[:1] == [PIPE] else Path(sources[0]).stem if sources else "drawn"
    first = Path(output) if output else _free_name(stem)
    numbered = [first.with_stem(f"{first.stem}-{i + 1}") for i in range(count)]
    paths = numbered if count > 1 else [first]
    for path in paths:
        check_output(path, sources)
    return paths


def _free_name(
    stem: str, folder: Path = Path(), ending: str = "_edited", used: Sequence[str] | set[str] = ()
) -> Path:
    """`fox_edited.png` in a folder, or `fox_edited2.png` … while results are there already."""
    number = 1
    while True:
        name = f"{stem}{ending}{number if number > 1 else ''}"
        here = Path.cwd() / folder
        if name not in used and not list(here.glob(f"{glob.escape(name)}[.-]*")):
            return folder / f"{name}.png"
        number += 1


def check_output(path: Path, sources: Sequence[str]) -> None:
    """Raises OutputError for a result that would replace a source or cannot be written."""
    if real(path) in [real(source) for source in sources if source != PIPE]:
        raise OutputError(f"{path} is the picture itself. Choose another name for the result.")
    try_writing(path)


def _sampling(options: argparse.Namespace, seed: int | None) -> dict[str, object]:
    return {
        "seed": seed, "num_inference_steps": options.steps, "num_images_per_prompt": options.count,
        "width": options.width, "height": options.height, "guidance_scale": options.guidance,
        "true_cfg_scale": options.cfg, "negative_prompt": options.negative,
        "resize": options.resize, "step_cache": options.step_cache,
        "context_layout": options.layout, "progress": not options.quiet,
    }  # fmt: skip


@contextmanager
def _hushed(quiet: bool) -> Iterator[None]:
    """Keep stdout for the results' paths, so that a script can read them."""
    with redirect_stdout(io.StringIO() if quiet else sys.stderr):
        yield
