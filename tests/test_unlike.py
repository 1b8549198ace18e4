"""A photograph does not end in a smear without a word."""

import json
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from minikontext.editing.contexts import PictureWarning
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped
from minikontext.toyworld.edits import sample_case

PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
SHIPPED = sorted(path.parent.name for path in shipped("data", "weights").glob("*/config.json"))
CALL = {"num_inference_steps": 1, "seed": 0, "progress": False}


@pytest.fixture(scope="module", params=SHIPPED)
def pipe(request):
    return KontextPipeline.from_pretrained(request.param, device="cpu", safety="none")


def said(pipe, picture):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pipe("make the hat red", picture, **CALL)
    return [str(one.message) for one in found if one.category is PictureWarning]


def test_a_photograph_is_told_to_be_unlike_the_world(pipe):
    (text,) = said(pipe, Image.open(PHOTO))
    assert pipe.name in text and "dB" in text and "smear" in text
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert said(pipe, Image.fromarray(noise))
    with pytest.warns(PictureWarning):  # one of a batch is enough
        case = sample_case(0, 4, "dev", contexts=1)
        pipe(["red"] * 2, [[case.context_images()[0]], [Image.fromarray(noise)]], **CALL)


def test_pictures_of_the_world_are_not(pipe):
    cases = [sample_case(i, 4, "dev", contexts=1) for i in range(40)]
    for case in cases:
        assert not said(pipe, case.context_images()[0]), case.contexts


def test_weights_that_say_nothing_of_it_are_not_asked(pipe, tmp_path):

    folder = pipe.save_pretrained(tmp_path / "x")
    values = json.loads((folder / "config.json").read_text())
    del values["defaults"]["least_psnr"]
    (folder / "config.json").write_text(json.dumps(values))
    assert not said(KontextPipeline.from_pretrained(folder, device="cpu"), Image.open(PHOTO))
