"""The student's own functions run the model: the same picture, a green box, kept in a file."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from minikontext import course, flow, rope
from minikontext.course import map as system_map
from minikontext.course import own_code, predictions, progress, start, style
from minikontext.course.samples import pictures
from minikontext.layers import attention, modulate, split_heads
from minikontext.pipeline import KontextPipeline
from minikontext.tokens import position_ids

PICTURE = pictures()["cat"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A course folder in which nothing has been done yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIKONTEXT_PROGRESS", raising=False)
    monkeypatch.setattr(predictions, "ASKED", [])
    monkeypatch.setattr(plt, "show", lambda: None)
    style.apply()
    return tmp_path / "progress.json"


def pack(latents):
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(tokens, rows, cols):
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=2, q=2)


def numbered(rows, cols, index):
    return torch.tensor([(index, row, col) for row in range(rows) for col in range(cols)])


def join(target, target_ids, contexts, context_ids):
    copies = [x.expand(len(target), -1, -1) for x in (target, *contexts)]
    return torch.cat(copies, dim=1), torch.cat((target_ids, *context_ids))


def angles(ids, axes_dim, theta):
    hands = [theta ** -(torch.arange(0, d, 2, dtype=torch.float64) / d) for d in axes_dim]
    return torch.cat([ids[:, a, None] * hand for a, hand in enumerate(hands)], dim=-1)


def rotate(x, angles):
    x0, x1, c, s = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
    return torch.stack([c * x0 - s * x1, s * x0 + c * x1], dim=-1).flatten(-2)


def euler(predict, z, times):
    for t, t_next in pairwise(times):
        z = z + (t_next - t) * predict(z, t.expand(len(z)))
    return z


def schedule(steps, mu):
    t = torch.linspace(1, 0, steps + 1)
    return math.exp(mu) / (math.exp(mu) + 1 / t - 1)


def single_block(block, x, vec, rotations):
    shift, scale, gate = block.modulation(vec)
    *qkv, mlp = block.linear1(modulate(x, shift, scale)).split(block.widths, dim=-1)
    q, k, v = split_heads(qkv, block.num_heads)
    out = attention(*block.norm(q, k), v, rotations)
    return x + gate * block.linear2(torch.cat([out, F.gelu(mlp, approximate="tanh")], dim=-1))


def text_block(block, x, stream):
    qkv = block.qkv(block.norm1(x)).unflatten(-1, (3, block.heads, -1))
    out = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
    y = stream + block.proj(out.transpose(1, 2).flatten(2))
    return y + block.mlp(block.norm2(y))


def interpolate(x, noise, t):
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    return (1 - t) * x + t * noise


def loss(v, x, noise):
    return (v - (noise - x)).square().flatten(1).mean(1)


RIGHT = {
    "encode": lambda net, x, scale, shift: scale * (net(x).chunk(2, 1)[0] - shift),
    "decode": lambda net, z, scale, shift: net(z / scale + shift),
    "downsample": lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 0, 1)), w, b, stride=2),
    "res_block": lambda b, x: x + b.conv2(F.silu(b.norm2(b.conv1(F.silu(b.norm1(x))))))
    if b.conv1.in_channels == b.conv1.out_channels
    else b.nin_shortcut(x) + b.conv2(F.silu(b.norm2(b.conv1(F.silu(b.norm1(x)))))),
    "pack": pack, "unpack": unpack, "position_ids": numbered, "join_context": join,
    "angles": angles, "rotate": rotate, "euler": euler, "schedule": schedule,
    "attend": lambda q, k, v: torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v,
    "modulate": lambda x, a, b: (1 + b) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + a,
    "single_block": single_block, "text_block": lambda block, x: text_block(block, x, x),
    "mu_for_tokens": lambda n: 0.5 + (n - 256) * 0.65 / 3840,
    "guide": lambda c, u, w: u + w * (c - u),
}  # fmt: skip


def run(pipe, functions, **settings):
    with course.mine(**functions):
        return pipe("make the hat red", image=PICTURE, seed=3, progress=False, **settings)


@pytest.mark.parametrize("name", RIGHT)
def test_each_piece_of_a_student_makes_the_same_picture(name, tiny_pipe, own, capsys):
    run(tiny_pipe, {name: RIGHT[name]}, true_cfg_scale=2.0)
    told = capsys.readouterr().out
    assert f"Your {name} ran" in told and "FAIL" not in told
    assert list(json.loads(own.read_text())["pieces"]) == [name]


def test_the_students_function_is_what_runs(tiny_pipe, own):
    asked = []

    def noted(latents):
        asked.append(tuple(latents.shape))
        return pack(latents)

    run(tiny_pipe, {"pack": noted})
    assert asked[0] == (1, 4, 8, 8) and len(asked) >= 3
    count = len(asked)
    tiny_pipe("make the hat red", image=PICTURE, seed=3, progress=False)
    assert len(asked) == count  # the model has its own function back


def test_code_that_was_given_is_compared_and_not_kept(tiny_pipe, own, capsys):
    given = {"pack": pack, "unpack": unpack, "position_ids": numbered, "join_context": join}
    with course.mine(keep=False, **given):
        tiny_pipe("make the hat red", image=PICTURE, seed=3, progress=False)
    told = capsys.readouterr().out
    assert "[OK]" in told and "The notebook's pack ran" in told and "the same" in told
    assert "green" not in told and not own.exists() and not progress.green()
    with course.mine(keep=False, pack=WRONG["pack"]):
        tiny_pipe("make the hat red", image=PICTURE, seed=3, progress=False)
    assert "[FAIL] pack: not what the package says" in capsys.readouterr().out


def test_all_pieces_of_a_box_turn_it_green_and_it_stays_so(tiny_pipe, own, capsys):
    run(tiny_pipe, {"pack": pack, "unpack": unpack})
    assert "tokens: still to come: position_ids, join_context" in capsys.readouterr().out
    assert colour_of("tokens") == style.PALE
    run(tiny_pipe, {"position_ids": numbered, "join_context": join})  # another notebook, say
    assert "tokens: green on the map" in capsys.readouterr().out
    assert progress.green() == {"tokens"} and colour_of("tokens") == style.GREEN


def colour_of(box):
    """The fill of a box on the map as it is drawn now."""
    from matplotlib.colors import to_hex

    system_map.show_system()
    patches = plt.gcf().axes[0].patches
    place = list(system_map.BOXES).index(box)
    boxes = [p for p in patches if p.get_boxstyle().__class__.__name__ == "Round"]
    found = to_hex(boxes[place].get_facecolor())
    plt.close("all")
    return found


WRONG = {
    "pack": lambda z: rearrange(z, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2),
    "position_ids": lambda rows, cols, index: 0 * numbered(rows, cols, index),
    "join_context": lambda t, ti, c, ci: (torch.cat([*c, t], 1), torch.cat([*ci, ti])),
    "rotate": lambda x, a: rotate(x, -a),
    "euler": lambda predict, z, times: euler(predict, z, torch.linspace(1, 0, len(times))),
    "downsample": lambda x, w, b: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, b, stride=2),
    "guide": lambda c, u, w: c + w * (c - u),
    "text_block": lambda block, x: text_block(block, x, 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_piece_is_named_shown_and_not_kept(name, tiny_pipe, own, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(own_code, "show_images", lambda pair, titles: shown.append(titles))
    run(tiny_pipe, {name: WRONG[name]}, true_cfg_scale=2.0)
    told = capsys.readouterr().out
    assert "[FAIL]" in told and "[OK]" not in told and not own.exists()
    if name != "position_ids":  # random weights hardly look at positions
        assert shown == [["expected", "with your code"]]
    if name != "guide":  # it makes a function, which only its picture can judge
        assert f"[FAIL] {name}: not what the package says" in told


def ids_of_all(target, contexts):
    return torch.cat([numbered(*grid, i) for i, grid in enumerate([target, *contexts])])


def ids_of_the_last(rows, cols, index):
    target, *contexts = index * [(1, 1)] + [(rows, cols)]
    return ids_of_all(target, contexts)[index:]


def test_what_is_kept_of_a_piece_runs_by_itself(tiny_pipe, own):
    run(tiny_pipe, {"position_ids": ids_of_the_last})
    kept = json.loads(own.read_text())["pieces"]["position_ids"]
    space = {"torch": torch}
    exec(kept, space)
    assert torch.equal(space["ids_of_the_last"](2, 3, 2), position_ids(2, 3, 2))
    assert [line.split("(")[0] for line in kept.splitlines() if line.startswith("def ")] == [
        "def numbered", "def ids_of_all", "def ids_of_the_last",
    ]  # fmt: skip


def test_what_is_kept_can_be_pasted_under_the_name_of_the_piece(tiny_pipe, own):
    run(tiny_pipe, {"pack": packed_in_two_calls, "rotate": turned_by_angles, "unpack": unpack})
    kept, space = json.loads(own.read_text())["pieces"], {"torch": torch, "rearrange": rearrange}
    for name, lines in kept.items():
        exec(lines, space)
        assert callable(space[name]), name
    assert space["rotate"] is space["turned_by_angles"] and kept["unpack"].count("unpack") == 1


def turned_by_angles(x, angles):
    return rotate(x, angles)


def test_a_piece_without_lines_is_kept_and_one_that_calls_itself_once(tiny_pipe, own):
    space = {"torch": torch}
    exec("def ids(r, c, i):\n    return torch.cartesian_prod(*map(torch.arange, (1, r, c))) + "
         "torch.tensor([i, 0, 0])", space)  # fmt: skip
    run(tiny_pipe, {"position_ids": space["ids"], "pack": packed_in_two_calls})
    kept = json.loads(own.read_text())["pieces"]
    assert kept["position_ids"] == "" and kept["pack"].count("def packed_in_two_calls") == 1


def packed_in_two_calls(latents, again=True):
    return packed_in_two_calls(latents, False) if again else pack(latents)


def test_a_piece_that_nothing_calls_does_not_count(tiny_pipe, own, capsys):
    with course.mine(loss=loss, pack=pack):
        tiny_pipe("make the hat red", image=PICTURE, seed=3, progress=False)
    assert "[FAIL] loss: nothing has called it" in capsys.readouterr().out and not own.exists()


def test_the_loss_runs_in_a_training(own, capsys):
    x, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.rand(3)
    with course.mine(interpolate=interpolate, loss=loss):
        z = flow.interpolate(x, noise, t)
        flow.loss(z, x, noise)
    assert "all numbers agree" in capsys.readouterr().out
    assert progress.green() == {"flow", "noise"}
    plt.close("all")


def test_a_stub_is_not_attempted_yet_and_an_error_stays_an_error(tiny_pipe, own, capsys):
    def stub(latents):
        raise NotImplementedError

    def broken(latents):
        return latents.no_such_thing()

    run(tiny_pipe, {"pack": stub})
    assert capsys.readouterr().out == "pack: not attempted yet\n" and not own.exists()
    with pytest.raises(AttributeError, match="no_such_thing"):
        run(tiny_pipe, {"pack": broken})
    right = KontextPipeline.__call__
    assert tiny_pipe("hat", image=PICTURE, seed=0, progress=False) and right.__name__ == "__call__"


def test_errors_that_somebody_caught_are_told(own, capsys):
    """A training in a widget catches everything and shows it in its status line."""

    def stub(v, x, noise):
        raise NotImplementedError

    def broken(v, x, noise):
        return v.no_such_thing()

    x = torch.zeros(2, 1)
    for function in (stub, broken):
        with course.mine(loss=function), suppress(Exception):
            flow.loss(x, x, x)
    told = capsys.readouterr().out
    assert told.startswith("loss: not attempted yet\n[FAIL] loss: your code raised AttributeError")
    assert not own.exists()


def test_unknown_names_and_the_packages_own_functions_are_refused():
    with pytest.raises(KeyError, match=r"No piece is called 'packs'[\s\S]*unpack\(tokens, rows"):
        course.mine(packs=pack)
    with pytest.raises(ValueError, match="package's own"):
        course.mine(position_ids=position_ids)


def test_a_piece_on_a_batch_of_ids_of_its_own(own):
    """Rotations may come with a batch dimension, (b, n, d/2, 2)."""
    ids = torch.randint(0, 9, (2, 5, 3))
    turns = rope.rotations(ids, (4, 6, 6), 10_000)
    x = torch.randn(2, 3, 5, 16)
    adapted = own_code.PIECES["rotate"].adapt(rotate)
    assert torch.allclose(adapted(x, turns), rope.rotate(x, turns), atol=1e-5)


def test_progress_survives_a_broken_file_and_a_folder_that_cannot_be_written(own, capsys):
    own.write_text("{ not json")
    assert progress.load("pieces") == {}
    progress.keep("pieces", {"pack": ""})
    assert progress.load("pieces") == {"pack": ""}
    own.unlink()
    own.with_name(f".{own.name}.lock").unlink(missing_ok=True)
    own.with_name(f".{own.name}.lock").mkdir()
    progress.keep("pieces", {"pack": ""})
    assert "not kept" in capsys.readouterr().out


def test_a_broken_file_is_kept_under_another_name_and_told(own, capsys):
    for number in (1, 2):
        own.write_text(f'{{"pieces": {{"pack": "cut short {number}')
        progress.keep("solved", {"evade": True})
        kept = own.with_name(f"{own.stem}-broken-{number}.json")
        assert kept.read_text().endswith(f"cut short {number}")
        assert kept.name in capsys.readouterr().out
    assert progress.load("solved") == {"evade": True}


def test_what_a_later_course_has_kept_is_no_fault(own):
    own.write_text('{"pieces": {"pack": "mine"}, "badges": [1]}')
    assert progress.load("pieces") == {"pack": "mine"}
    own.write_text('{"pieces": {"pack": 3}}')
    assert progress.load("pieces") == {}


def test_two_notebooks_that_run_at_once_lose_nothing(own):
    def keep(name):
        for i in range(20):
            progress.keep("pieces", {f"{name}{i}": "x"})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, "abcd"))
    assert len(progress.load("pieces")) == 80


# ---------------------------------------------------------------- predictions


def test_a_prediction_is_kept_before_the_measurement_and_scored(own, capsys):
    guess = course.predict("Which wins?", ["one", "two"])
    guess.choices.value = "one"
    assert json.loads(own.read_text())["predictions"] == {"Which wins?": {"guess": "one"}}
    guess.measured("two")
    other = course.predict("And here?", ["yes", "no"])
    other.choices.value = "yes"
    other.measured("yes")
    course.predict("Nobody answers this", ["a", "b"]).measured("a")
    capsys.readouterr()
    course.score()
    told = capsys.readouterr().out
    assert "1 of 2 right, 3 asked; in the course: 1 of 2 right" in told


def test_the_first_guess_stands(own, capsys):
    guess = course.predict("Which wins?", ["one", "two"])
    guess.choices.value = "one"
    guess.measured("two")
    assert guess.choices.disabled and "You predicted: one." in capsys.readouterr().out
    again = course.predict("Which wins?", ["one", "two"])  # the kernel was restarted
    assert again.choices.disabled and again.guess == "one" and not again.right
    assert "Measured: two" in again.status.value and len(predictions.ASKED) == 1


def test_without_a_guess_nothing_is_kept_and_a_truth_must_be_a_choice(own, capsys):
    guess = course.predict("Which wins?", ["one", "two"])
    with pytest.raises(ValueError, match="none of"):
        guess.measured("three")
    guess.measured("one")
    assert "You made no prediction" in capsys.readouterr().out and not own.exists()


def test_who_predicts_is_told_how_long_the_notebook_took(own, capsys, monkeypatch):
    """An unattended run, as that which stores the outputs, is told no minutes."""
    monkeypatch.setattr(start, "BEGAN", [])
    course.predict("Nobody answers this", ["a", "b"]).measured("a")
    course.score()
    assert "minutes" not in capsys.readouterr().out
    guess = course.predict("Which wins?", ["one", "two"])
    guess.choices.value = "one"
    guess.measured("one")
    course.score()
    assert "minutes" not in capsys.readouterr().out  # nobody knows when it began
    start.BEGAN.append(start.time.monotonic() - 61.6 * 60)
    course.score()
    assert "62 minutes since the first cell, breaks included" in capsys.readouterr().out


def test_the_clock_starts_with_the_first_cell_and_not_again(monkeypatch):
    monkeypatch.setattr(start, "BEGAN", [])
    monkeypatch.setattr(start, "_quiet", lambda: None)  # warnings of the other tests are kept
    course.setup(seed=0)
    first = list(start.BEGAN)
    course.setup(seed=1)
    assert len(first) == 1 and first == start.BEGAN
