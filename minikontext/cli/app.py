"""The `minikontext` command: edit a picture, train, measure, open the course, check the set-up.

Nothing heavy is imported before it is known that the command makes sense, so help and mistakes
answer at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import minikontext
from minikontext.cli import demo, edit, lab
from minikontext.distillation import KINDS
from minikontext.errors import (
    ConfigError,
    MinikontextError,
    OutputError,
)
from minikontext.runtime import log
from minikontext.runtime.files import exists, is_folder, try_writing

EXAMPLES = """examples:
  minikontext edit fox.png "make the hat red"
  minikontext edit fox.png "make it night" -o night.png --seed 7 --steps 10
  minikontext edit pictures/ "make it night" -o results/ --seed 1..4
  minikontext edit fox.png "put the hat of the second picture on" --image other.png
  minikontext draw "a green frog with a red hat on the beach" --seed 7
  minikontext inspect night.png
  minikontext train configs/toy.toml
  minikontext train configs/flux_dev_finetune.toml --plan --gpus 2 --memory 80
  minikontext reproduce toy_pro --list
  minikontext page site --serve 8000
  minikontext bench mini --weights toy --steps 10
  minikontext weights verify FLUX.1-Kontext-dev
  minikontext doctor
  minikontext lab
  minikontext demo
"""


LINES = "\n"  # of our own messages, which escape those of a file's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 if a check found a problem, 2 for a mistake, 3 if `inspect`
    cannot know, 4 for a fault of the program, whose traceback is printed, 130 for Ctrl-C."""
    for name, how in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`), or never there (pythonw)
            setattr(sys, name, open(os.devnull, how))  # noqa: SIM115 - for as long as we run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name may hold bytes that no encoding can print
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    rest: list[str] = []
    if words[:1] == ["lab"] and "--" in words:  # the rest is JupyterLab's
        at = words.index("--")
        words, rest = words[:at], words[at + 1 :]
    top = parser()
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        top.error(f"{words[0]} stands before the command: minikontext COMMAND … {words[0]}")
    options = top.parse_args(words)
    if rest:
        options.options = rest
    log.show()
    return _run(options, getattr(options, "speak", str))


def _run(options: argparse.Namespace, speak: Callable[[object], str]) -> int:
    """Run a command; `speak` says errors and warnings in its words."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _tell(
            f"note: {log.printable(speak(message), 5000, keep=LINES)}"
        )
        try:
            code = options.run(options)
            sys.stdout.flush()
            return code
        except MinikontextError as error:
            _tell(f"error: {log.printable(speak(error), 5000, keep=LINES)}")
            return 2
        except BrokenPipeError:  # `| head -1` has read enough
            return 141
        except Exception as error:
            return _failed(error)
        except KeyboardInterrupt:
            _tell("\nstopped")
            return 130
        finally:
            _drop_unwritable()


def _failed(error: Exception) -> int:
    """Say what went wrong. Python itself would exit with 1: a check has found something."""
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        _tell("error: there is no room for what is printed. Make room on the disk.")
        return 2
    _tell(log.printable("".join(traceback.format_exception(error)).rstrip(), 50_000, keep=LINES))
    return 4


def _tell(text: str) -> None:
    """Say it on stderr. Where that is full or gone, the exit code alone tells."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def _drop_unwritable() -> None:
    """Let go of what a full stream holds: at its end Python would try once more, and fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parser() -> argparse.ArgumentParser:
    """Describe every command and option."""
    top = log.Parser(
        prog="minikontext",
        description="Edit pictures by instruction with FLUX.1 Kontext, and train it small.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=minikontext.__version__)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    edit.add(commands)
    _add_inspect(commands)
    _add_train(commands)
    _add_distill(commands)
    _add_reproduce(commands)
    _add_page(commands)
    _add_bench(commands)
    _add_weights(commands)
    doctor = commands.add_parser("doctor", help="check packages, device, weights and notebooks")
    doctor.set_defaults(run=_doctor)
    lab.add(commands)
    demo.add(commands)
    return top


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
    inspect.add_argument(
        "--show", type=log.place, metavar="FILE", help="write a picture with the changes marked"
    )
    inspect.add_argument("--watermark", action="store_true", help="look for the watermark, too")
    inspect.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from minikontext import images
    from minikontext.images import inspect, provenance, watermark

    if options.show:
        edit.check_output(Path(options.show), [options.picture])
        provenance.check_format(Path(options.show))
    found = inspect.inspect(options.picture)
    log.say(found)
    if options.watermark:
        print(f"watermark: {watermark.describe(images.read(options.picture))}")
    if options.show and found.regions:
        marked = inspect.mark_regions(images.read(options.picture), found.regions)
        log.say(f"marked: {provenance.save(marked, options.show)}")
    elif options.show:
        print("marked: nothing, as no changed region is known")
    return {inspect.UNCHANGED: 0, inspect.CHANGED: 1}.get(found.verdict, 3)


# ----------------------------------------------------------------------- train, doctor and lab
def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train a model as a configuration file says")
    train.add_argument(
        "config", type=log.place, metavar="CONFIG", help="a TOML file, as in configs/"
    )
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
        values = {name: getattr(options, name) for name in MACHINE}
        requested = {name: value for name, value in values.items() if value is not None}
        log.say(plan.make(job, plan.Machine(**{"gpus": plan.most_gpus(job)} | requested)))
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
    distill.add_argument(
        "config", type=log.place, metavar="CONFIG", help="a TOML file, as in configs/"
    )
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
    make.add_argument(
        "--configs", type=log.place, metavar="DIR", help="where the stages are (default: shipped)"
    )
    make.add_argument(
        "--runs",
        type=log.place,
        default="runs/lineage",
        metavar="DIR",
        help="(default: %(default)s)",
    )
    make.add_argument(
        "--workers", type=int, default=0, metavar="N",
        help="processes that draw batches ahead, worth it on a GPU (default: none)",
    )  # fmt: skip
    make.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from minikontext.distillation import reproduce
    from minikontext.runtime.files import shipped

    configs = Path(options.configs) if options.configs else shipped("configs", "lineage")
    home = Path(options.runs)
    if options.list:
        stages = reproduce.read_stages(configs, options.smoke)
        log.say(*map(reproduce.describe, reproduce.plan(options.name, stages, home)))
        return 0
    resume = not options.restart
    stages = reproduce.reproduce(
        options.name, configs, home, options.smoke, resume, options.workers
    )
    log.say(*map(reproduce.describe, stages))
    return 0


def _add_page(commands: argparse._SubParsersAction) -> None:
    page = commands.add_parser("page", help="the editor as a web page that needs no install")
    page.add_argument("folder", type=log.place, metavar="FOLDER", help="where the page goes")
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
    shipped = kinds.add_parser("list", help="the weights that have a name, and what they are for")
    shipped.set_defaults(run=_weights_list)
    inspect = kinds.add_parser("inspect", help="sizes, dtypes, names; reads headers only")
    verify = kinds.add_parser("verify", help="is every byte and every tensor there?")
    for what, run in ((inspect, _weights_inspect), (verify, _weights_verify)):
        what.add_argument(
            "place",
            type=log.place,
            help="a name, a weights folder, a part of it, or a .safetensors file",
        )
        what.set_defaults(run=run)
    convert = kinds.add_parser("convert", help="official files to a diffusers folder, or back")
    convert.add_argument(
        "source", type=log.place, help="a folder of weights, or a transformer or autoencoder"
    )
    convert.add_argument(
        "target",
        type=log.place,
        help="a new folder; of one part, NAME.safetensors makes an official file",
    )
    convert.add_argument("--dtype", help="float32 or bfloat16 (default: as it is stored)")
    convert.set_defaults(run=_weights_convert)


def _weights_list(options: argparse.Namespace) -> int:
    from minikontext.pretrained import summary

    log.say(summary.shipped(), keep=LINES)
    return 0


def _weights_inspect(options: argparse.Namespace) -> int:
    from minikontext.pretrained import layouts, summary
    from minikontext.runtime import device

    parts = summary.parts(options.place)
    for part in parts:
        log.say(summary.summarise(part))
    if len(parts) > 1 and (found := layouts.find(options.place)):
        print("memory plans in bfloat16, for 1024×1024 with one context:")
        for plan in layouts.plans(found, device.DTYPES["bfloat16"]):
            print(f"  {plan}")
    return 0


def _weights_verify(options: argparse.Namespace) -> int:
    from minikontext.pretrained import summary

    failed: set[str] = set()
    for part in [*summary.parts(options.place), None]:  # and then the whole
        try:
            if part:
                log.say(f"[OK]   {part}: all {summary.verify(part)} tensors", keep="")
            elif place := summary.verify_words(options.place):
                log.say(f"[OK]   {place}: both text encoders and their tokenizers", keep="")
        except MinikontextError as error:
            if str(error) not in failed:  # of a part, and then of the whole
                log.say(f"[FAIL] {error}", keep="")
            failed.add(str(error))
    return int(bool(failed))


def _weights_convert(options: argparse.Namespace) -> int:
    target = Path(options.target)
    if exists(target) or is_folder(target):
        raise OutputError(f"{target} is there already. Choose another name for the result.")
    try_writing(target)
    from minikontext.pretrained import convert, native
    from minikontext.runtime import device

    dtype = device.explain_device(dtype=options.dtype).dtype if options.dtype else None
    for path in convert.convert(native.named(options.source), target, dtype):
        log.say(path, keep="")
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
    rest = bench.add_argument("options", nargs=argparse.REMAINDER, help="passed on to it")
    rest.required = False  # to argparse it is, and is named where NAME alone is missing
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from importlib import import_module

    module = import_module(f"minikontext.bench.{BENCHES[options.name][0]}")
    module.main(options.options, prog=f"minikontext bench {options.name}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from minikontext.cli import doctor

    return doctor.main()
