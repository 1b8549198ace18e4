"""Cut arrows: the mask, the model under it, and the widget."""

import io
import threading
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


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_who_cuts_or_watches_in_one_thread_changes_nothing_in_another(first_ends_first):
    """Two widgets at once: each sees its own attention, and the model is itself afterwards."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 8, generator=draw) for _ in range(3))
    own, plain = layers.attend, layers.attend(q, k, v)
    inside, leave, found = threading.Event(), threading.Event(), []

    def cutting():
        with seeing_without([("target", "text")], 2, 3):
            inside.set()
            leave.wait()
            found.append(layers.attend(q, k, v))

    other = threading.Thread(target=cutting)
    other.start()
    inside.wait()
    assert torch.equal(layers.attend(q, k, v), plain)  # here nothing is cut
    with seeing_without([("text", "target")], 2, 3):
        mine = layers.attend(q, k, v)
        if first_ends_first:
            leave.set()
            other.join()
        assert torch.equal(layers.attend(q, k, v), mine) and not torch.equal(mine, plain)
    leave.set()
    other.join()
    (theirs,) = found
    assert not torch.equal(theirs, mine) and not torch.equal(theirs, plain)
    assert layers.attend is own


def test_attention_is_noted_of_the_own_thread_alone():
    x, turns = torch.ones(1, 3, 2, 8), torch.ones(3, 4, 2)
    with attention.watch_attention() as seen:
        other = threading.Thread(target=lambda: layers.attention(x, x, x, turns))
        other.start()
        other.join()
        assert not seen
        layers.attention(x, x, x, turns)
        assert len(seen) == 1
