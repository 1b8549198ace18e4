"""A whole edit against diffusers' FluxKontextPipeline: schedule, noise, packing, loop, decoding."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from PIL import Image
from reference import AUTOENCODERS, TINY, autoencoders, relative_error, transformers

from minikontext import flow, sampler
from minikontext.editing.defaults import Defaults
from minikontext.pipeline import KontextPipeline
from minikontext.text import TextFeatures

STEPS, SEED, GUIDANCE = 6, 11, 2.5
WIDTH, HEIGHT = 96, 64


class FixedText(torch.nn.Module):
    """A text encoder that knows one prompt."""

    max_length = 7

    def __init__(self, tokens, pooled):
        super().__init__()
        self.features = TextFeatures(tokens, pooled)

    def encode(self, prompts):
        return self.features

    def report(self, prompt):
        return []


@pytest.fixture(scope="module")
def parts():
    config = dataclasses.replace(TINY, in_channels=64, out_channels=64)
    their_transformer, our_transformer = transformers(config)
    their_autoencoder, our_autoencoder = autoencoders(AUTOENCODERS["tiny"])
    draw = torch.Generator().manual_seed(5)
    text = torch.randn(1, 7, 48, generator=draw), torch.randn(1, 32, generator=draw)
    ours = KontextPipeline(
        our_transformer, our_autoencoder, FixedText(*text), Defaults(width=WIDTH, height=HEIGHT)
    )
    theirs = FluxKontextPipeline(
        scheduler=scheduler(),
        vae=their_autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=their_transformer,
    )
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs, text


def scheduler():
    """As in the published FLUX.1 Kontext [dev]."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def picture():
    """A smooth random context picture of another size than the target."""
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 256, (6, 10, 3), dtype=np.uint8))
    return small.resize((80, 48), Image.Resampling.BICUBIC)


def edit_theirs(theirs, text, image, output="pil"):
    return theirs(
        image=image,
        prompt_embeds=text[0],
        pooled_prompt_embeds=text[1],
        width=WIDTH,
        height=HEIGHT,
        max_area=WIDTH * HEIGHT,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
        output_type=output,
        _auto_resize=False,
    ).images[0]


def edit_ours(ours, image, **changes):
    settings = {
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seed": SEED,
        "resize": "none",
        "progress": False,
    }
    return ours("an edit", image, width=WIDTH, height=HEIGHT, **{**settings, **changes})


def difference(a, b):
    """The largest difference of any pixel's channel, in steps of 1/255."""
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()


@pytest.mark.parametrize("context", [True, False])
def test_pictures_agree_within_one_step_of_255(parts, context):
    ours, theirs, text = parts
    image = picture() if context else None
    expected = edit_theirs(theirs, text, image)
    assert expected.size == (WIDTH, HEIGHT) and np.asarray(expected).std() > 20
    assert difference(edit_ours(ours, image).images[0], expected) <= 1


def test_latents_agree(parts):
    ours, theirs, text = parts
    packed = edit_theirs(theirs, text, picture(), "latent")
    expected = theirs._unpack_latents(packed[None], HEIGHT, WIDTH, theirs.vae_scale_factor)
    assert relative_error(edit_ours(ours, picture()).latents, expected) < 1e-5


def test_common_mistakes_are_caught(parts, monkeypatch):
    ours, theirs, text = parts
    expected = edit_theirs(theirs, text, picture())
    assert difference(edit_ours(ours, picture(), seed=SEED + 1).images[0], expected) > 1
    assert difference(edit_ours(ours, picture(), guidance_scale=2.0).images[0], expected) > 1
    line = flow.mu_for_tokens  # the schedule of target and context tokens together
    monkeypatch.setattr(sampler, "mu_for_tokens", lambda n, *_: line(n + 15))
    latents = edit_theirs(theirs, text, picture(), "latent")
    latents = theirs._unpack_latents(latents[None], HEIGHT, WIDTH, theirs.vae_scale_factor)
    assert relative_error(edit_ours(ours, picture()).latents, latents) > 1e-4


@pytest.mark.parametrize("tokens", [24, 256, 1000, 4096])
def test_schedules_agree(tokens):
    theirs = scheduler()
    sigmas = np.linspace(1.0, 1 / 28, 28)
    theirs.set_timesteps(sigmas=sigmas, mu=flow.mu_for_tokens(tokens))
    times = sampler.schedule(28, num_target_tokens=tokens)
    torch.testing.assert_close(times, theirs.sigmas, rtol=1e-6, atol=1e-6)
