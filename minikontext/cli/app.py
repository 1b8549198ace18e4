"""The `minikontext` command: edit a picture, train, measure, open the course, check the set-up.

Nothing heavy is imported before it is known that the command makes sense, so help and mistakes
answer at once.
"""

from __future__ import annotations

import argparse
import glob
import io
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import minikontext
from minikontext.distillation import KINDS
from minikontext.errors import (
    ConfigError,
    MinikontextError,
    MissingPackageError,
    OutputError,
    SizeError,
)
from minikontext.runtime import log
from minikontext.runtime.files import check_writable, exists, is_folder

if TYPE_CHECKING:
    from minikontext.pipeline import KontextPipeline

EXAMPLES = """examples:
  minikontext edit fox.png "make the hat red"
  minikontext edit fox.png "make it night" -o night.png --seed 7 --steps 10
  minikontext edit fox.png "put the hat of the second picture on" --image other.png
  minikontext inspect night.png
  minikontext train configs/toy.toml
  minikontext train configs/flux_dev_finetune.toml --plan --gpus 2 --memory 80
  minikontext distill ladd configs/toy_pro.toml
  minikontext reproduce toy --list
  minikontext page site --serve 8000
  minikontext bench mini --weights toy --steps 10
  minikontext weights verify FLUX.1-Kontext-dev
  minikontext doctor
  minikontext lab
"""


LINES = "\n"  # of our own messages, which escape those of a file's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 if a check found a problem, 2 for a mistake, 3 if `inspect`
    cannot know, 130 for Ctrl-C. Errors made on purpose are printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name may hold bytes that no encoding can print
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    log.show()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return options.run(options)
        except MinikontextError as error:
            print(f"error: {log.printable(str(error), 5000, keep=LINES)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130


def parser() -> argparse.ArgumentParser:
    """Describe every command and option."""
    top = argparse.ArgumentParser(
        prog="minikontext",
        description="Edit pictures by instruction with FLUX.1 Kontext, and train it small.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=minikontext.__version__)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_edit(commands)
    _add_inspect(commands)
    _add_train(commands)
    _add_distill(commands)
    _add_reproduce(commands)
    _add_page(commands)
    _add_bench(commands)
    _add_weights(commands)
    doctor = commands.add_parser("doctor", help="check packages, device, weights and notebooks")
    doctor.set_defaults(run=_doctor)
    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    lab.add_argument("options", nargs="*", help="passed on to JupyterLab, after `--`")
    lab.set_defaults(run=_lab)
    return top


# ---------------------------------------------------------------------------------------- edit
def _add_edit(commands: argparse._SubParsersAction) -> None:
    edit = commands.add_parser("edit", help="change a picture as an instruction says")
    edit.add_argument("picture", metavar="IMAGE", help="the picture to edit (PNG, JPEG, WebP …)")
    edit.add_argument("prompt", help='what to change, in quotes: "make the hat red"')
    edit.add_argument(
        "-i",
        "--image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="one more picture that the prompt may speak of; may be given again",
    )
    edit.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where the result goes: .png, .webp or .jpg (default: NAME_edited.png here)",
    )
    edit.add_argument(
        "--quality", type=int, metavar="N", help="of JPEG and WebP, 1 to 100; pixels get lost"
    )
    edit.add_argument(
        "--no-prompt",
        action="store_true",
        default=None,
        help="keep prompts out of the file's metadata (always: MINIKONTEXT_NO_PROMPT=1)",
    )
    edit.add_argument(
        "--watermark", action="store_true", help="mark the pixels invisibly, from 256×256 on"
    )
    edit.add_argument("-q", "--quiet", action="store_true", help="print the result's path only")
    _add_sampling(edit.add_argument_group("how it is drawn"))
    _add_machine(edit.add_argument_group("what draws it"))
    edit.set_defaults(run=_edit)


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    number = {"type": int, "metavar": "N"}
    group.add_argument("--seed", **number, help="the same seed gives the same picture")
    group.add_argument("--steps", **number, help="more is finer and slower")
    group.add_argument(
        "--step-cache",
        type=float,
        metavar="X",
        help="skip blocks where the first one changed by less than this share: faster, not exact",
    )
    group.add_argument("--count", **number, default=1, help="how many results (default: 1)")
    group.add_argument("--width", **number, help="of the result (default: the picture's)")
    group.add_argument("--height", **number, help="of the result (default: the picture's)")
    group.add_argument(
        "--guidance", type=float, metavar="G", help="for weights distilled with a guidance input"
    )
    group.add_argument(
        "--cfg", type=float, metavar="S", help="classifier-free guidance; 1 is off, twice as slow"
    )
    group.add_argument("--negative", metavar="TEXT", help="what to stay away from; needs --cfg > 1")
    group.add_argument(
        "--resize",
        choices=("kontext", "none"),
        default="kontext",
        help="kontext: use the nearest trained size (default); none: keep the picture's size",
    )
    group.add_argument(
        "--layout",
        choices=("index", "offset", "scaled"),
        help="how several pictures are told apart: the paper's way (index), side by side (offset), "
        "or each stretched over the result (scaled); default: as the weights have learned it",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--weights", default="toy", help="a shipped name or a folder (default: toy)")
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="a LoRA on top of the weights; may be given again (default scale: 1)",
    )
    group.add_argument(
        "--offload",
        default="auto",
        metavar="PLAN",
        help="for full-size weights: resident, encoders, 8-bit, 4-bit, stream (default: what fits)",
    )
    group.add_argument(
        "--safety",
        metavar="NAME",
        help="safety filters, a shipped name (toy) or a folder; none: without (default: as the "
        "weights ask)",
    )
    group.add_argument(
        "--float8",
        action="store_true",
        help="matrix products with fewer digits, for speed, on NVIDIA GPUs from Ada on",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the fastest here)")
    group.add_argument("--dtype", help="float32 or bfloat16 (default: what the device does best)")


def _edit(options: argparse.Namespace) -> int:
    sources = [options.picture, *options.image]
    paths = output_paths(sources, options.output, options.count)
    from minikontext import images
    from minikontext.images import provenance, watermark

    for path in paths:
        provenance.check_format(path, options.quality)
    if not options.quiet and provenance.is_lossy(paths[0].suffix, options.quality):
        _show_warning(f"{paths[0].name} loses pixels on writing: `inspect` cannot check them.")
    pictures = [images.read(source) for source in sources]
    if options.watermark:
        width, height = pictures[0].size
        watermark.check((options.width or width, options.height or height))
    with _hushed(options.quiet):
        result = _pipe(options)(options.prompt, image=pictures, **_sampling(options))
    if not options.quiet and not result.plan.changed:  # A changed size has had its warning.
        print(f"picture: {result.plan}", file=sys.stderr)
    how = {"private": options.no_prompt, "quality": options.quality, "new": not options.output}
    for image, path, made in zip(result.images, paths, result.provenance, strict=True):
        image = watermark.mark(image) if options.watermark else image
        print(provenance.save(image, path, made, **how))
    return 0


def _pipe(options: argparse.Namespace) -> KontextPipeline:
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


def _lora(given: str) -> tuple[str, float]:
    """FILE or FILE:SCALE, where a colon inside the name is none of ours."""
    path, _, scale = given.rpartition(":")
    try:
        return (path, float(scale)) if path else (given, 1.0)
    except ValueError:
        return given, 1.0


def output_paths(sources: list[str], output: str | None, count: int) -> list[Path]:
    """Name the results before any work is done: never a source, by default never an old file.

    Raises OutputError for a place that cannot be written, SizeError for a count below 1.
    """
    if count < 1:
        raise SizeError(f"--count {count}: ask for at least one result.")
    first = Path(output) if output else _free_name(Path(sources[0]).stem)
    numbered = [first.with_stem(f"{first.stem}-{i + 1}") for i in range(count)]
    paths = numbered if count > 1 else [first]
    for path in paths:
        _check_output(path, sources)
    return paths


def _free_name(stem: str) -> Path:
    """`fox_edited.png` in this folder, or `fox_edited2.png` … while results are there already."""
    number = 1
    while True:
        name = f"{stem}_edited{number if number > 1 else ''}"
        if not list(Path.cwd().glob(f"{glob.escape(name)}[.-]*")):
            return Path(f"{name}.png")
        number += 1


def _check_output(path: Path, sources: list[str]) -> None:
    if path.resolve() in [Path(source).resolve() for source in sources]:
        raise OutputError(f"{path} is the picture itself. Choose another name for the result.")
    check_writable(path)


def _sampling(options: argparse.Namespace) -> dict[str, object]:
    return {
        "seed": options.seed,
        "num_inference_steps": options.steps,
        "num_images_per_prompt": options.count,
        "width": options.width,
        "height": options.height,
        "guidance_scale": options.guidance,
        "true_cfg_scale": options.cfg,
        "negative_prompt": options.negative,
        "resize": options.resize,
        "step_cache": options.step_cache,
        "context_layout": options.layout,
        "progress": not options.quiet,
    }


@contextmanager
def _hushed(quiet: bool) -> Iterator[None]:
    """Keep stdout for the results' paths, so that a script can read them."""
    with redirect_stdout(io.StringIO() if quiet else sys.stderr):
        yield


# ------------------------------------------------------------------------------------- inspect
INSPECT_CODES = """exit codes:
  0  the pixels are as they were written
  1  pixels have changed since
  2  a mistake, such as a file that is no picture
  3  nobody can know: no metadata, broken metadata, or a format with loss
  4  the program failed, which says nothing of the picture
"""


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="how was a picture made, and has it changed since?",
        epilog=INSPECT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("picture", metavar="IMAGE", help="a picture that minikontext wrote")
    inspect.add_argument("--show", metavar="FILE", help="write a picture with the changes marked")
    inspect.add_argument("--watermark", action="store_true", help="look for the watermark, too")
    inspect.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from minikontext import images
    from minikontext.images import inspect, provenance, watermark

    if options.show:
        _check_output(Path(options.show), [options.picture])
        provenance.check_format(Path(options.show))
    try:
        found = inspect.inspect(options.picture)
    except MinikontextError:
        raise
    except Exception:  # Python would exit with 1, which here means that pixels have changed.
        traceback.print_exc()
        return 4
    print(found)
    if options.watermark:
        print(f"watermark: {watermark.describe(images.read(options.picture))}")
    if options.show and found.regions:
        marked = inspect.mark_regions(images.read(options.picture), found.regions)
        print(f"marked: {provenance.save(marked, options.show)}")
    elif options.show:
        print("marked: nothing, as no changed region is known")
    return {inspect.UNCHANGED: 0, inspect.CHANGED: 1}.get(found.verdict, 3)


# ----------------------------------------------------------------------- train, doctor and lab
def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train a model as a configuration file says")
    train.add_argument("config", metavar="CONFIG", help="a TOML file, as in configs/")
    train.add_argument(
        "--restart", action="store_true", help="start over, though the run has a checkpoint"
    )
    plan = train.add_argument_group("--plan: does it fit, how long does it take? nothing is run")
    plan.add_argument("--plan", action="store_true", help="print memory and time, and stop")
    for name, (kind, what) in MACHINE.items():
        plan.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    train.set_defaults(run=_train)


# Of the GPUs that a plan is for: what they are called in training.plan.Machine.
MACHINE = {
    "gpus": (int, "how many (default: as many of 8 as the config can use)"),
    "memory": (float, "GiB of each (default: 80)"),
    "peak": (float, "TFLOP/s of each in bfloat16 (default: 989, an H100)"),
    "share": (float, "of the peak that training reaches (default: 0.4, an assumption)"),
    "link": (float, "GB/s that each receives inside a host (default: 450)"),
    "network": (float, "GB/s that each receives from other hosts (default: 50)"),
    "host": (int, "GPUs of one host (default: 8)"),
}


def _train(options: argparse.Namespace) -> int:
    path = _config_file(options.config)
    from minikontext import training

    if options.plan:
        from minikontext.training import plan, workload

        job = workload.workload(training.read_job(path))
        given = {name: getattr(options, name) for name in MACHINE}
        given = {name: value for name, value in given.items() if value is not None}
        print(plan.make(job, plan.Machine(**{"gpus": plan.most_gpus(job)} | given)))
        return 0
    training.main(path, resume=not options.restart)
    return 0


def _config_file(name: str) -> Path:
    path = Path(name)
    if not exists(path):
        raise ConfigError(f"There is no configuration file {path}. See the folder configs/.")
    return path


def _add_distill(commands: argparse._SubParsersAction) -> None:
    distill = commands.add_parser("distill", help="make a faster student of trained weights")
    distill.add_argument(
        "kind", choices=KINDS,
        help="guidance in one pass; few steps; few steps, on states of its own making",
    )  # fmt: skip
    distill.add_argument("config", metavar="CONFIG", help="a TOML file, as in configs/")
    distill.add_argument(
        "--restart", action="store_true", help="start over, though the run has a checkpoint"
    )
    distill.set_defaults(run=_distill)


def _distill(options: argparse.Namespace) -> int:
    path = _config_file(options.config)
    from minikontext import distillation

    distillation.main(options.kind, path, resume=not options.restart)
    return 0


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    make = commands.add_parser("reproduce", help="make weights again, with all that they build on")
    make.add_argument("name", metavar="NAME", help="a stage: a config in configs/lineage")
    make.add_argument("--list", action="store_true", help="show the stages, and make nothing")
    make.add_argument("--smoke", action="store_true", help="walk through all of it in minutes")
    make.add_argument("--restart", action="store_true", help="make the last stage anew")
    make.add_argument("--configs", metavar="DIR", help="where the stages are (default: shipped)")
    make.add_argument(
        "--runs", default="runs/lineage", metavar="DIR", help="(default: %(default)s)"
    )
    make.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from minikontext.distillation import reproduce
    from minikontext.runtime.files import shipped

    configs = Path(options.configs) if options.configs else shipped("configs", "lineage")
    home = Path(options.runs)
    if options.list:
        stages = reproduce.read_stages(configs, options.smoke)
        print("\n".join(map(reproduce.told, reproduce.plan(options.name, stages, home))))
        return 0
    made = reproduce.reproduce(options.name, configs, home, options.smoke, not options.restart)
    print("\n".join(map(reproduce.told, made)))
    return 0


def _add_page(commands: argparse._SubParsersAction) -> None:
    page = commands.add_parser("page", help="the editor as a web page that needs no install")
    page.add_argument("folder", metavar="FOLDER", help="where the page goes")
    page.add_argument("--weights", default="toy-max", help="a shipped name or a folder")
    page.add_argument(
        "--runtime", default="node_modules/onnxruntime-web/dist", metavar="DIR",
        help="`dist` of the npm package onnxruntime-web (default: %(default)s)",
    )  # fmt: skip
    page.add_argument("--serve", type=int, metavar="PORT", help="then show it at this port")
    page.set_defaults(run=_page)


def _page(options: argparse.Namespace) -> int:
    from minikontext.page import command

    return command.main(options)


def _add_weights(commands: argparse._SubParsersAction) -> None:
    top = commands.add_parser("weights", help="look into weights, check them, rewrite them")
    kinds = top.add_subparsers(title="what to do", required=True, metavar="WHAT")
    inspect = kinds.add_parser("inspect", help="sizes, dtypes, names; reads headers only")
    verify = kinds.add_parser("verify", help="is every byte and every tensor there?")
    for what, run in ((inspect, _weights_inspect), (verify, _weights_verify)):
        what.add_argument("place", help="a weights folder, a part of it, or a .safetensors file")
        what.set_defaults(run=run)
    convert = kinds.add_parser("convert", help="official files to a diffusers folder, or back")
    convert.add_argument("source", help="a folder of weights, or a transformer or autoencoder")
    convert.add_argument(
        "target", help="a new folder; of one part, NAME.safetensors makes an official file"
    )
    convert.add_argument("--dtype", help="float32 or bfloat16 (default: as it is stored)")
    convert.set_defaults(run=_weights_convert)


def _weights_inspect(options: argparse.Namespace) -> int:
    from minikontext.pretrained import layouts, summary
    from minikontext.runtime import device

    parts = summary.parts(options.place)
    for part in parts:
        print(summary.summarise(part))
    if len(parts) > 1 and (found := layouts.find(options.place)):
        print("memory plans in bfloat16, for 1024×1024 with one context:")
        for plan in layouts.plans(found, device.DTYPES["bfloat16"]):
            print(f"  {plan}")
    return 0


def _weights_verify(options: argparse.Namespace) -> int:
    from minikontext.pretrained import summary

    failed = 0
    for part in summary.parts(options.place):
        try:
            print(f"[OK]   {part}: all {summary.verify(part)} tensors")
        except MinikontextError as error:
            print(f"[FAIL] {error}")
            failed = 1
    try:
        if place := summary.verify_words(options.place):
            print(f"[OK]   {place}: both text encoders and their tokenizers")
    except MinikontextError as error:
        print(f"[FAIL] {error}")
        failed = 1
    return failed


def _weights_convert(options: argparse.Namespace) -> int:
    target = Path(options.target)
    if exists(target) or is_folder(target):
        raise OutputError(f"{target} is there already. Choose another name for the result.")
    from minikontext.pretrained import convert
    from minikontext.runtime import device

    dtype = device.explain_device(dtype=options.dtype).dtype if options.dtype else None
    for path in convert.convert(Path(options.source), target, dtype):
        print(path)
    return 0


# What `bench` measures: a module in minikontext.bench, and one line of help.
BENCHES = {
    "mini": ("results", "1026 held-out edits of the toy world and 300 more, scored exactly"),
    "multiturn": ("multiturn", "chains of eight edits, handed on as pixels or as latents"),
    "diversity": ("diversity", "how much the answers to one open prompt differ by seed"),
    "kontext": ("kontext", "a local copy of KontextBench's folder, edited by any weights"),
    "safety": ("safety_bench", "what filters and adversarial training stop, and what they cost"),
    "autoencoder": ("autoencoder_bench", "what a round trip through the autoencoder loses"),
}


def _add_bench(commands: argparse._SubParsersAction) -> None:
    lines = "\n".join(f"  {name:12} {text}" for name, (_, text) in BENCHES.items())
    bench = commands.add_parser(
        "bench",
        help="measure weights: JSON, a Markdown table and PNG figures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"what is measured:\n{lines}\n\nminikontext bench NAME --help says more.",
    )
    bench.add_argument("name", choices=BENCHES, metavar="NAME", help=", ".join(BENCHES))
    bench.add_argument("options", nargs=argparse.REMAINDER, help="passed on to it")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from importlib import import_module

    module = import_module(f"minikontext.bench.{BENCHES[options.name][0]}")
    module.main(options.options, prog=f"minikontext bench {options.name}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from minikontext.cli import doctor

    return doctor.main()


def _lab(options: argparse.Namespace) -> int:
    from minikontext.cli import doctor

    start = doctor.notebook_folder() / "00_start_here.ipynb"
    if not start.is_file():
        raise ConfigError(f"There is no {start}. The course comes with a clone of the repository.")
    try:
        from jupyterlab.labapp import main as jupyterlab
    except ImportError as error:
        raise MissingPackageError("JupyterLab is not installed: pip install jupyterlab") from error
    return jupyterlab([str(start), *options.options]) or 0


def _show_warning(message: Warning | str, *rest: object) -> None:
    print(f"note: {log.printable(str(message), 5000, keep=LINES)}", file=sys.stderr)
