"""The same seed is the same picture: again, in another process, and in a batch of any size."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext.pipeline import KontextPipeline

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ("make the hat red", "a blue sign", "make the sign blue", "the red hat")
SEEDS = (3, 1, 4, 1592)

pytestmark = pytest.mark.usefixtures("two_threads")

# What a new process does; it prints a checksum of latents and pixels.
PROGRAM = """
import hashlib, sys
from minikontext.pipeline import KontextPipeline
pipe = KontextPipeline.from_pretrained(sys.argv[1], "cpu", "float32")
out = pipe("make the hat red", sys.argv[2], seed=7, num_inference_steps=3, progress=False)
print(hashlib.sha256(out.latents.numpy().tobytes() + out.images[0].tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "fox.png"
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def draw(pipe, picture, prompts, seeds, **more):
    return pipe(list(prompts), picture, seed=list(seeds), num_inference_steps=3, progress=False,
                **more)  # fmt: skip


def steps_of_255(one, two):
    """The largest difference of two pictures, in 1/255."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(two, dtype=int)).max())


@pytest.mark.filterwarnings("ignore::UserWarning")  # the tiny pipeline knows seven words
def test_again_is_bit_for_bit_the_same(tiny_pipe, picture):
    one, two = (draw(tiny_pipe, picture, PROMPTS, SEEDS) for _ in range(2))
    assert one.latents.equal(two.latents)
    assert [x.tobytes() for x in one.images] == [x.tobytes() for x in two.images]
    other = draw(tiny_pipe, picture, PROMPTS, (5, 6, 7, 8))
    assert not any(a.equal(b) for a, b in zip(one.latents, other.latents))


def test_another_process_draws_the_same_bits(tiny_pipe, picture, tmp_path):
    """With other random hashes of strings, so that no order of a set has a say."""
    folder = tiny_pipe.save_pretrained(tmp_path / "tiny", dtype=torch.float32)
    found = set()
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), str(picture)], text=True, check=True,
            capture_output=True, cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": "2"},
        )  # fmt: skip
        found.add(done.stdout.split()[-1])
    pipe = KontextPipeline.from_pretrained(folder, "cpu", "float32")
    out = draw(pipe, picture, PROMPTS[:1], [7])
    content = out.latents.numpy().tobytes() + out.images[0].tobytes()
    assert found == {hashlib.sha256(content).hexdigest()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", [{}, {"true_cfg_scale": 2.0}], ids=["plain", "guided"])
def test_a_batch_of_any_size_draws_the_same_within_one_255th(tiny_pipe, picture, how):
    """Noise is the same to the bit. Matrix products of other sizes sum in another order, which
    moves the last bits of the latents, and so now and then a pixel by 1/255."""
    whole = draw(tiny_pipe, picture, PROMPTS, SEEDS, **how)
    for size in (1, 2, 3):
        for start in range(0, len(PROMPTS), size):
            part = slice(start, start + size)
            few = draw(tiny_pipe, picture, PROMPTS[part], SEEDS[part], **how)
            assert (few.latents - whole.latents[part]).abs().max() < 1e-4
            pairs = zip(few.images, whole.images[part], strict=True)
            assert max(steps_of_255(*pair) for pair in pairs) <= 1


def test_noise_does_not_depend_on_its_neighbours(tiny_pipe):
    whole = tiny_pipe.noise(SEEDS, 64, 48)
    for i, seed in enumerate(SEEDS):
        assert tiny_pipe.noise([seed], 64, 48)[0].equal(whole[i])


@pytest.mark.weights
def test_the_shipped_weights_draw_the_same_in_any_batch(picture):
    if not (ROOT / "data/weights/toy/config.json").is_file():
        pytest.skip("the toy weights are not there")
    pipe = KontextPipeline.from_pretrained("toy", "cpu", "float32")
    picture = ROOT / "data/images/demo.png"
    prompts = ["make the hat red", "make it night"]
    whole = draw(pipe, picture, prompts, SEEDS[:2])
    for i in range(2):
        one = draw(pipe, picture, prompts[i : i + 1], SEEDS[i : i + 1])
        assert steps_of_255(one.images[0], whole.images[i]) <= 1
