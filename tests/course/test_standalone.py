"""The standalone Kontext of notebook 12: short, free of the package, and equal to it."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from minikontext import course
from minikontext.course import exercises, progress  # noqa: F401  fills the table of solutions
from minikontext.course.checks import SOLVED
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "12_standalone_kontext.ipynb"
MOST = 160
EDITS = [("make the hat red", (64, 64)), ('add a sign that says "HI"', (96, 48))]

# Edits in a process that cannot import the package, and stores the pictures.
ALONE = """
import sys
sys.modules["minikontext"] = None
space = {{}}
exec(open({code!r}).read(), space)
model, config = space["load"]({weights!r})
for i, (prompt, path) in enumerate({edits!r}):
    picture = space["Image"].open(path)
    space["edit"](model, config, prompt, picture, seed=5, steps=4).save(path + ".made.png")
"""


@pytest.fixture(scope="module")
def source():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    own = [cell.source for cell in cells if "standalone" in cell.metadata.get("tags", [])]
    return "\n\n".join(own)


def test_it_has_at_most_160_lines_and_imports_nothing_of_the_package(source):
    assert 100 < sum(bool(line.strip()) for line in source.splitlines()) <= MOST
    tree = list(ast.walk(ast.parse(source)))
    found = [one.name for node in tree if isinstance(node, ast.Import) for one in node.names]
    found += [node.module for node in tree if isinstance(node, ast.ImportFrom)]
    names = {name.split(".")[0] for name in found}
    assert names == {"json", "math", "re", "zlib", "torch", "einops", "PIL", "safetensors"}


def test_its_pixels_are_the_packages(source, tmp_path):
    pipe = KontextPipeline.from_pretrained("toy", device="cpu")
    code, edits = tmp_path / "standalone.py", []
    code.write_text(source, encoding="utf-8")
    for i, (prompt, size) in enumerate(EDITS):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
        edits.append((prompt, str(path)))
    weights = str(shipped("data", "weights", "toy"))
    script = ALONE.format(code=str(code), weights=weights, edits=edits)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    for prompt, path in edits:
        theirs = pipe(prompt, image=Image.open(path), seed=5, num_inference_steps=4, resize="none",
                      progress=False).images[0]  # fmt: skip
        mine = np.asarray(Image.open(f"{path}.made.png"), dtype=int)
        assert np.abs(mine - np.asarray(theirs)).max() == 0, prompt


def test_pieces_of_a_student_can_be_pasted_into_it(source, tmp_path, monkeypatch, capsys):
    """What `mine` has kept of notebooks 02, 03 and 06 stands for ours; not one value differs."""
    monkeypatch.setenv("MINIKONTEXT_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    course.style.apply()
    solved = [SOLVED[name] for name in
              ("unpack", "number_tokens", "pack", "rotate_complex", "angles", "euler")]  # fmt: skip
    numbered = cell_of("02", "mk.course.check(number_tokens)").source
    numbered = numbered.split("mk.course.check(number_tokens)")[1].split("with mk.")[0]
    file = tmp_path / "students.py"
    file.write_text("\n\n".join(["import torch", *solved, numbered]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("students", file)
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    pipe, picture = KontextPipeline.from_pretrained("toy", device="cpu"), course.pictures()["cat"]
    with course.mine(pack=own.pack, unpack=own.unpack, position_ids=own.position_ids,
                     angles=own.angles, rotate=own.rotate_complex, euler=own.euler):
        pipe("a hat", image=picture, seed=0, num_inference_steps=1, progress=False)  # fmt: skip
    kept = progress.load("pieces")
    text = cell_of("12", "Below stand our versions").source
    told = text[text.index("Below stand") : text.index("paste yours")]
    assert {f"`{name}`" in told for name in kept} == {True} and told.count("`") == 2 * len(kept)
    ours, made = edits(source, picture)
    theirs, again = edits(pasted(source, kept), picture)
    for name in kept:
        assert theirs[name].__code__.co_code != ours[name].__code__.co_code, name
    assert np.abs(made - again).max() == 0


def test_functions_of_notebook_04_can_be_pasted_into_it(source):
    """Its attention is the formula, which adds in another order: by one step at most."""
    names = ("attend", "modulate", "timestep_embedding")
    given = {name: cell_of("04", f"def {name}(").source for name in names}
    own = {name: ast.get_source_segment(code, node) for name, code in given.items()
           for node in ast.parse(code).body if getattr(node, "name", "") == name}  # fmt: skip
    picture = course.pictures()["cat"]
    (_, made), (_, again) = (edits(code, picture) for code in (source, pasted(source, own)))
    assert set(own) == set(names) and np.abs(made - again).max() <= 1


def cell_of(number, text):
    (path,) = NOTEBOOK.parent.glob(f"{number}_*.ipynb")
    return next(c for c in nbformat.read(path, as_version=4).cells if text in c.source)


def pasted(source, pieces):
    """The file with pieces below ours, before `edit`, which takes one as an argument's default."""
    return source.replace("\ndef edit(", "\n" + "\n\n".join([*pieces.values(), "def edit("]))


def edits(source, picture):
    """What the file defines, and two edits with it."""
    space = {}
    exec(source, space)
    model, config = space["load"](str(shipped("data", "weights", "toy")))
    wishes = ("make the hat red", 'add a sign that says "HI"')
    made = [space["edit"](model, config, wish, picture, seed=3, steps=4) for wish in wishes]
    return space, np.stack([np.asarray(one, dtype=int) for one in made])


@pytest.mark.parametrize("number", ["11", "12"])
def test_both_last_notebooks_look_for_the_real_weights_in_one_place(number):
    code = cell_of(number, "real = ").source
    assert 'real = os.environ.get("MINIKONTEXT_FLUX")' in code and "import os" in code


def test_it_takes_guidance_as_flux_does(source, tiny):
    from dataclasses import asdict

    space = {}
    exec(source, space)
    net = tiny(guidance=True).transformer
    img, txt, pooled = torch.randn(1, 8, 16), torch.randn(1, 5, 16), torch.randn(1, 12)
    ids, t, scale = torch.randint(0, 4, (8, 3)), torch.rand(1), torch.tensor([2.5])
    with torch.no_grad():
        theirs = net(img, ids, txt, torch.zeros(5, 3), t, pooled, scale)
        own = space["velocity"](space["Part"](net.state_dict()), asdict(net.config), img, ids, txt,
                                pooled, t, scale)  # fmt: skip
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def test_it_reads_letters_as_the_packages_encoder_does(source, tiny):
    from dataclasses import asdict, replace

    from minikontext.text import ToyTextEncoder

    space = {}
    exec(source, space)
    config = replace(tiny().text_encoder.config, ngrams=64, ngram_width=6)
    encoder = ToyTextEncoder(config).eval()
    prompt = 'make the redd sign "HI"'
    with torch.no_grad():
        theirs = encoder(encoder.tokenize([prompt]))
        own = space["encode_text"](space["Part"](encoder.state_dict()), asdict(config), prompt)
    torch.testing.assert_close(own, (theirs.tokens, theirs.pooled), rtol=1e-4, atol=1e-5)
