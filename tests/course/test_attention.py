"""Attention maps, the widgets that show them, and the pictures of the row of tokens."""

import io
import time

import pytest
import torch
from ipywidgets.widgets.widget import _instances  # what kernel and page keep
from PIL import Image, ImageColor

from minikontext import layers, rope, tokens
from minikontext.course import attention, positions, sequence, style
from minikontext.errors import SizeError

PICTURES = {"grey": Image.new("RGB", (64, 64), "grey"), "blue": Image.new("RGB", (48, 96), "blue")}
PROMPT = "make the hat red"


@pytest.fixture
def demo(tiny):
    return attention.AttentionWidget(tiny(), PICTURES, PROMPT, steps=3)


def shown(box):
    return Image.open(io.BytesIO(box.png))


# ---- watching


def test_the_weights_are_those_that_the_model_uses():
    q, k, v = (torch.randn(2, 5, 3, 16) for _ in range(3))
    turns = rope.rotations(tokens.position_ids(1, 5), (4, 6, 6), 10_000)
    weights = attention.attention_weights(q, k, turns)  # (2, 3, 5, 5)
    by_hand = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
    torch.testing.assert_close(by_hand, layers.attention(q, k, v, turns))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))


def test_watching_changes_nothing_and_ends(tiny_pipe):
    real = layers.attention
    edit = attention.watch_edit(tiny_pipe, PROMPT, PICTURES["grey"], seed=0)
    assert layers.attention is real
    plain = tiny_pipe(PROMPT, image=PICTURES["grey"], seed=0, progress=False)
    torch.testing.assert_close(edit.output.latents, plain.latents)
    assert edit.weights.shape == (3, 2, 2, 8 + 16 + 16, 40)  # steps, blocks, heads, n, n
    assert edit.words[:4] == PROMPT.split() and len(edit.words) == 8
    assert edit.grids == [(4, 4), (4, 4)] and edit.names == ["text", "target", "context"]


def test_watching_ends_after_an_error_too(tiny_pipe):
    real = layers.attention
    with pytest.raises(SizeError, match="limit of 10"), attention.watch_attention(10):
        tiny_pipe(PROMPT, seed=0, progress=False)
    assert layers.attention is real


def test_parts_of_a_look_add_up_to_one(tiny_pipe):
    both = [PICTURES["grey"], PICTURES["blue"]]
    edit = attention.watch_edit(tiny_pipe, PROMPT, both, seed=0, num_inference_steps=2)
    assert edit.names == ["text", "target", "context 1", "context 2"]
    look = edit.attention_from((1, 2), step=0, block=1, head=0)
    assert [tuple(x.shape) for x in look] == [(8,), (4, 4), (4, 4), (6, 3)]
    assert sum(x.sum().item() for x in look) == pytest.approx(1, abs=1e-4)
    assert look[1][0, 3] == edit.weights[0, 1, 0, 8 + 6, 8 + 3]
    assert sum(edit.shares(step=1)) == pytest.approx(1, abs=1e-4)


def test_without_a_context_there_are_two_parts(tiny_pipe):
    edit = attention.watch_edit(tiny_pipe, PROMPT, seed=0, num_inference_steps=1)
    assert edit.names == ["text", "target"] and len(edit.attention_from((0, 0))) == 2


def test_spotlight_lights_what_is_looked_at():
    weights = torch.zeros(4, 4)
    weights[1, 2] = 1.0
    page = attention.spotlight(Image.new("RGB", (64, 64), "white"), weights, 1.0, (0, 0), side=128)
    assert page.size == (128, 128)
    assert page.getpixel((80, 48)) == (255, 255, 255) and sum(page.getpixel((16, 100))) < 300
    assert page.getpixel((0, 0)) == ImageColor.getrgb(style.ACCENT)


# ---- the attention widget


def test_the_widget_shows_an_edit_at_once(demo):
    assert len(demo.target.cells) == 16 and len(demo.heads.cells) == 2 * 2
    assert len(demo.contexts.children) == 1
    assert "row 2, column 2" in demo.status.value and "mean of all heads" in demo.status.value
    assert all(name in demo.shares.value for name in ("text", "target", "context"))
    assert "hat" in demo.words.value and "3 × &lt;pad&gt;" in demo.words.value


def test_a_click_on_a_patch_shows_where_it_looks(demo):
    before, text = demo.target.image.value, demo.status.value
    demo.target.cells[3, 2].click()
    assert demo.target.chosen == (3, 2) and "row 4, column 3" in demo.status.value
    assert demo.target.image.value != before and demo.status.value != text


def test_a_click_on_a_head_shows_it_alone(demo):
    mean = demo.contexts.children[0].children[0].image.value
    demo.heads.cells[0, 0].click()  # the cell that is chosen at the start counts, too
    assert demo.one == (0, 0) and "block 1, head 1" in demo.status.value
    assert demo.contexts.children[0].children[0].image.value != mean
    demo.every.click()
    assert demo.one is None and demo.contexts.children[0].children[0].image.value == mean


def test_the_step_is_moved(demo):
    last = demo.target.image.value
    demo.step.value = 3
    assert demo.target.image.value != last and f"t = {demo.edit.times[2]:.2f}" in demo.status.value


def test_another_picture_and_prompt(demo):
    demo.picture.value, demo.prompt.value = "blue", "a blue sign"
    demo.run.click()
    demo.wait()
    assert len(demo.target.cells) == 6 * 3 and not demo.run.disabled
    assert "sign" in demo.words.value and demo.working.layout.visibility == "hidden"
    assert shown(demo.target.image).height == 2 * shown(demo.target.image).width


def test_two_contexts(demo):
    demo.second.value = "blue"
    demo.run.click()
    demo.wait()
    assert len(demo.contexts.children) == 2 and "context 2" in demo.shares.value


def test_another_edit_keeps_no_parts_of_the_one_before(demo):
    cells = demo.target.grid.children
    before = len(_instances)
    demo.run.click()
    demo.wait()
    assert len(_instances) == before and demo.target.grid.children == cells


def test_cancel_keeps_the_last_edit(demo):
    first, real = demo.edit, demo.pipe.transformer.forward

    def slow(*args, **named):
        time.sleep(0.05)
        return real(*args, **named)

    demo.pipe.transformer.forward = slow
    demo.run.click()
    assert demo.working.layout.visibility == "visible" and demo.run.disabled
    demo.cancel.click()
    demo.wait()
    assert demo.edit is first and "Cancelled" in demo.status.value and not demo.run.disabled


def test_unknown_words_are_said_before_and_after(demo):
    demo.prompt.value = "the zzzz hat"
    assert "zzzz" in demo.status.value and "mk-note" in demo.status.value
    demo.prompt._handle_string_msg(demo.prompt, {"event": "submit"}, [])  # as the browser sends it
    demo.wait()
    assert demo.edit.output.provenance[0].prompt == "the zzzz hat"
    assert "zzzz" in demo.status.value and "looks most at" in demo.status.value


def test_errors_are_shown(demo):
    demo.pipe.transformer.forward = None
    demo.run.click()
    demo.wait()
    assert "mk-error" in demo.status.value and not demo.run.disabled


# ---- positions


def test_twins_at_virtual_time_zero():
    target, context = positions.position_attention((1, 2), 0)
    torch.testing.assert_close(target, context)
    assert target.argmax() == 8 + 2


@pytest.mark.parametrize("axes_dim", positions.HEADS.values())
def test_a_head_that_looks_one_step_ahead_finds_the_context(axes_dim):
    target, context = positions.position_attention((3, 2), 1, axes_dim=axes_dim, wish=1)
    assert context.argmax() == 3 * 8 + 2 and context[3, 2] > target[3, 2]


def test_its_own_place_gets_the_root_of_the_head_dimension():
    for content in positions.CONTENTS:
        logits = positions.position_logits((0, 3, 2), tokens.position_ids(4, 4), content=content)
        assert logits.max() == pytest.approx(48**0.5, abs=1e-3)


def test_the_rope_widget_obeys():
    demo = positions.RopeWidget()
    assert "context 74%" in demo.shares.value
    before = demo.context.value
    demo.offset.value = 0
    assert "twin" in demo.status.value and "target 50%" in demo.shares.value
    demo.offset.value = 10
    assert demo.context.value != before
    for dial, value in ((demo.head, -1), (demo.wish, 0), (demo.content, 2)):
        before = demo.curve.value
        dial.value = dial.options[value]
        assert demo.curve.value != before
    before = demo.target.image.value
    demo.content.value = "in all channels"
    demo.target.cells[7, 7].click()
    assert demo.target.chosen == (7, 7) and demo.target.image.value != before


# ---- the row of tokens


def test_the_row_of_tokens_grows_with_contexts_and_words():
    picture = PICTURES["grey"]
    few, many = ["red", "<pad>"], ["wonderful"] * 20
    sizes = [
        sequence.draw_sequence(words, picture, contexts).size
        for words, contexts in ((few, []), (few, [picture]), (few, [PICTURES["blue"]]), (many, []))
    ]
    assert {width for width, _ in sizes} == {740}
    rows = [(height - 6) / sequence.HIGH for _, height in sizes]
    assert rows == [2, 3, 4, 4]  # 18 tokens of the tall picture need two lines
