"""The pipeline on tiny random models: real parts, nothing replaced."""

import base64
import io
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext.denoiser import Denoiser
from minikontext.editing.contexts import ContextReader
from minikontext.editing.defaults import Defaults
from minikontext.editing.request import pick_seeds
from minikontext.errors import (
    Cancelled,
    ConfigError,
    ImageError,
    NonFiniteError,
    OutputError,
    PromptError,
    PromptWarning,
    ResizeWarning,
    SizeError,
    WeightsError,
    WeightsWarning,
)
from minikontext.images import KONTEXT_SIZES, provenance
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import lora
from minikontext.runtime import offload
from minikontext.runtime.config import build_config
from minikontext.toyworld.sizes import TRAINED

LANCZOS = Image.Resampling.LANCZOS


@pytest.fixture
def pipe(tiny_pipe):
    return tiny_pipe


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def other(picture):
    return picture.transpose(Image.Transpose.ROTATE_90)


def run(pipe, *args, **kwargs):
    return pipe(*args, progress=False, **{"seed": 1, **kwargs})


def difference(a, b):
    """Largest difference of two pictures, in steps of 1/255."""
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


# ---- what a call gives


def test_edit_gives_a_picture_of_the_same_size(pipe, picture):
    out = run(pipe, "make the hat red", image=picture)
    assert [x.size for x in out.images] == [(64, 64)] and out.images[0].mode == "RGB"
    assert out.latents.shape == (1, 4, 8, 8) and out.seeds == [1] and not out.plan.changed


def test_every_input_matters(pipe, picture, other):
    base = run(pipe, "make the hat red", image=picture)
    changed = {
        "prompt": run(pipe, "the blue hat", image=picture),
        "context": run(pipe, "make the hat red", image=other),
        "no context": run(pipe, "make the hat red"),
        "seed": run(pipe, "make the hat red", image=picture, seed=2),
        "steps": run(pipe, "make the hat red", image=picture, num_inference_steps=4),
        "second context": run(pipe, "make the hat red", image=[picture, other]),
        "guidance": run(pipe, "make the hat red", image=picture, true_cfg_scale=3.0),
    }
    same = [k for k, out in changed.items() if torch.allclose(out.latents, base.latents, atol=1e-4)]
    assert same == []


def test_the_same_call_gives_the_same_picture(pipe, picture):
    a, b = (run(pipe, "the hat", image=picture) for _ in range(2))
    assert torch.equal(a.latents, b.latents)


def test_a_seed_means_the_same_picture_in_any_batch(pipe, picture):
    batch = run(pipe, ["the hat", "a sign"], image=picture, num_images_per_prompt=2, seed=5)
    assert batch.seeds == [5, 6, 7, 8] and len(batch) == 4
    for i, prompt in enumerate(["the hat", "the hat", "a sign", "a sign"]):
        single = run(pipe, prompt, image=picture, seed=5 + i)
        torch.testing.assert_close(batch[i].latents, single.latents, atol=1e-5, rtol=1e-4)
        assert difference(batch.images[i], single.images[0]) <= 1


def test_each_prompt_can_have_its_own_contexts(pipe, picture, other):
    rows = [[picture, other], [other, picture]]
    batch = run(pipe, ["the hat", "a sign"], image=rows, seed=[3, 4], num_images_per_prompt=1)
    single = run(pipe, "a sign", image=[other, picture], seed=4)
    torch.testing.assert_close(batch[1].latents, single.latents, atol=1e-5, rtol=1e-4)


def test_seeds_are_drawn_and_told_when_none_is_given(pipe, picture):
    out = run(pipe, "the hat", image=picture, seed=None)
    again = run(pipe, "the hat", image=picture, seed=out.seeds)
    assert torch.equal(out.latents, again.latents)


def test_noise_is_that_of_a_plain_generator(pipe):
    noise = pipe.noise([7, 8], width=64, height=32)
    expected = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(8))
    assert torch.equal(noise[1:], expected)


# ---- guidance


def test_a_scale_of_one_is_no_guidance(pipe, picture):
    plain = run(pipe, "the hat", image=picture)
    one = run(pipe, "the hat", image=picture, true_cfg_scale=1.0)
    assert torch.equal(plain.latents, one.latents)
    with pytest.warns(PromptWarning, match="no effect"):
        run(pipe, "the hat", image=picture, negative_prompt="a sign")


def test_guidance_against_the_prompt_itself_changes_nothing(pipe, picture):
    plain = run(pipe, "the hat", image=picture)
    same = run(pipe, "the hat", image=picture, negative_prompt="the hat", true_cfg_scale=4.0)
    torch.testing.assert_close(plain.latents, same.latents, atol=1e-5, rtol=1e-4)


def test_guidance_follows_its_formula(pipe, picture):
    noise = pipe.noise([1], 64, 64)
    contexts = [pipe.encode(picture)]
    t = torch.ones(1)
    pos, neg = (
        Denoiser(pipe.transformer, pipe.encode_text([p]), contexts)(noise, t)
        for p in ("the hat", "a sign")
    )
    out = run(
        pipe, "the hat", image=picture, negative_prompt=["a sign"], true_cfg_scale=3.0,
        num_inference_steps=1,
    )  # fmt: skip
    torch.testing.assert_close(out.latents, noise - (neg + 3 * (pos - neg)), atol=1e-5, rtol=1e-4)


def test_weights_that_take_guidance_get_it(tiny, picture):
    guided = tiny(guidance=True)
    low, high = (run(guided, "the hat", image=picture, guidance_scale=w) for w in (1.0, 9.0))
    assert not torch.allclose(low.latents, high.latents, atol=1e-3)
    default = run(guided, "the hat", image=picture)
    told = run(guided, "the hat", image=picture, guidance_scale=2.5)
    assert torch.equal(default.latents, told.latents)


# ---- sizes


@pytest.mark.parametrize("size", [(96, 48), (16, 16), (80, 64)])
def test_sizes_of_whole_tokens_are_kept(pipe, size):
    out = run(pipe, "the hat", width=size[0], height=size[1])
    assert out.images[0].size == size and out.latents.shape[2:] == (size[1] // 8, size[0] // 8)


def test_other_sizes_are_padded_and_cut_back(pipe):
    with pytest.warns(ResizeWarning, match="70×50 padded to 80×64") as record:
        out = run(pipe, "the hat", width=70, height=50)
    assert out.images[0].size == (70, 50) and out.latents.shape[2:] == (8, 10)
    full = pipe.decode(out.latents)[0]
    assert difference(out.images[0], full.crop((0, 0, 70, 50))) == 0
    assert record[0].filename == __file__


def test_context_is_snapped_to_a_trained_size_and_undone(pipe, picture):
    wide = picture.resize((150, 90))
    with pytest.warns(ResizeWarning, match="150×90 resized"):
        out = run(pipe, "the hat", image=wide)
    assert out.images[0].size == (150, 90) and out.plan.working in pipe.defaults.sizes
    with pytest.warns(ResizeWarning, match="150×90 padded"):
        out = run(pipe, "the hat", image=wide, resize="none")
    assert out.images[0].size == (150, 90) and out.plan.working == (160, 96)
    with pytest.warns(ResizeWarning, match="150×90 padded to 160×96$"):  # nothing to cut back
        assert run(pipe, "the hat", image=wide, resize="none", width=64).images[0].width == 64


def test_contexts_may_differ_in_size_from_the_target_and_each_other(pipe, picture):
    small = picture.resize((32, 48))
    kwargs = {"width": 96, "height": 64, "resize": "none"}
    index = run(pipe, "the hat", image=[picture, small], **kwargs)
    offset = run(pipe, "the hat", image=[picture, small], context_layout="offset", **kwargs)
    assert index.images[0].size == (96, 64)
    assert not torch.allclose(index.latents, offset.latents, atol=1e-4)


@pytest.fixture
def many_sizes(pipe):
    """The tiny pipeline as weights of many areas, and how it brings a picture to a size."""
    parts = pipe.transformer, pipe.autoencoder, pipe.text_encoder
    return KontextPipeline(*parts, replace(pipe.defaults, sizes=TRAINED), "many")


def test_weights_of_many_areas_see_a_context_at_the_size_of_the_result(many_sizes, picture):
    def latents(image, **more):
        return run(many_sizes, "the hat", image=image, **more).latents

    large, wide = (picture.resize(size, LANCZOS) for size in ((128, 128), (160, 64)))
    asked = {"width": 128, "height": 128}
    with pytest.warns(ResizeWarning, match="64×64 resized to 128×128$"):
        assert torch.equal(latents(picture, **asked), latents(large))
    as_it_is = latents(picture, **asked, resize="none")
    assert not torch.allclose(as_it_is, latents(large), atol=1e-4)
    with pytest.warns(ResizeWarning, match="128×128 resized to 64×64"):  # the second as the first
        shrunk = large.resize((64, 64), LANCZOS)
        assert torch.equal(latents([picture, large]), latents([picture, shrunk]))
    with warnings.catch_warnings():  # of another shape: at its own trained size
        warnings.simplefilter("error")
        found = latents([wide, picture])
    assert torch.equal(found, latents([wide, picture], resize="none"))
    with pytest.warns(ResizeWarning, match="64×64 resized to 96×80; stretched"):
        latents(picture, width=96, height=80)
    with pytest.warns(ResizeWarning, match="64×64 resized to 80×64"):  # one side is the picture's
        latents(picture, width=80)


def test_a_result_goes_on_at_another_size_through_its_picture(many_sizes, picture):
    first = run(many_sizes, "the hat", image=picture, num_images_per_prompt=2)
    grown = [image.resize((128, 128), LANCZOS) for image in first.images]
    asked = {"width": 128, "height": 128, "seed": [3, 4]}
    prompts = ["night", "night"]
    found = run(many_sizes, prompts, image=first, **asked).latents
    right = [run(many_sizes, "night", image=one, width=128, height=128, seed=seed).latents
             for one, seed in zip(grown, (3, 4))]  # fmt: skip
    assert torch.allclose(found, torch.cat(right), atol=1e-4)
    kept = run(many_sizes, prompts, image=first, seed=[3, 4]).latents
    same = run(many_sizes, prompts, image=first.latents, seed=[3, 4]).latents
    assert torch.equal(kept, same)  # at its own size no pixel is asked
    shaped = {"width": 160, "height": 64, "seed": [3, 4]}
    found, right = (run(many_sizes, prompts, image=x, **shaped) for x in (first, first.latents))
    assert torch.equal(found.latents, right.latents)


def test_a_result_of_weights_of_one_area_or_one_asked_for_as_it_is_stays_latents(
    pipe, many_sizes, picture
):
    small = run(pipe, "the hat", image=picture, width=48, height=48)
    odd = run(many_sizes, "the hat", image=picture.resize((100, 100)))  # 96 × 96 inside
    for net, first, side, how in ((pipe, small, 64, "kontext"), (many_sizes, odd, 100, "none")):
        asked = {"width": side, "height": side, "resize": how}
        found, right = (run(net, "night", image=x, **asked) for x in (first, first.latents))
        assert torch.equal(found.latents, right.latents)


@pytest.mark.parametrize("size", [(0, 64), (-16, 64), (64, "64"), (64, 1.5), (10**6, 10**6)])
def test_a_size_of_no_result_is_refused_by_weights_of_many_areas_too(many_sizes, picture, size):
    with pytest.raises(SizeError):
        run(many_sizes, "the hat", image=picture, width=size[0], height=size[1])


def test_one_side_alone_takes_the_other_from_the_context(pipe, picture):
    assert run(pipe, "the hat", image=picture, width=32).images[0].size == (32, 64)


@pytest.mark.parametrize("size", KONTEXT_SIZES)
def test_all_trained_sizes_of_the_full_model_are_used_as_they_are(tiny, size):
    pipe = tiny().to("meta")
    pipe.defaults = replace(pipe.defaults, sizes=KONTEXT_SIZES)
    for original in (size, (2 * size[0] + 3, 2 * size[1] - 1)):
        reader = ContextReader(pipe.codec, pipe.defaults)
        context = reader.encode_slot([Image.new("RGB", original)], "kontext")
        plan = reader.target_plan(None, None, [context])
        assert plan.working == size and plan.changed == (original != size)
        assert pipe.noise([0], *plan.working).shape == context.latents.shape
        assert plan.undo(Image.new("RGB", size)).size == original


def test_compiled_blocks_give_the_same_and_new_sizes_cost_nothing(tiny):
    pipe, made = tiny(), []
    sizes = [(64, 64), (96, 48), (48, 96), (80, 64), (32, 128)]
    expected = [run(pipe, "the hat", width=w, height=h).latents for w, h in sizes]

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    pipe.compile(backend=backend, fullgraph=True)
    counts = []
    for (w, h), latents in zip(sizes, expected):
        got = run(pipe, "the hat", width=w, height=h).latents
        torch.testing.assert_close(got, latents, atol=1e-4, rtol=1e-4)
        counts.append(len(made))
    assert counts[0] > 0 and counts[-1] == counts[1] <= 6


def test_streamed_blocks_are_neither_compiled_nor_moved(tiny):
    pipe = tiny()
    offload.stream(offload.transformer_blocks(pipe.transformer), "cpu")
    with pytest.raises(ConfigError, match="Streamed blocks"):
        pipe.compile()
    with pytest.raises(ConfigError, match="stay where they are"):
        pipe.to("meta")


# ---- chaining


def test_an_edit_can_start_from_the_latents_of_the_last_one(pipe, picture):
    first = run(pipe, "the hat", image=picture)
    chained = run(pipe, "a sign", image=first, seed=2)
    by_tensor = run(pipe, "a sign", image=first.latents, seed=2)
    assert torch.equal(chained.latents, by_tensor.latents)
    by_pixels = run(pipe, "a sign", image=first.images[0], seed=2)
    assert not torch.allclose(chained.latents, by_pixels.latents, atol=1e-4)


def test_a_chain_keeps_the_size_of_its_first_picture(pipe, picture):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = run(pipe, "the hat", image=picture.resize((100, 60)))
        assert run(pipe, "a sign", image=first).images[0].size == (100, 60)


def test_batches_can_be_chained(pipe, picture):
    first = run(pipe, ["the hat", "a sign"], image=picture)
    both = run(pipe, ["a sign", "the hat"], image=first, seed=[3, 4])
    second = run(pipe, "the hat", image=first[1], seed=4)
    torch.testing.assert_close(both[1].latents, second.latents, atol=1e-5, rtol=1e-4)
    with pytest.raises(ImageError, match="2 context images for 3 results"):
        run(pipe, ["a", "the", "hat"], image=first)


def test_an_output_can_be_indexed(pipe, picture):
    out = run(pipe, "the hat", image=picture, num_images_per_prompt=3)
    assert out[-1].seeds == [3] and len(out[2]) == 1 and len(list(out)) == 3
    with pytest.raises(IndexError):
        out[3]


# ---- steps


def test_callback_sees_every_step_and_the_clean_estimate(pipe, picture):
    seen = []
    out = run(pipe, "the hat", image=picture, callback=seen.append)
    assert [(info.step, info.steps) for info in seen] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(seen[-1].latents, out.latents)
    torch.testing.assert_close(seen[-1].clean, out.latents, atol=1e-5, rtol=1e-4)
    assert pipe.decode(seen[0].clean)[0].size == (64, 64)


def test_cancel_stops_at_once(pipe, picture):
    seen = []

    def stop(info):
        seen.append(info.step)
        return info.step < 2

    with pytest.raises(Cancelled, match="step 2 of 3"):
        run(pipe, "the hat", image=picture, callback=stop)
    assert seen == [1, 2]


def test_broken_numbers_stop_with_the_step(tiny, picture):
    pipe = tiny()

    def poison(info):
        if info.step == 1:
            pipe.transformer.final_layer.linear.bias.data.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="step 2 of 3"):
        run(pipe, "the hat", image=picture, callback=poison)
    with pytest.raises(NonFiniteError):
        pipe.decode(torch.full((1, 4, 8, 8), float("nan")))
    with pytest.raises(NonFiniteError, match="step 0"):
        run(pipe, "the hat", image=torch.full((1, 4, 8, 8), float("inf")))


# ---- bad input


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"prompt": None}, PromptError),
        ({"prompt": 3}, PromptError),
        ({"prompt": []}, PromptError),
        ({"prompt": ["a", None]}, PromptError),
        ({"negative_prompt": ["a", "a", "a"], "true_cfg_scale": 2.0}, PromptError),
        ({"negative_prompt": 5, "true_cfg_scale": 2.0}, PromptError),
        ({"prompt": ["a"] * 4, "negative_prompt": ["b", "c"], "true_cfg_scale": 2.0}, PromptError),
        ({"width": 0}, SizeError),
        ({"height": -16}, SizeError),
        ({"width": 64.5}, SizeError),
        ({"width": 20_000, "height": 20_000}, SizeError),
        ({"num_images_per_prompt": 0}, SizeError),
        ({"num_images_per_prompt": 1.5}, SizeError),
        ({"image": "no/such/file.png"}, ImageError),
        ({"image": 7}, ImageError),
        ({"image": [Image.new("RGB", (64, 64))] * 3}, ImageError),
        ({"image": [[Image.new("RGB", (64, 64))]] * 2}, ImageError),
        ({"image": [[Image.new("RGB", (64, 64))], None]}, ImageError),
        ({"image": np.zeros((64, 64, 3))}, ImageError),
        ({"image": torch.zeros(1, 3, 64, 64)}, SizeError),
        ({"image": torch.zeros(1, 4, 7, 8)}, SizeError),
        ({"num_inference_steps": 0}, ConfigError),
        ({"num_inference_steps": 2.5}, ConfigError),
        ({"true_cfg_scale": float("nan")}, ConfigError),
        ({"true_cfg_scale": -1}, ConfigError),
        ({"true_cfg_scale": "3"}, ConfigError),
        ({"guidance_scale": 2.5}, ConfigError),
        ({"seed": "x"}, ConfigError),
        ({"seed": [1, 2]}, ConfigError),
        ({"seed": 2**70}, ConfigError),
        ({"resize": "stretch"}, ConfigError),
        ({"context_layout": "diagonal", "image": Image.new("RGB", (64, 64))}, ConfigError),
        ({"context_layout": {}, "image": Image.new("RGB", (64, 64))}, ConfigError),
    ],
)
def test_bad_input_gets_a_typed_error(pipe, kwargs, error):
    kwargs = {"prompt": "a", "image": Image.new("RGB", (64, 64)), **kwargs}
    with pytest.raises(error) as caught:
        run(pipe, **kwargs)
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) > 20


@pytest.mark.parametrize("mode", ["P", "LA", "CMYK", "L", "RGBA", "1", "I;16"])
def test_images_of_any_mode_are_converted(pipe, mode):
    image = Image.new("I;16", (64, 64), 40_000) if mode == "I;16" else Image.new(mode, (64, 64))
    assert run(pipe, "the hat", image=image).images[0].mode == "RGB"


def test_a_single_pixel_is_no_problem(pipe):
    with pytest.warns(ResizeWarning):
        assert run(pipe, "the hat", image=Image.new("RGB", (1, 1))).images[0].size == (1, 1)


def test_odd_prompts_are_warned_about_and_used(pipe, picture):
    run(pipe, "", image=picture)
    with pytest.warns(PromptWarning, match="'haat'.*hat"):
        run(pipe, "the haat", image=picture)
    with pytest.warns(PromptWarning, match="帽子"):
        run(pipe, "the 帽子", image=picture)
    with pytest.warns(PromptWarning, match="Dropped"):
        run(pipe, "the hat " * 500, image=picture)


def test_pictures_of_different_sizes_do_not_fit_one_batch(pipe, picture):
    with pytest.raises(SizeError, match="one by one"):
        run(pipe, ["a", "the"], image=[[picture], [picture.resize((32, 32))]], resize="none")


# ---- files


def test_saved_and_loaded_it_gives_equal_pictures(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path / "tiny", dtype=torch.float32)
    loaded = KontextPipeline.from_pretrained(tmp_path / "tiny", device="cpu", dtype="float32")
    a, b = (run(p, "make the hat red", image=picture) for p in (pipe, loaded))
    # Not bit for bit: where a weight lies in memory can decide which kernel a CPU takes.
    torch.testing.assert_close(a.latents, b.latents, atol=1e-5, rtol=1e-5)
    assert difference(a.images[0], b.images[0]) <= 1
    for one, two in zip(pipe.transformer.parameters(), loaded.transformer.parameters()):
        assert torch.equal(one, two)
    assert loaded.name == "tiny" and loaded.defaults == pipe.defaults
    assert loaded.text_encoder.config == pipe.text_encoder.config


def test_weights_are_half_as_large_on_disk_as_in_memory(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "tiny")
    loaded = KontextPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    on_disk = (folder / "transformer.safetensors").stat().st_size
    in_memory = sum(p.nbytes for p in loaded.transformer.parameters())
    assert loaded.dtype == torch.float32 and on_disk < 0.75 * in_memory


def test_weights_are_found_by_name(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(tmp_path))
    pipe.save_pretrained(tmp_path / "tiny")
    assert KontextPipeline.from_pretrained("tiny", device="cpu").folder == tmp_path / "tiny"
    with pytest.raises(WeightsError, match="Known names: tiny"):
        KontextPipeline.from_pretrained("huge", device="cpu")


@pytest.mark.parametrize("name", ["toy", "there is no such folder"])
def test_a_plan_that_does_not_exist_is_refused_whatever_the_weights(name):
    with pytest.raises(ConfigError, match="offload='foo'.*auto, resident"):
        KontextPipeline.from_pretrained(name, device="cpu", offload="foo")


def test_damaged_folders_are_refused(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "tiny")
    good = (folder / "config.json").read_text()
    for text, match in (
        ("{", "Cannot read"),
        ("[]", "expected"),
        (good.replace('"format_version": 1', '"format_version": 9'), "version"),
        (good.replace('"transformer"', '"trafo"'), "lacks the parts transformer"),
        (good.replace('"theta"', '"teta"'), "does not fit TransformerConfig"),
        (good.replace('"depth_single_blocks": 1', '"depth_single_blocks": 2'), "does not fit"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=match):
            KontextPipeline.from_pretrained(folder, device="cpu")


def test_a_read_only_place_is_an_output_error(pipe, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OutputError):
        pipe.save_pretrained(blocked / "tiny")


def test_results_know_how_they_were_made(pipe, picture, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "tiny", dtype=torch.float32)
    loaded = KontextPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    out = run(loaded, "the hat", image=picture, num_images_per_prompt=2, true_cfg_scale=2.0)
    first, second = out.save(tmp_path / "result.png")
    made = provenance.read(second)
    assert (first.name, second.name) == ("result-0.png", "result-1.png")
    assert (made.prompt, made.seed, made.steps, made.weights) == ("the hat", "2", "3", "tiny")
    assert made.guidance == "true_cfg 2" and len(made.weights_fingerprint) == 64
    assert out[0].save(tmp_path / "one.png")[0].name == "one.png"


def test_config_json_has_the_agreed_form(pipe, tmp_path):
    config = json.loads((pipe.save_pretrained(tmp_path / "x") / "config.json").read_text())
    assert (config["format"], config["format_version"], config["name"]) == (
        "minikontext",
        1,
        "tiny",
    )
    assert config["text_encoder"]["vocabulary"] == list(pipe.text_encoder.config.vocabulary)
    assert config["defaults"]["num_inference_steps"] == 3


# ---- numbers that are none, and one that numpy made


@pytest.mark.parametrize(
    "wrong",
    [
        {"true_cfg_scale": True},
        {"true_cfg_scale": np.True_},
        {"true_cfg_scale": float("nan")},
        {"true_cfg_scale": float("inf")},
        {"true_cfg_scale": "2"},
        {"num_inference_steps": True},
        {"num_images_per_prompt": True},
        {"step_cache": True},
        {"step_cache": "0.1"},
        {"step_cache": float("nan")},
        {"seed": True},
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_before_any_work(pipe, wrong, monkeypatch):
    monkeypatch.setattr(pipe.transformer, "forward", None)  # calling it would be a TypeError
    with pytest.raises((ConfigError, SizeError), match=next(iter(wrong))):
        run(pipe, "the hat", **wrong)


def test_numbers_of_numpy_are_numbers(pipe, picture):
    one = run(pipe, "the hat", picture, true_cfg_scale=2, num_inference_steps=2, step_cache=0.5)
    two = run(
        pipe, "the hat", picture, true_cfg_scale=np.float32(2), num_inference_steps=np.int64(2),
        num_images_per_prompt=np.int64(1), step_cache=np.float64(0.5),
    )  # fmt: skip
    assert one == two


def test_seeds_count_on_from_a_small_number_of_numpy():
    assert pick_seeds(np.uint8(254), 3) == [254, 255, 256]
    with pytest.raises(ConfigError, match="64 bits"):
        pick_seeds(np.int64(2**63 - 1), 2)


# ---- what a call gives is a value like others


def test_outputs_compare_hash_and_slice(pipe):
    out = run(pipe, "the hat", num_images_per_prompt=3, num_inference_steps=1)
    again = run(pipe, "the hat", num_images_per_prompt=3, num_inference_steps=1)
    other = run(pipe, "the hat", num_images_per_prompt=3, num_inference_steps=1, seed=2)
    assert out == again and out != other and out != "a picture"
    assert len({out, again, other}) == 2
    part = out[1:]
    assert len(part) == 2 and part.seeds == out.seeds[1:] and part[0] == out[1]
    assert torch.equal(part.latents, out.latents[1:]) and len(out[5:]) == 0
    assert out[-1] == out[2] and [one.seeds[0] for one in out] == out.seeds
    with pytest.raises(IndexError, match="there are 3 images"):
        out[3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_outputs_on_two_devices_are_compared(pipe):
    out = run(pipe, "the hat", num_inference_steps=1)
    there = replace(out, latents=out.latents.cuda())
    assert out == there and there == out and out != replace(there, latents=there.latents + 1)


def test_a_way_to_resize_that_is_not_known_is_refused_without_a_picture(pipe, picture):
    for image in (None, picture):
        with pytest.raises(ConfigError, match="resize='foo' is not known"):
            run(pipe, "the hat", image=image, resize="foo")


def test_warnings_name_the_line_that_called(pipe, picture):
    with pytest.warns(UserWarning) as caught:
        run(pipe, "make the haat red", picture.resize((70, 50)), negative_prompt="a sign")
    kinds = {type(one.message).__mro__[1].__name__ for one in caught}
    assert len(caught) >= 3 and "PromptWarning" in kinds  # unknown word, no effect, resized
    assert {one.filename for one in caught} == {__file__}


# -------------------------------------------------------------------- what a notebook shows
def test_a_notebook_shows_the_pictures_of_an_output(pipe, picture):
    out = pipe(["make the hat <red>\u202e", "a sign"], picture, seed=3, progress=False)
    page = out._repr_html_()
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    shown = [Image.open(io.BytesIO(base64.b64decode(data))).tobytes() for data, _ in found]
    assert shown == [image.tobytes() for image in out.images]
    assert [alt for _, alt in found] == ["make the hat &lt;red&gt;\\u202e", "a sign"]
    assert "<red>" not in page and "seed 4, 64 × 64" in page
    large = replace(out[0], images=[Image.new("RGB", (2000, 1000))])
    assert len(large._repr_html_()) < 20_000  # a picture to look at, not the whole
    many = replace(out, images=out.images * 20, seeds=out.seeds * 20, provenance=[])
    assert many._repr_html_().count("<img") == 16 and "24 more" in many._repr_html_()


def test_a_notebook_shows_the_parts_of_a_pipeline_and_their_sizes(tiny):
    pipe = tiny()
    pipe.name = "<tiny>\u202e\x1b"
    pipe.loras = [lora.new(pipe.transformer).attach(pipe.transformer)]
    page = pipe._repr_html_()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)][1:]
    for (name, module), row in zip(pipe.modules.items(), rows, strict=True):
        weights = list(module.parameters())
        assert row[:2] == [name.replace("_", " "), type(module).__name__]
        assert int(row[2].replace(",", "")) == sum(one.numel() for one in weights)
        assert float(row[3]) == pytest.approx(4e-6 * sum(one.numel() for one in weights), abs=0.05)
        assert row[4:] == ["float32", "cpu"]
    assert "&lt;tiny&gt;\\u202e\\x1b" in page and "LoRA: " in page and "64 × 64" in page


# ------------------------------------------------- beyond what the weights were trained for
@pytest.mark.parametrize(
    ("defaults", "call", "said"),
    [
        ({}, {"width": 128}, r"were trained at .*64×64.*, not at 128×64"),
        ({"shifted": False}, {"true_cfg_scale": 5}, "few steps without it.*Use true_cfg_scale=1"),
        ({}, {"true_cfg_scale": 20}, "beyond 10, pictures break"),
        ({}, {"true_cfg_scale": 0.5}, "below 1 the prompt counts for less"),
        ({}, {"context_layout": "offset"}, "have learned 'index'"),
        ({}, {"context_layout": "scaled", "image": 1}, "have learned 'index'"),
        ({"context_layout": "scaled"}, {"context_layout": "index", "image": 1}, "learned 'scaled'"),
    ],
)
def test_beyond_what_the_weights_were_trained_for_it_is_said(tiny, picture, defaults, call, said):
    pipe = tiny()
    pipe.defaults = replace(pipe.defaults, **defaults)
    pictures = [picture, picture]
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        run(pipe, "a sign", pictures, num_inference_steps=1, true_cfg_scale=1.0)
    call, count = dict(call), call.get("image", 2)
    call.pop("image", None)
    with pytest.warns(WeightsWarning, match=said):
        run(pipe, "a sign", pictures[:count], num_inference_steps=1, **call)


def test_one_context_lies_in_the_same_place_beside_and_in_line(tiny_pipe, picture):
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        run(tiny_pipe, "a sign", [picture], num_inference_steps=1, context_layout="offset")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"num_images_per_prompt": 10**9}, "at most 10,000 pictures"),
        ({"prompt": ["a"] * 200, "num_images_per_prompt": 100}, "at most 10,000 pictures"),
        ({"num_inference_steps": 1_000_000}, "Use 1 to 10,000"),
    ],
)
def test_what_would_take_for_ever_is_refused_at_once(tiny_pipe, call, said):
    with pytest.raises((SizeError, ConfigError), match=said):
        tiny_pipe(**({"prompt": "the hat"} | call), progress=False)
    with pytest.raises(ConfigError, match="num_inference_steps"):
        build_config(Defaults, {"num_inference_steps": 1_000_000})
