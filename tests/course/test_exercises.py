"""Exercises: a known mistake fails and is named, another right way passes."""

import hashlib
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from minikontext import sampler, tokens
from minikontext.course import checking, solutions  # checking fills the tables, too
from minikontext.course.checks import KNOWN, REGISTRY, Report
from minikontext.rope import rotate

NAMES = list(REGISTRY)
MISTAKES = [(name, told) for name in NAMES for told in KNOWN[name]]
MODULES = sorted({checks.__module__ for checks in REGISTRY.values()})


def count(target, contexts):
    return sum(-(-w // 16) * -(-h // 16) for w, h in [target, *contexts])


def fill(pipe, picture, prompts):
    outputs = []
    for prompt in prompts:
        outputs.append(pipe(prompt, image=[outputs[-1].latents] if outputs else picture))
    return tuple(outputs)


def difference(before, after, inside):
    up = np.maximum(before, after) - np.minimum(before, after)
    return up[np.logical_not(inside)].mean()


def masked(before, after, inside):
    up = np.abs(before.astype(np.int16) - after)
    return np.ma.array(up, mask=np.repeat(inside[..., None], 3, axis=2)).mean()


def clamped(a, b):
    a, b = a.clamp(-1, 1), b.clamp(-1, 1)
    return torch.stack([10 * torch.log10(4 / F.mse_loss(x, y)) for x, y in zip(a, b)])


def block_in_steps(block, x):
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    if x.shape[1] != h.shape[1]:
        x = block.nin_shortcut(x)
    return x + h


def cut(latents):
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), 4 * c)


def cartesian(target, contexts):
    grids = enumerate([target, *contexts])
    return torch.cat(
        [torch.cartesian_prod(torch.tensor([i]), *map(torch.arange, g)) for i, g in grids]
    )


def columns(grids):
    starts = [sum(cols for _, cols in grids[:i]) for i in range(len(grids))]
    return [
        torch.tensor([(1, r, start + c) for r in range(rows) for c in range(cols)])
        for (rows, cols), start in zip(grids, starts)
    ]


def by_polar(x, angles):
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * angles)).flatten(-2)


def by_slicing(x, angles):
    x0, x1, c, s = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack([c * x0 - s * x1, s * x0 + c * x1], dim=-1).flatten(-2)


def by_numpy(x, angles):
    x = x.numpy()
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles.numpy())
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def angles_in_a_loop(ids, axes_dim, theta):
    rows = []
    for token in ids.double():
        speeds = [(p, d) for p, d in zip(token, axes_dim)]
        rows.append(torch.cat([p * theta ** (-torch.arange(0, d, 2) / d) for p, d in speeds]))
    return torch.stack(rows).float()


def step_by_hand(net, optimizer, x, noise, t):
    optimizer.zero_grad(set_to_none=True)
    z = torch.lerp(x, noise, t.view(-1, *[1] * (x.dim() - 1)))
    loss = F.mse_loss(net(z, t), noise - x)
    loss.backward()
    optimizer.step()
    return loss.detach()


def step_on_points(net, optimizer, x, noise, t):
    z = torch.lerp(x, noise, t[:, None])
    loss = F.mse_loss(net(z, t), noise - x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def told_one_time(sample):
    """A sampler that tells the model one t for the whole batch, (1,)."""
    return lambda predict, z, times: sample(lambda z, t: predict(z, t[:1]), z, times)


def heun_of_karras(predict, z, times):
    for i, (t, t_next) in enumerate(pairwise(times)):
        first = predict(z, t.expand(len(z)))
        there = z + (t_next - t) * first
        if i < len(times) - 2:
            second = predict(there, t_next.expand(len(z)))
            there = z + (t_next - t) * (first + second) / 2
        z = there
    return z


def heun_to_the_end(predict, z, times):
    for t, s in pairwise(times.tolist()):
        v = predict(z, torch.full((len(z),), t))
        w = predict(z + (s - t) * v, torch.full((len(z),), s))
        z = torch.lerp(z + (s - t) * v, z + (s - t) * w, 0.5)
    return z


def by_length(x, scale):
    return scale * F.normalize(x, dim=-1, eps=1e-6) * x.shape[-1] ** 0.5


def by_membership(weights, sizes):
    part = F.one_hot(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))).float()
    return (part / part.sum(0)).T @ weights.mean(0) @ part


def of_three_parts(weights, sizes):
    text, target, context = sizes
    return shares_in_loops(weights, [text, target, context])


def shares_in_loops(weights, sizes):
    result = torch.zeros(len(sizes), len(sizes))
    for i, rows in enumerate(weights.split(sizes, dim=1)):
        for j, block in enumerate(rows.split(sizes, dim=2)):
            result[i, j] = block.sum() / (len(weights) * sizes[i])
    return result


def single_in_steps(block, x, vec, rotations):
    mods = block.modulation.lin(F.silu(vec)).unflatten(-1, (3, -1))
    shift, scale, gate = (m[:, None] for m in mods.unbind(1))
    y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    d = x.shape[-1]
    qkv, mlp = block.linear1(y).tensor_split([3 * d], dim=-1)
    q, k, v = rearrange(qkv, "b s (three h d) -> three b s h d", three=3, h=block.num_heads)
    q, k = (rotate(z.transpose(1, 2), rotations) for z in block.norm(q, k))
    weights = (einsum(q, k, "b h s d, b h r d -> b h s r") / q.shape[-1] ** 0.5).softmax(-1)
    out = rearrange(weights @ v.transpose(1, 2), "b h s d -> b s (h d)")
    return x + gate * block.linear2(torch.cat([out, F.gelu(mlp, approximate="tanh")], dim=-1))


def text_in_steps(block, x):
    q, k, v = rearrange(block.qkv(block.norm1(x)), "b n (three h d) -> three b h n d", three=3,
                        h=block.heads)  # fmt: skip
    weights = (einsum(q, k, "b h s d, b h r d -> b h s r") / q.shape[-1] ** 0.5).softmax(-1)
    y = x + block.proj(rearrange(weights @ v, "b h n d -> b n (h d)"))
    return block.mlp(block.norm2(y)) + y


def by_numbers(names, kind):
    return 1 + max(int(name.split(".")[1]) for name in names if name.split(".")[0] == kind)


def by_rank(weights, name, x):
    weight, bias = weights[name + ".weight"], weights.get(name + ".bias", torch.zeros(1))
    if weight.dim() == 4:
        return F.conv2d(x, weight, padding="same") + bias.view(1, -1, 1, 1)
    return x @ weight.mT + bias


def with_the_parts_of_the_net(net, img, txt, vec, rotations):
    for block in net.double_blocks:
        img, txt = block(img, txt, vec, rotations)
    x = torch.cat([txt, img], dim=1)
    for block in net.single_blocks:
        x = block(x, vec, rotations)
    return net.final_layer(x, vec)[:, -img.shape[1] :]


def step_by_autograd(mine, x, y, rate, all_gather, reduce_scatter, size):
    whole = torch.nn.Parameter(all_gather(mine.to(torch.bfloat16)).float())
    F.mse_loss(F.linear(x, whole), y).div(size).backward()
    return torch.sub(mine, reduce_scatter(whole.grad), alpha=rate)


def piece_of(w, rank, size):
    rows = -(-len(w) // size)
    return w[rank * rows : (rank + 1) * rows]


def rounded(w, rank, size):
    return w.split(round(len(w) / size))[rank]


def strict_enough(scores, forbidden, allowed):
    ranked = sorted(set(scores.tolist()))
    fits = [t for t in ranked if (scores[~forbidden] >= t).float().mean() <= allowed + 1e-9]
    return min(fits, default=ranked[-1] + 1)


def by_optimizer(score, picture, most, rate, steps):
    moved = torch.zeros_like(picture, requires_grad=True)
    for _ in range(steps):
        score(picture + moved).backward()
        with torch.no_grad():
            moved -= rate * moved.grad.sgn()
            moved.copy_((picture + moved.clip(-most, most)).clip(0, 1) - picture)
        moved.grad = None
    return (picture + moved).detach()


def evade_and_clamp_at_the_end(score, picture, most, rate, steps):
    x = picture
    for _ in range(steps):
        x = x.detach().requires_grad_()
        x = x - rate * torch.autograd.grad(score(x), x)[0].sign()
    return x.detach().clamp(picture - most, picture + most).clamp(0, 1)


def digits(pixels, count):
    h, w = len(pixels) // count, pixels.shape[1] // count
    return [
        hashlib.sha256(np.ascontiguousarray(pixels[r : r + h, c : c + w])).hexdigest()[:8]
        for r in range(0, count * h, h)
        for c in range(0, count * w, w)
    ]


def by_a_table(tensors):
    table = {"proj_out": "linear2", "norm.linear": "modulation.lin"}
    table |= {f"attn.norm_{word[0]}": f"norm.{word}_norm" for word in ("query", "key")}
    found = {}
    for name, tensor in tensors.items():
        stem, leaf = name.rsplit(".", 1)
        if stem in table:
            found[f"{table[stem]}.{'scale' if stem.startswith('attn') else leaf}"] = tensor
    for leaf in ("weight", "bias"):
        rows = [tensors[f"attn.to_{x}.{leaf}"] for x in "qkv"] + [tensors[f"proj_mlp.{leaf}"]]
        found[f"linear1.{leaf}"] = torch.concatenate(rows)
    return found


def merged(weight, down, up, alpha, scale):
    return torch.addmm(weight, up, down, alpha=scale * alpha / up.shape[1])


def hinge_with(zero_or):
    return lambda real, fake: (zero_or(1 - real).mean() + zero_or(1 + fake).mean(), -fake.mean())


def kept_in_a_loop(points, answers, within):
    near = [any((point - answer).norm() < within for point in points) for answer in answers]
    return sum(near) / len(answers)


def turn_with(leave_alone):
    """A turn of LADD that keeps the discriminator's gradient off the student in its own way."""

    def turn(student, features, heads, x, noise, again, t, at):
        z = x + t[:, None] * (noise - x)
        made = z - t[:, None] * student(z, t)

        def look(y):
            return features((1 - at[:, None]) * y + at[:, None] * again, at)

        real, fake = leave_alone(look, x, made)
        judge = F.relu(1 - heads(real, at)).mean() + F.relu(1 + heads(fake, at)).mean()
        return judge, -heads(look(made), at).mean()

    return turn


def features_without_gradient(look, x, made):
    with torch.no_grad():
        return look(x), look(made)


def share_in_loops(before, answer, right, limit):
    rows, cols, _ = before.shape
    stay = [(r, c) for r in range(rows) for c in range(cols)
            if torch.equal(before[r, c], right[r, c])]  # fmt: skip
    kept = [float((answer - before)[r, c].abs().max()) <= limit for r, c in stay]
    return sum(kept) / len(kept)


def share_by_sums(before, answer, right, limit):
    stay = (before - right).abs().amax(-1) == 0
    return (((answer - before).abs().amax(-1) <= limit) & stay).sum() / stay.sum()


def paired_in_numpy(a, b):
    apart = np.asarray(a - b, dtype=float)
    return 100 * apart.mean(), 100 * apart.std(ddof=1) / np.sqrt(len(apart))


def moved_into_a_copy(before, after, limit):
    out = before.clone()
    moved = ((after - before).abs() > limit).any(dim=-1)
    out[moved] = after[moved]
    return out


def bootstrap(groups):
    rng = np.random.default_rng(1)
    draws = rng.integers(len(groups), size=(2000, len(groups)))
    means = [np.concatenate([groups[i] for i in draw]).mean() for draw in draws]
    return tuple(100 * np.percentile(means, (2.5, 97.5)))


def by_pictures(a, b, base):
    return bootstrap([(a - b)[base == one].numpy() for one in base.unique()])


def by_cases(a, b, base):
    return bootstrap((a - b).numpy()[:, None])


RIGHT = {
    "count_tokens": [
        lambda target, contexts: sum(-(-w // 16) * -(-h // 16) for w, h in [target, *contexts]),
        lambda target, contexts: sum((w + 15) // 16 * ((h + 15) // 16)
                                     for w, h in (target, *contexts)),
        lambda t, c: int(sum(np.prod(np.ceil(np.array(size) / 16)) for size in [t, *c])),
    ],
    "edit_chain": [fill],
    "change_outside": [difference, masked],
    "join_context": [tokens.join_context],
    "compression": [lambda channels, factor: 3 * factor * factor / channels],
    "psnr": [clamped, lambda a, b: 20 * torch.log10(2 / (a - b).square().mean((1, 2, 3)).sqrt())],
    "measure_normalisation": [
        lambda raw: (1 / raw.std(correction=0), raw.mean()),
        lambda raw: (raw.flatten().var().rsqrt().item(), raw.median() * 0 + raw.mean()),
    ],
    "kl": [lambda mean, logvar: 0.5 * (mean.square() + torch.exp(logvar) - logvar).mean() - 0.5],
    "res_block": [block_in_steps],
    "pack": [cut, lambda z: F.unfold(z, 2, stride=2).transpose(1, 2)],
    "unpack": [lambda tokens, rows, cols: F.fold(tokens.mT, (2 * rows, 2 * cols), 2, stride=2)],
    "number_tokens": [cartesian],
    "attention_share": [lambda s, d: 1 / (1 + 6 * d / s)],
    "divide_attention": [
        lambda w, m, n: np.array([w.numpy()[:, m : m + n, s].sum(-1).mean()
                                  for s in np.split(np.arange(w.shape[-1]), [m, m + n])]),
        lambda w, m, n: torch.stack([w[:, m : m + n, :m].sum(), w[:, m : m + n, m : m + n].sum(),
                                     w[:, m : m + n, m + n :].sum()]) / (len(w) * n),
    ],
    "tokens_per_turn": [lambda j, d, theta: 2 * math.pi / theta ** (-2 * j / d)],
    "rotate_complex": [by_polar, by_numpy],
    "halves_to_neighbours": [lambda x: x.unflatten(-1, (2, -1)).mT.flatten(-2)],
    "side_by_side": [columns],
    "angles": [angles_in_a_loop],
    "noisy_and_target": [lambda x, noise, t: (
        torch.stack([torch.lerp(a, b, s) for a, b, s in zip(x, noise, t)]), noise - x)],
    "both_ends": [lambda z, v, t: (z - t * v, z - t * v + v),
                  lambda z, v, t: torch.stack([z - t * v, z + (1 - t) * v])],
    "sample_times": [lambda n, mu, sigma: 1 / (1 + torch.exp(-(mu + sigma * n)))],
    "loss_by_time": [lambda losses, t, n: torch.tensor([
        float(losses[(t >= i / n) & ((t < (i + 1) / n) | (i == n - 1))].mean())
        for i in range(n)])],
    "training_step": [step_by_hand],
    "mu_for_picture": [lambda target, contexts: 0.5 + 0.65 * (
        target[0] * target[1] / 256 - 256) / 3840],
    "guide": [lambda c, u, w: torch.lerp(u, c, w), lambda c, u, w: w * c + (1 - w) * u],
    "heun": [heun_of_karras, heun_to_the_end],
    "start_half_way": [lambda x, noise, times, strength: (
        torch.lerp(x, noise, times[-1 - round(strength * (len(times) - 1))]),
        times[-1 - round(strength * (len(times) - 1)) :])],
    "schedule": [lambda steps, mu: torch.tensor(
        [1 / (1 + math.exp(-mu) * (steps / i - 1)) if i else 0.0 for i in range(steps, -1, -1)])],
    "rms_norm": [by_length],
    "who_sees_whom": [by_membership, shares_in_loops, lambda w, n: list(shares_in_loops(w, n))],
    "single_block": [single_in_steps],
    "text_block": [text_in_steps, lambda block, x: block(x)],
    "hinge_losses": [hinge_with(F.relu), hinge_with(lambda x: x.maximum(torch.zeros(()))),
                     lambda *pair: torch.stack(hinge_with(F.relu)(*pair))],
    "judged_points": [lambda z, v, t, again, at: [
        z - v * t.unsqueeze(-1), (z - v * t.unsqueeze(-1)).lerp(again, at.unsqueeze(-1))]],
    "modes_kept": [kept_in_a_loop],
    "one_turn": [turn_with(lambda look, x, made: (look(x), look(made.detach()))),
                 turn_with(features_without_gradient)],
    "my_slice": [piece_of],
    "gib_each": [lambda p, gpus, average: (20 if average else 16) * p / (gpus * 1024**3)],
    "sharded_step": [step_by_autograd],
    "step_seconds": [lambda flops, sent, speed, band: max(sent / band, flops / speed)],
    "untouched_share": [share_in_loops, share_by_sums],
    "paired_difference": [paired_in_numpy],
    "keep_untouched": [moved_into_a_copy],
    "clustered_interval": [by_pictures],
    "rates": [lambda s, f, t: (1 - (s[f] < t).double().mean(), 1 - (s[~f] < t).double().mean())],
    "choose_threshold": [strict_enough],
    "slip_through": [],
    "tile_checksums": [digits],
    "evade": [by_optimizer],
    "stored_gb": [lambda matrices, rest, bits: (matrices * bits + 16 * rest) / 8e9],
    "joined": [lambda parts: torch.vstack([parts["to_q"], parts["to_k"], parts["to_v"],
                                           parts["proj_mlp"]])],
    "merged": [merged],
    "official_block": [by_a_table],
    "count_blocks": [by_numbers],
    "apply_weights": [by_rank],
    "run_blocks": [with_the_parts_of_the_net],
    "euler": [lambda predict, z, times: sampler.sample(predict, z, times)],
}  # fmt: skip


@pytest.mark.parametrize("name, told", MISTAKES)
def test_a_known_mistake_fails_and_is_named(checked, name, told):
    printed = checked(name, lambda *args: KNOWN[name][told](*args))
    assert "[FAIL]" in printed and "Well done" not in printed
    assert f"this is what you get if {told}" in printed, printed


@pytest.mark.parametrize("module", MODULES)
def test_a_table_has_the_exercises_of_its_checks_and_no_others(module):
    said, _ = solutions.table(Path(sys.modules[module].__file__).with_suffix(".toml"))
    assert list(said) == [name for name in NAMES if REGISTRY[name].__module__ == module]


def test_a_mistake_that_changes_nothing_is_refused():
    assert solutions.spoiled("f", "def f(x):\n    return x", ["return x", "return 2"])[-1] == "2"
    assert solutions.spoiled("f", "def f(x):\n    return x", "right(-x)").endswith("(right(-x))")
    with pytest.raises(ValueError, match="has no 'y' to be replaced"):
        solutions.spoiled("f", "def f(x):\n    return x", ["y", "z"])


@pytest.mark.parametrize("name", NAMES)
def test_other_right_ways_pass_whatever_the_data(checked, name):
    for function in RIGHT[name]:
        for _ in range(3):
            printed = checked(name, function)
            assert "[FAIL]" not in printed and "Well done!" in printed, printed


@pytest.mark.parametrize("module", MODULES)
def test_each_notebook_has_six_known_mistakes_and_three_right_ways(module):
    names = [name for name in NAMES if REGISTRY[name].__module__ == module]
    assert sum(len(KNOWN[n]) for n in names) >= 6 and min(len(KNOWN[n]) for n in names) >= 3
    assert sum(len(RIGHT[n]) for n in names) >= 3


def detached(function, which):
    """An answer whose values are right and whose losses, of those numbers, have no gradient."""

    def cut(*given):
        got = function(*given)
        return tuple(x.detach() if i in which else x for i, x in enumerate(got))

    return cut


# Values do not show these: gradients do, or ends that are drawn.
ALSO_NAMED = [
    ("hinge_losses", detached(RIGHT["hinge_losses"][0], (0, 1)), "you detach"),
    ("hinge_losses", detached(RIGHT["hinge_losses"][0], (1,)), "you detach"),
    ("hinge_losses", lambda *pair: [x.item() for x in RIGHT["hinge_losses"][0](*pair)],
     "you detach"),
    ("judged_points", detached(RIGHT["judged_points"][0], (1,)), "you detach"),
    ("one_turn", detached(RIGHT["one_turn"][0], (1,)), "its jump is detached"),
    ("one_turn", detached(RIGHT["one_turn"][0], (0,)), "the heads look under no_grad"),
    ("one_turn", turn_with(lambda look, x, made: (look(x), look(made))),
     "the jump is not detached for the heads"),
    ("clustered_interval", by_cases, "every case counts as a picture of its own"),
]  # fmt: skip


# As a student writes what the known mistakes describe.
AS_WRITTEN = [
    ("hinge_losses", lambda real, fake: (
        F.relu(1 - real).sum() / len(real) + F.relu(1 + fake).sum() / len(fake),
        -fake.sum() / len(fake)),
     "you divide by the length of the first axis"),
    ("hinge_losses", lambda real, fake: (
        F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.sum() / len(fake)),
     "you divide the student's sum by the length of the first axis"),
    ("judged_points", lambda z, v, t, again, at: (
        z - v.detach() * t[:, None],
        torch.lerp(z - v.detach() * t[:, None], again, at[:, None])), "you detach"),
    ("judged_points", torch.no_grad()(RIGHT["judged_points"][0]), "you detach"),
    ("modes_kept", lambda points, answers, within: (
        (answers[:, None] - points).abs().sum(-1).amin(1) < within).float().mean(), "the 1-norm"),
    ("modes_kept", lambda points, answers, within: (
        (answers[:, None] - points).norm(p=math.inf, dim=-1).amin(1) < within).double().mean(),
     "the max-norm"),
    ("keep_untouched", lambda before, after, limit: torch.where(
        (after - before > limit).any(-1, keepdim=True), after, before), "you forget abs()"),
    ("untouched_share", lambda before, answer, right, limit: (
        (answer - before).abs().mean(-1) <= limit)[(before == right).all(-1)].double().mean(),
     "you compare the mean of the channels with the limit"),
    ("untouched_share", lambda before, answer, right, limit: (
        (answer - before).abs() <= limit).any(-1)[(before == right).all(-1)].double().mean(),
     "a pixel counts as the same if one channel of it is"),
    ("untouched_share", lambda before, answer, right, limit: (
        (answer - before).abs() <= limit).all(-1)[(before == right).any(-1)].double().mean(),
     "a pixel should stay if one channel of it should"),
    ("paired_difference", lambda a, b: (
        100 * np.mean((a - b).numpy()), 100 * np.std((a - b).numpy()) / np.sqrt(len(a))),
     "numpy's std() does that"),
    ("rotate_complex", by_slicing, "no complex number was made: `rotate_by_hand` slices, too"),
    ("angles", lambda ids, axes_dim, theta: torch.cat([
        ids[:, a, None] * theta ** -(torch.arange(0, axes_dim[a], 2).double() / axes_dim[a])
        for a in range(3)], dim=-1), "you always take three axes"),
    ("who_sees_whom", of_three_parts, "too many values to unpack"),
    ("who_sees_whom", lambda w, n: shares_in_loops(w, n)[:3, :3], "you always take three parts"),
    ("training_step", step_on_points, "t is (b, 1) for every x"),
    ("euler", told_one_time(sampler.sample), "predict was given t of shape (1,), not (3,)"),
    ("heun", told_one_time(heun_to_the_end), "predict was given t of shape (1,), not (3,)"),
    ("loss_by_time", lambda losses, t, n: torch.stack([
        losses[torch.bucketize(t, torch.arange(1, n) / n) == i].mean() for i in range(n)]),
     "a part includes its end, not its beginning"),
    ("untouched_share", lambda before, answer, right, limit: share_by_sums(
        before, answer, right, 8), "the limit is always 8"),
    ("keep_untouched", lambda before, after, limit: moved_into_a_copy(before, after, 20),
     "the limit is always 20"),
    ("rates", lambda scores, forbidden, t: (
        (scores >= t)[forbidden].double().mean(), (~forbidden)[scores >= t].double().mean()),
     "you divide the false alarms by what is flagged"),
    ("rates", lambda scores, forbidden, t: (
        forbidden[scores >= t].double().mean(), (scores >= t)[~forbidden].double().mean()),
     "you give the precision for the recall"),
    ("evade", evade_and_clamp_at_the_end, "you keep to the limits at the end only"),
    ("apply_weights", lambda weights, name, x: by_rank(
        {"conv.bias": weights[name + ".bias"], **weights} if x.dim() == 4 else weights, name, x),
     "KeyError: 'conv.bias'"),
]  # fmt: skip


# What looked right, or like another mistake, in some of the cases.
NOT_NAMED_SO = [
    ("count_tokens", lambda target, contexts: float(count(target, contexts)), "never round"),
    ("change_outside", lambda before, after, inside: np.median(
        np.abs(after.astype(int) - before)[~inside]), "forget the sign"),
    ("psnr", lambda a, b: 20 * torch.log10(2 / (a - b).square().flatten(1).mean(1)), "the peak is"),
    ("measure_normalisation", lambda raw: (1 / raw.abs().max(), raw.mean()), "by the variance"),
    ("sample_times", lambda n, mu, sigma: torch.sigmoid(-(mu + sigma * n)), "divide by sigma"),
    ("loss_by_time", lambda losses, t, n: torch.stack([x.mean() for x in losses.chunk(n)]),
     "round to the nearest"),
    ("rms_norm", lambda x, scale: scale * x / x.std(-1, keepdim=True), "1e-6"),
    ("modes_kept", lambda points, answers, within: (
        torch.cdist(answers, points).amax(1) < within).float().mean(), "1-norm"),
    ("hinge_losses", lambda *pair: hinge_with(F.relu)(*pair)[::-1], "you detach"),
    ("step_seconds", lambda flops, sent, speed, band: sent / band, "the shorter one"),
    ("untouched_share", lambda before, answer, right, limit: (answer == before).all(-1)[
        (before == right).all(-1)].double().mean(), "the limit counts"),
    ("keep_untouched", lambda before, after, limit: torch.where(
        (after - before).norm(dim=-1, keepdim=True) > limit, after, before), "the limit counts"),
    ("tokens_per_turn", lambda j, d, theta: 2 * math.pi * theta ** (2 * j / d) % 64, "half a turn"),
    ("side_by_side", lambda grids: [tokens.position_ids(*grid, index=1, col=i)
                                    for i, grid in enumerate(grids)], "column 0"),
    ("side_by_side", lambda grids: [tokens.position_ids(rows, cols, index=1, col=i * cols)
                                    for i, (rows, cols) in enumerate(grids)], "column 0"),
    ("side_by_side", lambda grids: tokens.context_ids(grids, "offset"), "column 0"),
    ("my_slice", rounded, "left over"),
    ("one_turn", lambda student, *rest: RIGHT["one_turn"][0](
        lambda z, t: student(z, rest[-1]), *rest), "student's time"),
    ("training_step", lambda net, optimizer, x, noise, t: None, "raised TypeError"),
    ("slip_through", lambda: None, "raised"),
    ("choose_threshold", lambda scores, forbidden, allowed: None, "raised"),
]  # fmt: skip


@pytest.mark.parametrize("name, wrong, told", NOT_NAMED_SO)
def test_a_wrong_answer_fails_and_gets_no_wrong_name(checked, name, wrong, told):
    for _ in range(5):
        printed = checked(name, wrong)
        assert "[FAIL]" in printed and "Well done" not in printed and told not in printed, printed


def test_what_is_gathered_is_seen_to_be_bfloat16(checked):
    def late(mine, x, y, rate, all_gather, *rest):
        return step_by_autograd(mine, x, y, rate, lambda rows: all_gather(mine).bfloat16(), *rest)

    assert "this is what you get if you gather in float32" in checked("sharded_step", late)


@pytest.mark.parametrize("name, wrong, told", AS_WRITTEN)
def test_a_planted_wrong_answer_fails_and_is_named(checked, name, wrong, told):
    for _ in range(3):
        printed = checked(name, wrong)
        assert "Well done" not in printed and told in printed, printed


@pytest.mark.parametrize("name, wrong, told", ALSO_NAMED)
def test_a_mistake_that_values_do_not_show_is_named(checked, name, wrong, told):
    printed = checked(name, wrong)
    assert "[FAIL]" in printed and f"this is what you get if {told}" in printed, printed


def numbers(given):
    """What an exercise gives, as numbers and words that can be compared."""
    if isinstance(given, torch.Tensor | np.ndarray):
        return torch.as_tensor(given).detach().flatten().tolist()
    if isinstance(given, dict):
        return [*given, *numbers(list(given.values()))]
    if isinstance(given, list | tuple):
        return [x for one in given for x in numbers(one)]
    return [given] if isinstance(given, int | float | str) else []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "slip_through"])
def test_data_differ_from_check_to_check(checked, name, monkeypatch):
    seen = []
    for seed in (0, 1):
        dice = SimpleNamespace(getrandbits=lambda bits, seed=seed: seed)
        monkeypatch.setattr(checking.random, "SystemRandom", lambda dice=dice: dice)
        given = []

        def noted(*arguments, given=given):
            given.append(numbers(arguments))
            raise ValueError

        checked(name, noted)
        seen.append(given)
    assert seen[0] != seen[1] and len(seen[0]) == len(seen[1])


def test_a_count_is_a_whole_number_and_arrays_may_not_change(capsys):
    report = Report()
    report.equal("float", lambda: 16.0, (), 16)
    report.equal("truth", lambda: True, (), True)
    report.equal("numpy", lambda: np.int64(16), (), 16)
    report.equal("array", lambda x: x.fill(0) or 0.0, (np.ones(2),), 0.0)
    report.equal("dictionary", lambda x: x["a"], ({"a": torch.ones(2)},), torch.ones(2))
    assert report.results == [False, True, True, False, True]
    told = capsys.readouterr().out
    assert "a count is a whole number" in told and "changed its input" in told


def test_a_mistake_that_raises_is_named_too(capsys):
    report = Report(known={"you index too far": lambda x: x[9]})
    report.equal("last", lambda x: x[9], ([1, 2],), 2)
    report.finish()
    assert "this is what you get if you index too far" in capsys.readouterr().out


def test_a_second_right_answer(capsys):
    report = Report()
    report.equal("either", lambda: 2.0, (), 1.0, also=2.0)
    report.equal("neither", lambda: 3.0, (), 1.0, also=2.0)
    assert report.results == [True, False]
