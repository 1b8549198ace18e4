"""Fixtures that more than one folder of tests needs."""

import pytest
import torch

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.editing.defaults import Defaults
from minikontext.pipeline import KontextPipeline
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.transformer import KontextTransformer, TransformerConfig

WORDS = ("make", "the", "hat", "red", "blue", "a", "sign")


def build_tiny_pipeline(guidance=False):
    """Three tiny parts, every tensor random, so that a wrong order of anything shows."""
    torch.manual_seed(0)
    sizes = {"ch": 8, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1, "z_channels": 4}
    factors = {"scale_factor": 0.7, "shift_factor": 0.1, "norm_groups": 4}
    autoencoder = AutoEncoderConfig(resolution=64, in_channels=3, out_ch=3, **sizes, **factors)
    io = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 12, "context_in_dim": 16}
    body = {"hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1}
    rest = {"depth_single_blocks": 1, "axes_dim": (4, 6, 6), "theta": 10_000, "qkv_bias": True}
    transformer = KontextTransformer(
        TransformerConfig(**io, **body, **rest, guidance_embed=guidance)
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    text = ToyTextConfig(WORDS, max_length=8, width=16, depth=1, heads=2, pooled=12)
    defaults = Defaults(num_inference_steps=3, guidance_scale=2.5 if guidance else None)
    return KontextPipeline(
        transformer, AutoEncoder(autoencoder), ToyTextEncoder(text), defaults, name="tiny"
    )


@pytest.fixture
def two_threads():
    """Compute with two threads, for tests of what threads could change: `make test` uses one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny():
    """Build a tiny random pipeline; `tiny(guidance=True)` takes guidance as an input."""
    return build_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_pipe():
    """One tiny random pipeline for all tests that only read it."""
    return build_tiny_pipeline()
