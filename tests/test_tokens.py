"""Packing, numbering and joining of tokens."""

import re

import pytest
import torch

from minikontext import tokens
from minikontext.denoiser import Denoiser, grid_ids
from minikontext.errors import ConfigError, SizeError
from minikontext.text import TextFeatures


def test_pack_is_channel_major_inside_a_token():
    latents = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    packed = tokens.pack(latents)
    assert packed.shape == (1, 6, 8)
    top_left = [*latents[0, 0, :2, :2].flatten(), *latents[0, 1, :2, :2].flatten()]
    assert packed[0, 0].tolist() == top_left
    assert packed[0, 1, 0] == latents[0, 0, 0, 2]  # the second token lies right of the first
    assert packed[0, 3, 0] == latents[0, 0, 2, 0]  # the fourth begins the second row


@pytest.mark.parametrize(("height", "width", "patch"), [(4, 6, 2), (2, 2, 2), (3, 5, 1), (9, 6, 3)])
def test_unpack_undoes_pack(height, width, patch):
    latents = torch.randn(2, 3, height, width)
    again = tokens.unpack(tokens.pack(latents, patch), height, width, patch)
    assert torch.equal(again, latents)


def test_pack_refuses_what_patches_do_not_divide():
    with pytest.raises(SizeError, match="5 x 4"):
        tokens.pack(torch.zeros(1, 1, 5, 4))


def test_unpack_refuses_a_sequence_that_still_holds_the_context():
    with pytest.raises(SizeError, match="Got 8 tokens.* have 4"):
        tokens.unpack(torch.zeros(1, 8, 4), 4, 4)


def test_position_ids_count_rows_then_columns():
    ids = tokens.position_ids(2, 3, index=1, row=10, col=20)
    assert ids.tolist() == [
        [1, 10, 20],
        [1, 10, 21],
        [1, 10, 22],
        [1, 11, 20],
        [1, 11, 21],
        [1, 11, 22],
    ]


def test_position_ids_follow_the_order_of_pack():
    rows, cols = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    packed = tokens.pack(torch.stack((rows, cols))[None], patch=1)[0]  # (15, 2): row, column
    assert torch.equal(packed, tokens.position_ids(3, 5)[:, 1:].float())


def test_index_layout_counts_images_and_restarts_each_grid():
    first, second = tokens.context_ids([(2, 2), (1, 3)])
    assert torch.equal(first, tokens.position_ids(2, 2, index=1))
    assert torch.equal(second, tokens.position_ids(1, 3, index=2))


def test_offset_layout_places_images_side_by_side():
    first, second = tokens.context_ids([(4, 2), (4, 3)], "offset")  # tall: the next goes right
    assert torch.equal(first, tokens.position_ids(4, 2, index=1))
    assert torch.equal(second, tokens.position_ids(4, 3, index=1, col=2))
    first, second = tokens.context_ids([(2, 4), (3, 4)], "offset")  # wide: the next goes below
    assert torch.equal(second, tokens.position_ids(3, 4, index=1, row=2))


@pytest.mark.parametrize(
    "grids", [[(2, 2)] * 5, [(1, 7), (7, 1), (3, 3)], [(4, 6), (2, 9), (5, 5)]]
)
def test_no_two_tokens_share_a_position(grids):
    for layout in tokens.LAYOUTS:
        ids = torch.cat([tokens.position_ids(3, 3), *tokens.context_ids(grids, layout)])
        assert len(ids.unique(dim=0)) == len(ids)


def test_scaled_ids_say_what_part_of_the_picture_a_token_is():
    small, same, wide = tokens.context_ids([(4, 4), (16, 16), (32, 64)], "scaled")
    assert small[:, 1].unique().tolist() == [1.5, 5.5, 9.5, 13.5]  # s i + (s - 1) / 2 with s = 4
    assert torch.equal(same, tokens.position_ids(16, 16, 2).double())
    assert wide[:64, 2].tolist() == [-0.25 + i / 2 for i in range(64)]  # s = 1 / 2
    assert [ids[:, 0].unique().item() for ids in (small, same, wide)] == [1, 2, 3]
    middle = torch.tensor([7.5, 7.5], dtype=torch.double)
    for ids in (small, same):
        torch.testing.assert_close(ids[:, 1:].mean(0), middle)
    tall = tokens.scaled_ids(tokens.position_ids(24, 16))
    assert torch.equal(tall, tokens.position_ids(24, 16).double())  # the shorter side counts


@pytest.mark.parametrize("layout", ["diagonal", {}, ["index"], None])
def test_unknown_layout_is_refused(layout):
    with pytest.raises(ConfigError, match=f"Unknown context layout {re.escape(repr(layout))}"):
        tokens.context_ids([(2, 2)], layout)
    denoiser = Denoiser(None, TextFeatures(torch.zeros(1, 2, 4), torch.zeros(1, 4)), [], layout)
    with pytest.raises(ConfigError, match="Unknown context layout"):
        denoiser.join(torch.zeros(1, 4, 64), grid_ids(torch.zeros(1, 16, 4, 4)))


def test_target_comes_first_and_can_be_cut_out_again():
    target, a, b = torch.randn(2, 4, 8), torch.randn(2, 6, 8), torch.randn(1, 2, 8)
    ids = tokens.context_ids([(2, 3), (1, 2)])
    img, img_ids = tokens.join_context(target, tokens.position_ids(2, 2), [a, b], ids)
    assert img.shape == (2, 12, 8) and img_ids.shape == (12, 3)
    assert torch.equal(tokens.cut_target(img, 4), target)
    assert torch.equal(img[:, 4:10], a)
    assert torch.equal(img[1, 10:], b[0])  # one context for the whole batch
    assert img_ids[:, 0].tolist() == [0] * 4 + [1] * 6 + [2] * 2


def test_without_context_it_is_text_to_image():
    target, ids = torch.randn(1, 4, 8), tokens.position_ids(2, 2)
    img, img_ids = tokens.join_context(target, ids)
    assert torch.equal(img, target) and torch.equal(img_ids, ids)


def test_tokens_without_ids_are_refused():
    target = torch.zeros(1, 4, 8)
    with pytest.raises(SizeError, match=r"\[4, 4\] tokens.*\[4\]"):
        tokens.join_context(target, tokens.position_ids(2, 2), [target])


def test_with_scaled_ids_target_and_contexts_of_all_sizes_lie_over_each_other():
    text = TextFeatures(torch.zeros(1, 2, 4), torch.zeros(1, 4))
    contexts = [torch.zeros(1, 16, side, side) for side in (8, 16)]
    denoiser = Denoiser(None, text, contexts, "scaled")
    _, ids = denoiser.join(torch.zeros(1, 16, 64), grid_ids(torch.zeros(1, 16, 8, 8)))
    target, small, large = ids.split((16, 16, 64))
    assert torch.equal(target[:, 1:], small[:, 1:])
    torch.testing.assert_close(large[:, 1:].mean(0), small[:, 1:].mean(0))
    _, ids = denoiser.join(torch.zeros(1, 64, 64), grid_ids(torch.zeros(1, 16, 16, 16)))
    target, small, large = ids.split((64, 16, 64))
    assert torch.equal(target[:, 1:], large[:, 1:]) and target[1, 2] - target[0, 2] == 2
