"""Folders of safety filters, of ours and of transformers, and the search for a watermark."""

import json

import numpy as np
import pytest
import torch
from mutate import broken_bytes, broken_json, broken_safetensors
from PIL import Image

from minikontext import safety
from minikontext.images import watermark
from minikontext.safety import filters
from minikontext.safety.clip import ClipConfig, TwoTowers, save_safety
from minikontext.text import ToyTextConfig

GREY = Image.new("RGB", (40, 24), "grey")


def ask(folder, out):
    """What loads must also judge."""
    guard = safety.load(folder)
    guard.check("prompt", ["make the hat red", ""]), guard.check("input", [GREY])


def with_files(rng, folder, files, told):
    """Write a folder: its config as told, and now and then a file that is broken or missing."""
    for name, content in {**files, "config.json": told}.items():
        if name != "config.json" and rng.random() < 0.15:
            if rng.random() < 0.3:
                continue
            how = broken_safetensors if name.endswith(".safetensors") else broken_bytes
            content = how(rng, content)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_folder_of_two_towers(feed, tmp_path_factory):
    text = ToyTextConfig(vocabulary=("make", "the", "hat", "red"), width=16, depth=1, heads=2)
    sizes = ClipConfig(text=text, side=16, channels=(8, 8), groups=4)
    folder = tmp_path_factory.mktemp("towers") / "tiny"
    model = TwoTowers(sizes)
    save_safety(model, folder, ["the hat"], ["red"], {"prompt": 0.5, "image": 0.5})
    files = contents(folder)
    config = json.loads(files["config.json"])

    def make(rng, place):
        told = broken_json(rng, config, whole=0.9) if rng.random() < 0.9 else files["config.json"]
        return with_files(rng, place, files, told)

    feed("filter of two towers", make, ask)


def test_a_folder_of_local_classifiers(feed, tmp_path_factory):
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("local") / "tiny"
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 8, "id2label": {0: "fine", 1: "bad"}}
    small |= {"label2id": {"fine": 0, "bad": 1}}
    vit = hf.ViTConfig(image_size=16, patch_size=8, **small)
    hf.ViTForImageClassification(vit).save_pretrained(folder / "image")
    hf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "image")
    config = {"format": filters.FORMAT, "format_version": 1, "kind": "classifiers"}
    config["image"] = {"folder": "image", "forbidden": ["bad"], "threshold": 0.6}
    files = contents(folder)

    def make(rng, place):
        told = broken_json(rng, config, whole=0.9) if rng.random() < 0.6 else json.dumps(config)
        inner = {f"image/{n}": json.loads(files[f"image/{n}"]) for n in ("config.json",)}
        broken = {n: broken_json(rng, tree, whole=0.9) for n, tree in inner.items()}
        given = files | (broken if rng.random() < 0.5 else {})
        told = told if isinstance(told, bytes) else told.encode()
        return with_files(rng, place, given, told)

    feed("filter of classifiers", make, ask, mebibytes=600)


def test_the_search_for_a_watermark(feed):
    pytest.importorskip("imwatermark")

    def make(rng, folder):
        width, height = (rng.choice((1, 2, 3, 255, 256, 257, 300)) for _ in range(2))
        kind = rng.choice(("noise", "flat", "one pixel"))
        pixels = np.full((height, width, 3), rng.randrange(256), np.uint8)
        if kind == "noise":
            draw = np.random.default_rng(rng.randrange(2**32))
            pixels = draw.integers(0, 256, pixels.shape, np.uint8)
        if kind == "one pixel":
            pixels[rng.randrange(height), rng.randrange(width)] = 255
        return Image.fromarray(pixels).convert(rng.choice(("RGB", "L", "RGBA", "P", "1", "CMYK")))

    def run(picture, out):
        watermark.agreement(picture)
        marked = watermark.mark(picture)
        assert marked.size == picture.size and watermark.agreement(marked) >= 0

    feed("watermark", make, run, accepts=0)
