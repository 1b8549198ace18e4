"""Step caching: exact when off, near when on, one state for each sampling and branch."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext.editing.request import as_cache
from minikontext.errors import ConfigError, WeightsWarning
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import offload
from minikontext.runtime.files import shipped
from minikontext.runtime.step_cache import CachedTransformer, StepCache
from minikontext.toyworld import psnr
from minikontext.transformer import KontextTransformer

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def edit(pipe, cache=None, steps=6, **call):
    return pipe("make the hat red", image=PICTURE, seed=0, num_inference_steps=steps,
                step_cache=cache, progress=False, **call)  # fmt: skip


@pytest.fixture
def everything():
    """A cache that skips whenever there is something to take over."""
    return StepCache(threshold=1e9)


@pytest.mark.parametrize("guidance", [False, True])
def test_a_threshold_of_zero_changes_no_bit(tiny, guidance):
    pipe, cache = tiny(guidance=guidance), StepCache(0)
    assert torch.equal(edit(pipe, cache).latents, edit(pipe).latents)
    assert (cache.passes, cache.skipped) == (6, 0)


def test_skipped_passes_leave_out_all_blocks_but_the_first(tiny, everything):
    pipe, ran = tiny(), []
    for name, block in pipe.transformer.named_modules():
        if name in ("double_blocks.0", "single_blocks.0"):
            block.register_forward_hook(lambda *_, name=name: ran.append(name))
    edit(pipe, everything)
    assert (ran.count("double_blocks.0"), ran.count("single_blocks.0")) == (6, 1)
    assert (everything.passes, everything.skipped, everything.share) == (6, 5, 5 / 6)


def test_the_branches_of_guidance_do_not_share_what_they_remember(tiny, everything):
    edit(tiny(), everything, true_cfg_scale=2.0)
    assert (everything.passes, everything.skipped) == (12, 10)


def test_each_call_starts_with_a_whole_pass_and_counts_go_on(tiny, everything):
    pipe = tiny()
    one, two = (edit(pipe, everything).latents for _ in range(2))
    assert torch.equal(one, two)
    assert everything.skipped == 10 and str(everything).startswith("10 of 12 passes skipped")


@torch.no_grad()
def test_the_most_changed_sample_of_a_batch_decides(tiny):
    net, cache = tiny().transformer, StepCache(0.01)
    cached, draw = CachedTransformer(net, cache), torch.Generator().manual_seed(0)
    c, ids = net.config, torch.zeros(4, 3)
    img, txt, pooled = (
        torch.randn(2, *shape, generator=draw)
        for shape in ((4, c.in_channels), (4, c.context_in_dim), (c.vec_in_dim,))
    )
    skipped = []
    for changed in (img, img, img + torch.tensor([0.0, 0.5]).view(2, 1, 1)):
        cached(changed, ids, txt, ids, torch.tensor([0.5, 0.5]), pooled)
        skipped.append(cache.skipped)
    assert skipped == [0, 1, 1]


@pytest.mark.weights
def test_the_toy_skips_half_of_its_passes_and_hardly_shows_it():
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    plain, found = edit(pipe, steps=28), {}
    for order in (0, 1):
        cache = StepCache(0.1, order)
        cached = edit(pipe, cache, steps=28)
        found[order] = psnr(*(np.asarray(out.images[0]) for out in (cached, plain)))
        assert cache.share > 0.5
        assert not torch.equal(cached.latents, plain.latents)
    assert found[1] > found[0] > 35


def test_streamed_blocks_that_are_skipped_need_not_come(tiny, everything):
    pipe, visits = tiny(), []
    blocks = offload.transformer_blocks(pipe.transformer)
    offload.stream(blocks, "cpu", torch.float32)
    blocks[-1].register_forward_pre_hook(lambda *_: visits.append(1))
    edit(pipe, everything)
    assert len(visits) == 1


def test_the_picture_says_that_steps_were_skipped(tiny):
    assert edit(tiny(), 0.2).provenance[0].steps == "6, step cache 0.2, order 1"
    assert edit(tiny()).provenance[0].steps == "6"


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), "much", None])
def test_a_threshold_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="number from 0"):
        StepCache(wrong)


@pytest.mark.parametrize("wrong", [2, True, 1.0, "1", None])
def test_an_order_that_is_no_whole_number_of_two_is_refused(wrong):
    with pytest.raises(ConfigError, match="Use 0 or 1"):
        StepCache(order=wrong)
    assert StepCache(order=np.int64(1)).order == 1


@pytest.mark.parametrize("order", [1, 0])
def test_a_threshold_beyond_what_was_measured_to_be_good_is_warned_of(order):
    """The limit is the table's: up to it the worst edit keeps 28 dB, beyond it does not."""
    rows = json.loads(shipped("data", "bench", "caching.json").read_text(encoding="utf-8"))
    lowest = {r["setting"]["cache"]: r["lowest"] for r in rows
              if r["setting"]["cache"] and r["setting"]["order"] == order}  # fmt: skip
    for threshold, worst in lowest.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            as_cache(threshold), as_cache(StepCache(threshold, order))
        assert len(said) == (2 if worst < 28 else 0)
    with pytest.warns(WeightsWarning, match=r"step_cache=0\.5: beyond 0\.2, edits smear"):
        as_cache(0.5)


def test_without_double_stream_blocks_there_is_nothing_to_watch(tiny):
    pipe = tiny()
    single = replace(pipe.transformer.config, depth=0)
    pipe.transformer = KontextTransformer(single).init_weights().eval()
    with pytest.raises(ConfigError, match="double-stream"):
        edit(pipe, 0.1)
    assert edit(pipe).latents.isfinite().all()
