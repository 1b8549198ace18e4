"""The sampler: schedule, Euler's method, guidance, and stopping."""

import pytest
import torch

from minikontext import flow, sampler
from minikontext.errors import Cancelled, ConfigError, NonFiniteError


def test_schedule_falls_from_one_to_zero():
    times = sampler.schedule(28, num_target_tokens=4096)
    assert times.shape == (29,) and times[0] == 1 and times[-1] == 0
    assert (times.diff() < 0).all()


def test_schedule_is_shifted_by_the_targets_tokens():
    times = sampler.schedule(10, num_target_tokens=1000)
    expected = flow.shift(torch.linspace(1, 0, 11), flow.mu_for_tokens(1000))
    torch.testing.assert_close(times, expected)
    torch.testing.assert_close(sampler.schedule(10, mu=flow.mu_for_tokens(1000)), expected)


def test_schedule_can_be_left_unshifted():
    torch.testing.assert_close(sampler.schedule(4, shifted=False), torch.linspace(1, 0, 5))


def test_schedule_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="0 steps"):
        sampler.schedule(0, mu=1.0)
    with pytest.raises(ConfigError, match="num_target_tokens or mu"):
        sampler.schedule(4)


def test_one_step_along_a_straight_path_is_exact():
    x, noise = torch.randn(2, 3), torch.randn(2, 3)
    z = sampler.sample(lambda z, t: noise - x, noise, sampler.schedule(1, mu=1.0))
    torch.testing.assert_close(z, x)


def test_euler_by_hand():
    times = torch.tensor([1.0, 0.6, 0.0])
    z = sampler.sample(lambda z, t: z * t[:, None], torch.full((1, 1), 2.0), times)
    first = 2.0 + (0.6 - 1.0) * 2.0 * 1.0
    assert z.item() == pytest.approx(first + (0.0 - 0.6) * first * 0.6)


def test_euler_converges_to_the_solution():
    times = sampler.schedule(2000, shifted=False)
    z = sampler.sample(lambda z, t: z, torch.ones(1, 1), times)  # dz/dt = z
    assert z.item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=1e-3)


def test_time_is_given_for_every_sample():
    seen = []
    times = sampler.schedule(3, mu=0.0)
    sampler.sample(lambda z, t: seen.append(t) or torch.zeros_like(z), torch.zeros(2, 4), times)
    assert torch.equal(torch.stack(seen), times[:-1, None].expand(3, 2))


def test_noise_is_not_changed_and_no_graph_is_kept():
    noise, weight = torch.ones(1, 2), torch.ones(2, requires_grad=True)
    z = sampler.sample(lambda z, t: weight * z, noise, sampler.schedule(2, mu=0.0))
    assert torch.equal(noise, torch.ones(1, 2)) and not z.requires_grad


def test_steps_add_up_in_float32():
    times = sampler.schedule(50, shifted=False)
    z = sampler.sample(lambda z, t: torch.ones(1, 1).bfloat16(), torch.zeros(1, 1), times)
    assert z.dtype == torch.float32 and z.item() == pytest.approx(-1, abs=1e-4)


def test_callback_sees_each_step_and_the_clean_estimate():
    noise, infos, times = torch.randn(1, 3), [], sampler.schedule(3, mu=0.5)
    z = sampler.sample(lambda z, t: 0.5 * z, noise, times, infos.append)
    assert [info.step for info in infos] == [1, 2, 3] and infos[0].steps == 3
    assert [info.t for info in infos] == times[:-1].tolist()
    before = noise
    for info, t, after in zip(infos, times, times[1:]):
        torch.testing.assert_close(info.clean, before - t * 0.5 * before)
        torch.testing.assert_close(info.latents, before + (after - t) * 0.5 * before)
        before = info.latents
    assert torch.equal(before, z)


@pytest.mark.parametrize("how", ["false", "raise"])
def test_callback_can_stop(how):
    steps = []

    def stop(info):
        steps.append(info.step)
        if info.step == 2 and how == "raise":
            raise Cancelled("enough")
        return info.step < 2

    with pytest.raises(Cancelled):
        sampler.sample(lambda z, t: z, torch.ones(1, 1), sampler.schedule(5, mu=0.0), stop)
    assert steps == [1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_break_stop_with_the_step(bad):
    calls = []

    def predict(z, t):
        calls.append(t)
        return torch.full_like(z, bad if len(calls) == 3 else 0.0)

    with pytest.raises(NonFiniteError, match="step 3 of 5"):
        sampler.sample(predict, torch.ones(1, 1), sampler.schedule(5, mu=0.0))


def test_guidance_goes_beyond_the_condition():
    v = sampler.guided(lambda z, t: 3 * z, lambda z, t: 1 * z, 2.5)(torch.ones(1, 1), None)
    assert v.item() == pytest.approx(1 + 2.5 * (3 - 1))


def test_no_guidance_costs_one_prediction():
    def forbidden(z, t):
        raise AssertionError("not needed")

    assert sampler.guided(lambda z, t: z, forbidden, 1.0)(torch.ones(1), None) == 1


def test_progress_bar_counts_the_steps(capsys):
    sampler.sample(lambda z, t: z, torch.ones(1, 1), sampler.schedule(4, mu=0.0), progress=True)
    assert "4/4" in capsys.readouterr().err
