"""Rectified flow: directions, distribution, shift."""

import itertools
import math

import pytest
import torch

from minikontext import flow


def test_zero_is_clean_and_one_is_noise():
    x, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    z = flow.interpolate(x, noise, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(z[0], x[0])
    torch.testing.assert_close(z[1], noise[1])
    torch.testing.assert_close(z[2], 0.75 * x[2] + 0.25 * noise[2])


def test_velocity_is_the_derivative_of_the_path():
    x, noise = torch.randn(1, 8).double(), torch.randn(1, 8).double()
    t, h = torch.tensor([0.3]).double(), 1e-4
    slope = (flow.interpolate(x, noise, t + h) - flow.interpolate(x, noise, t - h)) / (2 * h)
    torch.testing.assert_close(slope, flow.velocity(x, noise))


def test_clean_estimate_of_the_true_velocity_is_the_picture():
    x, noise, t = torch.randn(4, 3, 2), torch.randn(4, 3, 2), torch.rand(4)
    z = flow.interpolate(x, noise, t)
    torch.testing.assert_close(flow.clean_estimate(z, flow.velocity(x, noise), t), x)


@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (1.0986, 1.0), (0.5, 0.3)])
def test_timesteps_are_logit_normal(mu, sigma):
    t = flow.sample_timesteps(50_000, mu, sigma, torch.Generator().manual_seed(0))
    logits = torch.logit(t)
    assert ((t > 0) & (t < 1)).all()
    assert logits.mean().item() == pytest.approx(mu, abs=0.02)
    assert logits.std().item() == pytest.approx(sigma, abs=0.02)


def test_a_seed_draws_the_same_times():
    a, b = (flow.sample_timesteps(5, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    assert torch.equal(a, b)


def test_shift_is_the_formula_and_keeps_the_ends():
    t, mu = torch.linspace(0, 1, 11), 0.7
    expected = math.exp(mu) / (math.exp(mu) + (1 / t[1:] - 1))
    torch.testing.assert_close(flow.shift(t, mu)[1:], expected)
    assert flow.shift(t, mu)[0] == 0 and flow.shift(t, mu)[-1] == 1


def test_shifting_times_is_moving_the_mean_of_their_logits():
    t = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(torch.logit(flow.shift(t, 1.0986)), torch.logit(t) + 1.0986)
    assert math.exp(1.0986) == pytest.approx(3, abs=1e-3)  # the paper's alpha = 3


def test_mu_is_a_line_through_two_points():
    assert flow.mu_for_tokens(256) == pytest.approx(0.5)
    assert flow.mu_for_tokens(4096) == pytest.approx(1.15)
    assert flow.mu_for_tokens(8192) == pytest.approx(1.8433, abs=1e-4)


def test_loss_is_the_mean_square_of_the_error():
    v, x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = ((v - (noise - x)) ** 2).mean()
    torch.testing.assert_close(flow.loss(v, x, noise), expected)
    assert flow.loss_per_sample(v, x, noise).shape == (2,)
    assert flow.loss(noise - x, x, noise) == 0
    assert flow.loss(x - noise, x, noise) > 0.1  # the sign matters


def test_loss_is_float32_under_bfloat16():
    v = torch.randn(2, 8).bfloat16()
    assert flow.loss(v, torch.zeros(2, 8), torch.ones(2, 8)).dtype == torch.float32


def test_the_root_law_doubles_alpha_for_four_times_the_tokens():
    mus = [flow.mu_for_tokens(count, mu_16=0.3) for count in (16, 64, 256)]
    assert mus[0] == pytest.approx(0.3)
    assert [math.exp(b - a) for a, b in itertools.pairwise(mus)] == pytest.approx([2, 2])
    assert flow.mu_for_tokens(9, 0.3) < 0.3


def test_the_schedule_of_the_root_law_depends_on_the_size():
    from minikontext import sampler

    small, large = (sampler.schedule(4, count, mu_16=0.3) for count in (16, 64))
    torch.testing.assert_close(small, flow.shift(torch.linspace(1, 0, 5), 0.3))
    assert (large[1:-1] > small[1:-1]).all()
    line = sampler.schedule(4, 64)
    torch.testing.assert_close(line, flow.shift(torch.linspace(1, 0, 5), flow.mu_for_tokens(64)))
