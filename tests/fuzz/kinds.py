"""Faults by kind: each case is one thing that people have or do, and its outcome is checked.

python tests/fuzz/kinds.py --table data/bench/faults.md

opens    what was asked for came out, compared with what is right
refused  an error of `minikontext.errors` that says something
told     left out or passed over, with a warning or a reason

All else is a fault: silent (a wrong result, or a part missing without a word), a traceback, a hang
(more than 5 seconds of the processor), a stranger's code run or a connection made. The harness of
the fuzz tests watches for the last two.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import math
import os
import shutil
import struct
import sys
import tarfile
import tempfile
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import harness
import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from safetensors.torch import load_file, save_file

from minikontext import images
from minikontext.bench import kontext, report
from minikontext.cli import app, lab
from minikontext.course import predictions, progress, session, tiny_flux
from minikontext.errors import MinikontextError
from minikontext.images import inspect, provenance
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import convert, lora, safetensors_io
from minikontext.pretrained.text_encoders import FluxTextEncoder
from minikontext.runtime import files
from minikontext.training import data as cached
from minikontext.training import stream
from minikontext.training.folders import Encoded, encode_folder
from minikontext.training.jobs import JOBS, build_job, read_config, tomllib
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.parallel import ALONE
from minikontext.training.run import run_job
from minikontext.training.runs import add_line, set_aside
from minikontext.training.sources import Bad, Reading, triplets
from minikontext.training.store import Store
from minikontext.transformer import KontextTransformer

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import build_tiny_pipeline

from benchmarks import records

ROOT = Path(__file__).parents[2]
GOOD = ("opens", "refused", "told")
OUTCOMES = (*GOOD, "silent", "traceback", "hang", "code")


class Case(NamedTuple):
    """A case by kind and name; run(folder) returns "opens" or "told", or raises."""

    kind: str
    name: str
    run: Callable[[Path], str]


class Silent(Exception):
    """What came out is wrong, and nobody said so."""


def right(is_so: object, what: str) -> None:
    """Raise Silent unless something is as it should be."""
    if not is_so:
        raise Silent(what)


def outcome(case: Case) -> tuple[str, str]:
    """Run a case in a folder of its own: its outcome, and what there is to say about it."""
    sound(), tiny()  # what many cases share is made before the clock of any one runs
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raised = None
        with harness.WATCH.over(Path(name)) as seen, harness._alarm():
            try:
                found = case.run(Path(name))
            except (Exception, SystemExit, harness.Hang) as error:
                found, raised = "traceback", error
        said = str(raised or "")
        if isinstance(raised, MinikontextError):
            found = "refused" if said.strip() else "silent"
        elif isinstance(raised, (Silent, harness.Hang)):
            found = "silent" if isinstance(raised, Silent) else "hang"
        elif raised:
            said = "".join(traceback.format_exception(raised))
        if ran := [one for one in seen if one.split()[0] in (*harness.NEVER, "compile")]:
            found, said = "code", ran[0]
    return found, said


# ------------------------------------------------------------------------------ what is sound


@functools.cache
def sound() -> Path:
    """A folder with sound weights of each kind, made once."""
    folder = Path(tempfile.mkdtemp())
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(folder / "own")
    tiny_flux.write(folder / "flux")
    lora.save(lora.new(pipe.transformer, 2), pipe.transformer, folder / "lora.safetensors")
    return folder


@functools.cache
def tiny() -> KontextPipeline:
    """A tiny pipeline."""
    return build_tiny_pipeline()


@functools.cache
def picture() -> Image.Image:
    """Smooth colours: all formats hold them nearly."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([4 * x, 5 * y, 255 - 4 * x], -1).astype(np.uint8))


def encoded(format_: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture().save(file, format_, **options)
    return file.getvalue()


def place(folder: Path, how: str, data: bytes) -> Path:
    """Something that lies where a file should be: by name, what it is."""
    path = folder / "file"
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in LINKS:
        path.symlink_to(LINKS[how])
    else:
        path.write_bytes(DAMAGE[how](data))
    return path


LINKS = {"dangling link": "missing", "link in a circle": "file", "endless device": "/dev/zero"}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "half": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "first byte gone": lambda data: data[1:],
    "only zeros": lambda data: bytes(len(data)),
    "web page": lambda data: b"<!DOCTYPE html><html>404</html>",
    "pointer of Git LFS": lambda data: b"version https://git-lfs.github.com/spec/v1\nsize 5\n",
    "zip": lambda data: b"PK\x03\x04" + data,
    "pickle": lambda data: b"\x80\x04\x95" + b"c__builtin__\neval\n" + data,
    "GGUF": lambda data: b"GGUF\x03\0\0\0" + data,
    "ONNX": lambda data: b"\x08\x07" + data,
}
PLACES = ("folder", "pipe", *LINKS)

# ------------------------------------------------------------------------------------ captions

WORDS = {
    "utf-8": "don’t – été", "utf-8-sig": "don’t", "utf-16": "don’t", "utf-16-le": "make it red",
    "utf-16-be": "make it red", "utf-32": "don’t", "cp1252": "don’t", "latin-1": "été",
    "cp1251": "красная шляпа", "gbk": "红色的帽子", "shift_jis": "赤い帽子",
    "iso2022_jp": "赤い帽子", "big5": "紅色的帽子", "euc_kr": "빨간 모자", "mac_roman": "don’t",
    "cp437": "été",
}  # fmt: skip


def write_captions(folder: Path, layout: str, told: bytes) -> None:
    """One sample whose prompt is some bytes, in a layout."""
    (folder / "a.png").write_bytes(encoded())
    (folder / "a.txt").write_bytes(told)
    if layout == "csv":
        (folder / "metadata.csv").write_bytes(b"file_name,prompt\na.png," + told)
    if layout == "jsonl":
        line = b'{"file_name": "a.png", "prompt": "' + told + b'"}'
        (folder / "metadata.jsonl").write_bytes(line)
    if layout == "tar":
        with tarfile.open(folder / "0.tar", "w") as tar:
            tar.add(folder / "a.png", "1.image.png")
            tar.add(folder / "a.txt", "1.txt")


def captions() -> Iterator[Case]:
    """Texts in many encodings, in every layout, with the encoding named and not."""
    for (coding, words), layout, named in itertools.product(
        WORDS.items(), ("txt", "csv", "jsonl", "tar"), (False, True)
    ):
        if named and coding.startswith("utf"):
            continue

        def run(folder, coding=coding, words=words, layout=layout, named=named):
            write_captions(folder, layout, words.encode(coding))
            found = list(triplets(folder, Reading(encoding=coding if named else None)))
            right(found, "nothing came, and nothing was said")
            if any(isinstance(one, Bad) for one in found):
                right(all(one.why for one in found if isinstance(one, Bad)), "no reason")
                right(not named, "an encoding that was named is not read")
                return "told"
            right([one.prompt for one in found] == [words], f"read {found[0].prompt!r}")
            return "opens"

        yield Case("captions", f"{coding} in {layout}{', named' * named}", run)


# ------------------------------------------------------------------------------- tables, samples

MANY = "100 000 more"

COLUMNS = ("context", "conditioning_image", "target", "text", "caption", "Prompt", "FILE_NAME",
           "contexts ", "image", "negative_prompt", "mask", "repeats", MANY)  # fmt: skip


def tables() -> Iterator[Case]:
    """Columns that are not ours."""
    for name, kind in itertools.product(COLUMNS, ("csv", "jsonl")):

        def run(folder, name=name, kind=kind):
            (folder / "a.png").write_bytes(encoded())
            row = {"file_name": "a.png", "prompt": "x", name: "a.png"}
            row |= {str(number): "x" for number in range(100_000 * (name == MANY))}
            with open(folder / f"metadata.{kind}", "w", newline="") as file:
                if kind == "csv":
                    csv.writer(file).writerows([row, row.values()])
                else:
                    json.dump(row, file)
            list(triplets(folder))
            raise Silent(f"the column {name!r} was taken without a word")

        yield Case("columns", f"{name!r} in {kind}", run)


NAMES = ("missing.png", "", ".", "..", "../outside.png", "/etc/passwd", "a\0.png", "x" * 5000,
         "/dev/zero", "C:\\a.png", "a.png/b", "\ud800.png", "http://127.0.0.1:9/a.png")  # fmt: skip


def samples() -> Iterator[Case]:
    """Pictures of samples that are none, as target and as context."""
    odd = {**dict.fromkeys(NAMES), **dict.fromkeys(PLACES), **dict.fromkeys(DAMAGE)}
    del odd["last byte gone"]  # of a PNG: it has all its pixels
    for name, as_context in itertools.product(odd, (False, True)):

        def run(folder, name=name, as_context=as_context):
            source = folder / "source"
            source.mkdir()
            (source / "a.png").write_bytes(encoded())
            if name not in NAMES:
                os.rename(place(source, name, encoded()), source / "odd.png")
            odd_one = name if name in NAMES else "odd.png"
            row = {"file_name": "a.png", "prompt": "make the hat red", "contexts": []}
            bad = row | ({"contexts": [odd_one]} if as_context else {"file_name": odd_one})
            (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, (row, bad))))
            encode_folder(source, folder / "cache", tiny(), side=64)
            cache = Encoded(folder / "cache")
            right(len(cache) == 1, f"{len(cache)} samples, {[one.why for one in cache.skipped]}")
            right([one.why for one in cache.skipped if one.why], "left out without a word")
            return "told"

        yield Case("samples", f"{name[:24]!r} as {'context' if as_context else 'target'}", run)


def shard(members: list[tuple[str, bytes]], **more: object) -> bytes:
    """A tar of some members; more: of the last one's header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items() if number == len(members) - 1 else ():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def shards() -> Iterator[Case]:
    """Shards with members that are no sample, or two, or something else; one sample is sound."""
    fine = [("0.image.png", encoded()), ("0.txt", b"fine")]
    odd = {
        "two images": [
            ("1.image.png", encoded()),
            ("1.image.jpg", encoded("JPEG")),
            ("1.txt", b"x"),
        ],
        "two texts": [("1.image.png", encoded()), ("1.txt", b"x"), ("1.prompt.txt", b"y")],
        "no text": [("1.image.png", encoded())],
        "no image": [("1.txt", b"x")],
        "mask alone": [("1.image.png", encoded()), ("1.txt", b"x"), ("1.mask.png", encoded())],
        "outside": [("../../1.image.png", encoded()), ("1.txt", b"x")],
        "empty text in UTF-32": [("1.image.png", encoded()), ("1.txt", "x".encode("utf-32"))],
    }
    for name, members in odd.items():

        def run(folder, members=members):
            (folder / "0.tar").write_bytes(shard([*fine, *members]))
            found = list(triplets(folder))
            good = [one for one in found if not isinstance(one, Bad)]
            right([one.prompt for one in good] == ["fine"], f"read {[one.key for one in good]}")
            right(len(found) > 1, "left out without a word")
            right(not list(folder.parent.glob("1.image.png")), "written outside")
            return "told"

        yield Case("shards", name, run)
    for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.CHRTYPE, "device"),
                       (tarfile.FIFOTYPE, "pipe"), (tarfile.LNKTYPE, "hard link")):  # fmt: skip

        def run(folder, kind=kind):
            odd = shard(
                [*fine, ("1.txt", b"x"), ("1.image.png", b"")], type=kind, linkname="/etc/passwd"
            )
            (folder / "0.tar").write_bytes(odd)
            bad = [one for one in triplets(folder) if isinstance(one, Bad)]
            right(bad and bad[0].why, "a member that is no file was taken, or left out in silence")
            return "told"

        yield Case("shards", f"a {name} for an image", run)
    for kind in "LKxg":  # a long name or link, and what else pax says of the member behind it

        def run(folder, kind=kind):
            one = tarfile.TarInfo("x")
            one.type, one.size = kind.encode(), 4
            chain = (one.tobuf(tarfile.GNU_FORMAT) + b"4 a\n".ljust(512, b"\0")) * 3000
            ends = shard(fine).rstrip(b"\0")
            ends += bytes(-len(ends) % 512)
            (folder / "0.tar").write_bytes(ends + chain + shard([("1.txt", b"x")]))
            good, *bad = triplets(folder)
            right((good.prompt, good.image) == ("fine", encoded()), "wrong")
            right(bad and all(isinstance(one, Bad) and one.why for one in bad), "nothing was said")
            return "told"

        yield Case("shards", f"3000 headers {kind} one behind the other", run)
    for name, change in DAMAGE.items():

        def run(folder, change=change):
            (folder / "0.tar").write_bytes(change(shard(fine * 1)))
            found = list(triplets(folder))
            good = [one for one in found if not isinstance(one, Bad)]
            right(all((one.prompt, one.image) == ("fine", encoded()) for one in good), "wrong")
            right(good or found, "nothing came, and nothing was said")
            return "opens" if len(found) == len(good) else "told"

        yield Case("shards", name, run)
    whole = gzip.compress(shard(fine))
    for name, data in {
        **{how: change(whole) for how, change in DAMAGE.items()},
        "a bomb": gzip.compress(bytes(1 << 28)), "of a bomb": gzip.compress(whole + bytes(1 << 27)),
    }.items():  # fmt: skip

        def run(folder, data=data):
            (folder / "0.tar.gz").write_bytes(data)
            found = list(triplets(folder))
            good = [one for one in found if not isinstance(one, Bad)]
            right(all((one.prompt, one.image) == ("fine", encoded()) for one in good), "wrong")
            right(len(found) > len(good), "nothing was said")
            return "told"

        yield Case("shards", f"packed, {name}", run)
    for name, how in itertools.product(("0.tar", "0.tar.gz", "0.tgz", "0.parquet"), PLACES):

        def run(folder, name=name, how=how):
            place(folder, how, b"").rename(folder / name)
            list(triplets(folder))
            raise Silent("it was read")

        yield Case("shards", f"{name} is a {how}", run)


# ------------------------------------------------------------------------------------ pictures

FORMATS = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {},
           "GIF": {}, "PPM": {}, "JPEG2000": {}}  # fmt: skip


def pictures() -> Iterator[Case]:
    """Every format with every damage, under another name, and with something behind its end."""
    more = {"as it is": lambda data: data, "with more behind": lambda data: data + b"more" * 99,
            "a tenth gone": lambda data: data[: len(data) * 9 // 10]}  # fmt: skip
    for (format_, options), how in itertools.product(FORMATS.items(), (*more, *DAMAGE, *PLACES)):

        def run(folder, format_=format_, options=options, how=how):
            data = encoded(format_, **options)
            if how in more:
                path = folder / "picture.dat"
                path.write_bytes(more[how](data))
            else:
                path = place(folder, how, data)
            got = np.asarray(images.read(path).convert("RGB"), float)
            wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
            right(got.shape == wanted.shape and np.abs(got - wanted).mean() < 3, "another picture")
            return "opens"

        yield Case("pictures", f"{format_}, {how}", run)

    def segments(folder):
        table = b"\xff\xdb" + struct.pack(">H", 67) + bytes(65)
        images.read(b"\xff\xd8" + 99_000 * table + b"\xff\xda\0\2")
        raise Silent("it was read")

    yield Case("pictures", "JPEG, 99 000 tables and no pixels", segments)


# ------------------------------------------------------------------------------------- weights


def weights() -> Iterator[Case]:
    """A file of weights that is damaged or something else, each kind by its own reader."""
    readers = {
        "transformer": ("own/transformer.safetensors", lambda path: safetensors_io.load_into(
            build_tiny_pipeline().transformer, path)),
        "LoRA": ("lora.safetensors", lambda path: lora.load(path, tiny().transformer)),
        "any file, to convert": ("own/transformer.safetensors", lambda path: convert.convert(
            path, path.with_name("made"))),
    }  # fmt: skip
    header = {
        "a header of 2⁶⁰ bytes": lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
        "a header of no bytes": lambda data: bytes(8) + data[8:],
        "a header that is no JSON": lambda data: data[:8] + b"{" * 20 + data[28:],
        "bytes behind its end": lambda data: data + b"more",
    }
    for (what, (name, read)), how in itertools.product(
        readers.items(), (*DAMAGE, *PLACES, *header)
    ):

        def run(folder, name=name, read=read, how=how):
            data = (sound() / name).read_bytes()
            if how in header:
                path = folder / "file"
                path.write_bytes(header[how](data))
            else:
                path = place(folder, how, data)
            if not path.is_dir():
                path = path.rename(folder / "x.safetensors") if how not in LINKS else path
            read(path)
            raise Silent("it was read")

        yield Case("weights", f"{what}, {how}", run)


def folders() -> Iterator[Case]:
    """A folder of weights whose config.json says something else."""
    text = (sound() / "own/config.json").read_text()

    def put(*path, value):
        def change(config):
            for name in path[:-1]:
                config = config[name]
            config[path[-1]] = value

        return change

    changes = {
        "no transformer": lambda c: c.pop("transformer"),
        "a part is a list": put("autoencoder", value=[]),
        "name is a number": put("name", value=7),
        "version 2": put("format_version", value=2),
        "another format": put("format", value="other"),
        "an unknown key": put("transformer", "deepth", value=1),
        "an unknown part": put("saftey", value="toy"),
        "shares of text": put("shares", value="toy"), "shares of a list": put("shares", value=[]),
        "20 000 levels": put("autoencoder", "ch_mult", value=[1] * 20_000),
        "no levels": put("autoencoder", "ch_mult", value=[]),
        "a level of width 0": put("autoencoder", "ch_mult", value=[0, 1, 1, 1]),
        "filters that do not exist": put("safety", value="nobody"),
        "10⁹ default steps": put("defaults", "num_inference_steps", value=10**9),
        "no steps": put("defaults", "num_inference_steps", value=0),
        "sizes of nothing": put("defaults", "sizes", value=[[0, 0]]),
        "an unknown default": put("defaults", "stpes", value=3),
        "an unknown layout": put("defaults", "context_layout", value="sideways"),
        "two equal words": put("text_encoder", "vocabulary", value=["a", "a"]),
        "words of numbers": put("text_encoder", "vocabulary", value=[1, 2]),
        "scale factor 0": put("autoencoder", "scale_factor", value=0.0),
        "scale factor of text": put("autoencoder", "scale_factor", value="1"),
        "groups that do not divide": put("autoencoder", "norm_groups", value=3),
        "axes that do not fit": put("transformer", "axes_dim", value=[4, 4, 4]),
        "heads that do not divide": put("transformer", "num_heads", value=7),
    }
    for part, name in (("transformer", "hidden_size"), ("transformer", "depth"),
                       ("autoencoder", "ch"), ("text_encoder", "width")):  # fmt: skip
        for value in (0, -1, 10**18, "8", None, 1.5, [1]):
            changes[f"{part}.{name} = {value!r}"] = put(part, name, value=value)
    for name, change in changes.items():

        def run(folder, change=change):
            shutil.copytree(sound() / "own", folder / "w")
            config = json.loads(text)
            change(config)
            (folder / "w/config.json").write_text(json.dumps(config))
            pipe = KontextPipeline.from_pretrained(folder / "w", "cpu", "float32")
            pipe("the hat", seed=0, progress=False, num_inference_steps=1)
            raise Silent("it painted")

        yield Case("folders", name, run)
    raw = {"empty": "", "a list": "[]", "nested": "[" * 50_000, "NaN": '{"format": NaN}',
           "6000 digits": '{"format_version": ' + "9" * 6000 + "}", "half": text[: len(text) // 2],
           "the last of 200 000 keys twice": json.dumps(dict.fromkeys(range(199_999)))[:-1]
           + ', "199998": 0}',
           "UTF-16": text.encode("utf-16").decode("latin-1")}  # fmt: skip
    for name, content in raw.items():

        def run(folder, content=content):
            shutil.copytree(sound() / "own", folder / "w")
            (folder / "w/config.json").write_text(content, encoding="latin-1")
            KontextPipeline.from_pretrained(folder / "w", "cpu")
            raise Silent("it opened")

        yield Case("folders", f"config.json: {name}", run)


# ---------------------------------------------------------------------------------------- LoRA


def loras() -> Iterator[Case]:
    """LoRA files that cannot be meant, or are of another kind."""
    names = sorted(load_file(sound() / "lora.safetensors"))
    first, partner = names[0], names[1]
    stem = first.split(".lora_")[0]
    odd: dict[str, Callable[[dict], object]] = {
        "no partner": lambda s: s.pop(partner),
        "another rank": lambda s: s.update({first: s[first][:1]}),
        "another width": lambda s: s.update({first: torch.zeros(2, 5)}),
        "whole numbers": lambda s: s.update({first: s[first].long()}),
        "NaN": lambda s: s.update({first: s[first] * math.nan}),
        "infinity": lambda s: s.update({first: s[first] + math.inf}),
        "one dimension": lambda s: s.update({first: s[first].flatten()}),
        "alpha of two numbers": lambda s: s.update({f"{stem}.alpha": torch.ones(2)}),
        "another model's layer": lambda s: s.update(
            {first.replace("0", "99", 1): s[first] + 0}
        ),
        "nothing": lambda s: s.clear(),
        "only text encoders": lambda s: (
            s.clear(), s.update({"lora_te1_x.lora_up.weight": torch.ones(2, 2)})
        ),
    }  # fmt: skip
    for value in (math.nan, math.inf, -math.inf, 1e9):
        odd[f"alpha {value}"] = lambda s, v=value: s.update({f"{stem}.alpha": torch.tensor(v)})
    for leaf in ("dora_scale", "lora_magnitude_vector.weight", "oft_blocks", "ia3_l.weight",
                 "lora_mid.weight", "lokr_t2", "hada_t1", "unknown", "weight"):  # fmt: skip
        odd[leaf] = lambda s, n=leaf: s.update({f"{stem}.{n}": torch.ones(2, 2)})
    wide = tiny().transformer.config.hidden_size
    other = "double_blocks.0.img_attn.qkv", "transformer.transformer_blocks.0.attn.to_q"
    thin = {"lora_A.weight": torch.ones(2, wide), "lora_B.weight": torch.ones(3 * wide, 2)}
    odd |= {
        "a part of rows twice": lambda s: s.update(
            {f"{other[0]}.{n}": t for n, t in thin.items()}
        ),
        "two adapters": lambda s: s.update({
            n.replace("lora_A", "lora_A.second").replace("lora_B", "lora_B.second"): t + 1
            for n, t in [*s.items()]
        }),
        "a bias of another length": lambda s: s.update({f"{stem}.lora_B.bias": torch.ones(5)}),
        "two biases": lambda s: s.update({f"{stem}.{n}": torch.ones(len(s[partner])) for n in (
            "lora_B.bias", "diff_b")}),
        "a bias alone": lambda s: (s.clear(), s.update({f"{stem}.lora_B.bias": torch.ones(5)})),
        "a norm's difference": lambda s: s.update(
            {"double_blocks.0.img_attn.norm.query_norm.scale.diff": torch.ones(8)}),
        "modules to save": lambda s: s.update({"base_model.model.img_in.weight": torch.ones(8, 8)}),
        "packed by bitsandbytes": lambda s: s.update({f"{stem}.absmax": torch.ones(2)}),
    }  # fmt: skip
    for leaf in ("lora_E", "ranknum", "lora_A.my.v1.weight", "alpha.weight", "reshape_weight",
                 "vera_lambda_b", "boft_R", "a1.weight", "w_norm", "scalar", "set_weight",
                 "lora_embedding_A", "lora_down.bias", "on_input"):  # fmt: skip
        odd[leaf] = lambda s, n=leaf: s.update({f"{stem}.{n}": torch.ones(2, 2)})
    for name, change in odd.items():

        def run(folder, change=change):
            state = load_file(sound() / "lora.safetensors")
            change(state)
            save_file({n: t.contiguous() for n, t in state.items()}, folder / "x.safetensors")
            lora.load(folder / "x.safetensors", tiny().transformer)
            raise Silent("it was taken")

        yield Case("LoRA", name, run)

    def many(folder, layers=500, patterns=2000):
        thin_ = {f"transformer.x{i}.lora_{ab}.weight": torch.ones(1, 1) for i in range(layers)
                 for ab in "AB"}  # fmt: skip
        save_file(thin_, folder / "adapter_model.safetensors")
        ranks = {f"y{i}.*z": 1 for i in range(patterns)}
        (folder / "adapter_config.json").write_text(json.dumps({"r": 1, "rank_pattern": ranks}))
        lora.load(folder, tiny().transformer)
        raise Silent("it was taken")

    yield Case("LoRA", "500 layers, 2000 patterns", many)
    yield Case("LoRA", "9000 layers", functools.partial(many, layers=9000))
    settings = {
        "alpha of text": {"lora_alpha": "x"}, "alpha without end": {"lora_alpha": 10**40},
        "DoRA": {"use_dora": True}, "rank of text": {"r": "x"},
        "an endless expression": {"rank_pattern": {"(a+)+$": 4}},
        "a repeat without end": {"alpha_pattern": {"a{99999999999}": 1}},
        "no expression": {"alpha_pattern": {"[": 1}}, "5000 patterns": {
            "alpha_pattern": {f"a{i}": 1 for i in range(5000)}},
        "a list": [], "patterns in a list": {"rank_pattern": [[1, 2]]},
        "PiSSA": {"init_lora_weights": "pissa"}, "OLoRA": {"init_lora_weights": "olora"},
        "LoftQ": {"init_lora_weights": "loftq"}, "CorDA": {"init_lora_weights": "corda"},
        "layers twice": {"layer_replication": [[0, 2], [1, 2]]},
        "another rank": {"r": 64, "lora_alpha": 64}, "a rank of 0": {"r": 0},
        "a rank below 1": {"rank_pattern": {".*": -3}}, "LoHa": {"peft_type": "LOHA", "r": 2},
        "LoKr": {"peft_type": "LOKR", "r": 2}, "text for a bool": {"use_rslora": "false"},
        "a bool for alpha": {"lora_alpha": True}, "text for alpha": {"lora_alpha": "16"},
        "a list for alpha": {"lora_alpha": [16]}, "QALoRA": {"use_qalora": True},
        "only behind words": {"alora_invocation_tokens": [1, 2]},
        "in blocks": {"use_bdlora": {"target_modules_bd_a": ["x"]}},
        "KaSA": {"kasa_config": {"beta": 1}}, "Arrow": {"arrow_config": {"top_k": 1}},
    }  # fmt: skip
    for name, facts in settings.items():

        def run(folder, facts=facts):
            shutil.copy(sound() / "lora.safetensors", folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(facts))
            lora.load(folder, tiny().transformer)
            raise Silent("it was taken")

        yield Case("LoRA", f"settings: {name}", run)


# ------------------------------------------------------------------------------------ encoders


def encoders() -> Iterator[Case]:
    """Folders of text encoders that name code, kernels, or sizes of no sense."""
    odd = {
        "a kernel of a hub": {"attn_implementation": "somebody/some-kernel"},
        "a kernel, with an underscore": {"_attn_implementation": "somebody/some-kernel"},
        "a kernel by part": {"attn_implementation": {"a": "somebody/k"}},
        "experts of a hub": {"experts_implementation": "somebody/k"},
        "a quantiser": {"quantization_config": {"quant_method": "gptq"}},
        "kernels": {"kernel_config": {"a": "b"}},
        "use kernels": {"use_kernels": True},
        "another file": {"transformers_weights": "other.safetensors"},
        "fusions": {"fusion_config": {"a": "b"}},
        "a compressor": {"compression_config": {"quant_method": "x"}},
        "a million layers": {"num_hidden_layers": 10**6, "num_layers": 10**6},
        "10¹² words": {"vocab_size": 10**12},
        "a width of 0": {"hidden_size": 0, "d_model": 0},
        "a width of text": {"hidden_size": "x", "d_model": "x"},
    }
    for (name, change), part in itertools.product(odd.items(), ("text_encoder", "text_encoder_2")):

        def run(folder, change=change, part=part):
            shutil.copytree(sound() / "flux", folder / "w")
            path = folder / "w" / part / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
            KontextPipeline.from_pretrained(folder / "w", "cpu")
            raise Silent("it opened")

        yield Case("encoders", f"{name} in {part}", run)

    def scaled(state):
        names = [n for n, t in state.items() if t.dim() == 2 and "layer" in n]
        made = {n: (state[n].float() * 100).to(torch.float8_e4m3fn) for n in names}
        made |= {n.removesuffix("weight") + "scale_weight": torch.tensor(0.01) for n in names}
        return state | made

    stored = {
        "behind module.": lambda s: {f"module.{n}": t for n, t in s.items()},
        "compiled": lambda s: {f"_orig_mod.{n}": t for n, t in s.items()},
        "behind net.": lambda s: {f"net.{n}": t for n, t in s.items()},
        "scaled float8": scaled,
        "a scale gone": lambda s: {
            n: t for i, (n, t) in enumerate(scaled(s).items()) if i < len(scaled(s)) - 1},
        "a tensor gone": lambda s: dict([*s.items()][1:]),
        "a tensor more": lambda s: s | {"more.weight": torch.ones(2)},
    }  # fmt: skip
    for (name, change), part in itertools.product(
        stored.items(), ("text_encoder", "text_encoder_2")
    ):

        def run(folder, change=change, part=part):
            shutil.copytree(sound() / "flux", folder / "w")
            path = folder / "w" / part / "model.safetensors"
            state = change(load_file(path))
            path.unlink()
            save_file(state, path)
            pipe = FluxTextEncoder.from_folder(folder / "w", torch.float32)
            whole = FluxTextEncoder.from_folder(sound() / "flux", torch.float32)
            got, wanted = (p.encode(["a hat"]) for p in (pipe, whole))
            pairs = (got.tokens, wanted.tokens), (got.pooled, wanted.pooled)
            close = [torch.allclose(a, b, atol=0.3 * float(b.abs().max())) for a, b in pairs]
            right(all(close), "other features")
            return "opens"

        yield Case("encoders", f"{name} in {part}", run)
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):

        def run(folder, part=part):
            shutil.copytree(sound() / "flux", folder / "w")
            place_ = folder / "w" / part
            (place_ / "evil.py").write_text("import os; os.mkdir('/tmp/ran'); class Evil: pass")
            for path in place_.glob("*config.json"):
                facts = json.loads(path.read_text())
                auto = dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "evil.Evil")
                path.write_text(json.dumps(facts | {"auto_map": auto}))
            pipe = KontextPipeline.from_pretrained(folder / "w", "cpu", "float32")
            whole = KontextPipeline.from_pretrained(sound() / "flux", "cpu", "float32")
            got, wanted = (p.encode_text(["a hat"]).tokens for p in (pipe, whole))
            right(torch.equal(got, wanted), "other features")
            return "opens"

        yield Case("encoders", f"code beside {part}", run)


# ------------------------------------------------------------------------------------- configs


def configs() -> Iterator[Case]:
    """Every kind of config that is shipped, with one mistake in it."""
    mistakes = {
        "an unknown key": ("", "ofload", "8-bit"), "an unknown section": ("trainng", "a", 1),
        "no steps": ("loop", "steps", 0), "2⁶³ steps": ("loop", "steps", 2**63),
        "steps of text": ("loop", "steps", "many"), "steps in a list": ("loop", "steps", [1]),
        "a rate that is no number": ("loop", "lr", math.nan),
        "a rate without end": ("loop", "lr", math.inf), "a negative rate": ("loop", "lr", -1.0),
        "true for a number": ("loop", "steps", True), "a misspelt key": ("loop", "warmpu", 3),
        "an unknown checkpointing": ("parallel", "checkpointing", "some"),
    }  # fmt: skip
    for path in sorted((ROOT / "configs").glob("*.toml")):
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if values.get("kind") not in JOBS or "'stage:" in repr(values):
            continue
        for name, (section, key, value) in mistakes.items():

            def run(folder, path=path, section=section, key=key, value=value):
                values = tomllib.loads(path.read_text(encoding="utf-8"))
                place_ = values.setdefault(section, {}) if section else values
                place_[key] = value
                build_job(values)
                raise Silent("it was taken")

            yield Case("configs", f"{path.stem}: {name}", run)


# ------------------------------------------------------------------------------ caches and runs


def loop(folder: Path) -> Loop:
    """A tiny loop."""
    torch.manual_seed(0)
    return Loop(torch.nn.Linear(3, 4), LoopConfig(5, save_every=3, log_every=1), folder)


@functools.cache
def trained() -> Path:
    """A run with two checkpoints, of steps 3 and 5."""
    folder = sound() / "run"
    one = loop(folder)
    one.run(lambda step: (one.model(torch.ones(2, 3)).square().mean(), {}))
    return folder


def runs() -> Iterator[Case]:
    """A checkpoint with a byte flipped anywhere, or cut, or gone."""
    data = (trained() / "checkpoint.safetensors").read_bytes()
    cuts = {f"cut at {share:.0%}": data[: int(share * len(data))] for share in (0, 0.3, 0.7, 0.99)}
    flips = {}
    for number in range(24):
        at = 8 + number * (len(data) - 9) // 23
        flips[f"byte {at} flipped"] = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
    for name, content in {**cuts, **flips}.items():

        def run(folder, content=content):
            shutil.copytree(trained(), folder / "run")
            (folder / "run/checkpoint.safetensors").unlink()  # it may be the last one, too
            (folder / "run/checkpoint.safetensors").write_bytes(content)
            one = loop(folder / "run")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                right(one.resume(), "it starts over without a word")
            if one.step == 5:
                right(content == data, "a damaged checkpoint was taken")
                return "opens"
            right(one.step == 3 and said, f"step {one.step} without a word")
            return "told"

        yield Case("checkpoints", name, run)
    for gone, step in (("checkpoint", 3), ("checkpoint.last", 5), ("checkpoint*", 0)):

        def lost(folder, gone=gone, step=step):
            shutil.copytree(trained(), folder / "run")
            for path in (folder / "run").glob(f"{gone}.safetensors"):
                path.unlink()
            one = loop(folder / "run")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                one.resume()
            right(one.step == step and bool(said) == (step < 5), f"step {one.step}: {said}")
            return "told" if said else "opens"

        yield Case("checkpoints", f"{gone} gone", lost)


def caches() -> Iterator[Case]:
    """An encoded folder with a part that is damaged, gone, or of another sample."""

    def made(folder):
        source = folder / "source"
        source.mkdir()
        for number in (1, 2):
            Image.new("RGB", (64, 64), (9 * number, 0, 0)).save(source / f"{number}.png")
            (source / f"{number}.txt").write_text(f"prompt {number}")
        encode_folder(source, folder / "cache", tiny(), side=64)
        return folder / "cache"

    def every(cache):
        found = Encoded(cache)
        read = {found.places[i][0]: found.sample(i) for i in range(len(found))}
        read[""] = found.null()
        # Copies: what is read lies in a mapped file, which the case is about to cut.
        return {key: {n: t.clone() for n, t in one.items()} for key, one in read.items()}

    odd: dict[str, Callable[[dict], object]] = {
        "another shape": lambda told: told["samples"][0].update(shapes=[[4, 2, 2]]),
        "shapes of text": lambda told: told["samples"][0].update(shapes="x"),
        "keys exchanged": lambda told: told["samples"].reverse(),
        "a key that is not there": lambda told: told["samples"][0].update(key="9.png"),
        "another sum": lambda told: told.update(sha256="0" * 64),
        "resized of text": lambda told: told["samples"][0].update(resized=["a", "b"]),
    }
    for key in ("samples", "skipped", "sha256"):
        odd[f"no {key}"] = lambda told, key=key: told.pop(key)
        odd[f"{key} is a number"] = lambda told, key=key: told.update({key: 1})
    for name, change in odd.items():

        def run(folder, change=change):
            cache = made(folder)
            wanted, path = every(cache), cache / "triplets-000000.json"
            told = json.loads(path.read_text())
            change(told)
            path.write_text(json.dumps(told))
            got = every(cache)
            same = all(torch.equal(got[k][n], t) for k in wanted for n, t in wanted[k].items())
            right(same and got.keys() == wanted.keys(), "samples were exchanged or lost")
            return "opens"

        yield Case("caches", name, run)
    for text in ("[]", "3", "{}", '"x"', "[" * 100_000, '{"bytes": 1, "bytes": 2}'):

        def run(folder, text=text):
            cache = made(folder)
            wanted = every(cache)
            (cache / "triplets-000000.json").write_text(text)
            encode_folder(folder / "source", cache, tiny(), side=64)
            right(every(cache).keys() == wanted.keys(), "other samples")
            return "opens"

        yield Case("caches", f"a shard's facts are {text[:9]}", run)
    for file in (
        "triplets-000000.safetensors",
        "triplets-000000.json",
        "null.safetensors",
        "cache.json",
    ):
        for how in ("empty", "half", "only zeros", "last byte gone"):

            def run(folder, file=file, how=how):
                cache = made(folder)
                wanted, data = every(cache), (cache / file).read_bytes()
                (cache / file).write_bytes(DAMAGE[how](data))
                encode_folder(folder / "source", cache, tiny(), side=64)
                got = every(cache)
                same = all(torch.equal(got[k][n], t) for k in wanted for n, t in wanted[k].items())
                right(same, "other samples")
                return "opens"

            yield Case("caches", f"{file}, {how}", run)


# ------------------------------------------------------------------------------------- results


def outputs() -> Iterator[Case]:
    """Places where no result can be written, by everything that writes one."""
    writers = {
        "a picture": lambda path: provenance.save(picture(), path.with_name(path.name + ".png")),
        "weights": lambda path: tiny().save_pretrained(path),
        "a LoRA": lambda path: lora.save(lora.new(tiny().transformer, 2), tiny().transformer, path),
        "converted weights": lambda path: convert.rewrite(
            sound() / "own/transformer.safetensors", path.with_name(path.name + ".safetensors")),
        "a text": lambda path: files.write_text(path, "x"),
    }  # fmt: skip
    places = {
        "a name too long": lambda folder: folder / ("x" * 300),
        "a name with a NUL": lambda folder: folder / "a\0b",
        "a file for a folder": lambda folder: folder / "file" / "x",
        "a link in a circle for a folder": lambda folder: folder / "circle" / "x",
        "a device for a folder": lambda folder: Path("/dev/null/x"),
        "a system's folder": lambda folder: Path("/proc/x"),
    }
    for (what, write), (where, at) in itertools.product(writers.items(), places.items()):

        def run(folder, write=write, at=at):
            (folder / "file").write_text("precious")
            (folder / "circle").symlink_to("circle")
            try:
                write(at(folder))
            finally:
                right((folder / "file").read_text() == "precious", "a file was overwritten")
            raise Silent("it says that it was written")

        yield Case("results", f"{what} to {where}", run)


EVIL = {
    "an escape": "a\x1b[31mred", "a bell": "a\x07b", "a new line": "a\nFAKE: all is well",
    "right to left": "a\u202egnp.exe", "a line separator": "a\u2028b",
    "a backspace": "ab\x08\x08", "a C1 control": "a\x9b31m", "a zero width": "a\u200bb",
    "a hyphen unseen": "a\u00adb",
}  # fmt: skip


def terminals() -> Iterator[Case]:
    """What a stranger's file says is never printed as it is."""

    def said(*arguments):
        out = io.StringIO()
        before, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), out, out
        try:
            code = app.main(list(map(str, arguments)))
        except SystemExit as stop:  # of what is no command
            code = stop.code
        finally:
            sys.stdout, sys.stderr = before
        if code == 4:
            raise RuntimeError(out.getvalue())
        return out.getvalue()

    def from_prompt(folder, text):
        made = provenance.Provenance(prompt=text, seed="0", weights=text)
        return said("inspect", provenance.save(picture(), folder / "x.png", made))

    def from_chunk(folder, text):
        info = PngImagePlugin.PngInfo()
        info.add_text("minikontext", text)
        picture().save(folder / "x.png", pnginfo=info)
        return said("inspect", folder / "x.png")

    def from_tensor(folder, text):
        save_file({text: torch.ones(2)}, folder / "x.safetensors")
        return said("weights", "inspect", folder / "x.safetensors")

    def from_config(folder, text):
        path = folder / "x.toml"
        path.write_text(f"kind = {json.dumps(text)}\n", encoding="utf-8")
        return said("train", path)

    def from_name(folder, text):
        return said("edit", folder / f"{text}.png", "the hat", "--weights", sound() / "own")

    def from_good_name(folder, text):
        shutil.copyfile(ROOT / "data/images/demo.png", folder / f"{text}.png")
        (folder / "out").mkdir()
        return said("edit", folder / f"{text}.png", "the hat", "-o", f"{folder / 'out'}/",
                    "--weights", sound() / "own", "--steps", 1, "--quiet")  # fmt: skip

    def from_folder(folder, text):
        shutil.copytree(sound() / "own", folder / text)
        return said("weights", "verify", folder / text) + said("weights", "inspect", folder / text)

    def from_run(folder, text):
        values = lora_job(folder) | {"run": str(folder / text)}
        (folder / "x.toml").write_text(as_toml(values), encoding="utf-8")
        return said("train", folder / "x.toml")

    def from_error(folder, text):
        save_file({f"a.{text}": torch.ones(2)}, folder / "x.safetensors")
        try:
            return f"{lora.load(folder / 'x.safetensors', tiny().transformer)}"
        except MinikontextError as error:
            return str(error)

    def from_warning(folder, text):
        state = load_file(sound() / "lora.safetensors")
        save_file(state | {f"lora_te_{text}": torch.ones(2)}, folder / "x.safetensors")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lora.load(folder / "x.safetensors", tiny().transformer)
        return "".join(str(one.message) for one in caught)

    def from_option(folder, text):
        return said("inspect", "x.png", f"--{text}")

    def from_lossy_name(folder, text):
        return said("edit", ROOT / "data/images/demo.png", "the hat", "-o", folder / f"{text}.jpg",
                    "--weights", sound() / "own", "--steps", 1)  # fmt: skip

    def from_gguf(folder, text):
        name = text.encode()
        head = b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, len(name)) + name
        head += struct.pack("<IQIQ", 1, 8, 0, 0)
        (folder / "x.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(32))
        return said("weights", "verify", folder / "x.gguf")

    def from_header(folder, text):
        note = json.dumps({"layers": {text: {"format": text}}})
        save_file(numbers(), folder / "x.safetensors", {"_quantization_metadata": note})
        return said("weights", "verify", folder / "x.safetensors")

    def from_cell(folder, text):
        return report.table(["a"], [[text]]).split("|\n")[-1]

    readers = (from_prompt, from_chunk, from_tensor, from_config, from_name, from_good_name,
               from_folder, from_run, from_error, from_warning, from_option, from_lossy_name,
               from_gguf, from_header, from_cell)  # fmt: skip
    for (what, text), read in itertools.product(EVIL.items(), readers):

        def run(folder, text=text, read=read):
            printed = read(folder, text)
            right(text not in printed, f"printed as it is: {printed!r:.200}")
            hidden = set("\x1b\x07\x08\x9b\u202e\u2028\u200b\u00ad")
            right(not hidden & set(printed), "a control is printed")
            right(printed.strip(), "nothing was said")
            return "told"

        yield Case("terminals", f"{what}, {read.__name__[5:]}", run)


# ------------------------------------------------------------------------------- calls, sessions

HUGE = 10**6000  # Python refuses to print it


def calls() -> Iterator[Case]:
    """Arguments of a call that make no sense."""
    odd: dict[str, tuple[object, ...]] = {
        "seed": (HUGE, 2**64, 1.5, "x", True, [0, 1], math.nan),
        "num_inference_steps": (0, HUGE, 1.5, "x", True, math.inf, 10**9),
        "width": (0, -64, HUGE, 1.5, "64", True, math.nan, 10**9),
        "guidance_scale": (math.nan, HUGE, 10**400, -1, "x", True),
        "true_cfg_scale": (math.nan, HUGE, 10**400, -1, "x", True),
        "num_images_per_prompt": (0, HUGE, 10**9, 1.5, "x", True),
        "step_cache": (math.nan, HUGE, -1, "x", True),
        "negative_prompt": (3, ["a", "b"], "\ud800", b"x", [None]),
        "image": (
            np.zeros((4, 4, 3), "f"), np.zeros((3, 4, 5), "B"), np.zeros((0, 4, 3), "B"),
            Image.fromarray(np.full((8, 8), math.nan, np.float32)), [None], 3, {}, b"", "", "/",
            torch.full((1, 4, 8, 8), math.nan), [picture()] * 20, "http://127.0.0.1:9/x.png",
        ),
    }  # fmt: skip
    for name, values in odd.items():
        for number, value in enumerate(values):

            def run(folder, name=name, value=value):
                options = {"num_inference_steps": 1, "width": 64, "height": 64, "seed": 0}
                tiny()("the hat", progress=False, **(options | {name: value}))
                raise Silent("it painted")

            yield Case("calls", f"{name} {number}", run)
    for number, prompt in enumerate((None, 3, b"x", [], ["a", None], "\ud800", "x" * 10**6)):

        def run(folder, prompt=prompt):
            tiny()(prompt, num_inference_steps=1, progress=False)
            raise Silent("it painted")

        yield Case("calls", f"prompt {number}", run)
    for layers_ in ("(", "a{99999999999}", "(" * 9000):

        def run(folder, layers_=layers_):
            lora.new(tiny().transformer, 2, layers_)
            raise Silent("it was taken")

        yield Case("calls", f"LoRA's layers {layers_[:20]}", run)
    for number, scale in enumerate((HUGE, 10**400, math.nan, math.inf, "x", None, True)):

        def run(folder, scale=scale):
            lora.load(sound() / "lora.safetensors", tiny().transformer, scale)
            raise Silent("it was taken")

        yield Case("calls", f"LoRA's scale {number}", run)


@functools.cache
def told_session() -> dict:
    """A session of one edit, as its file has it."""
    one = session.Session(picture().resize((64, 64)))
    one.turns.append(one.edit(tiny(), session.Wish("the hat", width=64, height=64, steps=1)))
    return json.loads(one.encode(tiny()))


def sessions() -> Iterator[Case]:
    """A session's file that was changed, or is none."""
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**9).to_bytes(4, "big") * 2 + bytes(9)
    changes: dict[str, dict] = {
        "another format": {"format": "x"}, "a path for weights": {"weights": 7},
        "no picture": {"start": "AAAA"}, "a picture that is no text": {"start": 3},
        "a picture of 10¹⁸ pixels": {"start": base64.b64encode(bomb).decode()},
        "no fingerprint": {"fingerprint": None}, "pictures in a list": {"pictures": []},
        "an unknown key": {"run": "import os"}, "edits of text": {"edits": ["x"]},
        "1001 edits": {"edits": [{"prompt": "x"}] * 1001},
        "5 edits of 9000 steps": {"edits": [{"prompt": "x", "steps": 9000}] * 5},
        "16 384 pixels a side": {"edits": [{"prompt": "x", "width": 2**14, "height": 2**14}]},
    }  # fmt: skip
    brush = {"kind": "brush", "points": [[0.1, 0.2]]}
    wishes = {
        "of itself": {"parent": 0}, "before the start": {"parent": -2}, "of text": {"parent": "x"},
        "a lost picture": {"others": ["x"]}, "10⁹ steps": {"steps": 10**9},
        "10⁴⁰": {"seed": 10**40}, "a side of 2³¹": {"width": 2**31, "height": 64},
        "half a character": {"prompt": "\ud800"}, "10⁶ letters": {"prompt": "x" * 10**6},
        "a mark outside": {"marks": [brush | {"points": [[2, 0]]}]},
        "a mark of NaN": {"marks": [brush | {"points": [[math.nan, 0]]}]},
        "a mark without points": {"marks": [brush | {"points": []}]},
        "an unknown mark": {"marks": [brush | {"kind": "x"}]},
        "101 marks": {"marks": [brush] * 101}, "an unknown wish": {"offload": "x"},
    }  # fmt: skip
    for name, change in [*changes.items(), *wishes.items()]:

        def run(folder, name=name, change=change):
            told = json.loads(json.dumps(told_session()))
            told.update(change) if name in changes else told["edits"][0].update(change)
            (folder / "s.json").write_text(json.dumps(told))
            session.replay(folder / "s.json", tiny())
            raise Silent("it was replayed")

        yield Case("sessions", name, run)
    for how in (*PLACES, *DAMAGE):

        def run(folder, how=how):
            session.replay(place(folder, how, json.dumps(told_session()).encode()), tiny())
            raise Silent("it was replayed")

        yield Case("sessions", how, run)


def texts() -> Iterator[Case]:
    """Pipes, devices, folders and damage for the texts that a training reads."""

    def caption(path, folder):
        (folder / "s").mkdir()
        (folder / "s/a.png").write_bytes(encoded())
        path.rename(folder / "s/a.txt")
        right([one.why for one in triplets(folder / "s")], "left out without a word")
        raise MinikontextError("told")

    readers = {
        "a config": lambda path, folder: read_config(path),
        "settings of a LoRA": lambda path, folder: (
            shutil.copy(sound() / "lora.safetensors", folder / "adapter_model.safetensors"),
            path.rename(folder / "adapter_config.json"),
            lora.load(folder, tiny().transformer),
        ),
        "a caption": caption,
        "a log of a record": lambda path, folder: records.minutes_of(path),
    }  # fmt: skip
    for (what, read), how in itertools.product(readers.items(), PLACES):

        def run(folder, read=read, how=how):
            read(place(folder, how, b""), folder)
            raise Silent("it was read")

        yield Case("texts", f"{what}: {how}", run)
    for name, line in {
        "NaN": '{"step": 1, "seconds": NaN}', "endless": '{"step": 1, "seconds": 1e999}',
        "6000 digits": '{"step": 1, "seconds": ' + "9" * 4000 + "}", "text": '{"step": "x"}',
        "backwards": '{"step": 2, "seconds": 9}\n{"step": 1, "seconds": 9}', "a list": "[1]",
        "before its beginning": '{"step": 1, "seconds": -9}', "nothing": "",
    }.items():  # fmt: skip

        def run(folder, line=line):
            (folder / "log.jsonl").write_text(line)
            records.minutes_of(folder / "log.jsonl")
            raise Silent("it counts")

        yield Case("texts", f"a log of a record: {name}", run)


# ---------------------------------------------------------------------- rows and controls, packed


def layouts() -> Iterator[Case]:
    """Rows and folders of controls whose contexts or prompts would be taken for others."""
    head = "file_name,contexts,prompt\n"
    rows = {
        "a comma without quotes": head + "a.png,b.png,make it red, please\n",
        "too few cells": head + "a.png,b.png\n",
        "a quote without its end": head + 'a.png,b.png,"x\n',
        "a column twice": "file_name,prompt,prompt\na.png,x,y\n",
        "a cell of 200 000 letters": head + f"a.png,,{'x' * 200_000}\n",
        "a NUL": head + "a.png,,a\0b\n",
    }
    odd = ("false", "0", "{}", "[null]", "[[]]", '["../b.png"]', "1e999", "[1]")
    lines = [f'{{"file_name": "a.png", "prompt": "x", "contexts": {value}}}' for value in odd]
    lines += ["[]", "null", "{", '{"file_name": "a.png"}', '{"prompt": "x"}']
    lines.append('{"file_name": "a.png", "prompt": []}')
    lines.append(json.dumps({"file_name": "a.png", "prompt": "x", "contexts": ["b.png"] * 65}))
    for name, text in [*rows.items(), *((line, line) for line in lines)]:

        def run(folder, name=name, text=text):
            for one in "ab":
                (folder / f"{one}.png").write_bytes(encoded())
            (folder / f"metadata.{'csv' if name in rows else 'jsonl'}").write_text(text)
            found = list(triplets(folder))
            right(found and all(isinstance(one, Bad) and one.why for one in found), f"{found}")
            return "told"

        yield Case("layouts", name[:60], run)
    folders_ = {
        "the first of two controls is lost": ("control2/1.png",),
        "the second of three is lost": ("control1/1.png", "control3/1.png", "control2/2.png"),
        "two controls of one name": ("control1/1.png", "control1/1.jpg"),
        "no control": ("control1/2.png",),
    }
    for name, pictures_ in folders_.items():

        def run(folder, pictures_=pictures_):
            for number in "123":
                (folder / f"control{number}").mkdir()
            (folder / "target").mkdir()
            (folder / "target/1.txt").write_text("x")
            for path in ("target/1.png", *pictures_):
                (folder / path).write_bytes(encoded())
            found = list(triplets(folder))
            right(all(isinstance(one, Bad) and one.why for one in found), f"{found}")
            return "told"

        yield Case("layouts", name, run)


# ------------------------------------------------------------------------- what a run is made from


def lora_job(folder: Path) -> dict:
    """The config of a LoRA on tiny weights, which lie in the folder with the pictures."""
    shutil.copytree(sound() / "own", folder / "base")
    shutil.copy(sound() / "lora.safetensors", folder / "start.safetensors")
    (folder / "pictures").mkdir()
    for number in (1, 2):
        Image.new("RGB", (64, 64), (90 * number, 0, 0)).save(folder / f"pictures/{number}.png")
        (folder / f"pictures/{number}.txt").write_text("make the hat red")
    return {
        "kind": "lora", "parts": str(folder / "base"), "start": str(folder / "start.safetensors"),
        "run": str(folder / "run"), "output": str(folder / "x.safetensors"), "device": "cpu",
        "lora": {"rank": 2}, "data": {"source": str(folder / "pictures"), "side": 64},
        "loop": {"steps": 1, "muon_lr": 0.0}, "training": {"batch": 1, "bf16": False},
    }  # fmt: skip


def as_toml(values: dict) -> str:
    """A config of texts and numbers, and tables of them, as TOML."""
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in plain.items())
    tables_ = [name for name in values if name not in plain]
    return text + "".join(f"[{name}]\n{as_toml(values[name])}" for name in tables_)


def ties() -> Iterator[Case]:
    """A run that is gone on with after something that it was made from has changed."""

    def put(*path, value):
        def change(folder, values):
            for name in path[:-1]:
                values = values[name]
            values[path[-1]] = value(folder) if callable(value) else value

        return change

    def base(*path, value):
        def change(folder, values):
            facts = json.loads((folder / "base/config.json").read_text())
            put(*path, value=value)(folder, facts)
            (folder / "base/config.json").write_text(json.dumps(facts))

        return change

    def other(name):
        def change(folder, values):
            state = {key: x + 1 for key, x in load_file(folder / name).items()}
            save_file(state, folder / name)

        return change

    def file(name, how):
        return lambda folder, values: how(folder / "pictures" / name)

    red = Image.new("RGB", (64, 64), "red")
    changes = {
        "lr": put("loop", "lr", value=0.1), "rank": put("lora", "rank", value=3),
        "alpha": put("lora", "alpha", value=3.0), "seed": put("seed", value=5),
        "layers": put("lora", "layers", value="img_mod"), "side": put("data", "side", value=128),
        "batch": put("training", "batch", value=2), "weight": put("loop", "ema", value=0.5),
        "trigger": put("data", "trigger", value="red"), "flips": put("data", "flips", value=True),
        "no start": lambda folder, values: values.pop("start"),
        "another output": put("output", value=lambda folder: str(folder / "y.safetensors")),
        "the start's numbers": other("start.safetensors"),
        "the base's transformer": other("base/transformer.safetensors"),
        "the base's autoencoder": other("base/autoencoder.safetensors"),
        "the base's words": other("base/text_encoder.safetensors"),
        "the base's scale factor": base("autoencoder", "scale_factor", value=3.3),
        "the base's shift factor": base("autoencoder", "shift_factor", value=0.5),
        "a caption": file("1.txt", lambda path: path.write_text("the hat")),
        "a picture": file("1.png", red.save), "a picture more": file("1.png", lambda path: (
            red.save(path.with_name("3.png")), path.with_name("3.txt").write_text("the hat"))),
        "a picture gone": file("1.png", Path.unlink),
        "another name": file("1.png", lambda path: (
            path.rename(path.with_name("9.png")),
            path.with_suffix(".txt").rename(path.with_name("9.txt")))),
        "output is the base's": put("output", value=lambda folder: str(
            folder / "base/transformer.safetensors")),
        "output is a picture": put("output", value=lambda folder: str(folder / "pictures/1.png")),
        "output is the start": put("output", value=lambda folder: str(
            folder / "start.safetensors")),
        "output is the run": put("output", value=lambda folder: str(folder / "run")),
        "run holds the pictures": put("run", value=lambda folder: str(folder / "pictures")),
        "run holds the base": put("run", value=lambda folder: str(folder / "base")),
        "run holds all": put("run", value=str),
        "a link to the base": lambda folder, values: (
            (folder / "link").symlink_to(folder / "base"),
            values.update(run=str(folder / "link"))),
    }  # fmt: skip
    for name, change in changes.items():

        def run(folder, name=name, change=change):
            values = lora_job(folder)
            run_job(build_job(values))
            change(folder, values)
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            try:
                run_job(build_job(values), resume="holds" not in name)
            finally:
                lost = [path for path in before if not path.is_file()]
                changed = [p for p in before if p not in lost and p.read_bytes() != before[p]]
                ours = [p for p in (*lost, *changed) if folder / "run" not in p.parents]
                right(not ours, f"{ours} was changed")
            raise Silent("it went on")

        yield Case("ties", name, run)


def benches() -> Iterator[Case]:
    """Results of KontextBench's folder that are of something else, or damaged."""

    def bench(folder, **row):
        (folder / "in").mkdir(exist_ok=True)
        picture().save(folder / "in/a.png")
        facts = {"file_name": "a.png", "key": "one", "category": "c", "instruction": "the hat"}
        (folder / "in/metadata.jsonl").write_text(json.dumps(facts | row))
        return kontext.load(folder / "in")

    def edited(folder, items, **call):
        how = {"seed": 0, "num_inference_steps": 1} | call
        return kontext.run(tiny(), items, folder / "out", **how)[0].read_bytes()

    calls_ = {
        "seed": 1,
        "num_inference_steps": 2,
        "true_cfg_scale": 2.0,
        "context_layout": "offset",
    }
    rows = {"instruction": "a hat", "file_name": "", "more": ["a.png"]}
    for name in (*calls_, *rows, "picture"):

        def run(folder, name=name):
            items = bench(folder)
            edited(folder, items)
            items = bench(folder, **{name: rows[name]} if name in rows else {})
            if name == "picture":
                Image.new("RGB", (64, 48), "red").save(folder / "in/a.png")
            edited(folder, items, **{name: calls_[name]} if name in calls_ else {})
            raise Silent("the old result was taken")

        yield Case("benches", f"another {name}", run)
    for file, (how, change) in itertools.product(("one.png", "settings.json"), DAMAGE.items()):

        def run(folder, file=file, change=change):
            items = bench(folder)
            path = folder / "out" / file
            wanted = images.read(edited(folder, items))
            path.write_bytes(change(path.read_bytes()))
            right(images.read(edited(folder, items)) == wanted, "a damaged result stays")
            return "told"

        yield Case("benches", f"{file}: {how}", run)


def packings() -> Iterator[Case]:
    """Packed weights of bitsandbytes and plain GGUF files whose parts do not fit each other."""
    theirs = load_file(ROOT / "tests/parity/bitsandbytes.safetensors")
    for kind, parts in {
        "nf4_nested": ("absmax", "quant_map", "nested_absmax", "nested_quant_map",
                       "quant_state.bitsandbytes__nf4"),
        "int8": ("SCB",),
    }.items():  # fmt: skip
        for part, (how, change) in itertools.product(("", *parts), {
            "gone": None, "one number": lambda t: t.flatten()[:1].clone(),
            "twice as long": lambda t: torch.cat([t, t]), "NaN": lambda t: t.float() * math.nan,
            "another type": lambda t: t.to(torch.int64),
        }.items()):  # fmt: skip

            def run(folder, kind=kind, part=part, how=how, change=change):
                stem = f"{kind}.weight"
                key = stem if not part else f"{kind}.SCB" if part == "SCB" else f"{stem}.{part}"
                state = {n: t for n, t in theirs.items() if n.startswith(kind)}
                if change is None:
                    del state[key]
                else:
                    state[key] = change(state[key]).contiguous()
                save_file(state, folder / "x.safetensors")
                reader = safetensors_io.Reader(folder / "x.safetensors")
                reader.sketch()
                right(reader.read(stem).isfinite().all(), "it is no number")
                right(torch.equal(reader.read(stem), theirs[f"{kind}.expected"]), "other numbers")
                return "opens"

            yield Case("packings", f"{part or 'the matrix'} of {kind}: {how}", run)
    wrong: dict[str, Callable[[dict, dict], object]] = {
        "FP4": lambda s, note: note.update(quant_type="fp4"),
        "no kind": lambda s, note: note.pop("quant_type"),
        "a kind that is none": lambda s, note: note.update(quant_type="x"),
        "blocks of 32": lambda s, note: note.update(blocksize=32),
        "blocks of 10⁹": lambda s, note: note.update(blocksize=10**9),
        "blocks of text": lambda s, note: note.update(blocksize="64"),
        "no shape": lambda s, note: note.update(shape=[]),
        "another shape": lambda s, note: note.update(shape=[1, 2]),
        "an offset without end": lambda s, note: note.update(nested_offset=math.inf),
        "an offset of text": lambda s, note: note.update(nested_offset="x"),
        "an offset far below 0": lambda s, note: note.update(nested_offset=-1e30),
        "a table in another order": lambda s, note: s.update(
            {"nf4_nested.weight.quant_map": s["nf4_nested.weight.quant_map"].flip(0)}),
        "a table of 8": lambda s, note: s.update(
            {"nf4_nested.weight.quant_map": s["nf4_nested.weight.quant_map"][:8].clone()}),
    }  # fmt: skip
    for name, change in wrong.items():

        def run(folder, change=change):
            state = {n: t for n, t in theirs.items() if n.startswith("nf4_nested.")}
            at = "nf4_nested.weight.quant_state.bitsandbytes__nf4"
            note = json.loads(bytes(state[at].tolist()))
            change(state, note)
            state[at] = torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)
            save_file(state, folder / "x.safetensors")
            reader = safetensors_io.Reader(folder / "x.safetensors")
            reader.sketch()
            reader.read("nf4_nested.weight")
            raise Silent("it was read")

        yield Case("packings", f"the note of nf4_nested: {name}", run)
    for name, (places, kinds_, more) in {
        "two at one place": ([0, 0], [0, 0], 0), "two exchanged": ([64, 0], [0, 0], 0),
        "a gap before them": ([32, 96], [0, 0], 32), "a gap between them": ([0, 96], [0, 0], 32),
        "the first half as wide": ([0, 64], [1, 0], 0),
        "the first of another packing": ([0, 64], [8, 0], 0),
        "bytes behind the last": ([0, 64], [0, 0], 5), "the last cut": ([0, 64], [0, 0], -1),
        "of one name": ([0, 64], [0, 0], None),
    }.items():  # fmt: skip

        def run(folder, places=places, kinds_=kinds_, more=more):
            head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0)
            for letter, at, kind in zip("aa" if more is None else "ab", places, kinds_):
                head += struct.pack("<Q", 1) + letter.encode()
                head += struct.pack("<IQQIQ", 2, 32 if kind == 8 else 4, 4, kind, at)
            numbers_ = np.arange(32, dtype=np.float32).tobytes()
            body = numbers_ + bytes(more or 0) if (more or 0) >= 0 else numbers_[:more]
            (folder / "x.gguf").write_bytes(head + bytes(-len(head) % 32) + body)
            safetensors_io.Reader(folder / "x.gguf").sketch()
            raise Silent("it was read")

        yield Case("packings", f"GGUF of two tensors: {name}", run)

    def endless(folder):
        texts_ = struct.pack("<QIIQ", 0, 9, 8, 1 << 20) + bytes(8 << 20)
        (folder / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + 3 * texts_)
        safetensors_io.Reader(folder / "x.gguf").sketch()
        raise Silent("it was read")

    yield Case("packings", "GGUF of three million texts", endless)
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a"
    data += struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
    data += bytes(-len(data) % 32) + np.arange(16, dtype=np.float32).tobytes()
    cuts = {f"cut at {at}": data[:at] for at in range(4, len(data), 9)}
    flips = {
        f"bit {bit} of byte {at}": data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
        for at in range(4, 77, 3) for bit in (0, 7)
    }  # fmt: skip
    for name, content in {**cuts, **flips}.items():

        def run(folder, content=content):
            (folder / "x.gguf").write_bytes(content)
            reader = safetensors_io.Reader(folder / "x.gguf")
            reader.sketch()
            ((key, info),) = reader.header.items()
            # Another name, or 16 numbers in another shape, is what the file then says.
            right(info.dtype in ("F32", "F16", "BF16"), "another type")
            right(reader.read(key).shape == info.shape, "another shape")
            return "opens"

        yield Case("packings", f"GGUF, {name}", run)


# ------------------------------------------------------------------- float8 with scales, prefixes


@functools.cache
def numbers() -> dict[str, torch.Tensor]:
    """The tiny transformer's tensors, float32."""
    return {k: v.float() for k, v in load_file(sound() / "own/transformer.safetensors").items()}


def filled(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a tiny transformer holds that was read from a file of these tensors."""
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "x.safetensors")
    with torch.device("meta"):
        net = KontextTransformer(tiny().transformer.config)
    net = safetensors_io.load_into(net, folder / "x.safetensors", dtype=torch.float32,
                                   part="transformer")  # fmt: skip
    return net.state_dict()


def float8() -> Iterator[Case]:
    """Float8 with scales as ComfyUI writes it, in two styles, with a part that does not fit."""
    whole = numbers()
    names = [k for k, v in whole.items() if v.dim() == 2 and "blocks" in k]
    one, other = names[:2]
    stem = one.removesuffix(".weight")

    def put(tensor):
        return lambda s, end: s.update({f"{stem}.{end}": tensor})

    def note(kind, place=stem):
        told = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        return lambda s, end: s.update({f"{place}.comfy_quant": told})

    odd: dict[str, Callable[[dict, str], object]] = {
        "as it is": lambda s, end: None,
        "in float16": lambda s, end: s.update({f"{stem}.{end}": s[f"{stem}.{end}"].half()}),
        "in rows": lambda s, end: s.update(
            {f"{stem}.{end}": s[f"{stem}.{end}"].expand(len(whole[one]), 1)}
        ),
        "without marks": lambda s, end: [s.pop(n) for n in [*s] if n.endswith(("fp8", "quant"))],
        "a scale gone": lambda s, end: s.pop(f"{stem}.{end}"),
        "all scales gone": lambda s, end: [s.pop(n) for n in [*s] if n.endswith(end)],
        "two scales": lambda s, end: s.update(
            {f"{stem}.scale_weight": torch.ones(()), f"{stem}.weight_scale": torch.ones(())}
        ),
        "a scale of 0": put(torch.zeros(())), "a negative scale": put(-torch.ones(())),
        "a scale of NaN": put(torch.tensor(math.nan)), "no number": put(torch.ones(0)),
        "an infinite scale": put(torch.tensor(math.inf)), "whole numbers": put(torch.tensor(3)),
        "seven numbers": put(torch.ones(7)), "in columns": put(torch.ones(1, whole[one].shape[1])),
        "a matrix of scales": put(torch.ones(whole[one].shape)),
        "a scale beside full width": lambda s, end: s.update({one: whole[one]}),
        "a scale beside nothing": lambda s, end: s.pop(one),
        "a matrix more, without": lambda s, end: s.update(
            {"txt_in.weight": whole["txt_in.weight"].to(torch.float8_e4m3fn)}
        ),
        "a note of NVFP4": note("nvfp4"), "a note of another float8": note("float8_e5m2"),
        "a note beside nothing": note("float8_e4m3fn", "nowhere"),
        "the other float8": lambda s, end: s.update({other: s[other].to(torch.float8_e5m2)}),
    }  # fmt: skip
    for (name, change), end in itertools.product(odd.items(), ("scale_weight", "weight_scale")):

        def run(folder, name=name, change=change, end=end):
            state, wanted = dict(whole), dict(whole)
            for key in names:
                scale = whole[key].abs().max() / 448
                state[key] = (whole[key] / scale).to(torch.float8_e4m3fn)
                state[f"{key.removesuffix('.weight')}.{end}"] = scale
                wanted[key] = state[key].float() * scale
                if end == "weight_scale":
                    note("float8_e4m3fn", key.removesuffix(".weight"))(state, end)
            state["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
            change(state, end)
            got = filled(folder, state)
            close = {k: torch.allclose(got[k], wanted[k], rtol=0.15, atol=1e-3) for k in wanted}
            right(all(close.values()), f"{[k for k in close if not close[k]]} is another")
            return "opens"

        yield Case("float8", f"{name}, {end}", run)


def headers() -> Iterator[Case]:
    """Scaled float8 whose header says, as ComfyUI does now, how each matrix is packed."""
    whole = numbers()
    names = [k for k, v in whole.items() if v.dim() == 2 and "blocks" in k]
    said: dict[str, object] = {
        name: {"layers": {n.removesuffix(".weight"): {"format": name} for n in names}}
        for name in ("float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8", "int8_tensorwise", "")
    }
    said |= {"a list": [], "no layers": {}, "layers in a list": {"layers": [1]}, "null": None,
             "no format": {"layers": {"a": {}}}, "beside nothing": {
                 "layers": {"nowhere": {"format": "float8_e4m3fn"}}}}  # fmt: skip
    for (name, note), kept in itertools.product(said.items(), ("scales", "no scales")):

        def run(folder, name=name, note=note, kept=kept):
            state, wanted = dict(whole), dict(whole)
            for key in names:
                scale = whole[key].abs().max() / 448
                state[key] = (whole[key] / scale).to(torch.float8_e4m3fn)
                wanted[key] = state[key].float() * scale
                if kept == "scales":
                    state[f"{key.removesuffix('weight')}weight_scale"] = scale
            text = json.dumps(note)
            save_file(state, folder / "x.safetensors", {"_quantization_metadata": text})
            with torch.device("meta"):
                net = KontextTransformer(tiny().transformer.config)
            net = safetensors_io.load_into(net, folder / "x.safetensors", dtype=torch.float32,
                                           part="transformer")  # fmt: skip
            got = net.state_dict()
            right(all(torch.allclose(got[k], wanted[k], rtol=0.15, atol=1e-3) for k in wanted), "x")
            return "opens"

        yield Case("float8", f"header: {name or 'no name'}, {kept}", run)


def prefixes() -> Iterator[Case]:
    """What tools put before names: all, some, several, in an all-in-one file, and what is none."""
    whole = numbers()
    vae = {f"vae.{k}": v for k, v in load_file(sound() / "own/autoencoder.safetensors").items()}
    known = ("model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "_orig_mod.")
    first, half = next(iter(whole)), len(whole) // 2
    files_: dict[str, dict[str, torch.Tensor]] = {}
    for one in (*known, "module._orig_mod.", "_orig_mod.module.transformer.", "module.module."):
        files_[f"{one} before all"] = {one + k: v for k, v in whole.items()}
    for one in known:
        files_[f"{one} before half"] = {
            one * (i < half) + k: v for i, (k, v) in enumerate(whole.items())
        }
        files_[f"{one} and without"] = whole | {one + first: whole[first] + 1}
    for one in ("net.", "model.", "ema.", "MODULE.", " ", "../", "module", "lora_unet_"):
        files_[f"{one!r}, which is none"] = {one + k: v for k, v in whole.items()}
    inside = {f"model.diffusion_model.{k}": v for k, v in whole.items()} | vae
    files_["all in one"] = inside
    files_["all in one, two autoencoders"] = inside | {
        k.replace("vae.", "first_stage_model."): v + 1 for k, v in vae.items()
    }
    for name in ("control_model.x", "redux_up.weight", "x", "lora_unet_img_in.lora_up.weight"):
        files_[f"all in one, and {name}"] = inside | {name: torch.ones(2, 2)}
    files_["all in one, a tensor gone"] = {k: v for k, v in inside.items() if first not in k}
    files_["all in one, with encoders"] = inside | {"text_encoders.clip_l.x": torch.ones(2)}
    files_["parts without a prefix"] = whole | vae
    for name, state in files_.items():

        def run(folder, state=state):
            got = filled(folder, state)
            right(all(torch.equal(got[k], v) for k, v in whole.items()), "other numbers")
            return "opens"

        yield Case("prefixes", name, run)


# ------------------------------------------------------------------------------------- colours


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def colours() -> Iterator[Case]:
    """Pictures whose colours are named without a profile: read as sRGB, or it is told."""
    srgb = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    wide = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    png = {
        "nothing": (b"", "opens"), "cHRM of sRGB": (chunk(b"cHRM", srgb), "opens"),
        "cHRM of P3": (chunk(b"cHRM", wide), "told"),
        "cHRM of P3, said to be sRGB": (chunk(b"cHRM", wide) + chunk(b"sRGB", b"\0"), "opens"),
        "cHRM of zeros": (chunk(b"cHRM", bytes(32)), "told"),
        "gAMA of sRGB": (chunk(b"gAMA", struct.pack(">I", 45455)), "opens"),
        "gAMA and cHRM of sRGB": (
            chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", srgb), "opens"),
    }  # fmt: skip
    for numbers_ in ((1, 13), (9, 16), (9, 18), (12, 13), (12, 16), (1, 8), (0, 0), (255, 255)):
        end = "opens" if numbers_ == (1, 13) else "told"
        png[f"cICP {numbers_}"] = chunk(b"cICP", bytes([*numbers_, 0, 1])), end
    png["cICP, said to be sRGB"] = chunk(b"cICP", b"\x0c\x0d\0\1") + chunk(b"sRGB", b"\0"), "told"
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    plain = encoded("JPEG", quality=95)
    adobe = encoded("JPEG", quality=95, exif=exif)
    tiff = {318: (0.3127, 0.329), 319: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)}
    usual = {318: (0.3127, 0.329), 319: (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)}
    others = {
        "JPEG": (plain, "opens"), "JPEG of Adobe RGB": (adobe, "told"),
        "TIFF": (encoded("TIFF"), "opens"),
        "TIFF of P3": (encoded("TIFF", tiffinfo=tiff), "told"),
        "TIFF of sRGB": (encoded("TIFF", tiffinfo=usual), "opens"),
    }  # fmt: skip
    if features.check("avif"):
        avif = encoded("AVIF")
        at = avif.find(b"colrnclx") + 8
        for numbers_ in ((1, 13), (12, 13), (9, 16), (9, 18)):
            end = "opens" if numbers_ == (1, 13) else "told"
            data = avif[:at] + struct.pack(">2H", *numbers_) + avif[at + 4 :]
            others[f"AVIF {numbers_}"] = (data if at > 8 else plain), end if at > 8 else "opens"
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb_ = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles = {"sRGB": (srgb_, "opens"), "Lab": (lab, "told"), "half": (srgb_[:200], "told"),
                "junk": (b"junk" * 50, "told"), "nothing": (b"", "opens"),
                "of no kind": (srgb_.replace(b"RGB XYZ ", b"7CLRXYZ "), "told")}  # fmt: skip
    for (name, (profile, end)), (format_, mode) in itertools.product(
        profiles.items(), (("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"),
                           ("JPEG", "RGB"), ("JPEG", "L"), ("WEBP", "RGB"), ("TIFF", "RGB")),
    ):  # fmt: skip
        file = io.BytesIO()
        picture().convert(mode).save(file, format_, icc_profile=profile)
        others[f"a profile, {name}, in {format_} of {mode}"] = file.getvalue(), end
    base = encoded()
    made = {name: (base[:33] + more + base[33:], end) for name, (more, end) in png.items()}
    for name, (data, end) in {**made, **others}.items():

        def run(folder, data=data, end=end):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                images.read(data)
            told = any("not sRGB" in str(one.message) for one in said)
            right(told == (end == "told"), "nothing was said" if end == "told" else "a false alarm")
            right(bool(images.odd_colours(data)) == told, "asked, it says something else")
            return end

        yield Case("colours", name, run)


# ------------------------------------------------------------------- empty cells that are words

VOID = ("nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", " nan ", "'None'", "-1.#IND")


def cells() -> Iterator[Case]:
    """Prompts that are an empty cell in words, in every layout; and words that only look so."""
    words = [(text, True) for text in VOID] + [("a nan bread", False), ("Nana", False)]
    for (text, empty), layout in itertools.product(words, ("txt", "csv", "jsonl", "tar")):

        def run(folder, text=text, empty=empty, layout=layout):
            write_captions(folder, layout, text.encode())
            found = list(triplets(folder, Reading(trigger="ohwx" if layout == "tar" else "")))
            bad = [one.why for one in found if isinstance(one, Bad)]
            right(bool(bad) == empty and len(found) == 1, f"read as {found}")
            right(not empty or "empty cell" in bad[0], f"said {bad}")
            return "told" if empty else "opens"

        yield Case("empty cells", f"{text!r} in {layout}", run)
    from pyarrow import Table, parquet

    for value in ("nan", "None", None, math.nan, 0, ["nan"], []):

        def table_(folder, value=value):
            (folder / "a.png").write_bytes(encoded())
            rows = Table.from_pydict({"file_name": ["a.png"], "prompt": [value]})
            parquet.write_table(rows, folder / "a.parquet")
            (one,) = triplets(folder)
            right(isinstance(one, Bad) and one.why, f"read {one}")
            return "told"

        def lines(folder, value=value):
            (folder / "a.png").write_bytes(encoded())
            row = json.dumps({"file_name": "a.png", "prompt": value})
            (folder / "metadata.jsonl").write_text(row)
            (one,) = triplets(folder)
            right(isinstance(one, Bad) and one.why, f"read {one}")
            return "told"

        yield Case("empty cells", f"{value!r} in parquet", table_)
        yield Case("empty cells", f"{value!r} as JSON", lines)


ELSE = ("version https://git-lfs.github.com/spec/v1\noid sha256:12", "<!DOCTYPE html>", "<html><p>",
        "<?xml version='1.0'?>", r"{\rtf1\ansi red}", '{"caption": "a hat"}', '{ "a": 1}', '["a"]',
        "[{}]", "%PDF-1.7", "\u200b\u200e", "\u2060")  # fmt: skip
WORDS_ALONE = ("<red> hat", "{red|blue} hat", "[v] hat", "version 2 of it", "(red:1.2)")


def captions_of_files() -> Iterator[Case]:
    """Captions that are a file of another kind, or nothing to be seen; and words like them."""
    words = [*((text, True) for text in ELSE), *((text, False) for text in WORDS_ALONE)]
    for (text, odd), layout in itertools.product(words, ("txt", "jsonl", "tar")):

        def run(folder, text=text, odd=odd, layout=layout):
            written = json.dumps(text)[1:-1] if layout == "jsonl" else text
            write_captions(folder, layout, written.encode())
            found = list(triplets(folder, Reading(trigger="ohwx" if layout == "tar" else "")))
            bad = [one.why for one in found if isinstance(one, Bad)]
            right(bool(bad) == odd and len(found) == 1 and all(bad), f"read as {found}")
            return "told" if odd else "opens"

        yield Case("captions of files", f"{text!a} in {layout}", run)


def endless() -> Iterator[Case]:
    """Pictures of small files that would take long, each beside a sound one of its kind."""

    def in_runs(width, height, bits=8):
        size = 54 + (1024 if bits == 8 else 64)
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, bits // 8 or 2, 0, 0, 0,
                           256 if bits == 8 else 16, 0)  # fmt: skip
        head = b"BM" + struct.pack("<IHHI", 0, 0, 0, size) + head
        return head + bytes(size - 54) + b"\1\1\0\0" * height

    def letters(magic, width, height):
        levels = b"" if magic == b"P1" else b"1 "
        return magic + b" %d %d " % (width, height) + levels + b"1 " * (3 * min(width * height, 99))

    def levels(magic, most, width, height):
        size = (3 if magic == b"P6" else 1) * (1 + (most > 255)) * min(width * height, 99)
        return magic + b" %d %d %d\n" % (width, height, most) + bytes(size)

    by_size: dict[str, Callable[[int, int], bytes]] = {
        "BMP in runs": in_runs, "BMP in runs of 4 bits": lambda w, h: in_runs(w, h, 4),
        **{f"{m.decode()} in letters": functools.partial(letters, m)
           for m in (b"P1", b"P2", b"P3")},
        **{f"{m.decode()} of {most + 1} levels": functools.partial(levels, m, most)
           for m in (b"P5", b"P6") for most in (254, 4095)},
        "P6 of 65536 levels": functools.partial(levels, b"P6", 65535),
    }  # fmt: skip
    gif, jpeg, png = encoded("GIF"), encoded("JPEG"), encoded()
    at = 13 + (3 << (gif[10] & 7) + 1)
    by_parts: dict[str, Callable[[int], bytes]] = {
        "GIF, comments": lambda n: gif[:at] + b"!\xfe\1x\0" * n + gif[at:],
        "GIF, pieces of a comment": lambda n: gif[:at] + b"!\xfe" + b"\1x" * n + b"\0" + gif[at:],
        "GIF, of programs": lambda n: gif[:at] + b"!\xff\1x\0" * n + gif[at:],
        "GIF, zeros": lambda n: gif[:at] + bytes(n) + gif[at:],
        "P6, a comment": lambda n: b"P6 4 4 #" + b"x" * n + b"\n255\n" + bytes(48),
        "P5, blanks": lambda n: b"P5 4" + b" " * n + b"4 255\n" + bytes(16),
        "PNG, chunks": lambda n: png[:33] + chunk(b"tEXt", b"a\0") * n + png[33:],
        "JPEG, comments": lambda n: jpeg[:2] + b"\xff\xfe\0\2" * n + jpeg[2:],
    }
    sizes = (8, 4), (2000, 1001), (10_900, 10_900)
    made = {f"{k}, {w} x {h}": (lambda m=m, w=w, h=h: m(w, h), w > 99)
            for k, m in by_size.items() for w, h in sizes}  # fmt: skip
    made |= {f"{k}, {n}": (lambda m=m, n=n: m(n), n > 99)
             for k, m in by_parts.items() for n in (3, 200_000, 5_000_000 // 8)}  # fmt: skip
    for name, (make, large) in made.items():

        def run(folder, make=make, large=large):
            read = images.read(make())
            right(not large and read.size in ((8, 4), (4, 4), (64, 48)), f"read as {read.size}")
            return "opens"

        yield Case("endless pictures", name, run)


# ------------------------------------------------------------------ several pictures in one file


def animated(format_: str, turned: int = 1, **more: object) -> bytes:
    """A file of two pictures: the picture, and its negative."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turned
    more |= {"exif": exif.tobytes()} if turned > 1 else {}
    more |= {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(format_, {})
    other = Image.eval(picture(), lambda x: 255 - x)
    picture().save(file, format_, save_all=True, append_images=[other], **more)
    return file.getvalue()


def several() -> Iterator[Case]:
    """Files of more than one picture: what is read is the first one, and it is told."""
    kinds_ = ("PNG", "WEBP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else []))
    files_ = {f"{name}, two pictures": (animated(name), 1, True) for name in kinds_}
    for name, turned in itertools.product(("PNG", "WEBP"), (2, 3, 6, 8)):
        files_[f"{name}, two pictures, turned {turned}"] = animated(name, turned), turned, True
    for number in (1, 2):  # of which browsers never show the first one
        more = {"default_image": True, "append_images": [picture()] * number, "save_all": True}
        files_[f"PNG, shown by no browser, {number}"] = encoded("PNG", **more), 1, True
    bare = animated("GIF").replace(b"\x21\xf9\x04", b"\x21\xfe\x04")
    files_["GIF without control blocks"] = bare, 1, True
    files_["GIF, cut in the second"] = animated("GIF")[:-40], 1, True
    files_["GIF, one picture that bears the mark of two"] = (
        encoded("GIF", comment=b"\x21\xf9\x04" * 3), 1, False)  # fmt: skip
    files_["MPO, of a camera"] = animated("MPO", quality=95), 1, False
    for name in (*kinds_, "BMP", "JPEG", "JPEG2000", "ICO", "PPM"):
        files_[f"{name}, one picture"] = encoded(name), 1, False
    for name, (data, turned, told) in files_.items():

        def run(folder, data=data, turned=turned, told=told):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                read = images.read(data)
            heard = any("several pictures" in str(one.message) for one in said)
            right(heard == told, "nothing was said" if told else "a false alarm")
            exif = Image.Exif()
            exif[0x0112] = turned
            shown = Image.open(io.BytesIO(encoded("PNG", exif=exif)))
            first = ImageOps.exif_transpose(shown)
            off = np.abs(np.asarray(first, int) - np.asarray(read.resize(first.size), int))
            right(off.mean() < 12, "that is another picture")
            return "told" if told else "opens"

        yield Case("several pictures", name, run)
    for brand in ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"):

        def phone(folder, brand=brand):
            head = struct.pack(">I", 24) + b"ftyp" + brand.encode() + bytes(4)
            images.read(head + b"mif1" + bytes(200))
            raise Silent("read what is no picture")

        yield Case("several pictures", f"HEIC, {brand}", phone)


# ----------------------------------------------------------------- notes that are of something else


def noted(note: str, format_: str, shown: Image.Image) -> bytes:
    """A file of a picture with a note, as `provenance` writes it, or another program after it."""
    file, exif, info = io.BytesIO(), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0131] = "x"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + note.encode("ascii")
    info.add_itxt("minikontext", note)
    more = {"PNG": {"pnginfo": info}, "GIF": {"comment": note.encode()},
            "WEBP": {"exif": exif, "lossless": True}}  # fmt: skip
    shown.save(file, format_, **more.get(format_, {"exif": exif}))
    return file.getvalue()


STRANGE = "\x1b[31m\u202eevil\u2066\n\r\x9b2J\x07\u200b<script>alert(1)</script>\u2028"


def notes() -> Iterator[Case]:
    """Notes of another picture, cut ones, hostile ones: what `inspect` says, and a later edit."""
    made = provenance.Provenance(prompt="make it red", seed="1", weights="toy")
    own = provenance._note(picture(), made, lossy=False).text()
    fields = json.loads(own)
    edit, tiles = fields["edits"][0], fields["tiles"]
    other = Image.eval(picture(), lambda x: 255 - x)
    corner = picture().copy()
    corner.paste("red", (0, 0, 4, 4))
    swapped = {"its own": ({}, picture()), "of another picture": ({}, other),
               "of another size": ({}, picture().resize((32, 40))),
               "of a picture with another corner": ({}, corner),
               "of its size turned": ({}, picture().transpose(Image.Transpose.ROTATE_90)),
               "tiles in another order": ({"tiles": tiles[8:] + tiles[:8]}, picture())}  # fmt: skip
    fine = {"strange words": {"edits": [edit | dict.fromkeys(provenance.TEXTS, STRANGE)]},
            "3000 edits": {"edits": [{"seed": "1"}] * 3000}, "no edits": {"edits": []},
            "half characters": {"edits": [edit | {"prompt": "\ud800\udfff\ud800"}]},
            "64 inputs": {"edits": [edit | {"contexts": ["f" * 64] * 64}]}}  # fmt: skip
    broken = {"10⁵ edits": {"edits": [{}] * 100_000}, "a real size": {"size": [64, 48.0]},
              "10⁴⁰⁰ left out": {"left_out": 10**400}, "one tile": {"tiles": tiles[:8]},
              "another version": {"minikontext": 2}, "version true": {"minikontext": True},
              "an edit that is text": {"edits": [STRANGE]}, "65 inputs": {
                  "edits": [edit | {"contexts": ["f" * 64] * 65}]},
              "a size of text": {"size": STRANGE}}  # fmt: skip
    texts_ = {"cut": own[: len(own) // 2], "deep": own[:-1] + ', "x": ' + "[" * 9000 + "}",
              "twice": own[:-1] + ', "size": [32, 40]}',
              "no number": own[:-1] + ', "left_out": NaN}'}  # fmt: skip
    made_ = {name: (json.dumps(fields | new), shown, "") for name, (new, shown) in swapped.items()}
    made_ |= {name: (json.dumps(fields | new), picture(), "own") for name, new in fine.items()}
    made_ |= {n: (json.dumps(fields | new), picture(), "broken") for n, new in broken.items()}
    made_ |= {name: (text, picture(), "broken") for name, text in texts_.items()}
    formats_ = ("PNG", "WEBP", "JPEG", *(["AVIF"] if features.check("avif") else []), "GIF")
    for (name, (text, shown, what)), format_ in itertools.product(made_.items(), formats_):
        if format_ == "JPEG" and len(text) > 60_000:  # it has no room
            continue

        def run(folder, text=text, shown=shown, what=what, format_=format_, name=name):
            data = noted(text, format_, shown)
            found = inspect.inspect(data)
            said = str(found)
            right(len(said) < 10_000 and not set(said) & set(STRANGE) - set("\n" + ASCII), "raw")
            same = (what == "own" or name == "its own") and format_ in ("PNG", "WEBP")
            right((found.verdict == inspect.UNCHANGED) == same, f"it is called {found.verdict}")
            swap = not what and shown.size == picture().size and format_ in ("JPEG", "AVIF")
            right(not swap or "with loss" in said, f"loss is called {found.reason}")
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                before = provenance.source(images.read(data)).provenance
            right(format_ == "GIF" or (before is None) == bool(heard) == (what == "broken"),
                  "an edit after it carries on what is broken, or nothing")  # fmt: skip
            return "opens" if same else "told"

        yield Case("notes", f"{name}, in {format_}", run)


# ------------------------------------------------------------------------------- planted names

PLANTED = ("a link", "a link to a folder", "a pipe", "a folder", "a link to nowhere", "a file")


def plant(path: Path, what: str, victim: Path) -> None:
    """Put something of a stranger where we may write; links lead to the victim's folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
        (path / "theirs").write_text("x")
    elif what == "a file":
        path.write_text("theirs")
    else:
        ends = {"a link": "log", "a link to a folder": "", "a link to nowhere": "new"}
        path.symlink_to(victim / ends[what])


def _saved(folder: Path) -> object:
    tiny().save_pretrained(folder / "w")
    return KontextPipeline.from_pretrained(folder / "w")


def _saved_again(folder: Path) -> object:
    aside = files.set_aside_name(folder / "w")
    aside.rename(folder / "for a moment")
    tiny().save_pretrained(folder / "w")
    os.rename(folder / "for a moment", aside)
    return _saved(folder)


def _stored(folder: Path) -> object:
    kept = Store(folder, ALONE)
    for step in "123":
        kept.save({"a": torch.ones(2)}, {"step": step, "made_from": "{}"})
    return kept.newest()


def _encoded(folder: Path) -> object:
    (folder / "source").mkdir()
    (folder / "source/1.png").write_bytes(encoded())
    (folder / "source/1.txt").write_text("make the hat red")
    encode_folder(folder / "source", folder / "cache", tiny(), side=64)
    right(len(Encoded(folder / "cache")) == 1, "the sample is lost")
    return Encoded(folder / "cache").sample(0)


def _drawn(folder: Path) -> object:
    return stream.kept(folder, 1, lambda: [torch.ones(1)])


def _held(folder: Path) -> object:
    path = folder / "pairs-00000000.safetensors"
    return cached._holds(path, 1) and cached._stored(path)


def planted() -> Iterator[Case]:
    """Strangers' things at names that we write: never followed, waited for or deleted untold."""
    aside, own = ".w.before-update", ("a" * 16)
    places: dict[str, Callable[[Path], object]] = {
        f"{aside}": _saved, f"{aside}, beside weights": _saved_again,
        ".checkpoint.safetensors.x.tmp": _stored, f".checkpoint.safetensors.{own}.tmp": _stored,
        "checkpoint.last.safetensors": _stored, "checkpoint.safetensors": _stored,
        "checkpoints": _stored, "checkpoints/step-00000001": _stored,
        "checkpoints/.step-00000001.tmp": _stored,
        "log.jsonl": lambda folder: add_line(folder / "log.jsonl", "{}"),
        "cache.txt": lambda folder: cached.labelled(folder, "facts"),
        "batch-000001.safetensors": _drawn, "pairs-00000000.safetensors": _held,
        "cache/cache.json": _encoded, "cache/triplets-000000.json": _encoded,
        "cache/triplets-000000.safetensors": _encoded, "cache/null.safetensors": _encoded,
        "run.1": lambda folder: (folder / "run").mkdir() or set_aside(folder / "run"),
        "x.png": lambda folder: provenance.save(picture(), folder / "x.png"),
        "x.json": lambda folder: report.write_text("{}", folder / "x.json"),
        "x.safetensors": lambda folder: safetensors_io.save(
            {"a": torch.ones(2)}, folder / "x.safetensors"),
    }  # fmt: skip
    for (where, write), what in itertools.product(places.items(), PLANTED):
        name = where.partition(",")[0]
        theirs = what in ("a folder", "a file") and (aside in name or name.endswith(".x.tmp"))

        def run(folder, name=name, write=write, what=what, theirs=theirs):
            victim, work = folder / "victim", folder / "work"
            victim.mkdir()
            (victim / "log").write_text("a\nb\nhalf")
            plant(work / name, what, victim)
            before = (work / name).lstat().st_ino
            try:
                write(work)
            finally:
                left = {path.name: path.read_text() for path in victim.iterdir()}
                right(left == {"log": "a\nb\nhalf"}, f"the victim's folder holds {left}")
                still = {path.lstat().st_ino for path in work.rglob("*")}
                right(not theirs or before in still, "what is a stranger's was deleted")
            return "opens"

        yield Case("planted names", f"{where} is {what}", run)


# ------------------------------------------------------------------------------- the course

COURSE = "01_autoencoder_latents.ipynb"
NOTEBOOKS: dict[str, Callable[[dict], object]] = {
    "without cells": lambda nb: nb.pop("cells"), "cells of text": lambda nb: nb.update(cells="x"),
    "cells of null": lambda nb: nb.update(cells=[None]),
    "a source that is a number": lambda nb: nb["cells"][0].update(source=7),
    "lines that are numbers": lambda nb: nb["cells"][0].update(source=[1]),
    "a kind that is a list": lambda nb: nb["cells"][0].update(cell_type=[]),
    "half a character": lambda nb: nb["cells"][0].update(source="\ud800"),
    "ids that are lists": lambda nb: [cell.update(id=[]) for cell in nb["cells"]],
    "one id for all": lambda nb: [cell.update(id="x") for cell in nb["cells"]],
    "no cell": lambda nb: nb.update(cells=[]),
    "4000 equal cells": lambda nb: nb.update(cells=[{"cell_type": "code", "source": ""}] * 4000),
}  # fmt: skip
NESTED = "[" * 200_000


def course() -> Iterator[Case]:
    """A student's folder in which something is broken: the course comes, and no answer is lost."""

    def begun(folder: Path) -> tuple[Path, Path]:
        """A folder with one changed notebook: (the student's, the copy of what was delivered)."""
        lab.deliver(ROOT / "notebooks", folder)
        mine, last = folder / "notebooks" / COURSE, folder / lab.DELIVERED / COURSE
        told = json.loads(mine.read_text())
        last.write_text(json.dumps(told | {"metadata": {}}))  # an older edition
        told["cells"][1]["source"] = "my answer"
        mine.write_text(json.dumps(told))
        return mine, last

    def again(folder: Path, mine: Path, was: bytes) -> str:
        """Bring it up to date: what the student had is in the notebook, or kept and told."""
        notes = lab.deliver(ROOT / "notebooks", folder)
        right(isinstance(json.loads(mine.read_text())["cells"], list), "there is no notebook")
        if mine.read_bytes() != was:
            kept = [*(folder / lab.DELIVERED / "before").glob("*")]
            right(was in [path.read_bytes() for path in kept], "the student's notebook is lost")
            right(any(str(path) in note for note in notes for path in kept), f"not told: {notes}")
        return "told" if notes else "opens"

    def broken(name: str, told: dict) -> bytes:
        if name == "nested":
            return NESTED.encode()
        if name in DAMAGE:
            return DAMAGE[name](json.dumps(told).encode())
        NOTEBOOKS[name](told)
        return json.dumps(told).encode()

    for name in ("nested", *DAMAGE, *NOTEBOOKS):

        def run(folder, name=name):
            mine, _ = begun(folder)
            mine.write_bytes(broken(name, json.loads(mine.read_text())))
            return again(folder, mine, mine.read_bytes())

        yield Case("course", f"a notebook: {name}", run)

        def run(folder, name=name):
            mine, last = begun(folder)
            last.write_bytes(broken(name, json.loads(last.read_text())))
            found = again(folder, mine, mine.read_bytes())
            right("my answer" in mine.read_text(), "the answer is not in the notebook any more")
            return found

        yield Case("course", f"what was delivered: {name}", run)

    sound = {"pieces": {"pack": "def pack(): ..."}, "solved": {"evade": True},
             "predictions": {"Which?": {"guess": "a"}}}  # fmt: skip
    wrong: dict[str, object] = {
        "a list": [1], "pieces of numbers": {"pieces": {"pack": 3}},
        "a section of text": {"solved": "all"},
        "a guess that is a list": {"predictions": {"a": []}},
        "a guess of numbers": {"predictions": {"a": {"guess": 1}}},
        "solved is NaN": {"solved": {"evade": math.nan}},
    }  # fmt: skip
    for name in ("nested", *DAMAGE, *wrong):

        def run(folder, name=name):
            path = folder / "progress.json"
            data = json.dumps(wrong.get(name, sound)).encode()
            data = NESTED.encode() if name == "nested" else DAMAGE.get(name, bytes)(data)
            path.write_bytes(data)
            with at_home(path), contextlib.redirect_stdout(io.StringIO()) as said:
                predictions.score()
                predictions.predict("Which?", ["a", "b"]).choices.value = "a"
            right(data in [one.read_bytes() for one in folder.glob("progress-broken*")], "lost")
            right("broken" in said.getvalue(), "nobody said it")
            return "told"

        yield Case("course", f"progress: {name}", run)
    for how in PLACES:

        def run(folder, how=how):
            with at_home(place(folder, how, b"")), contextlib.redirect_stdout(io.StringIO()) as out:
                progress.keep("solved", {"evade": True})
                kept = progress.load("solved")
            right(kept or "note" in out.getvalue(), "nobody said it")
            right(not (folder / "missing").exists(), "it was written through a link")
            return "told" if out.getvalue() else "opens"

        yield Case("course", f"progress: {how}", run)


@contextlib.contextmanager
def at_home(path: Path) -> Iterator[None]:
    """The student's progress lies here."""
    before = os.environ.get("MINIKONTEXT_PROGRESS")
    os.environ["MINIKONTEXT_PROGRESS"] = str(path)
    try:
        yield
    finally:
        del os.environ["MINIKONTEXT_PROGRESS"]
        os.environ.update({"MINIKONTEXT_PROGRESS": before} if before is not None else {})


ASCII = "".join(map(chr, range(32, 127)))

KINDS = (captions, tables, samples, shards, pictures, weights, folders, loras, encoders, configs,
         runs, caches, outputs, terminals, calls, sessions, texts, layouts, ties, benches,
         packings, float8, headers, prefixes, colours, cells, captions_of_files, endless, several,
         notes, planted, course)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    return itertools.chain.from_iterable(kind() for kind in KINDS)


def table(found: dict[str, Counter[str]]) -> str:
    """Kinds, cases tried and outcomes as Markdown."""
    total = sum(found.values(), Counter())
    head = (
        "Faults by kind, each with its outcome checked. The cases, and what is right for each, "
        "stand in the command:\n`python tests/fuzz/kinds.py --table data/bench/faults.md`\n"
    )
    rows = [f"| {' | '.join(('kind', 'cases', *OUTCOMES))} |", "|---" * (len(OUTCOMES) + 2) + "|"]
    for name, one in [*found.items(), ("**all**", total)]:
        numbers = [one.total(), *(one[outcome] for outcome in OUTCOMES)]
        rows.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return head + "\n" + "\n".join(rows) + "\n"


def stored_rows(path: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The rows of a table that was written: kinds and their outcomes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells and cells[0].isdigit() and "*" not in name:
            yield name, Counter(dict(zip(OUTCOMES, map(int, cells[1:]))))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="write the table here")
    parser.add_argument("--kind", nargs="+", help="only these; in a table, the others stay")
    options, found, bad = parser.parse_args(), defaultdict(Counter), 0
    if options.kind and options.table:  # the others stay as they are
        found |= {name: row for name, row in stored_rows(options.table) if name not in options.kind}
    for case in cases():
        if options.kind and case.kind not in options.kind:
            continue
        end, said = outcome(case)
        found.setdefault(case.kind, Counter())[end] += 1
        if end not in GOOD:
            bad += 1
            print(f"{end}: {case.kind}: {case.name}\n{said}", flush=True)
    text = table(found)
    print(text)
    if options.table:
        files.write_text(options.table, text)
    shutil.rmtree(sound(), ignore_errors=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
