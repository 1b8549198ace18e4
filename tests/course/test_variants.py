"""Answers as students write them, tried against the checks: right ones pass, wrong ones do not."""

import math
import re
import statistics
from collections import Counter
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.distributions import Normal, kl_divergence

import minikontext as mk
from minikontext.course import exercises  # noqa: F401  fills the tables

# ---------------------------------------------------------------------------- right


def tokens_by_torch(target, contexts):
    return sum((torch.tensor([target, *contexts]) + 15).div(16, rounding_mode="floor").prod(1))


def chain_by_accumulate(pipe, picture, prompts):
    return [*accumulate(prompts, lambda last, p: pipe(p, image=last), initial=picture)][1:]


def change_by_torch(before, after, inside):
    apart = torch.from_numpy(before).float() - torch.from_numpy(after).float()
    return apart.abs()[~torch.from_numpy(inside)].mean()


def change_by_weights(before, after, inside):
    apart = np.abs(before.astype(np.float32) - after).mean(axis=-1)
    return float(np.average(apart, weights=~inside))


def joined_one_by_one(target, target_ids, contexts, context_ids):
    tokens, ids = target, target_ids
    for context, its in zip(contexts, context_ids):
        tokens = torch.cat([tokens, context.repeat(len(target) // len(context), 1, 1)], dim=1)
        ids = torch.cat([ids, its])
    return [tokens, ids]


def block_as_sequence(block, x):
    parts = block.norm1, nn.SiLU(), block.conv1, block.norm2, nn.SiLU(), block.conv2
    short = getattr(block, "nin_shortcut", None)
    return nn.Sequential(*parts)(x).add_(x if short is None else short(x))


def ids_by_meshgrid(target, contexts):
    rows = []
    for i, (h, w) in enumerate([target, *contexts]):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        rows.append(torch.stack([torch.full_like(y, i), y, x], dim=-1).reshape(-1, 3))
    return torch.cat(rows).float()


def turned_as_complex(x, angles):
    z = torch.complex(x[..., 0::2], x[..., 1::2]) * torch.complex(angles.cos(), angles.sin())
    return torch.stack([z.real, z.imag], dim=-1).flatten(-2)


def turned_in_numpy(x, angles):
    z = x.double().numpy().view(np.complex128) * np.exp(1j * angles.numpy())
    return torch.from_numpy(z.view(np.float64))


def ids_in_a_row(grids):
    ids, start = [], 0
    for rows, cols in grids:
        one = mk.tokens.position_ids(rows, cols)
        one[:, 0], one[:, 2] = 1, one[:, 2] + start
        start += cols
        ids.append(one)
    return tuple(ids)


def parts_by_reduceat(weights, sizes):
    begin = np.cumsum([0, *sizes])[:-1]
    sums = np.add.reduceat(np.add.reduceat(weights.numpy().mean(0), begin, 0), begin, 1)
    return sums / np.array(sizes)[:, None]


def losses_by_index_add(losses, t, n):
    part = torch.minimum((t * n).floor(), torch.tensor(n - 1.0)).long()
    return torch.zeros(n).index_add(0, part, losses) / torch.bincount(part, minlength=n)


def step_that_clears_behind_itself(net, optimizer, x, noise, t):
    z = x + t.view(-1, *[1] * (x.dim() - 1)) * (noise - x)
    loss = (net(z, t) - noise + x).pow(2).flatten(1).mean(1).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach().numpy()


def heun_in_place(predict, z, times):
    z, b = z.clone(), len(z)
    for t, s in pairwise(times):
        v = predict(z, t.expand(b))
        z += 0.5 * (s - t) * (v + predict(z + (s - t) * v, s.expand(b)))
    return z


def half_way_by_index(x, noise, times, strength):
    steps = len(times) - 1
    left = times[steps - int(strength * steps + 0.5) :]
    return torch.lerp(x, noise, left[0]), left


def chunk_or_nothing(w, rank, size):
    parts = w.chunk(size)
    return parts[rank] if rank < len(parts) else w[:0]


def sharded_by_formula(mine, x, y, rate, all_gather, reduce_scatter, size):
    whole = all_gather(mine.to(torch.bfloat16)).float()
    return mine - rate * reduce_scatter(2 * (x @ whole.T - y).T @ x / y.numel()) / size


def stayed(before, answer, right, limit):
    stay = ~(before != right).any(-1)
    moved = ((answer - before).abs() > limit).any(-1)
    return 1 - (moved & stay).sum() / stay.sum()


def apart_by_statistics(a, b):
    apart = (a - b).tolist()
    return 100 * statistics.mean(apart), 100 * statistics.stdev(apart) / math.sqrt(len(apart))


def kept_by_product(before, after, limit):
    moved = ((after - before).abs().amax(-1) > limit).float()[..., None]
    return moved * after + (1 - moved) * before


def bootstrap(a, b, base, draws=2000, ends=(2.5, 97.5)):
    apart, rng = (a - b).numpy(), np.random.default_rng()
    groups = [apart[base.numpy() == one] for one in base.unique().tolist()]
    sums, counts = np.array([(g.sum(), len(g)) for g in groups]).T
    drawn = rng.integers(len(groups), size=(draws, len(groups)))
    return 100 * np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), ends)


def jackknife(a, b, base):
    apart, names = a - b, base.unique()
    rest = [apart[base != one].mean() for one in names]
    k, left = len(names), torch.stack(rest)
    error = ((k - 1) / k * (left - left.mean()).square().sum()).sqrt()
    return [100 * (apart.mean() + side * 1.99 * error).item() for side in (-1, 1)]


def just_above_a_harmless_score(scores, forbidden, allowed):
    harmless = scores[~forbidden].sort(descending=True).values
    count = int(allowed * len(harmless) + 1e-9)
    return -math.inf if count >= len(harmless) else np.nextafter(harmless[count].item(), math.inf)


def tiles_by_rearrange(pixels, count):
    from hashlib import sha256

    tiles = rearrange(pixels, "(r h) (c w) k -> (r c) h w k", r=count, c=count)
    return [sha256(tile.tobytes()).hexdigest()[:8] for tile in tiles]


def evade_between_two_pictures(score, picture, most, rate, steps):
    low, high, x = (picture - most).clamp(min=0), (picture + most).clamp(max=1), picture.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        score(x).backward()
        x = torch.max(torch.min((x - rate * torch.sign(x.grad)).detach(), high), low)
    return x


def applied(weights, name, x):
    weight, bias = weights[name + ".weight"], weights.get(name + ".bias")
    if weight.ndim == 2:
        y = torch.einsum("...i,oi->...o", x, weight)
        return y if bias is None else y + bias
    return F.conv2d(F.pad(x, [weight.shape[-1] // 2] * 4), weight, bias)


RIGHT = [
    ("count_tokens", tokens_by_torch),
    ("edit_chain", chain_by_accumulate),
    ("change_outside", change_by_torch), ("change_outside", change_by_weights),
    ("join_context", joined_one_by_one),
    ("psnr", lambda a, b: [10 * math.log10(4 / np.square((x - y).numpy()).mean())
                           for x, y in zip(a, b)]),
    ("psnr", lambda a, b: -10 * (a / 2 - b / 2).square().mean((1, 2, 3)).log10()),
    ("measure_normalisation", lambda raw: (1 / raw.numpy().std(), raw.numpy().mean())),
    ("kl", lambda mean, logvar: kl_divergence(
        Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).mean()),
    ("res_block", block_as_sequence),
    ("pack", lambda z: F.pixel_unshuffle(z, 2).flatten(2).mT),
    ("pack", lambda z: z.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
     .flatten(1, 2)),
    ("unpack", lambda tokens, rows, cols: F.pixel_shuffle(
        tokens.mT.unflatten(2, (rows, cols)), 2)),
    ("number_tokens", ids_by_meshgrid),
    ("attention_share", lambda s, d: 4 * d * s**2 / (4 * d * s**2 + 2 * (4 + 8) * d**2 * s)),
    ("rotate_complex", turned_as_complex), ("rotate_complex", turned_in_numpy),
    ("halves_to_neighbours", lambda x: rearrange(x, "... (two d) -> ... (d two)", two=2)),
    ("side_by_side", ids_in_a_row),
    ("angles", lambda ids, axes_dim, theta: torch.stack(
        [ids[:, a] * theta ** (-2 * j / d) for a, d in enumerate(axes_dim) for j in range(d // 2)],
        dim=-1)),
    ("rms_norm", lambda x, scale: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * scale),
    ("who_sees_whom", parts_by_reduceat),
    ("noisy_and_target", lambda x, noise, t: [torch.lerp(
        x, noise, t[(..., *[None] * (x.ndim - 1))]), noise - x]),
    ("sample_times", lambda n, mu, sigma: (1 + torch.tanh((n * sigma + mu) / 2)) / 2),
    ("loss_by_time", losses_by_index_add),
    ("training_step", step_that_clears_behind_itself),
    ("mu_for_picture", lambda target, contexts: float(np.polyval(
        np.polyfit([256, 4096], [0.5, 1.15], 1), target[0] * target[1] / 256))),
    ("guide", lambda c, u, w: c + (w - 1) * (c - u)),
    ("heun", heun_in_place),
    ("start_half_way", half_way_by_index),
    ("schedule", lambda steps, mu: torch.sigmoid(
        torch.logit(torch.linspace(1, 0, steps + 1, dtype=torch.float64)) + mu)),
    ("modes_kept", lambda p, answers, within: float(
        ((p[:, None] - answers).pow(2).sum(-1).sqrt() < within).any(0).float().mean())),
    ("my_slice", chunk_or_nothing),
    ("sharded_step", sharded_by_formula),
    ("untouched_share", stayed),
    ("paired_difference", apart_by_statistics),
    ("keep_untouched", kept_by_product),
    ("clustered_interval", bootstrap), ("clustered_interval", jackknife),
    ("rates", lambda s, marked, t: (((s >= t) & marked).sum() / marked.sum(),
                                    ((s >= t) & ~marked).sum() / (~marked).sum())),
    ("choose_threshold", just_above_a_harmless_score),
    ("slip_through", lambda: (mk.toyworld.Scene(species="robot", colour="purple"),
                              "replace the robot with a star")),
    ("slip_through", lambda: [mk.toyworld.Scene(species="frog", colour="purple"),
                              "make the frog a star"]),
    ("tile_checksums", tiles_by_rearrange),
    ("evade", evade_between_two_pictures),
    ("count_blocks", lambda names, kind: len(set(
        re.findall(rf"^{kind}\.(\d+)\.", "\n".join(names), re.MULTILINE)))),
    ("apply_weights", applied),
]  # fmt: skip


@pytest.mark.parametrize("name, function", RIGHT)
def test_a_right_variant_passes_whatever_the_data(checked, name, function):
    for _ in range(5):
        printed = checked(name, function)
        assert "[FAIL]" not in printed and "Well done!" in printed, printed


# ---------------------------------------------------------------------------- wrong


def one_step_in_bfloat16(mine, x, y, rate, all_gather, reduce_scatter, size):
    whole = all_gather(mine.bfloat16()).requires_grad_()
    loss = (F.linear(x.bfloat16(), whole).float() - y).square().mean()
    (gradient,) = torch.autograd.grad(loss, whole)
    return mine - rate * reduce_scatter(gradient.float() / size)


def difference_of_ends(a, b, base):
    one, two = (bootstrap(x, 0 * x, base) for x in (a, b))
    return one[0] - two[1], one[1] - two[0]


def where_they_differ(a, b):
    apart = (a - b)[a != b]
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart) ** 0.5


def last_steps_but_one(x, noise, times, strength):
    left = times[-max(1, round(strength * (len(times) - 1))) :]
    return torch.lerp(x, noise, left[0]), left


WRONG = [
    ("edit_chain", lambda pipe, picture, prompts: [
        pipe(prompt, image=None if i else picture) for i, prompt in enumerate(prompts)],
     "only the first edit has a picture"),
    ("change_outside", lambda before, after, inside: np.abs(
        before.astype(int) - after).max(axis=-1)[~inside].mean(),
     "the largest of the three colours"),
    ("join_context", lambda target, target_ids, contexts, context_ids: (
        mk.tokens.join_context(target, target_ids, contexts, context_ids)[0],
        torch.cat([*context_ids, target_ids])), "the ids come in another order than the tokens"),
    ("psnr", lambda a, b: torch.stack([10 * torch.log10(4 / F.mse_loss(x, y)) for p, q in zip(a, b)
                                       for x, y in zip(p, q)]).view(-1, 3).mean(1),
     "you average the decibels of the colours"),
    ("measure_normalisation", lambda raw: (1 / raw.std(dim=(0, 2, 3)).mean(), raw.mean()),
     "you average the deviations of the channels"),
    ("kl", lambda mean, logvar: -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum((1, 2, 3)).mean(),
     "you add up within each sample"),
    ("res_block", lambda block, x: F.silu(block_as_sequence(block, x)),
     "you bend once more after the sum"),
    ("rotate_complex", lambda x, angles: torch.view_as_real(torch.view_as_complex(
        x.unflatten(-1, (-1, 2))) * torch.polar(angles, torch.ones_like(angles))).flatten(-2),
     "lengths and angles are exchanged"),
    ("rms_norm", lambda x, scale: F.rms_norm(x, x.shape[-1:], eps=1e-6) / scale,
     "you divide by the learned scale"),
    ("noisy_and_target", lambda x, noise, t: (
        z := torch.stack([torch.lerp(a, b, s) for a, b, s in zip(x, noise, t)]), noise - z),
     "the velocity starts at z"),
    ("sample_times", lambda n, mu, sigma: torch.sigmoid(sigma + mu * n), "μ and σ are exchanged"),
    ("start_half_way", lambda x, noise, times, strength: (
        torch.lerp(x, noise, times[times <= strength][0]), times[times <= strength]),
     "you keep the times up to `strength`"),
    ("start_half_way", last_steps_but_one, "k steps visit k + 1 times"),
    ("hinge_losses", lambda real, fake: (
        F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()),
     "for the student, too"),
    ("sharded_step", one_step_in_bfloat16, "you multiply in bfloat16"),
    ("paired_difference", where_they_differ,
     "you leave out the cases in which both agree"),
    ("clustered_interval", lambda a, b, base: bootstrap(a, b, base, ends=(5, 95)),
     "this is a 90 % interval"),
    ("clustered_interval", lambda a, b, base: bootstrap(a, b, base, ends=(0.5, 99.5)),
     "this is a 99 % interval"),
    ("clustered_interval", difference_of_ends, "you subtract the ends of two intervals"),
    ("rates", lambda s, marked, t: (((s >= t) & marked).float().mean(),
                                    ((s >= t) & ~marked).float().mean()),
     "you divide both by all pictures"),
    ("choose_threshold", lambda s, marked, allowed: torch.quantile(s[~marked], 1 - allowed).item(),
     "the quantile of the harmless"),
    ("choose_threshold", lambda s, marked, allowed: s[marked].min().item(),
     "you flag all that is forbidden, whatever it costs"),
    ("slip_through", lambda: (mk.toyworld.Scene(species="star", colour="blue"), "make it purple"),
     "the words alone are too near"),
    ("slip_through", lambda: (mk.toyworld.Scene(species="frog", colour="purple"), "make it night"),
     "nothing forbidden comes out"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:std")  # of nothing at all
@pytest.mark.parametrize("name, function, told", WRONG)
def test_a_wrong_variant_fails_and_is_named(checked, name, function, told):
    for _ in range(5):
        printed = checked(name, function)
        assert "Well done" not in printed, printed
        assert "this is what you get if" in printed and told in printed, printed


def test_the_interval_of_a_bootstrap_passes_and_a_narrow_one_does_not(checked):
    """Draws vary: of a hundred right answers hardly one may fail, and no wrong one may pass."""
    few = Counter("Well done" in checked("clustered_interval", bootstrap) for _ in range(25))
    narrow = Counter("Well done" in checked("clustered_interval", lambda a, b, base: bootstrap(
        a, b, base, ends=(5, 95))) for _ in range(25))  # fmt: skip
    assert few[False] <= 1 and not narrow[True]
