"""Contexts on their own: what sees what, and that keeping their keys and values is exact."""

import copy
from contextlib import contextmanager

import pytest
import torch

from minikontext import sampler
from minikontext.denoiser import Denoiser
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.isolated import IsolatedContext, sampling_net
from minikontext.runtime.step_cache import StepCache
from minikontext.training.editor import Editor

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture
def editor():
    """The shipped toy, which was not trained for it: its numbers are none of a fresh net's."""
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    return Editor(pipe.transformer, pipe.text_encoder).eval()


def inputs(editor, contexts=1):
    draw = torch.Generator().manual_seed(1)
    z, *given = torch.randn(1 + contexts, 2, 16, 8, 8, generator=draw)
    text = editor.text(editor.text.tokenize(["make the hat red", "put it on the beach"]))
    return z, given, text


@torch.no_grad()
@pytest.mark.parametrize("contexts", [1, 2])
def test_what_is_kept_gives_what_is_computed_anew(editor, contexts):
    z, given, text = inputs(editor, contexts)
    times = sampler.schedule(5, 16)
    found = [
        sampler.sample(Denoiser(IsolatedContext(editor.transformer, keep), text, given), z, times)
        for keep in (False, True)
    ]
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


@torch.no_grad()
def test_without_contexts_it_is_the_transformer_itself(editor):
    z, _, text = inputs(editor)
    t = torch.tensor([0.3, 0.9])
    nets = (editor.transformer, IsolatedContext(editor.transformer))
    plain, isolated = (Denoiser(net, text)(z, t) for net in nets)
    assert torch.equal(plain, isolated)


@torch.no_grad()
def test_mapped_files_are_held_though_the_net_itself_is_not_called(editor):
    z, given, text = inputs(editor)
    seen = []

    @contextmanager
    def held():
        seen.append("held")
        yield
        seen.append("free")

    editor.transformer.held = held  # as `pretrained.mapped` does
    Denoiser(IsolatedContext(editor.transformer), text, given)(z, torch.full((2,), 0.5))
    assert (seen[0], seen[-1]) == ("held", "free") and seen.count("held") == 1


@torch.no_grad()
def test_what_contexts_offer_depends_on_nothing_that_a_step_changes(editor):
    z, given, text = inputs(editor)
    kept = []
    for noisy, t in ((z, 0.9), (0.1 * z, 0.2)):
        net = IsolatedContext(editor.transformer, keep=True)
        Denoiser(net, text, given)(noisy, torch.full((2,), t))
        kept.append([x for offer in net.offers for x in offer])
    assert len(kept[0]) == 2 * 6  # keys and values of two double and four single blocks
    assert all(map(torch.equal, *kept))
    net = IsolatedContext(editor.transformer, keep=True)
    Denoiser(net, text, [-given[0]])(z, torch.full((2,), 0.9))
    assert not torch.equal(net.offers[0][0], kept[0][0])


@torch.no_grad()
def test_the_target_still_sees_the_contexts_and_it_is_not_joint_attention(editor):
    z, given, text = inputs(editor)
    t = torch.full((2,), 0.5)
    isolated = IsolatedContext(editor.transformer)
    here, other = (Denoiser(isolated, text, [c])(z, t) for c in (given[0], -given[0]))
    joint = Denoiser(editor.transformer, text, given)(z, t)
    assert (here - other).abs().max() > 0.1 and (here - joint).abs().max() > 1e-2


def test_it_can_be_trained_and_gradients_pass_through_what_contexts_offer(editor):
    z, given, _ = inputs(editor)
    editor.isolated, words = True, editor.text.tokenize(["make the hat red"] * 2)
    given[0].requires_grad_(True)
    editor(z, torch.full((2,), 0.5), words, given).square().mean().backward()
    assert given[0].grad.abs().sum() > 0
    assert editor.transformer.double_blocks[0].img_attn.qkv.weight.grad.abs().sum() > 0


def test_weights_that_were_trained_for_it_are_sampled_so(editor, tmp_path):
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    other = copy.copy(pipe)
    other.defaults = type(pipe.defaults)(**{**vars(pipe.defaults), "isolated": True})
    picture = pipe.decode(torch.zeros(1, 16, 8, 8))[0]
    call = {"image": picture, "seed": 0, "num_inference_steps": 2, "progress": False}
    again = KontextPipeline.from_pretrained(other.save_pretrained(tmp_path / "isolated"))
    assert again.defaults.isolated and not pipe.defaults.isolated
    one, two = (p("make the hat red", **call).latents for p in (pipe, other))
    assert not torch.allclose(one, two)
    with pytest.raises(ConfigError, match="use it without"):
        other("make the hat red", **call, step_cache=0.1)
    assert isinstance(sampling_net(pipe.transformer, None, True), IsolatedContext)
    assert sampling_net(pipe.transformer, StepCache(), False).cache.threshold == 0.1
