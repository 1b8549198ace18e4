"""Our transformer against diffusers' FluxTransformer2DModel."""

import dataclasses

import pytest
import torch
from reference import TINY, TRANSFORMERS, relative_error, transformers

from minikontext import tokens
from minikontext.pretrained.key_mapping import from_diffusers


def inputs(config, dtype=torch.float32):
    """Target and two context images, three grids: ids (0, r, c), (1, r, c), (2, r, c)."""
    draw = torch.Generator().manual_seed(7)
    grids = [(3, 4), (4, 5), (2, 3)]
    images = [torch.randn(2, r * c, config.in_channels, generator=draw) for r, c in grids]
    ids = tokens.context_ids(grids[1:])
    img, img_ids = tokens.join_context(images[0], tokens.position_ids(3, 4), images[1:], ids)
    return {
        "img": img.to(dtype),
        "img_ids": img_ids,
        "txt": torch.randn(2, 7, config.context_in_dim, generator=draw).to(dtype),
        "txt_ids": torch.zeros(7, 3),
        "timesteps": torch.tensor([0.5, 0.125]),
        "pooled": torch.randn(2, config.vec_in_dim, generator=draw).to(dtype),
        "guidance": torch.tensor([2.0, 4.0]) if config.guidance_embed else None,
    }


def run(theirs, ours, given):
    """The same call in both libraries' words."""
    with torch.no_grad():
        expected = theirs(
            hidden_states=given["img"],
            encoder_hidden_states=given["txt"],
            pooled_projections=given["pooled"],
            timestep=given["timesteps"].to(given["img"].dtype),
            img_ids=given["img_ids"].float(),
            txt_ids=given["txt_ids"],
            guidance=given["guidance"],
            return_dict=False,
        )[0]
        return ours(**given), expected


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_velocities_agree(name, guidance):
    config = dataclasses.replace(TRANSFORMERS[name], guidance_embed=guidance)
    got, expected = run(*transformers(config), inputs(config))
    assert expected.std() > 0.1  # a net that says nothing would agree, too
    assert relative_error(got, expected) < 2e-6


def test_bfloat16_agrees_as_far_as_it_can():
    """diffusers rounds 1000 t and 1000 guidance to bfloat16, we do not: these need no rounding."""
    theirs, ours = transformers(TINY)
    got, expected = run(theirs.bfloat16(), ours.bfloat16(), inputs(TINY, torch.bfloat16))
    assert relative_error(got, expected) < 1e-2


def test_a_last_layer_that_is_not_swapped_is_caught():
    theirs, ours = transformers(TINY)
    for leaf in ("weight", "bias"):
        name = f"adaLN_modulation.1.{leaf}"
        unswapped = theirs.state_dict()[f"norm_out.linear.{leaf}"]
        ours.final_layer.load_state_dict({name: unswapped}, strict=False)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(got, expected) > 0.05


@pytest.mark.parametrize("name", ["time", "text", "context index", "guidance"])
def test_small_mistakes_are_caught(name):
    """What the tolerance is worth: each common mistake is a thousand times larger."""
    theirs, ours = transformers(TINY)
    given = inputs(TINY)
    _, expected = run(theirs, ours, given)
    wrong = {
        "time": {"timesteps": given["timesteps"] + 1e-4},
        "text": {"txt": given["txt"].flip(1)},
        "context index": {"img_ids": given["img_ids"].clamp(max=torch.tensor([1, 9, 9]))},
        "guidance": {"guidance": given["guidance"] + 1e-3},
    }[name]
    if name == "text":  # text has no positions: its order is free, unless it is given some
        wrong["txt_ids"] = torch.arange(7.0)[:, None].expand(7, 3)
    with torch.no_grad():
        assert relative_error(ours(**{**given, **wrong}), expected) > 2e-5


def test_gradients_agree():
    theirs, ours = transformers(TINY)
    given = inputs(TINY)
    ours(**given).square().mean().backward()
    with torch.enable_grad():
        theirs(
            hidden_states=given["img"],
            encoder_hidden_states=given["txt"],
            pooled_projections=given["pooled"],
            timestep=given["timesteps"],
            img_ids=given["img_ids"].float(),
            txt_ids=given["txt_ids"],
            guidance=given["guidance"],
            return_dict=False,
        )[0].square().mean().backward()
    expected = from_diffusers({name: p.grad for name, p in theirs.named_parameters()})
    errors = {n: relative_error(p.grad, expected[n]) for n, p in ours.named_parameters()}
    assert max(errors.values()) < 1e-4, max(errors, key=errors.get)
