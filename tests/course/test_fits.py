"""The memory widget, and the tiny FLUX folder that the notebook makes."""

import pytest
import torch
from PIL import Image

from minikontext import memory
from minikontext.course import fits, tiny_flux
from minikontext.pipeline import KontextPipeline

hf = pytest.importorskip("transformers")


def test_a_larger_card_takes_an_easier_plan():
    demo = fits.FitsWidget()
    taken = []
    for gigabytes in (8, 12, 24, 32, 48):
        demo.card.value = gigabytes
        assert demo.plan.peak <= gigabytes * memory.GB and "mk-done" in demo.status.value
        taken.append(demo.plan.name)
    assert taken == ["stream", "4-bit", "8-bit", "encoders", "resident"]
    demo.card.value, demo.side.value, before = 8, 2048, demo.image.value
    assert demo.plan is None and "fits" in demo.status.value and demo.image.value != before


def test_the_encoders_are_counted_right():
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    words = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    with torch.device("meta"):
        t5 = hf.T5EncoderModel(
            hf.T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes)
        )
        clip = hf.CLIPTextModel(
            hf.CLIPTextConfig(vocab_size=49408, num_attention_heads=12, **words)
        )
    assert sum(p.numel() for p in t5.parameters()) == fits.T5
    assert sum(p.numel() for p in clip.parameters()) == fits.CLIP


def test_the_tiny_folder_edits(tmp_path):
    pipe = KontextPipeline.from_pretrained(tiny_flux.write(tmp_path / "tiny"), "cpu", "float32")
    picture = Image.new("RGB", (64, 96), "red")
    out = pipe("make the hat red", picture, num_inference_steps=1, resize="none", progress=False)
    assert out.images[0].size == (64, 96) and pipe.transformer.config == tiny_flux.config()
