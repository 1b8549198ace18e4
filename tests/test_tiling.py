"""Tiles: exact where the map is local, close where it is the autoencoder."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from minikontext import images
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.editing import codec
from minikontext.errors import SizeError
from minikontext.pretrained import native, safetensors_io
from minikontext.runtime.tiling import starts, tiled


def grow(x):
    return F.interpolate(x, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (37, 61), (12, 50)])
def test_a_local_map_does_not_notice_the_tiles(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiled(grow, x, 16, 4), grow(x))
    y = grow(x)
    torch.testing.assert_close(tiled(lambda z: F.avg_pool2d(z, 4), y, 32, 8, multiple=4), x)


def test_tiles_in_bfloat16_are_blended_as_in_float32():
    x = torch.zeros(1, 1, 1, 96)
    x[..., 32] = 1  # where the second of two tiles begins

    def wide(z):  # a tile of 640 numbers, of which bfloat16 cannot count the last
        return z[..., :1].expand(1, 1, 1, 64).repeat_interleave(10, -1).expand(1, 1, 10, 640)

    joined, exact = tiled(wide, x.bfloat16(), 64, 32), tiled(wide, x, 64, 32)
    assert joined.dtype == torch.bfloat16 and 0.4 < exact[0, 0, 0, 480] < 0.6
    torch.testing.assert_close(joined.float(), exact, atol=0.002, rtol=0)  # its rounding below 1


def test_tiles_cover_the_whole_side():
    for length in (5, 16, 17, 28, 100):
        places = starts(length, 16, 4)
        assert places[0] == 0 and places[-1] + 16 >= length
        assert all(b - a <= 12 for a, b in pairwise(places))


@pytest.mark.weights
def test_a_picture_in_tiles_is_nearer_to_the_whole_than_the_whole_to_the_input():
    folder = native.find_weights("toy")
    with torch.device("meta"):
        model = AutoEncoder(AutoEncoderConfig.toy())
    safetensors_io.load_into(model, folder / "autoencoder.safetensors", dtype=torch.float32)
    bear = Image.open(folder.parent.parent / "images" / "bear.png").convert("RGB")
    pixels = images.to_tensor(bear.resize((256, 192)))
    with torch.no_grad():
        latents = model.encode(pixels)
        whole = model.decode(latents)
        joined = tiled(model.decode, latents, 24, 8)
        seams = tiled(model.decode, latents, 24, 0)
    assert psnr(joined, whole) > 48 > psnr(whole, pixels)
    assert psnr(joined, whole) > psnr(seams, whole) + 2


def psnr(a, b):
    """Peak signal to noise in dB; pixels are in [-1, 1]."""
    return -10 * torch.log10(((a - b) / 2).square().mean()).item()


def test_the_pipeline_uses_tiles_for_large_pictures_only(tiny_pipe, monkeypatch):
    sizes = []
    monkeypatch.setattr(codec, "UNTILED", 64 * 64)
    monkeypatch.setattr(codec, "TILE", 64)
    monkeypatch.setattr(codec, "OVERLAP", 32)
    decode = tiny_pipe.autoencoder.decode
    monkeypatch.setattr(
        tiny_pipe.autoencoder, "decode", lambda z: (sizes.append(z.shape), decode(z))[1]
    )
    assert tiny_pipe.decode(torch.zeros(1, 4, 8, 8))[0].size == (64, 64) and len(sizes) == 1
    assert tiny_pipe.decode(torch.zeros(1, 4, 12, 16))[0].size == (128, 96)
    assert set(sizes) == {(1, 4, 8, 8)} and len(sizes) == 7
    assert tiny_pipe.encode(Image.new("RGB", (128, 96))).shape == (1, 4, 12, 16)


def test_tiles_that_do_not_fit_are_refused():
    for tile, overlap, multiple in ((16, 16, 1), (17, 4, 4), (16, 2, 4)):
        with pytest.raises(SizeError, match="Got tiles"):
            tiled(grow, torch.zeros(1, 3, 64, 64), tile, overlap, multiple)
