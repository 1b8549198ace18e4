"""Cut arrows: the mask, the model under it, and the widget."""

import io
from itertools import product

import pytest
import torch
from PIL import Image

from minikontext import layers
from minikontext.course import attention, who_sees
from minikontext.course.who_sees import CUTS, PARTS, WhoSeesWidget, mask_without, seeing_without

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 96), "blue")}


@pytest.fixture
def demo(tiny):
    return WhoSeesWidget(tiny(), PICTURES, "make the hat red", steps=2)


def test_the_mask_cuts_whole_blocks_and_keeps_the_diagonal():
    mask = mask_without([("context", "text"), ("target", "target")], (2, 3, 1))
    assert mask.int().tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 1],
        [1, 1, 0, 1, 0, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]
    assert mask_without([], (1, 1, 1)).all()


def test_a_cut_changes_the_edit_and_ends_with_it(tiny_pipe):
    def edit():
        out = tiny_pipe("make the hat red", image=PICTURES["blue"], seed=0, progress=False)
        return out.latents

    real, plain = layers.attend, edit()
    with seeing_without([], 8, 18):
        torch.testing.assert_close(edit(), plain)
    with seeing_without([("target", "context")], 8, 18):
        assert not torch.allclose(edit(), plain)
    with pytest.raises(KeyError), seeing_without([], 8, 18):
        raise KeyError
    assert layers.attend is real


def test_a_target_that_sees_nothing_of_the_context_does_not_depend_on_it(tiny_pipe):
    def edit(picture):
        cuts = [("target", "context"), ("text", "context")]
        with seeing_without(cuts, 8, 16):
            return tiny_pipe("hat", image=picture, seed=0, progress=False).latents

    other = Image.new("RGB", (64, 64), "red")
    torch.testing.assert_close(edit(PICTURES["grey"]), edit(other))


def test_the_widget_edits_with_and_without_the_arrows(demo):
    demo.arrows["target", "context"].value = False
    assert demo.missing == [("target", "context")]
    assert demo.arrows["target", "context"].description == "cut"
    demo.run.click()
    demo.wait()
    assert "Cut: target → context" in demo.status.value and demo.whole.png != demo.cut.png
    assert Image.open(io.BytesIO(demo.cut.png)).size == (64, 64)
    plain = demo.pipe("make the hat red", image=PICTURES["grey"], seed=0, num_inference_steps=2,
                      progress=False)  # fmt: skip
    shown = Image.open(io.BytesIO(demo.whole.png)).convert("RGB")
    assert shown.tobytes() == plain.images[0].tobytes()


def test_chips_cut_what_they_say(demo):
    for chip, (name, arrows) in zip(demo.presets.children, CUTS.items(), strict=True):
        chip.click()
        assert chip.description == name and set(demo.missing) == set(arrows)
    assert set(demo.arrows) == set(product(PARTS, PARTS))


def test_the_widget_cuts_nothing_outside_of_its_run(demo, monkeypatch):
    real = layers.attend
    demo._cut(CUTS["nobody sees the target"])
    demo.picture.value = "blue"  # wide pictures have other numbers of tokens
    demo.run.click()
    demo.wait()
    assert layers.attend is real and "Cut:" in demo.status.value
    monkeypatch.setattr(who_sees, "mask_without", None)
    demo.run.click()
    demo.wait()
    assert "TypeError" in demo.status.value and layers.attend is real
    assert attention.layers.attend is real
