"""The autoencoder: its sizes, its conventions, its names."""

import dataclasses
import json

import pytest
import torch

from minikontext.autoencoder import (
    AutoEncoder,
    AutoEncoderConfig,
    Downsample,
    Upsample,
    kl_divergence,
)
from minikontext.runtime.config import build_config

TINY = AutoEncoderConfig(
    resolution=32,
    in_channels=3,
    ch=8,
    out_ch=3,
    ch_mult=(1, 2, 2),
    num_res_blocks=1,
    z_channels=4,
    scale_factor=0.5,
    shift_factor=0.2,
    norm_groups=4,
)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return AutoEncoder(TINY).eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_full_size_is_that_of_flux():
    with torch.device("meta"):
        model = AutoEncoder(AutoEncoderConfig.flux())
    assert count(model) == 83_819_683
    assert len(model.state_dict()) == 244
    assert count(model.encoder) == 34_274_208
    assert count(model.decoder) == 49_545_475


def test_names_are_official():
    with torch.device("meta"):
        names = AutoEncoder(AutoEncoderConfig.flux()).state_dict()
    for name in (
        "encoder.conv_in.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down.2.downsample.conv.bias",
        "encoder.mid.attn_1.proj_out.weight",
        "encoder.norm_out.weight",
        "decoder.mid.block_2.conv2.bias",
        "decoder.up.3.upsample.conv.weight",
        "decoder.up.0.block.2.norm1.weight",
        "decoder.conv_out.bias",
    ):
        assert name in names
    assert tuple(names["encoder.mid.attn_1.q.weight"].shape) == (512, 512, 1, 1)
    assert "encoder.down.3.downsample.conv.weight" not in names
    assert "decoder.up.0.upsample.conv.weight" not in names


@pytest.mark.parametrize("config", [TINY, AutoEncoderConfig.toy(), AutoEncoderConfig.flux()])
def test_downsample_is_the_factor_between_pixels_and_latents(config):
    f = config.downsample
    with torch.device("meta"):
        model = AutoEncoder(config)
        latents = model.encode(torch.empty(2, 3, 2 * f, 3 * f))
        assert tuple(latents.shape) == (2, config.z_channels, 2, 3)
        assert tuple(model.decode(latents).shape) == (2, 3, 2 * f, 3 * f)


def test_encode_is_the_normalised_mean(tiny):
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    mean, logvar = tiny.moments(pixels)
    assert mean.shape == logvar.shape == (2, 4, 4, 6)
    torch.testing.assert_close(tiny.encode(pixels), 0.5 * (mean - 0.2))


def test_decode_undoes_the_normalisation(tiny):
    z = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(tiny.decode(tiny.normalize(z)), tiny.decoder(z))


def test_forward_is_the_round_trip(tiny):
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(tiny(pixels), tiny.decode(tiny.encode(pixels)))


def test_downsampling_pads_right_and_bottom_only():
    down = Downsample(1)
    torch.nn.init.zeros_(down.conv.bias)
    down.conv.weight.data = torch.zeros(1, 1, 3, 3)
    down.conv.weight.data[..., 0, 0] = 1  # looks at the top left pixel of each window
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert down(x).flatten().tolist() == [0, 2, 8, 10]


def test_upsampling_repeats_pixels():
    up = Upsample(1)
    torch.nn.init.zeros_(up.conv.bias)
    up.conv.weight.data = torch.zeros(1, 1, 3, 3)
    up.conv.weight.data[..., 1, 1] = 1
    x = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    assert up(x).flatten().tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


def test_the_middle_sees_the_whole_picture(tiny):
    pixels = torch.zeros(1, 3, 64, 64, requires_grad=True)
    tiny.encode(pixels)[0, 0, 0, 0].backward()
    assert pixels.grad[..., -1, -1].abs().sum() > 0


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = AutoEncoder(TINY)
    mean, logvar = model.moments(torch.randn(1, 3, 16, 16))
    (model.decode(mean).square().mean() + kl_divergence(mean, logvar)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_kl_divergence_is_that_of_gaussians():
    mean, logvar = torch.randn(2, 3), torch.randn(2, 3)
    ours = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_config_survives_json():
    saved = json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert build_config(AutoEncoderConfig, saved) == TINY
