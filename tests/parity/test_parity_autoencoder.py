"""Our autoencoder against diffusers' AutoencoderKL."""

import pytest
import torch
from reference import AUTOENCODERS, autoencoders, relative_error


@pytest.fixture(scope="module", params=AUTOENCODERS)
def pair(request):
    return autoencoders(AUTOENCODERS[request.param])


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_latents_agree(pair, pixels):
    theirs, ours = pair
    config = theirs.config
    with torch.no_grad():
        mean = theirs.encode(pixels).latent_dist.mode()
        expected = (mean - config.shift_factor) * config.scaling_factor
        assert relative_error(ours.encode(pixels), expected) < 2e-5


def test_moments_agree(pair, pixels):
    theirs, ours = pair
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist
        mean, logvar = ours.moments(pixels)
    assert relative_error(mean, expected.mean) < 2e-5
    assert relative_error(logvar, expected.logvar) < 2e-5


def test_pixels_agree(pair, pixels):
    theirs, ours = pair
    config = theirs.config
    with torch.no_grad():
        latents = ours.encode(pixels)
        expected = theirs.decode(latents / config.scaling_factor + config.shift_factor).sample
        got = ours.decode(latents)
    assert expected.std() > 0.1
    assert relative_error(got, expected) < 2e-5
