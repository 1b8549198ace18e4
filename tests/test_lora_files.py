"""LoRA files of other programs: what opens is the same update; the rest is refused by name."""

import json
import math
import re
import time
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from minikontext.errors import ConfigError, WeightsError, WeightsWarning
from minikontext.pretrained import key_mapping, lora, lora_layers

PEFT = "base_model.model."


@pytest.fixture
def model(tiny):
    return tiny().transformer


@pytest.fixture
def good(model):
    """A thin pair for a few layers, by official name."""
    torch.manual_seed(0)
    names = ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.proj",
             "single_blocks.0.linear1", "single_blocks.0.linear2", "img_in")  # fmt: skip
    sizes = {name: model.get_submodule(name).weight.shape for name in names}
    return {
        n: (torch.randn(3, wide) / 8, torch.randn(out, 3) / 8) for n, (out, wide) in sizes.items()
    }


def read(state, model, tmp_path, facts=None, name="x", **options):
    path = tmp_path / f"{name}.safetensors"
    save_file({k: v.clone().contiguous() for k, v in state.items()}, path, facts)
    return lora.load(path, model, **options)


def pairs(good, name, down="lora_down.weight", up="lora_up.weight"):
    state = {}
    for layer, (a, b) in good.items():
        state |= {f"{name(layer)}.{down}": a, f"{name(layer)}.{up}": b}
    return state


def flat(prefix):
    return lambda layer: prefix + layer.replace(".", "_")


def same(found, good, factor=1.0):
    assert set(found.names) == set(good)
    for name, (down, up) in good.items():
        expected = factor * (up.double() @ down.double()).float()
        torch.testing.assert_close(found.layers[name].delta, expected, atol=1e-5, rtol=1e-5)


# ---- namings

NAMINGS = {
    "kohya": flat("lora_unet_"),
    "OneTrainer": flat("lora_transformer_"),
    "LyCORIS": flat("lycoris_"),
    "official": lambda layer: layer,
    "prefix": lambda layer: f"diffusion_model.{layer}",
    "compiled": lambda layer: layer.replace("_blocks.0.", "_blocks.0._orig_mod."),
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_namings_are_one_update(model, good, tmp_path, naming, alpha):
    state = pairs(good, NAMINGS[naming])
    if alpha:
        state |= {f"{NAMINGS[naming](layer)}.alpha": torch.tensor(alpha) for layer in good}
    same(read(state, model, tmp_path), good, (alpha or 3.0) / 3)


def test_onetrainer_under_diffusers_names(model, tmp_path):
    """q, k and v by themselves, dots written as underscores."""
    wide = model.config.hidden_size
    torch.manual_seed(0)
    parts = {part: (torch.randn(2, wide), torch.randn(wide, 2)) for part in "qkv"}
    stem = "lora_transformer_transformer_blocks_0_attn_to_"
    state = pairs(parts, lambda part: stem + part)
    found = read(state, model, tmp_path)
    expected = torch.cat([up @ down for down, up in parts.values()])
    assert found.names == ("double_blocks.0.img_attn.qkv",)
    torch.testing.assert_close(found.updates[0].delta, expected, atol=1e-5, rtol=1e-5)


def test_xlabs_processors_are_layers(model, tmp_path):
    wide, torch_seed = model.config.hidden_size, torch.manual_seed(0)
    assert torch_seed
    inner = model.get_submodule("single_blocks.0.linear2").weight.shape[1]
    sizes = {
        "double_blocks.0.processor.qkv_lora1": ("double_blocks.0.img_attn.qkv", 3 * wide, wide),
        "double_blocks.0.processor.qkv_lora2": ("double_blocks.0.txt_attn.qkv", 3 * wide, wide),
        "double_blocks.0.processor.proj_lora1": ("double_blocks.0.img_attn.proj", wide, wide),
        "double_blocks.0.processor.proj_lora2": ("double_blocks.0.txt_attn.proj", wide, wide),
        "single_blocks.0.processor.qkv_lora": ("single_blocks.0.linear1", 3 * wide, wide),
        "single_blocks.0.processor.proj_lora": ("single_blocks.0.linear2", wide, inner),
    }
    theirs = {k: (torch.randn(2, i), torch.randn(o, 2)) for k, (_, o, i) in sizes.items()}
    found = read(pairs(theirs, str, "down.weight", "up.weight"), model, tmp_path)
    for key, (official, out, _) in sizes.items():
        down, up = theirs[key]
        delta = found.layers[official].delta
        torch.testing.assert_close(delta[:out], up @ down, atol=1e-5, rtol=1e-5)
        assert not delta[out:].any()  # the MLP's rows of linear1


# ---- other forms


def forward_is_delta(model, found):
    """What a layer adds is its delta times the input, attached and merged."""
    for name, update in found.layers.items():
        x = torch.randn(2, 5, update.shape[1])
        bias = 0 if update.bias is None else update.bias
        torch.testing.assert_close(update(x), x @ update.delta.T + bias, atol=1e-4, rtol=1e-4)
        assert model.get_submodule(name).weight.shape == update.delta.shape


@pytest.mark.parametrize("thin", ["neither", "left", "right", "both"])
def test_lokr_by_hand(model, tmp_path, thin):
    out, wide = model.get_submodule("img_in").weight.shape
    torch.manual_seed(0)
    left, right, state = torch.randn(4, 2), torch.randn(out // 4, wide // 2), {}
    for name, factor in (("lokr_w1", left), ("lokr_w2", right)):
        if thin in ("both", "left" if name == "lokr_w1" else "right"):
            state[f"lora_unet_img_in.{name}_a"] = factor
            state[f"lora_unet_img_in.{name}_b"] = torch.eye(factor.shape[1])
        else:
            state[f"lora_unet_img_in.{name}"] = factor
    state["lora_unet_img_in.alpha"] = torch.tensor(6.0)
    rank = {"neither": 6, "left": 2}.get(thin, wide // 2)  # without thin factors alpha says nothing
    found = read(state, model, tmp_path)
    expected = torch.kron(left, right) * 6 / rank
    torch.testing.assert_close(found.updates[0].delta, expected, atol=1e-5, rtol=1e-5)
    forward_is_delta(model, found)


@pytest.mark.parametrize("rank", [2, 9])
def test_loha_by_hand_and_in_parts_of_a_layer(model, tmp_path, rank):
    wide = model.config.hidden_size
    torch.manual_seed(0)
    state, rows = {}, []
    for part in "qkv":
        stem = f"transformer.transformer_blocks.0.attn.to_{part}."
        factors = [torch.randn(s) for s in ((wide, rank), (rank, wide)) * 2]
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        state |= dict(zip([stem + n for n in names], factors))
        state[f"{stem}alpha"] = torch.tensor(1.0)
        a1, b1, a2, b2 = factors
        rows.append((a1 @ b1) * (a2 @ b2) / rank)
    found = read(state, model, tmp_path)
    assert found.names == ("double_blocks.0.img_attn.qkv",)
    torch.testing.assert_close(found.updates[0].delta, torch.cat(rows), atol=1e-4, rtol=1e-4)
    forward_is_delta(model, found)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("kind", ["thin", "LoKr"])
def test_a_dora_by_hand(model, tmp_path, axis, kind):
    base, stem = model.get_submodule("img_in").weight, "lora_unet_img_in."
    (out, wide), dim = base.shape, int(axis == "rows")
    torch.manual_seed(0)
    left, right = torch.randn(4, 2), torch.randn(out // 4, wide // 2)
    down, up = torch.randn(3, wide), torch.randn(out, 3)
    state = {"lokr_w1": left, "lokr_w2": right}
    state = {"lora_down.weight": down, "lora_up.weight": up} if kind == "thin" else state
    lengths = torch.rand((out, 1) if axis == "rows" else (1, wide)) + 0.5
    state["dora_scale"] = lengths
    whole = base + (up @ down if kind == "thin" else torch.kron(left, right))
    expected = whole / whole.norm(dim=dim, keepdim=True) * lengths
    found = read({stem + n: x for n, x in state.items()}, model, tmp_path)
    torch.testing.assert_close(base + found.updates[0].delta, expected, atol=1e-5, rtol=1e-5)
    forward_is_delta(model, found)


def test_parts_of_a_layer_on_other_devices_are_one_matrix():
    far = lora_layers.FullLayer(torch.ones(2, 3, device="meta"))  # as a DoRA's, where its base is
    near = lora_layers.FullLayer(torch.ones(2, 3))
    rows = torch.arange(4).split(2)
    assert lora_layers.PartsLayer([*zip(rows, (far, near))], 4).delta.device.type == "meta"


@pytest.mark.parametrize("lengths", [torch.ones(3), torch.ones(1, 3), torch.ones(32) * torch.inf])
def test_a_dora_with_lengths_of_no_sense_is_refused(model, good, tmp_path, lengths):
    with pytest.raises(WeightsError, match="img_in (is a DoRA with|holds NaN or inf)"):
        read(pairs(good, str) | {"img_in.dora_scale": lengths}, model, tmp_path)
    base = {"img_in.diff": -model.img_in.weight.detach()}  # nothing is left to have a length
    with pytest.raises(WeightsError, match="rows of length 0"):
        read(base | {"img_in.dora_scale": torch.ones(len(model.img_in.weight))}, model, tmp_path)


@torch.no_grad()
def test_whole_differences_and_biases_are_added(model, tmp_path):
    torch.manual_seed(0)
    layer = model.get_submodule("img_in")
    diff, bias = torch.randn(layer.weight.shape), torch.randn(layer.bias.shape)
    found = read({"img_in.diff": diff, "img_in.diff_b": bias}, model, tmp_path, scale=0.5)
    before, x = layer.weight.clone(), torch.randn(3, layer.in_features)
    expected = layer(x) + 0.5 * (x @ diff.T + bias)
    torch.testing.assert_close(found.attach(model) and layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.merge(model) and layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.weight, before + 0.5 * diff)
    with pytest.raises(ConfigError, match="changes a bias"):
        lora.save(found, model, tmp_path / "y.safetensors")


def test_a_bias_of_a_thin_pair_is_as_strong_as_the_pair(model, good, tmp_path):
    """As in peft: lora_B (lora_A x) times alpha / rank, its bias included; diff_b is as it is."""
    bias = torch.randn(len(model.img_in.bias))
    for extra, factor in (("lora_B.bias", 2.0), ("lora_B.default.bias", 2.0), ("diff_b", 1.0)):
        state = pairs(good, str, "lora_A.weight", "lora_B.weight") | {f"img_in.{extra}": bias}
        found = read(state | {"img_in.alpha": torch.tensor(6.0)}, model, tmp_path)
        torch.testing.assert_close(found.layers["img_in"].bias.data, factor * bias)
    both = {"img_in.lora_B.bias": bias, "img_in.diff_b": bias}
    with pytest.raises(WeightsError, match="bias beside no thin pair, or two"):
        read(pairs(good, str) | both, model, tmp_path)


def test_a_lokr_of_whole_factors_takes_no_heed_of_its_alpha(model, tmp_path):
    """Trainers write 10^10 where nothing is thin."""
    out, wide = model.img_in.weight.shape
    left, right = torch.randn(4, 2), torch.randn(out // 4, wide // 2)
    state = {"lora_unet_img_in.lokr_w1": left, "lora_unet_img_in.lokr_w2": right}
    alpha = {"lora_unet_img_in.alpha": torch.tensor(1e10)}
    found = read(state | alpha, model, tmp_path)
    torch.testing.assert_close(found.updates[0].delta, torch.kron(left, right))


@pytest.mark.parametrize("how", ["alphas of 0", "zeros", "a difference of 0"])
def test_a_lora_that_changes_nothing_is_told(model, good, tmp_path, how):
    state = pairs(good, str)
    if how == "alphas of 0":
        state |= {f"{layer}.alpha": torch.zeros(()) for layer in good}
    elif how == "zeros":
        state = {k: x * ("lora_down" in k) for k, x in state.items()}
    else:
        state = {"img_in.diff": torch.zeros_like(model.img_in.weight)}
    with pytest.warns(WeightsWarning, match="changes nothing"):
        read(state, model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = pairs({"img_in": good["img_in"]}, str)
        read(state | one if how == "zeros" else one, model, tmp_path)


def test_a_lokr_is_no_thin_pair_to_save(model, tmp_path):
    out, wide = model.get_submodule("img_in").weight.shape
    state = {"img_in.lokr_w1": torch.ones(2, 2), "img_in.lokr_w2": torch.ones(out // 2, wide // 2)}
    with pytest.raises(ConfigError, match="KroneckerLayer"):
        lora.save(read(state, model, tmp_path), model, tmp_path / "y.safetensors")


# ---- text encoders, twice, names

TEXT = ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te_x", "lora_te2_encoder_block_0",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1", "text_encoder_2.encoder.block.0.x",
        "clip_l.transformer.text_model.x", "t5xxl.encoder.block.0.x")  # fmt: skip


@pytest.mark.parametrize("name", TEXT)
def test_updates_of_text_encoders_are_left_out_and_told_or_refused(model, good, tmp_path, name):
    text = pairs({name: (torch.zeros(2, 8), torch.zeros(8, 2))}, str)
    state = pairs(good, NAMINGS["kohya"]) | text
    with pytest.warns(WeightsWarning, match=r"changes the text encoders \(2 tensors: .*left out"):
        same(read(state, model, tmp_path), good)
    with pytest.raises(WeightsError, match="text_encoders='skip'"):
        read(state, model, tmp_path, text_encoders="refuse")
    with pytest.raises(WeightsError, match="only the transformer's part"):
        read(text, model, tmp_path)


def test_the_same_lora_twice_is_told_and_names_are_unique(tiny, good, tmp_path):
    pipe = tiny()
    first, second = tmp_path / "style.safetensors", tmp_path / "b" / "style.safetensors"
    second.parent.mkdir()
    save_file(pairs(good, str), first)
    save_file(pairs({k: (2 * a, b) for k, (a, b) in good.items()}, str), second)
    pipe.load_lora(first)
    pipe.load_lora(second)
    assert [one.name for one in pipe.loras] == ["style", "style-2"]
    with pytest.warns(WeightsWarning, match="'style' is loaded already, as 'style'"):
        pipe.load_lora(first)
    assert [one.name for one in pipe.loras] == ["style", "style-2", "style-3"]
    picture = Image.new("RGB", (64, 64), "teal")
    made = pipe("make the hat red", picture, seed=0, num_inference_steps=1, progress=False)
    mark = r" 1 \[([0-9a-f]{12})\]"  # of the file
    pattern = rf"tiny \+ style{mark} \+ style-2{mark} \+ style-3{mark}"
    one, two, three = re.fullmatch(pattern, made.provenance[0].weights).groups()
    assert one == three != two
    pipe.unload_lora("style-2")
    assert [one.name for one in pipe.loras] == ["style", "style-3"]


# ---- refused

KINDS = {
    "img_in.oft_blocks": "OFT",
    "img_in.boft_R.weight": "OFT or BOFT",
    "img_in.ia3_l": "IA3",
    "lora_unet_img_in.lora_mid.weight": "LoRA of convolutions",
    "img_in.lokr_t2": "LoKr of convolutions",
    "img_in.hada_t1": "LoHa of convolutions",
    "double_blocks.0.img_attn.norm.query_norm.scale": "control LoRA",
    "time_in.in_layer.weight": "a whole model",
    "time_text_embed.timestep_embedder.linear_1.weight": "a whole model",
}


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_are_refused_by_name(model, good, tmp_path, name):
    with pytest.raises(WeightsError, match=KINDS[name]):
        read(pairs(good, str) | {name: torch.zeros(2, 2)}, model, tmp_path)


@pytest.mark.parametrize("naming", ["official", "diffusers"])
def test_a_control_lora_is_refused_by_name(model, tmp_path, naming):
    out, wide = model.get_submodule("img_in").weight.shape
    name = "img_in" if naming == "official" else "transformer.x_embedder"
    state = pairs({name: (torch.zeros(2, 2 * wide), torch.zeros(out, 2))}, str)
    with pytest.raises(WeightsError, match="control LoRA.*Use FLUX.1 Kontext"):
        read(state, model, tmp_path)


def test_one_layer_under_two_names_is_refused(model, good, tmp_path):
    state = pairs(good, str) | pairs(good, NAMINGS["kohya"])
    with pytest.raises(WeightsError, match="under two names"):
        read(state, model, tmp_path)
    with pytest.raises(WeightsError, match="twice"):
        read(pairs(good, str) | pairs(good, str, "lora_A.default.weight"), model, tmp_path)
    wide = model.config.hidden_size  # a part of the rows, beside all of them
    part = {"transformer_blocks.0.attn.to_k": (torch.ones(1, wide), torch.ones(wide, 1))}
    with pytest.raises(WeightsError, match="under two names"):
        read(pairs(good, str) | pairs(part, str), model, tmp_path)
    part = {"single_blocks.0.processor.qkv_lora": (torch.ones(1, wide), torch.ones(3 * wide, 1))}
    with pytest.raises(WeightsError, match="under two names"):
        read(pairs(good, str) | pairs(part, str, "down.weight", "up.weight"), model, tmp_path)


@pytest.mark.parametrize("alpha", [math.inf, -math.inf, math.nan, 1e30])
def test_an_alpha_beyond_all_bounds_is_refused(model, good, tmp_path, alpha):
    state = pairs(good, str) | {"img_in.alpha": torch.tensor(alpha)}
    with pytest.raises(WeightsError, match="alpha|NaN or infinity"):
        read(state, model, tmp_path)
    with pytest.raises(ConfigError, match="finite number"):
        read(pairs(good, str), model, tmp_path, scale=math.inf)


SETTINGS = {
    "infinite": '{"lora_alpha": Infinity}',
    "no number": '{"lora_alpha": NaN}',
    "beyond a float": '{"lora_alpha": 1' + "0" * 400 + "}",
    "6000 digits": '{"lora_alpha": ' + "9" * 6000 + "}",
    "deep": '{"a": ' + "[" * 100_000,
    "a repeat beyond C's range": '{"alpha_pattern": {"a{99999999999999999999}": 1}}',
    "without end": '{"alpha_pattern": {"(a+)+$": 1}}',
    "without end, too": '{"alpha_pattern": {"(a|a)*b": 1, "(.*)*x": 2}}',
    "no expression": '{"alpha_pattern": {"(": 1}}',
    "too many": json.dumps({"rank_pattern": {f"l{i}": 1 for i in range(5000)}}),
    "infinite for one": '{"alpha_pattern": {"to_q": Infinity}}',
    "an infinite rank": '{"r": Infinity}',
    "DoRA": '{"use_dora": true}',
    "a changed base": '{"init_lora_weights": "pissa_niter_16", "lora_alpha": 2}',
    "another changed base": '{"init_lora_weights": "OLoRA"}',
    "a third": '{"init_lora_weights": "loftq"}',
    "a fourth": '{"init_lora_weights": "corda"}',
    "a base of more layers": '{"layer_replication": [[0, 2], [1, 2]]}',
    "a list": "[1]",
    "a list of patterns": '{"alpha_pattern": [1]}',
    "a rank of 0": '{"r": 0}',
    "a pattern's rank below 1": '{"rank_pattern": {"img_in": -3}}',
    "another rank than the file's": '{"r": 64, "lora_alpha": 64}',
    "another form than the file's": '{"peft_type": "LOHA", "r": 3, "alpha": 64}',
    "no bool": '{"use_rslora": "false"}',
    "a bool": '{"lora_alpha": true}',
    "text": '{"lora_alpha": "16"}',
    "words that switch it on": '{"alora_invocation_tokens": [1, 2]}',
    "other sums": '{"use_qalora": true}',
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("where", ["beside", "inside"])
def test_settings_of_no_sense_are_refused_at_once(model, good, tmp_path, how, where):
    began, facts, prefix = time.process_time(), None, ""
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(SETTINGS[how])
        prefix = PEFT
    else:
        facts = {"lora_adapter_metadata": SETTINGS[how]}
    state = pairs(good, lambda layer: prefix + layer, "lora_A.weight", "lora_B.weight")
    with pytest.raises(WeightsError):
        read(state, model, tmp_path, facts)
    assert time.process_time() - began < 5  # of the processor: an expression may run for years


def test_an_alpha_may_be_a_whole_number(model, good, tmp_path):
    """Trainers that were given no precision store the number that they were given."""
    for alpha in (torch.tensor(6), torch.tensor([6], dtype=torch.int32)):
        same(read(pairs(good, str) | {f"{n}.alpha": alpha for n in good}, model, tmp_path), good, 2)
    with pytest.raises(WeightsError, match="alpha is stored as integers"):
        read(pairs(good, str) | {"img_in.alpha": torch.tensor(True)}, model, tmp_path)


def test_a_folder_may_hold_its_lora_under_either_name_of_safetensors(model, good, tmp_path):
    read(pairs(good, str), model, tmp_path)
    (tmp_path / "x.safetensors").rename(tmp_path / "x.sft")
    same(lora.load(tmp_path, model), good)
    (tmp_path / "x.sft").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(WeightsError, match="holds no other files of safetensors; pickles are not"):
        lora.load(tmp_path, model)


BOMBS = {
    "a LoKr": {"lokr_w1": (1, 1), "lokr_w2_a": (100_000, 1), "lokr_w2_b": (1, 100_000)},
    "a LoHa": {f"hada_w{n}_{side}": (70_000, 1)[:: 1 if side == "a" else -1]
               for n in (1, 2) for side in "ab"},
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_thin_factors_of_a_matrix_beyond_all_bounds_are_refused_at_once(model, tmp_path, kind):
    """A megabyte in a file, forty gigabytes when it is multiplied."""
    state = {f"img_in.{leaf}": torch.ones(size) for leaf, size in BOMBS[kind].items()}
    with pytest.raises(WeightsError, match="img_in makes a matrix of .* more than any layer has"):
        read(state, model, tmp_path)


@pytest.mark.parametrize("name", ["module." * 400_000, "a." * 1000])
def test_names_without_end_are_refused_at_once(model, good, tmp_path, name):
    """Prefixes were cut one by one, and peft's expressions take for ever on a long name."""
    (tmp_path / "adapter_config.json").write_text('{"alpha_pattern": {".*.*x": 1}}')
    thin = {"lora_A.weight": torch.ones(1, 2), "lora_B.weight": torch.ones(2, 1)}
    start = time.process_time()
    with pytest.raises(WeightsError):
        read({f"{PEFT}{name}x.{leaf}": x for leaf, x in thin.items()}, model, tmp_path)
    with pytest.raises(WeightsError):
        read({f"{name}{PEFT}x.{leaf}": x for leaf, x in thin.items()}, model, tmp_path)
    assert time.process_time() - start < 5


def test_a_scaled_number_that_is_no_matrix_is_refused(model, tmp_path):
    state = {"img_in.lora_A.weight": torch.ones(()).to(torch.float8_e4m3fn)}
    state |= {"img_in.lora_A.scale_weight": torch.ones(1), "img_in.lora_B.weight": torch.ones(2, 1)}
    with pytest.raises(WeightsError, match="lora_A is no matrix"):
        read(state, model, tmp_path)


def test_a_folder_with_two_loras_names_both(model, good, tmp_path):
    state = pairs(good, lambda layer: layer, "lora_A.weight", "lora_B.weight")
    for name in lora.lora_files.FOLDER_FILES:
        save_file(state, tmp_path / name)
    with pytest.raises(WeightsError, match="adapter_model.*pytorch_lora.*each may be the LoRA"):
        lora.load(tmp_path, model)


def test_settings_by_name_still_count(model, good, tmp_path):
    """Names, escapes and a simple repeat are no danger."""
    patterns = {r"single_blocks\.0\.linear2": 9.0, "img_.*qkv": 30.0}
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"lora_alpha": 3, "alpha_pattern": patterns})
    )
    state = pairs(good, lambda layer: PEFT + layer, "lora_A.weight", "lora_B.weight")
    found = read(state, model, tmp_path)
    for name, factor in (
        ("single_blocks.0.linear2", 3),
        ("double_blocks.0.img_attn.qkv", 10),
        ("img_in", 1),
    ):
        down, up = good[name]
        torch.testing.assert_close(
            found.layers[name].delta, factor * up @ down, atol=1e-5, rtol=1e-4
        )


def test_every_linear_layer_has_a_place_under_each_naming(model):
    places = lora._places(model)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            assert places[name][0] == places[flat("lora_transformer_")(name)][0] == name
    theirs = {k.removesuffix(".weight") for k in key_mapping.to_diffusers(model.state_dict())}
    assert {n for n in theirs if n.endswith(("to_q", "proj_mlp", "linear"))} <= places.keys()
