"""Folders of triplets, shards, caches, benchmarks and checkpoints: what trainings read."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mutate import NAMES, broken_bytes, broken_json, broken_safetensors
from PIL import Image
from torch import nn

from minikontext.bench import kontext
from minikontext.errors import ImageError, MinikontextError, TrainingError
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import vocabulary
from minikontext.training import sources
from minikontext.training.data import build_cache, load_cache
from minikontext.training.folders import Encoded, Order, encode_folder
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.sources import Bad, triplets


def picture():
    file = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(file, "PNG")
    return file.getvalue()


PICTURE = picture()


def strange_places(rng, folder):
    """Names that lead out of a folder, into a circle, or to something that is no file."""
    (folder / "link.png").unlink(missing_ok=True)
    os.symlink(rng.choice(("/etc/passwd", "..", "link.png", "missing", "/dev/zero")),
               folder / "link.png")  # fmt: skip
    if rng.random() < 0.3:
        (folder / "pipe.png").unlink(missing_ok=True)
        os.mkfifo(folder / "pipe.png")
    outside = (folder / "../../outside.png", "/etc/passwd", "../../outside.png", "/dev/zero")
    return str(rng.choice((*outside, "link.png", "pipe.png", ".", *NAMES)))


def test_lines_of_a_folder(feed):
    """Every line is a triplet in the folder, or a Bad one with a reason; pictures are read."""
    line = {"file_name": "a.png", "contexts": ["b.png"], "prompt": "make the hat red"}

    def make(rng, folder):
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(PICTURE)
        lines = [json.dumps(line).encode()]
        for _ in range(rng.randint(1, 4)):
            kind = rng.random()
            if kind < 0.5:
                lines.append(broken_json(rng, line))
            else:
                name = strange_places(rng, folder) if not (folder / "link.png").exists() else "a"
                told = line | rng.choice(({"file_name": name}, {"contexts": ["b.png", name]}))
                lines.append(json.dumps(told).encode())
        (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))
        return folder

    def run(folder, out):
        found = [*triplets(folder)]
        assert found
        for one in found:
            for place in () if isinstance(one, Bad) else (one.image, *one.contexts):
                assert place.resolve().is_relative_to(folder.resolve())
        if bad := [one for one in found if isinstance(one, Bad)]:
            raise MinikontextError(bad[0].why)

    feed("metadata", make, run)


def test_shards(feed):
    """Members with any name and of any kind; nothing is unpacked to the disk."""

    def make(rng, folder):
        file = io.BytesIO()
        kind = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
        with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
            for i in range(rng.randint(1, 3)):
                both = [(f"{name}.png", PICTURE) for name in ("image", "context1")]
                for name, data in (*both, ("txt", b"x")):
                    _add(rng, tar, f"{i}.{name}", data)
        data = file.getvalue()
        if rng.random() < 0.5:
            data = broken_bytes(rng, data[:-8000])
        (folder / "a.tar").write_bytes(data)
        return folder

    def run(folder, out):
        bad = [one for one in triplets(folder) if isinstance(one, Bad)]
        if bad:
            raise MinikontextError(bad[0].why)

    feed("tar shard", make, run)


def _add(rng, tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if rng.random() < 0.15:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
                 tarfile.DIRTYPE, tarfile.CONTTYPE, b"Z")  # fmt: skip
        info.type, info.linkname = rng.choice(kinds), "/etc/passwd"
    if rng.random() < 0.15:
        strange = rng.choice(("../../outside", "/etc/passwd", "a/../../b", "\\..\\b", "é" * 40, ""))
        info.name = strange or "."
    if rng.random() < 0.05:
        info.pax_headers = {"size": rng.choice(("-1", "x", "9" * 30)), "GNU.sparse.major": "1"}
    tar.addfile(info, io.BytesIO(data))


def test_a_benchmark_folder(feed):
    row = {"file_name": "a.png", "key": "a", "category": "Local", "instruction": "make it red"}

    def make(rng, folder):
        (folder / "a.png").write_bytes(PICTURE)
        told = [broken_json(rng, row | rng.choice(({}, {"more": ["a.png"]})))]
        if rng.random() < 0.4:
            name = strange_places(rng, folder)
            told.append(json.dumps(row | rng.choice(({"file_name": name}, {"key": name}))).encode())
        (folder / "metadata.jsonl").write_bytes(b"\n".join(told))
        return folder

    def run(folder, out):
        items = kontext.load(folder)
        for item in items:
            assert all(p.is_relative_to(folder.resolve()) for p in item.pictures)
            out.mkdir(exist_ok=True)
            page = kontext.contact_sheet(items, out, item.category).read_text("utf-8")
            assert "<script>" not in page
            assert (out / f"{item.key}.png").resolve().parent == out.resolve()

    feed("kontext bench", make, run)


# ----------------------------------------------------------------------------------------- caches


@pytest.fixture(scope="module")
def encoded(tiny_pipe, tmp_path_factory):
    """A small encoded folder."""
    folder, cache = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("encoded")
    lines = []
    for i in range(3):
        (folder / f"{i}.png").write_bytes(PICTURE)
        lines.append(json.dumps({"file_name": f"{i}.png", "prompt": "red", "contexts": ["0.png"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    encode_folder(folder, cache, tiny_pipe, side=32)
    return {path.name: path.read_bytes() for path in cache.iterdir()}


def write_one_broken(rng, folder, files):
    """All files of a folder, one of them broken or gone."""
    chosen = rng.choice(sorted(files))
    for name, data in files.items():
        if name == chosen and name.endswith(".safetensors"):
            data = broken_safetensors(rng, data)
        elif name == chosen:
            tree = json.loads(data) if name.endswith(".json") else None
            data = broken_json(rng, tree) if tree else broken_bytes(rng, data)
        if name != chosen or rng.random() < 0.95:
            (folder / name).write_bytes(data)
    return folder


def test_an_encoded_folder(feed, encoded):
    def make(rng, folder):
        return write_one_broken(rng, folder, encoded)

    def run(cache, out):
        samples = Encoded(cache)
        samples.null()
        for row in Order(samples, 2, 0).rows(0):
            samples.sample(row)
        samples.report()

    feed("encoded cache", make, run)


def test_encoded_pairs(feed, tiny_pipe, tmp_path_factory):
    text = ToyTextEncoder(ToyTextConfig(vocabulary(), width=16))
    folder = tmp_path_factory.mktemp("pairs")
    build_cache(folder, 1, 4, 0, tiny_pipe.autoencoder, "mark", shard=2)
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}

    def make(rng, folder):
        return write_one_broken(rng, folder, sound)

    feed("encoded pairs", make, lambda cache, out: load_cache(cache, text, 4))


def test_a_checkpoint(feed, tmp_path_factory):
    """Resuming goes on with what was saved, or says that it cannot; it never half succeeds."""
    folder = tmp_path_factory.mktemp("run")

    def loop(place):
        torch.manual_seed(0)
        return Loop(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), LoopConfig(5), place)

    first = loop(folder)
    x = torch.ones(2, 3)
    first.run(lambda step: (first.model(x).square().mean(), {}))
    data = (folder / "checkpoint.safetensors").read_bytes()

    def make(rng, folder):
        (folder / "checkpoint.safetensors").write_bytes(broken_safetensors(rng, data))
        if rng.random() < 0.2:
            store = folder / "checkpoints" / "step-00000003"
            store.mkdir(parents=True)
            (store / "facts.json").write_bytes(broken_json(rng, {"facts": {}, "files": {"a": 1}}))
            (store / "a").write_bytes(b"x")
        return folder

    def run(place, out):
        if loop(place).resume() is False:
            raise TrainingError("nothing there")

    feed("checkpoint", make, run)


# ------------------------------------------------------------------------------------- regressions


def test_no_picture_outside_the_folder_is_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(PICTURE)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    names = ("../secret.png", str(tmp_path / "secret.png"), "link.png")
    lines = [json.dumps({"file_name": name, "prompt": "x"}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    found = [*triplets(folder)]
    assert len(found) == 3 and all("outside the folder" in one.why for one in found)


def test_a_sparse_member_does_not_become_gigabytes(tmp_path):
    """A header of 512 bytes can promise any number of zeros."""
    header = bytearray(tarfile.TarInfo("a.image.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"77777777777\0"  # the size when unpacked: 8 GiB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + b"\0" * 10240)
    (found,) = triplets(tmp_path)
    assert "sparse" in found.why


def test_a_line_may_hold_a_line_separator(tmp_path):
    """JSON allows U+2028 in a text, and it ends no line of the file."""
    row = {"file_name": "", "key": "a", "category": "b", "instruction": "one\u2028two"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False), "utf-8")
    assert kontext.load(tmp_path)[0].instruction == "one\u2028two"


def test_a_picture_in_a_circle_of_links_is_refused(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    row = {"file_name": "a.png", "key": "a", "category": "b", "instruction": "c"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(ImageError, match="outside|no picture"):
        kontext.load(tmp_path)


def test_reading_a_shard_writes_nothing():
    """The module has no way to unpack: neither extract nor extractall is called."""
    text = Path(sources.__file__).read_text(encoding="utf-8")
    assert ".extractall(" not in text and ".extract(" not in text
