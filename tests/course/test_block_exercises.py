"""Exercises of 04 and 12: each known mistake fails and is named, other right ways pass."""


import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from minikontext.course.exercises import standalone_kontext, transformer
from minikontext.rope import rotate

KNOWN = {
    name: getattr(home, name.upper())
    for home, names in (
        (transformer, ("rms_norm", "who_sees_whom", "single_block")),
        (standalone_kontext, ("count_blocks", "apply_weights", "run_blocks")),
    )
    for name in names
}
MISTAKES = [(name, told) for name, known in KNOWN.items() for told in known]


def by_length(x, scale):
    return scale * F.normalize(x, dim=-1, eps=1e-6) * x.shape[-1] ** 0.5


def by_membership(weights, sizes):
    part = F.one_hot(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))).float()
    return (part / part.sum(0)).T @ weights.mean(0) @ part


def shares_in_loops(weights, sizes):
    result = torch.zeros(len(sizes), len(sizes))
    for i, rows in enumerate(weights.split(sizes, dim=1)):
        for j, block in enumerate(rows.split(sizes, dim=2)):
            result[i, j] = block.sum() / (len(weights) * sizes[i])
    return result


def block_in_steps(block, x, vec, rotations):
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


RIGHT = [("rms_norm", by_length), ("who_sees_whom", by_membership),
         ("who_sees_whom", shares_in_loops), ("single_block", block_in_steps),
         ("count_blocks", by_numbers), ("apply_weights", by_rank),
         ("run_blocks", with_the_parts_of_the_net)]  # fmt: skip


@pytest.mark.parametrize("name, told", MISTAKES)
def test_a_known_mistake_fails_and_is_named(checked, name, told):
    wrong = KNOWN[name][told]
    printed = checked(name, lambda *args: wrong(*args))
    assert "[FAIL]" in printed and f"this is what you get if {told}" in printed, printed


@pytest.mark.parametrize("name, right", RIGHT)
def test_other_right_ways_pass_whatever_the_data(checked, name, right):
    for _ in range(5):
        printed = checked(name, right)
        assert "Well done!" in printed and "[FAIL]" not in printed, printed
