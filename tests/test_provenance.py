"""A picture tells its own history, whatever file it is in, and shows where it was changed."""

import json
import re
import shlex
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, features

from minikontext import images
from minikontext.cli import app
from minikontext.errors import ImageError, MetadataError, MetadataWarning, OutputError
from minikontext.images import inspect, provenance
from minikontext.images.inspect import CHANGED, UNCHANGED, UNKNOWN
from minikontext.images.provenance import Note, Provenance, Source
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import computed, config_fingerprint, lora, safetensors_io
from minikontext.runtime import offload, quantization

MADE = Provenance(
    prompt="make the hat réd, 帽子",
    negative_prompt="blurry",
    seed="7",
    steps="28",
    guidance="true_cfg 1",
    weights="toy",
    weights_fingerprint="ab" * 32,
)

ALL = ("a.png", "a.webp", "a.jpg", "a.jpeg")


def noise(width=64, height=48, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def with_note(picture, text, path):
    """A file of another program that kept, or made up, our metadata."""
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("minikontext", text)
        picture.save(path, pnginfo=info)
    else:
        exif = Image.Exif()
        comment = b"ASCII\0\0\0" + text.encode("latin-1")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
        picture.save(path, exif=exif, lossless=path.stem == "lossless")
    return path


def note_of(path):
    return images.read(path).info["minikontext"]


def chain(length, prompt="make it night"):
    """Made by `length` edits, one after the other."""
    made = None
    for i in range(length):
        edit = Provenance(prompt=f"{i} {prompt}", seed=str(i), pixels=f"{i:064x}", weights="toy")
        made = provenance.after(edit, [Source(made.pixels if made else "", made)])
    return made


def prompts(made):
    return [edit.prompt for edit in made.edits]


# ------------------------------------------------------------------------------ writing, reading


@pytest.mark.parametrize("name", ALL)
def test_every_format_says_how_a_picture_was_made(name, tmp_path):
    made = provenance.after(MADE, [Source("12" * 32, chain(3)), Source("34" * 32)])
    path = provenance.save(noise(), tmp_path / "deep" / name, made)
    found = provenance.read(path)
    assert found.edits[:-1] == chain(3).edits
    assert found.contexts == ("12" * 32, "34" * 32)
    assert found.software.startswith("minikontext ")
    for field in provenance.TEXTS:
        assert getattr(found, field) == getattr(made, field)
    assert found.weights_fingerprint == "ab" * 32 and not found.private and not found.cut


@pytest.mark.parametrize(("name", "exact"), [("a.png", True), ("a.webp", True), ("a.jpg", False)])
def test_png_and_webp_keep_every_pixel(name, exact, tmp_path):
    path = provenance.save(noise(), tmp_path / name, MADE)
    assert np.array_equal(images.read(path), noise()) == exact
    assert provenance.is_lossy(path.suffix) != exact


def test_quality_makes_files_smaller(tmp_path):
    for name in ("a.webp", "a.jpg"):
        small, large = (len(provenance.encode(noise(), MADE, name[1:], quality=q)) for q in (5, 95))
        assert small < large
    path = provenance.save(noise(), tmp_path / "a.webp", MADE, quality=90)
    assert not np.array_equal(images.read(path), noise())


def test_bytes_are_those_of_the_file(tmp_path):
    path = provenance.save(noise(), tmp_path / "a.png", MADE)
    assert provenance.encode(noise(), MADE) == path.read_bytes()


def test_other_programs_can_read_it(tmp_path):
    with Image.open(provenance.save(noise(), tmp_path / "a.png", MADE)) as image:
        assert image.text["prompt"] == MADE.prompt
        assert image.text["seed"] == "7"
        assert image.text["Software"].startswith("minikontext ")
    with Image.open(provenance.save(noise(), tmp_path / "a.jpg", MADE)) as image:
        exif = image.getexif()
        assert exif[ExifTags.Base.Software].startswith("minikontext ")
        assert b'"seed": "7"' in exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]


def test_it_names_what_decided_the_picture(tiny, tmp_path):
    folder = tmp_path / "weights"
    tiny().save_pretrained(folder)

    def made(change=None):
        if change:
            config = json.loads((folder / "config.json").read_text())
            change(config)
            (folder / "config.json").write_text(json.dumps(config))
        pipe = KontextPipeline.from_pretrained(folder, "cpu", "float32")
        return pipe, pipe("a red hat", seed=0, progress=False).provenance[0]

    pipe, first = made()
    words = made(lambda config: config["text_encoder"]["vocabulary"].reverse())[1]
    scale = made(lambda config: config["autoencoder"].update(scale_factor=0.9))[1]
    prints = {first.config_fingerprint, words.config_fingerprint, scale.config_fingerprint}
    assert len(prints) == 3 and all(len(one) == 64 for one in prints)
    assert first.weights_fingerprint == words.weights_fingerprint == scale.weights_fingerprint
    other = pipe.transformer.state_dict()
    safetensors_io.save({n: p + 1 for n, p in other.items()}, folder / "transformer.safetensors")
    again = pipe("a red hat", seed=0, progress=False).provenance[0]  # the weights as loaded
    assert again.weights_fingerprint == first.weights_fingerprint
    assert made()[1].weights_fingerprint != first.weights_fingerprint
    path = provenance.save(Image.new("RGB", (64, 64)), tmp_path / "x.png", first)
    assert provenance.read(path).config_fingerprint == first.config_fingerprint
    assert f"config {first.config_fingerprint[:12]}" in str(inspect.inspect(path))


def test_it_names_how_the_weights_were_loaded_and_how_contexts_were_seen(tiny, tmp_path):
    """The same files give other pictures in another precision, packing or layout."""

    def told(pipe, **call):
        made = run(pipe, "a red hat", noise(64, 64), **call)
        found = provenance.read(made.save(tmp_path / "x.png")[0])
        assert found.computed in str(inspect.inspect(tmp_path / "x.png"))
        return found.computed

    pipe = tiny()
    assert told(pipe) == "float32 on cpu, layout index, resize kontext"
    assert told(pipe, context_layout="offset") == "float32 on cpu, layout offset, resize kontext"
    assert told(pipe, resize="none") == "float32 on cpu, layout index, resize none"
    net = pipe.transformer
    offload.stream(offload.transformer_blocks(net), "cpu", torch.float32, within=net)
    assert told(pipe) == "float32 on cpu, streamed, layout index, resize kontext"
    assert run(pipe, "a red hat").provenance[0].computed == "float32 on cpu, streamed"
    tiny().save_pretrained(tmp_path / "w")
    half = KontextPipeline.from_pretrained(tmp_path / "w", "cpu", "bfloat16")
    assert told(half) == "bfloat16 on cpu, layout index, resize kontext"


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_fewer_bits_are_told_apart(tiny, bits):
    pytest.importorskip("torchao")
    pipe, prepare = tiny(), quantization.quantiser(bits)
    before = config_fingerprint(pipe)
    packed = {n: prepare(n, p.detach()) for n, p in pipe.transformer.named_parameters()}
    pipe.transformer.load_state_dict(packed, assign=True)
    assert config_fingerprint(pipe) != before == config_fingerprint(tiny())
    kind = type(pipe.transformer.double_blocks[0].img_mlp[0].weight.data).__name__
    assert kind != "Tensor" and computed(pipe)[1] == f"float32 on cpu, {kind}"


def test_two_lora_files_of_one_name_are_told_apart(tiny, tmp_path):
    told = []
    for number in (1, 2):
        pipe = tiny()
        made = lora.new(pipe.transformer, 2, seed=number)
        path = lora.save(made, pipe.transformer, tmp_path / f"{number}" / "style.safetensors")
        for merge in (False, True):
            pipe = tiny().load_lora(path, 0.5, merge)
            told.append(pipe("a red hat", seed=0, progress=False).provenance[0].weights)
    assert told[0] == told[1] and told[2] == told[3] and told[0] != told[2]
    assert told[0].startswith("tiny + style 0.5 [")


def test_a_foreign_picture_has_an_empty_provenance(tmp_path):
    noise().save(tmp_path / "a.png")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0nice weather"
    noise().save(tmp_path / "a.jpg", exif=exif)
    for name in ("a.png", "a.jpg"):
        assert not provenance.read(tmp_path / name).known
        assert provenance.of(images.read(tmp_path / name)) is None


def test_nothing_that_others_wrote_comes_along(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "somebody"
    noise().save(tmp_path / "a.jpg", exif=exif, comment=b"a secret place")
    picture = images.read(tmp_path / "a.jpg")
    assert picture.info == {}
    with Image.open(tmp_path / "a.jpg") as opened:
        for name in ALL:
            data = provenance.save(opened, tmp_path / f"out_{name}", MADE).read_bytes()
            assert b"secret" not in data and b"somebody" not in data


def test_a_failing_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = provenance.save(noise(), tmp_path / "a.png", MADE)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        provenance.save(Image.new("RGB", (8, 8)), path, MADE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("name", "quality"), [("a.gif", None), ("a", None), ("a.png", 90)])
def test_other_names_are_refused(name, quality, tmp_path):
    with pytest.raises(OutputError):
        provenance.save(noise(), tmp_path / name, MADE, quality=quality)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------- prompts of all kinds

anything = st.text(st.characters(), max_size=300)


def normal(text):
    """JSON cannot tell two halves of a surrogate pair from the character that they make."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@settings(max_examples=60, deadline=None)
@given(prompt=anything, negative=anything, suffix=st.sampled_from([".png", ".jpg", ".webp"]))
@example(prompt="\ud800 hat", negative="\udc00", suffix=".png")  # halves of surrogate pairs
@example(prompt="\ud800 hat", negative="\udc00", suffix=".jpg")
def test_odd_prompts_come_back_from_every_format(prompt, negative, suffix):
    made = Provenance(prompt=prompt, negative_prompt=negative, seed="1")
    data = provenance.encode(noise(8, 8), made, suffix)
    found = provenance.read(data)
    assert (found.prompt, found.negative_prompt) == (normal(prompt), normal(negative))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("prompt", ["x" * 10**6, "帽" * 10**5, "\0\n\r\t\x1b[31m", "{}" * 9, '"\\'])
def test_very_long_prompts_are_cut_and_say_so(name, prompt, tmp_path):
    path = provenance.save(noise(8, 8), tmp_path / name, Provenance(prompt=prompt, seed="1"))
    found = provenance.read(path)
    assert found.cut == (len(prompt) > 1000)
    assert found.prompt and prompt.startswith(found.prompt)
    assert found.prompt == prompt or len(found.prompt) > 4000
    assert path.stat().st_size < 700_000
    assert ("is cut" in str(inspect.inspect(path))) == found.cut


@pytest.mark.parametrize("name", ALL)
def test_a_history_too_long_for_the_file_loses_its_oldest_edits(name, tmp_path):
    made = chain(300, prompt="make the hat of the fox red " * 40)
    found = provenance.read(provenance.save(noise(8, 8), tmp_path / name, made))
    assert found.left_out > 0 and found.left_out + len(found.edits) == 300
    assert prompts(found) == prompts(made)[found.left_out :]
    again = provenance.after(MADE, [Source("", found)])
    assert again.left_out == found.left_out
    assert f"  {found.left_out + 1}. “{found.left_out} make" in str(
        inspect.inspect(tmp_path / name)
    )


# ---------------------------------------------------------------------------------------- privacy


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_prompts_can_be_kept_out(name, how, tmp_path, monkeypatch):
    made = provenance.after(MADE, [Source("", chain(2, "secretly"))])
    if how == "environment":
        monkeypatch.setenv("MINIKONTEXT_NO_PROMPT", "1")
    private = True if how == "argument" else None
    path = provenance.save(noise(), tmp_path / name, made, private=private)
    data, found = path.read_bytes(), provenance.read(path)
    for word in ("hat", "blurry", "secretly"):
        assert word.encode() not in data
    assert [edit.private for edit in found.edits] == [True] * 3
    assert prompts(found) == ["", "", ""] and found.seed == "7"
    assert str(inspect.inspect(path)).count("withheld") == 3


def test_the_environment_can_be_overruled(tmp_path, monkeypatch):
    for value, prompt in (("0", MADE.prompt), ("", MADE.prompt), ("1", "")):
        monkeypatch.setenv("MINIKONTEXT_NO_PROMPT", value)
        assert provenance.read(provenance.encode(noise(), MADE)).prompt == prompt
    assert provenance.read(provenance.encode(noise(), MADE, private=False)).prompt == MADE.prompt


# --------------------------------------------------------------------------------- verification


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_untouched_pixels_are_recognised_in_any_lossless_copy(name, tmp_path):
    path = provenance.save(noise(), tmp_path / name, MADE)
    assert inspect.inspect(path).verdict == UNCHANGED
    assert inspect.inspect(path.read_bytes()).verdict == UNCHANGED
    for copy in ("copy.png", "lossless.webp"):
        copied = with_note(images.read(path), note_of(path), tmp_path / copy)
        found = inspect.inspect(copied)
        assert (found.verdict, found.regions) == (UNCHANGED, ())


@pytest.mark.parametrize("name", ["a.png", "lossless.webp"])
def test_a_changed_region_is_named_in_pixels(name, tmp_path):
    path = provenance.save(noise(), tmp_path / name, MADE)
    picture, text = images.read(path), note_of(path)
    picture.paste("red", (17, 13, 30, 20))
    found = inspect.inspect(with_note(picture, text, path))
    assert found.verdict == CHANGED
    assert found.regions == ((16, 12, 32, 24),)  # tiles of 8 × 6
    assert "columns 16 to 31, rows 12 to 23" in str(found)


def test_two_changed_places_are_two_regions(tmp_path):
    path = provenance.save(noise(), tmp_path / "a.png", MADE)
    picture, text = images.read(path), note_of(path)
    for x, y in ((0, 0), (63, 47), (62, 40)):  # the last two in tiles above each other
        picture.putpixel((x, y), (1, 2, 3))
    found = inspect.inspect(with_note(picture, text, path))
    assert found.regions == ((0, 0, 8, 6), (56, 36, 64, 48))


def test_the_end_of_a_row_does_not_touch_the_next_one():
    changed = [i in (7, 8, 15, 16) for i in range(64)]  # 7 above 15, and 8 above 16
    assert inspect.regions(changed, (64, 64)) == ((56, 0, 64, 16), (0, 8, 8, 24))


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 70), height=st.integers(1, 70), data=st.data())
def test_one_pixel_anywhere_is_noticed(width, height, data):
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    note = Note.parse(note_of(provenance.encode(noise(width, height), MADE)))
    picture = noise(width, height)
    red, green, blue = picture.getpixel((x, y))
    picture.putpixel((x, y), (red, green ^ 1, blue))
    picture.info["minikontext"] = note.text()
    found = inspect.inspect(picture)
    assert found.verdict == CHANGED
    ((left, top, right, bottom),) = found.regions
    assert left <= x < right and top <= y < bottom
    assert right - left <= -(-width // 8) and bottom - top <= -(-height // 8)


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 200), height=st.integers(1, 200))
def test_tiles_cover_a_picture_once(width, height):
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in provenance.boxes((width, height)):
        seen[top:bottom, left:right] += 1
        assert right > left and bottom > top
    assert (seen == 1).all()


def changed_everywhere(path):
    return with_note(ImageOps.invert(images.read(path)), note_of(path), path)


def made_smaller(path):
    return with_note(images.read(path).resize((32, 24)), note_of(path), path)


def stripped(path):
    images.read(path).save(path)
    return path


def saved_as(name):
    return lambda path: with_note(images.read(path), note_of(path), path.with_name(name))


@pytest.mark.parametrize(
    ("treat", "verdict", "words"),
    [
        (changed_everywhere, CHANGED, "changed everywhere"),
        (made_smaller, CHANGED, "resized or cut from 64×48 to 32×24"),
        (stripped, UNKNOWN, "no metadata of minikontext"),
        (saved_as("b.jpg"), UNKNOWN, "saved anew in a format with loss"),
        (saved_as("b.webp"), UNKNOWN, "saved anew in a format with loss"),
    ],
)
def test_what_it_cannot_know_is_said(treat, verdict, words, tmp_path):
    path = treat(provenance.save(noise(), tmp_path / "a.png", MADE))
    found = inspect.inspect(path)
    assert found.verdict == verdict and words in found.reason
    assert words in str(found)
    assert ("None of this is signed" in str(found)) == (found.provenance is not None)


@pytest.mark.parametrize(("name", "quality"), [("a.jpg", None), ("a.jpg", 75), ("a.webp", 90)])
def test_files_with_loss_cannot_be_checked(name, quality, tmp_path):
    path = provenance.save(noise(), tmp_path / name, MADE, quality=quality)
    found = inspect.inspect(path)
    assert (found.verdict, found.provenance.prompt) == (UNKNOWN, MADE.prompt)
    assert "with loss" in found.reason


def test_a_forgery_is_not_noticed_and_nobody_claims_so(tmp_path):
    """Whoever writes the note anew gets a picture that looks right: that is what unsigned means."""
    forged = Provenance(
        prompt="paint nothing", seed="0", weights="other", weights_fingerprint="0" * 64
    )
    found = inspect.inspect(provenance.save(noise(), tmp_path / "a.png", forged))
    assert found.verdict == UNCHANGED and "not forgery" in str(found)


def test_changes_can_be_shown(tmp_path):
    picture = provenance.attach(noise(), MADE)
    marked = inspect.mark_regions(picture, [(16, 12, 32, 24)])
    assert marked.size == (64, 48) and marked.info == {}
    assert marked.getpixel((16, 12)) == marked.getpixel((31, 23)) == (255, 0, 0)
    inside = (20, 16)
    assert marked.getpixel(inside) == noise().getpixel(inside)
    assert min(marked.getpixel((0, 0))) > 140  # pale
    with pytest.raises(ImageError, match="nothing to mark"):
        inspect.mark_regions(noise(), [])


# --------------------------------------------------------------------------------- bad metadata


GOOD = json.loads(Note(MADE, (64, 48), ("0123abcd",) * 64).text())


def altered(**changes):
    """A note with fields in which something is wrong."""
    return json.dumps(GOOD | changes)


def test_the_note_that_is_altered_below_is_a_good_one():
    assert Note.parse(altered()).provenance == MADE


def edit(**fields):
    return altered(edits=[{"seed": "1"} | fields])


BAD = {
    "empty": "{}",
    "no json": "{minikontext",
    "a list": "[1]",
    "deep": "[" * 100_000,
    "a long number": '{"minikontext": ' + "9" * 10_000 + "}",
    "too long": " " * 300_000,
    "newer": altered(minikontext=2),
    "version text": altered(minikontext="1"),
    "version true": altered(minikontext=True),
    "no edits": altered(edits=None),
    "edits text": altered(edits="x"),
    "edit number": altered(edits=[1]),
    "prompt number": edit(prompt=1),
    "hash": edit(weights_fingerprint="zz"),
    "pixels": edit(pixels="../../etc/passwd"),
    "context": edit(contexts=[1]),
    "contexts": edit(contexts=[""] * 65),
    "private": edit(private=1),
    "size text": altered(size="64x48"),
    "size zero": altered(size=[0, 48]),
    "size huge": altered(size=[10**9, 10**9]),
    "size float": altered(size=[64.0, 48]),
    "left out": altered(left_out=-1),
    "left out true": altered(left_out=True),
    "few tiles": altered(tiles="00000000"),
    "odd tiles": altered(tiles="z" * 512),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["a.png", "lossless.webp"])
def test_broken_metadata_is_a_verdict_and_costs_no_picture(kind, name, tmp_path):
    path = with_note(noise(), BAD[kind], tmp_path / name)
    assert np.array_equal(images.read(path), noise())
    found = inspect.inspect(path)
    assert (found.verdict, found.provenance) == (UNKNOWN, None)
    assert (
        "no metadata" in found.reason
        if name != "a.png" and kind in FOREIGN
        else ("is broken" in found.reason or "version" in found.reason)
    )
    assert len(found.reason) < 400


# In EXIF a comment that does not begin as ours is somebody else's.
FOREIGN = ("empty", "no json", "a list", "deep", "too long")


@pytest.mark.parametrize("kind", BAD)
def test_broken_metadata_has_its_error(kind, tmp_path):
    with pytest.raises(MetadataError):
        provenance.read(with_note(noise(), BAD[kind], tmp_path / "a.png"))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["edits", "size", "tiles", "left_out", "minikontext"]))
def test_any_json_is_read_or_refused(data, name):
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    trees = st.recursive(
        leaves,
        lambda tree: (
            st.lists(tree, max_size=4)
            | st.dictionaries(st.sampled_from(["prompt", "seed", "pixels", "x"]), tree, max_size=3)
        ),
        max_leaves=12,
    )
    text = altered(**{name: data.draw(trees)})
    try:
        made = Note.parse(text).provenance
    except MetadataError:
        return
    assert all(isinstance(edit.prompt, str) for edit in made.edits)


@pytest.mark.parametrize("name", ["a.png", "lossless.webp"])
def test_a_note_beyond_the_limit_is_not_parsed(name, tmp_path):
    path = with_note(noise(), altered(more="x" * 300_000), tmp_path / name)
    with pytest.raises(MetadataError, match="longer than 262144"):
        provenance.read(path)


FILES = [provenance.encode(noise(16, 16), MADE, suffix) for suffix in (".png", ".webp", ".jpg")]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_anywhere_are_a_verdict_or_an_image_error(data, changes):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[min(int(position * len(data)), len(data) - 1)] = value
    try:
        found = inspect.inspect(bytes(damaged))
    except ImageError:
        return
    if found.verdict == UNCHANGED:
        assert np.array_equal(images.read(bytes(damaged)), images.read(data))
    str(found)


def test_a_text_that_unpacks_beyond_reason_is_left_out():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("minikontext", " " * 10**8, zip=True)
    buffer = BytesIO()
    noise().save(buffer, "PNG", pnginfo=info)
    assert len(buffer.getvalue()) < 200_000
    with pytest.warns(MetadataWarning, match="is left out"):
        assert np.array_equal(images.read(buffer.getvalue()), noise())
        assert provenance.read(buffer.getvalue()) == Provenance()
        assert inspect.inspect(buffer.getvalue()).verdict == UNKNOWN


EDIT = {"prompt": "\x1b[2J\u202e\n" * 60, "weights": "\u2028" * 150, "seed": "7" * 400}


@pytest.mark.parametrize("count", [50, 300, 5000])
def test_a_note_of_very_many_edits_is_bounded(count, tmp_path):
    edits = [EDIT] * (50 if count == 50 else 0) + [{"seed": str(i)} for i in range(count)]
    text = json.dumps(json.loads(altered()) | {"edits": edits[:count], "left_out": 3})
    path = with_note(noise(64, 64), text[: provenance.MAX_NOTE], tmp_path / "a.png")
    found = inspect.inspect(path)
    shown = str(found)
    assert len(shown) < 60_000 and len(shown.splitlines()) < 150
    assert all(c.isprintable() or c == "\n" for c in shown)
    kept = found.provenance.edits
    assert len(kept) == min(count, provenance.MAX_EDITS)
    assert found.provenance.left_out == 3 + count - len(kept)
    if count > 50:
        assert kept[-1].seed == str(count - 1) and f"{count + 3}." in shown
    after = provenance.after(MADE, [provenance.source(images.read(path))])
    again = provenance.read(provenance.encode(noise(64, 64), after))
    assert again.left_out + len(again.edits) == 3 + count + 1


def test_very_many_changed_regions_and_contexts_are_not_all_told():
    changed = noise(64, 64)
    changed.info = {"minikontext": Note(MADE, (64, 64), provenance.checksum_tiles(changed)).text()}
    for i in range(0, 64, 2):
        changed.putpixel(((i % 8) * 8, (i // 8) * 8 + (i // 8) % 2 * 8 % 64 % 8), (1, 2, 3))
    assert len(str(inspect.inspect(changed))) < 2000
    many = Provenance(prompt="x", contexts=tuple(f"{i:064x}" for i in range(64)))
    picture = provenance.attach(noise(), many)
    assert "and 53 more" in str(inspect.inspect(picture))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "gamma", "cICP", "cHRM"])
def test_what_a_viewer_shows_otherwise_is_not_called_unchanged(kind, tmp_path):
    path = provenance.save(noise(), tmp_path / ("a.webp" if kind == "WEBP" else "a.png"), MADE)
    assert inspect.inspect(path).verdict == UNCHANGED
    if kind in ("PNG", "WEBP"):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("minikontext", Image.open(path).info.get("minikontext", ""))
        options = {"PNG": {"pnginfo": info}, "WEBP": {"lossless": True, "exif": exif_of(path)}}
        noise().save(path, kind, save_all=True, append_images=[noise(seed=5)], **options[kind])
    else:
        chunks = {
            "gamma": png_chunk(b"gAMA", (100_000).to_bytes(4, "big")),
            "cICP": png_chunk(b"cICP", bytes([9, 16, 0, 1])),
            "cHRM": png_chunk(b"cHRM", b"\0\0\x80\0" * 8),
        }
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunks[kind] + data[33:])
    found = inspect.inspect(path)
    assert found.verdict == (CHANGED if kind == "gamma" else UNKNOWN)
    assert kind == "gamma" or re.search("animation|colours", found.reason)
    assert found.provenance.prompt == MADE.prompt


def exif_of(path):
    return Image.open(path).info["exif"] if path.suffix == ".webp" else b""


def png_chunk(kind, data):
    crc = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + crc


@pytest.mark.skipif(not features.check("avif"), reason="this PIL has no AVIF")
def test_an_avif_of_several_pictures_is_not_called_unchanged(tmp_path):
    path, more = tmp_path / "x.avif", Image.new("RGB", (64, 64), "red")
    first = Image.new("RGB", (64, 64), "blue")
    first.save(path, save_all=True, append_images=[more])
    seen = images.read(path)
    note = Note(replace(MADE, pixels=provenance.checksum(seen)), seen.size,
                provenance.checksum_tiles(seen))  # fmt: skip
    for several, verdict in (([more], UNKNOWN), ([], UNCHANGED)):
        first.save(path, save_all=True, append_images=several, exif=provenance._exif(note))
        assert inspect.inspect(path).verdict == verdict


def test_a_crash_of_inspect_has_a_code_of_its_own(here, monkeypatch, capsys):
    noise().save("a.png")
    monkeypatch.setattr(inspect, "inspect", lambda _: 1 / 0)
    assert app.main(["inspect", "a.png"]) == 4
    assert "ZeroDivisionError" in capsys.readouterr().err


CRASHES = {
    "inspect a.png --watermark": "minikontext.images.watermark.describe",
    "inspect a.png --show b.png": "minikontext.images.inspect.mark_regions",
    "weights verify w": "minikontext.pretrained.summary.verify",
    "doctor": "minikontext.cli.doctor.check_packages",
}


@pytest.mark.parametrize("command", CRASHES)
def test_no_crash_has_the_code_of_a_check_that_found_something(
    here, monkeypatch, capsys, command, tiny_pipe
):
    tiny_pipe.save_pretrained("w")
    provenance.save(noise(64, 64), "a.png", MADE)
    picture = Image.open("a.png")
    info = PngImagePlugin.PngInfo()
    info.add_text("minikontext", picture.text["minikontext"])
    picture.putpixel((3, 3), (1, 2, 3))
    picture.save("a.png", pnginfo=info)  # a changed region to mark

    def fail(*_, **__):
        raise RuntimeError("evil \x1b[31m")

    monkeypatch.setattr(CRASHES[command], fail)
    assert app.main(command.split()) == 4
    said = capsys.readouterr().err
    assert "RuntimeError" in said and "\x1b" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_for_what_is_printed_is_a_mistake_and_no_change(here):
    noise().save("a.png")
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "minikontext", "inspect", "a.png"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (run.returncode, run.stderr.count("\n")) == (2, 1) and "room on the disk" in run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize(
    ("words", "code"),
    [("none.png 2>/dev/full", 2), ("a.png >/dev/full 2>&1", 2), ("a.png <&- >&- 2>&-", 3)],
)
def test_no_full_or_closed_stream_makes_a_check_find_something(here, words, code):
    noise().save("a.png")
    line = f"{shlex.quote(sys.executable)} -m minikontext inspect {words}"
    assert subprocess.run(line, shell=True, check=False).returncode == code


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of Unix")
def test_an_edit_is_not_lost_because_nobody_hears_of_it(here, tiny_pipe):
    tiny_pipe.save_pretrained("w")
    noise(64, 64).save("a.png")
    line = f"{shlex.quote(sys.executable)} -m minikontext edit a.png 'make it night' --weights w"
    assert not subprocess.run(f"{line} --steps 1 -o b.png 2>&-", shell=True).returncode
    assert images.read("b.png").size == (64, 64)


def test_other_types_in_a_pictures_info_are_ignored():
    picture = noise()
    for value in (b"bytes", 7, None, ["x"]):
        picture.info["minikontext"] = value
        assert provenance.of(images.read(picture)) is None
    picture.info["exif"] = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    assert provenance.of(images.read(picture)) is None


def test_a_terminal_gets_no_control_characters(tmp_path):
    evil = "\x1b]0;owned\x07\x1b[2J\n\r\u202e\u2028" + "x" * 5000
    fields = {"negative_prompt": evil, "guidance": evil, "weights": evil, "software": evil}
    path = provenance.save(noise(), tmp_path / "a.png", Provenance(evil, seed=evil, **fields))
    shown = str(inspect.inspect(path))
    assert all(c.isprintable() for line in shown.split("\n") for c in line)
    assert "\\x1b" in shown and "characters)" in shown and len(shown) < 10_000


# ---------------------------------------------------------------------------- the chain of edits


def run(pipe, prompt, image=None, **call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        return pipe(prompt, image=image, seed=1, num_inference_steps=1, progress=False, **call)


THREE = ("make the hat red", "make the hat blue", "a red sign")


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a.webp", "b.jpg"), ("a.jpg", "b.webp")])
def test_a_picture_edited_three_times_tells_its_history_through_files(tiny_pipe, names, tmp_path):
    image, files = noise(64, 64), [*names, "last.png"]
    for prompt, name in zip(THREE, files, strict=True):
        (image,) = run(tiny_pipe, prompt, image).save(tmp_path / name)
    found = inspect.inspect(image)
    assert prompts(found.provenance) == list(THREE) and found.verdict == UNCHANGED
    assert found.provenance.edits[0].contexts == (provenance.checksum(noise(64, 64)),)
    for before, after in zip(found.provenance.edits, found.provenance.edits[1:]):
        assert len(after.contexts) == 1
        lossless = before.pixels != ""
        assert (after.contexts[0] == before.pixels) == lossless
    assert lossless == (not names[-1].endswith("jpg"))


@pytest.mark.parametrize("how", ["output", "picture", "array"])
def test_history_goes_on_in_memory(tiny_pipe, how, tmp_path):
    out = run(tiny_pipe, THREE[0], noise(64, 64))
    for prompt in THREE[1:]:
        kinds = {"output": out, "picture": out.images[0], "array": np.asarray(out.images[0])}
        out = run(tiny_pipe, prompt, kinds[how])
    found = provenance.read(out.save(tmp_path / "a.png")[0])
    # An array is only numbers: its history cannot be known, and none is made up.
    assert prompts(found) == (list(THREE[2:]) if how == "array" else list(THREE))
    if how != "array":
        assert str(inspect.inspect(tmp_path / "a.png")).count("from the result before\n") == 2


def test_a_picture_changed_in_between_shows_in_the_history(tiny_pipe, tmp_path):
    picture = run(tiny_pipe, THREE[0], noise(64, 64)).images[0]
    picture.putpixel((3, 3), (1, 2, 3))
    run(tiny_pipe, THREE[1], picture).save(tmp_path / "a.png")
    assert "the result before, changed in between" in str(inspect.inspect(tmp_path / "a.png"))


def test_of_several_pictures_the_first_tells_the_history(tiny_pipe):
    first, second = (run(tiny_pipe, p, noise(64, 64, i)) for i, p in enumerate(THREE[:2]))
    made = run(tiny_pipe, THREE[2], [first, second.images[0]]).provenance[0]
    assert prompts(made) == [THREE[0], THREE[2]]
    assert made.contexts == (first.provenance[0].pixels, second.provenance[0].pixels)


def test_every_sample_of_a_batch_has_the_history_of_its_own_picture(tiny_pipe):
    starts = [run(tiny_pipe, p, noise(64, 64, i)) for i, p in enumerate(THREE[:2])]
    pictures = [[start.images[0]] for start in starts]
    out = run(tiny_pipe, ["a hat", "the sign"], pictures, num_images_per_prompt=2)
    assert [prompts(made) for made in out.provenance] == [
        [THREE[0], "a hat"],
        [THREE[0], "a hat"],
        [THREE[1], "the sign"],
        [THREE[1], "the sign"],
    ]
    both = run(tiny_pipe, ["a hat", "the sign"], noise(64, 64))
    assert len({made.pixels for made in both.provenance}) == 2
    further = run(tiny_pipe, ["make blue", "make red"], both)
    assert [prompts(made)[0] for made in further.provenance] == ["a hat", "the sign"]


def test_latents_and_words_alone_have_no_history(tiny_pipe, tmp_path):
    out = run(tiny_pipe, THREE[0])
    assert out.provenance[0].contexts == () and out.provenance[0].history == ()
    out.save(tmp_path / "a.png")
    assert "from words alone" in str(inspect.inspect(tmp_path / "a.png"))
    made = run(tiny_pipe, THREE[1], torch.zeros(1, 4, 8, 8)).provenance[0]
    assert made.contexts == ("",) and prompts(made) == [THREE[1]]


def test_broken_metadata_of_an_input_is_a_warning(tiny_pipe, tmp_path):
    path = with_note(noise(64, 64), "{}", tmp_path / "a.png")
    with pytest.warns(MetadataWarning, match="not carried on.*is broken"):
        out = tiny_pipe("make the hat red", image=path, num_inference_steps=1, progress=False)
    assert prompts(out.provenance[0]) == ["make the hat red"]


# -------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def weights(tiny_pipe, tmp_path_factory):
    return tiny_pipe.save_pretrained(tmp_path_factory.mktemp("weights") / "random", name="random")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise(64, 64).save("fox.png")
    return tmp_path


def command(*arguments):
    return app.main([str(argument) for argument in arguments])


def edited(weights, source, prompt, target, *options):
    arguments = ["--weights", weights, "--steps", 1, "--seed", 1, "-q", *options]
    assert command("edit", source, prompt, "-o", target, *arguments) == 0


def test_three_edits_and_a_look(here, weights, capsys):
    names = ["fox.png", "a.jpg", "b.webp", "c.png"]
    for source, prompt, target in zip(names, THREE, names[1:]):
        edited(weights, source, prompt, target)
    capsys.readouterr()
    assert command("inspect", "c.png") == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"{i}. “{prompt}”") for i, prompt in enumerate(THREE, start=1)]
    assert places == sorted(places)
    assert "weights random (" in shown and "seed 1, 1 steps" in shown
    assert "pixels: as they were written." in shown
    assert command("inspect", "a.jpg") == 3
    assert "with loss" in capsys.readouterr().out
    assert command("inspect", "fox.png") == 3
    assert "no metadata of minikontext" in capsys.readouterr().out


def test_a_changed_picture_is_shown(here, weights, capsys):
    edited(weights, "fox.png", THREE[0], "a.png")
    picture, text = images.read("a.png"), note_of("a.png")
    picture.paste("red", (8, 8, 16, 24))
    with_note(picture, text, here / "a.png")
    assert command("inspect", "a.png", "--show", "marked.png") == 1
    shown = capsys.readouterr().out
    assert "changed in columns 8 to 15, rows 8 to 23" in shown and "marked: marked.png" in shown
    assert images.read("marked.png").getpixel((8, 8)) == (255, 0, 0)


def test_nothing_is_marked_where_nothing_is_known(here, weights, capsys):
    edited(weights, "fox.png", THREE[0], "a.png")
    assert command("inspect", "a.png", "--show", "marked.png") == 0
    assert command("inspect", "fox.png", "--show", "marked.png") == 3
    assert capsys.readouterr().out.count("marked: nothing") == 2
    assert not (here / "marked.png").exists()


def test_no_prompt(here, weights, capsys, monkeypatch):
    edited(weights, "fox.png", THREE[0], "a.png", "--no-prompt")
    monkeypatch.setenv("MINIKONTEXT_NO_PROMPT", "1")
    edited(weights, "fox.png", THREE[0], "b.webp")
    for name in ("a.png", "b.webp"):
        assert THREE[0].encode() not in (here / name).read_bytes()
        assert command("inspect", name) == 0
        assert "(the prompt was withheld)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "options", "warned"),
    [
        ("a.png", [], False),
        ("a.webp", [], False),
        ("a.jpg", [], True),
        ("a.webp", ["--quality", 80], True),
    ],
)
def test_a_loss_is_said_before(here, weights, capsys, target, options, warned):
    arguments = ["--weights", weights, "--steps", 1, "-o", target, *options]
    assert command("edit", "fox.png", THREE[0], *arguments) == 0
    assert ("loses pixels on writing" in capsys.readouterr().err) == warned


def test_two_edits_at_once_do_not_overwrite_each_other(tmp_path):
    place = tmp_path / "fox_edited.png"
    pictures = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(provenance.save, one, place, new=True) for one in pictures]
        paths = [job.result() for job in jobs]
    assert {path.name for path in paths} == {
        "fox_edited.png", *(f"fox_edited-{i}.png" for i in range(2, 9))
    }  # fmt: skip
    colours = [images.read(path).getpixel((0, 0))[0] for path in paths]
    assert colours == list(range(8)) and len(list(tmp_path.iterdir())) == 8
    assert provenance.save(pictures[3], place) == place  # as asked: the old one is replaced
    assert images.read(place).getpixel((0, 0))[0] == 3
