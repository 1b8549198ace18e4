"""The memory widget, and the tiny FLUX folder that the notebook makes."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from minikontext.course import fits, tiny_flux
from minikontext.course.editing import EditingWidget
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import memory_plan

hf = pytest.importorskip("transformers")


def test_a_larger_card_takes_an_easier_plan():
    demo = fits.FitsWidget()
    taken = []
    for gigabytes in (8, 12, 24, 32, 48):
        demo.card.value = gigabytes
        assert demo.plan.peak <= gigabytes * memory_plan.GB and "mk-done" in demo.status.value
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


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A pipeline from a tiny FLUX folder, with trained sizes that a test has time for."""
    place = tiny_flux.write(tmp_path_factory.mktemp("widget") / "tiny")
    pipe = KontextPipeline.from_pretrained(place, "cpu", "float32")
    small = {"width": 64, "height": 64, "sizes": ((64, 64), (96, 64)), "num_inference_steps": 2}
    pipe.defaults = replace(pipe.defaults, **small)
    return pipe


def test_the_editing_widget_works_with_a_flux_folder(flux):
    demo = EditingWidget(flux, {"red": Image.new("RGB", (64, 64), "red")}, ["make the hat red"],
                         sizes=flux.defaults.sizes)  # fmt: skip
    assert (demo.steps.value, demo.guidance.value) == (2, 2.5)
    assert demo.size.options == ("as the picture", "64 × 64", "96 × 64")

    def edit(**dials):
        for name, value in dials.items():
            getattr(demo, name).value = value
        demo.run.click()
        demo.wait()
        assert "mk-done" in demo.status.value or "mk-note" in demo.status.value, demo.status.value
        return demo.turns[-1].output

    first = edit(prompt="any words are welcome here")
    assert first.provenance[0].guidance.startswith("guidance 2.5")
    assert first.images[0].size == (64, 64)
    wide = edit(size="96 × 64", guidance=4.0, steps=1)
    assert wide.images[0].size == (96, 64) and wide.provenance[0].steps == "1"
    assert wide.provenance[0].guidance.startswith("guidance 4")
    demo.picture.value = "no picture"
    assert edit(size="as the picture").images[0].size == (64, 64)
    asked = {"seed": 0, "num_inference_steps": 1, "guidance_scale": 4.0, "progress": False}
    plain = flux(demo.prompt.value, **asked)
    assert demo.current.tobytes() == plain.images[0].tobytes()


def test_weights_without_a_guidance_input_keep_the_other_dial(tiny):
    pipe = tiny()
    demo = EditingWidget(pipe, {"red": Image.new("RGB", (64, 64), "red")})
    assert demo.guidance.value == 1
    assert demo.size.options[1:] == tuple(f"{w} × {h}" for w, h in pipe.defaults.sizes)
