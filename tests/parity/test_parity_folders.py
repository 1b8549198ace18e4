"""Whole folders against diffusers: theirs in ours, ours in theirs, and the official files."""

import dataclasses
import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel
from folders import CONFIG, build
from PIL import Image

from minikontext import safety
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.cli import app
from minikontext.errors import (
    ConfigError,
    ImageError,
    NotEnoughMemoryError,
    PromptWarning,
    WeightsError,
)
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import (
    config_mapping,
    convert,
    key_mapping,
    layouts,
    lora,
    safetensors_io,
)
from minikontext.runtime import memory_plan
from minikontext.safety import registry
from minikontext.transformer import KontextTransformer, TransformerConfig

TRANSFORMER = (
    FluxTransformer2DModel,
    config_mapping.transformer_to_json,
    config_mapping.transformer_from_shapes,
)
AUTOENCODER = (
    AutoencoderKL,
    config_mapping.autoencoder_to_json,
    config_mapping.autoencoder_from_shapes,
)
STEPS, SEED, GUIDANCE = 2, 11, 3.0
SIZES = [(96, 64), (64, 64), (48, 112)]
PROMPT = "make the hat red, and write OPEN on the door"


@pytest.fixture(scope="module")
def theirs():
    return build()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """As diffusers writes it, the transformer in shards."""
    place = tmp_path_factory.mktemp("diffusers")
    theirs[0].save_pretrained(place)
    shutil.rmtree(place / "transformer")
    theirs[0].transformer.save_pretrained(place / "transformer", max_shard_size="400KB")
    return place


@pytest.fixture(scope="module")
def official(theirs, folder, tmp_path_factory):
    """Official single files beside the encoders' folders."""
    place = tmp_path_factory.mktemp("official")
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        (place / name).symlink_to(folder / name)
    safetensors_io.save(theirs[1].state_dict(), place / "flux1-kontext-dev.safetensors")
    safetensors_io.save(theirs[2].state_dict(), place / "ae.safetensors")
    return place


def load(place, **how):
    return KontextPipeline.from_pretrained(place, device="cpu", dtype="float32", **how)


@pytest.fixture(scope="module")
def ours(folder):
    return load(folder)


def picture(size):
    noise = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def ask_theirs(theirs, size, image=None, **changes):
    if isinstance(theirs, FluxKontextPipeline):  # it changes the size unless told not to
        changes |= {"image": image, "max_area": size[0] * size[1], "_auto_resize": False}
    return theirs(
        prompt=PROMPT,
        width=size[0],
        height=size[1],
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        **{"guidance_scale": GUIDANCE, **changes},
    ).images[0]


def ask_ours(ours, size, image=None, **changes):
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "seed": SEED}
    settings |= {"width": size[0], "height": size[1], "resize": "none", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        return ours(PROMPT, image, **{**settings, **changes}).images[0]


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()


# ---- the same picture


@pytest.mark.parametrize("size", SIZES)
def test_edits_agree(theirs, ours, size):
    expected = ask_theirs(theirs[0], size, picture(size))
    assert expected.size == size and np.asarray(expected).std() > 20
    assert difference(ask_ours(ours, size, picture(size)), expected) <= 1


def test_text_to_image_agrees(theirs, ours):
    expected = ask_theirs(theirs[0], SIZES[0])
    assert difference(ask_ours(ours, SIZES[0]), expected) <= 1
    assert difference(ask_ours(ours, SIZES[0], picture(SIZES[0])), expected) > 1


def test_a_folder_that_we_saved_opens_in_diffusers(ours, tmp_path):
    ours.save_pretrained(tmp_path, layout="diffusers", dtype=torch.float32)
    back = FluxKontextPipeline.from_pretrained(tmp_path)
    back.set_progress_bar_config(disable=True)
    expected = ask_ours(ours, SIZES[0], picture(SIZES[0]))
    assert difference(ask_theirs(back, SIZES[0], picture(SIZES[0])), expected) <= 1
    assert difference(ask_ours(load(tmp_path), SIZES[0], picture(SIZES[0])), expected) <= 1


def test_official_files_give_the_same_picture(ours, official):
    got = load(official)
    assert (got.name, got.defaults) == ("flux1-kontext-dev", ours.defaults)
    expected = ask_ours(ours, SIZES[0], picture(SIZES[0]))
    assert difference(ask_ours(got, SIZES[0], picture(SIZES[0])), expected) <= 1
    assert load(official / "flux1-kontext-dev.safetensors").name == got.name


@pytest.mark.parametrize(
    ("prefix", "dtype"),
    [("model.diffusion_model.", None), ("", torch.float8_e4m3fn), ("", torch.float8_e5m2)],
)
def test_other_people_s_single_files_load(theirs, official, tmp_path, prefix, dtype):
    shutil.copytree(official, tmp_path, symlinks=True, dirs_exist_ok=True)
    state = {prefix + name: tensor for name, tensor in theirs[1].state_dict().items()}
    safetensors_io.save(state, tmp_path / "flux1-kontext-dev.safetensors", dtype)
    stored = dtype or torch.float32
    for name, tensor in load(tmp_path).transformer.state_dict().items():
        assert torch.equal(tensor, state[prefix + name].to(stored).float())


def test_schnell_has_no_guidance_no_shift_and_takes_no_picture(tmp_path):
    config = dataclasses.replace(CONFIG, guidance_embed=False)
    their, *_ = build(config, FluxPipeline, shifted=False)
    their.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.defaults.num_inference_steps == 4 and ours.text_encoder.max_length == 256
    expected = ask_theirs(their, SIZES[0], max_sequence_length=256)
    assert difference(ask_ours(ours, SIZES[0], guidance_scale=None), expected) <= 1
    with pytest.raises(ImageError, match="at most 0"):
        ask_ours(ours, SIZES[0], picture(SIZES[0]), guidance_scale=None)


def test_an_editor_without_guidance_stays_one_in_official_files(tmp_path):
    their, *_ = build(dataclasses.replace(CONFIG, guidance_embed=False))
    their.save_pretrained(tmp_path / "theirs")
    convert.convert(tmp_path / "theirs", tmp_path / "ours")
    before, after = (layouts.find(tmp_path / name) for name in ("theirs", "ours"))
    assert before.edits and after.edits and before.shifted == after.shifted
    assert layouts.defaults(after) == layouts.defaults(before)


@pytest.mark.parametrize(
    ("name", "contexts"),
    [
        ("flux1-dev", 0),
        ("flux1-dev-fp8", 0),
        ("FLUX.1-DEV", 0),
        ("flux1-krea-dev", 0),
        ("flux1-schnell-fp8", 0),
        ("my-kontext", 2),
        ("flux1-kontext-dev-fp8", 2),
        ("edits", 2),
    ],
)
def test_the_name_of_a_single_file_says_whether_it_edits(official, tmp_path, name, contexts):
    shutil.copytree(official, tmp_path, symlinks=True, dirs_exist_ok=True)
    (tmp_path / "flux1-kontext-dev.safetensors").rename(tmp_path / f"{name}.safetensors")
    assert layouts.defaults(layouts.find(tmp_path))["max_contexts"] == contexts


@pytest.mark.parametrize(
    ("build", "config", "kind", "to_json", "from_shapes"),
    [
        (KontextTransformer, TransformerConfig.flux_dev(), *TRANSFORMER),
        (KontextTransformer, TransformerConfig.flux_schnell(), *TRANSFORMER),
        (AutoEncoder, AutoEncoderConfig.flux(), *AUTOENCODER),
    ],
)
def test_full_size_has_every_tensor_of_both_layouts(build, config, kind, to_json, from_shapes):
    words = {k: v for k, v in to_json(config).items() if k != "_class_name"}
    with torch.device("meta"):
        ours, theirs = build(config).state_dict(), kind(**words).state_dict()
    assert shapes(key_mapping.to_diffusers(ours)) == shapes(theirs)
    assert shapes(key_mapping.from_diffusers(theirs)) == shapes(ours)
    assert from_shapes(ours) == config


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# ---- memory plans


def test_streaming_gives_the_same_picture_from_mapped_weights(ours, official, caplog):
    caplog.set_level("INFO", "minikontext")
    streamed = load(official, offload="stream")
    assert "plan stream:" in caplog.text
    got = ask_ours(streamed, SIZES[0], picture(SIZES[0]))
    assert difference(got, ask_ours(ours, SIZES[0], picture(SIZES[0]))) <= 1


@pytest.mark.parametrize(("offload", "most"), [("8-bit", 12), ("4-bit", 60)])
def test_quantised_pictures_are_close(ours, folder, offload, most):
    got = ask_ours(load(folder, offload=offload), SIZES[1], picture(SIZES[1]))
    expected = np.asarray(ask_ours(ours, SIZES[1], picture(SIZES[1])), dtype=float)
    assert 0 < np.abs(np.asarray(got) - expected).mean() < most


@pytest.mark.parametrize("offload", ["8-bit", "4-bit"])
def test_quantised_weights_are_not_saved_in_part(folder, tmp_path, offload):
    pipe = load(folder, offload=offload)
    with pytest.raises(ConfigError, match="lie in memory only"):
        pipe.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_too_small_is_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(memory_plan, "available_bytes", lambda device: 0.5 * memory_plan.GB)
    monkeypatch.setattr(safetensors_io, "load_into", None)
    with pytest.raises(NotEnoughMemoryError, match=r"0\.5 GB are free"):
        load(folder)


# ---- text


def test_a_prompt_is_encoded_once_and_what_is_cut_off_is_reported(folder, monkeypatch):
    pipe = load(folder)
    long = "make the hat red " * 60
    with pytest.warns(PromptWarning) as caught:
        first = pipe.text_encoder.encode([long])
    said = " ".join(str(warning.message) for warning in caught)
    assert "T5" in said and "only 512 fit" in said
    assert "CLIP" in said and "only 77 fit" in said
    monkeypatch.setattr(pipe.text_encoder, "_encode", None)
    assert torch.equal(pipe.text_encoder.encode([long]).tokens, first.tokens)


@pytest.mark.parametrize("whole", [True, False])
def test_prompts_are_encoded_again_after_a_move(folder, whole):
    """A move to another device or dtype: what was kept must not come back from the old one."""
    text = load(folder).text_encoder
    first = text.encode(["make the hat red"])
    text.to(torch.float64) if whole else [part.to(torch.float64) for part in (text.t5, text.clip)]
    both = text.encode(["make the hat red", "make it night"])
    assert both.tokens.dtype == both.pooled.dtype == torch.float64
    torch.testing.assert_close(both.tokens[:1].float(), first.tokens, atol=1e-4, rtol=1e-4)
    text.to("meta")
    assert text.encode(["make the hat red", "make it day"]).tokens.is_meta


# ---- refused


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the folder in which one thing may be broken."""
    shutil.copytree(folder, tmp_path / "flux")
    return tmp_path / "flux"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change(path, **changes):
    """Rewrite a weights file with some tensors changed; mapped files must not be overwritten."""
    state = {name: tensor.clone() for name, tensor in safetensors_io.load(path).items()}
    for name, how in changes.items():
        key = next(key for key in state if key.endswith(name.replace("__", ".")))
        state[key] = how(state[key])
    safetensors_io.save(state, path)


def shard(folder, number=2):
    return sorted((folder / "transformer").glob(f"*-0000{number}-*"))[0]


def point_elsewhere(folder):
    """Let the index look for one tensor in another shard than it is in."""
    (index,) = (folder / "transformer").glob("*.index.json")
    homes = json.loads(index.read_text())["weight_map"]
    name = next(name for name, home in homes.items() if home == shard(folder).name)
    edit_json(index, weight_map=homes | {name: shard(folder, 1).name})


def lose_encoder_shard(folder):
    """T5 is published in two shards; here the second one has not arrived."""
    place = folder / "text_encoder_2"
    (place / "model.safetensors").rename(place / "model-00001-of-00002.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    homes = dict.fromkeys(safetensors_io.inspect(place / names[0]), names[0])
    homes[next(iter(homes))] = names[1]
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


BREAKS = {
    "no transformer": (lambda f: shutil.rmtree(f / "transformer"), "lacks the folder transformer"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "neither the folder vae nor"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer_2"), "lacks the folders tokenizer_2"),
    "empty tokenizer": (
        lambda f: [x.unlink() for x in (f / "tokenizer").iterdir()],
        "tokenizer holds no vocabulary",
    ),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "should hold a AutoencoderKL"),
    "another model": (
        lambda f: edit_json(f / "transformer/config.json", _class_name="SD3Transformer2DModel"),
        "says 'SD3Transformer2DModel'",
    ),
    "more layers": (
        lambda f: edit_json(f / "transformer/config.json", num_layers=3),
        r"missing double_blocks\.2",
    ),
    "missing shard": (
        lambda f: sorted((f / "transformer").glob("*-00002-*"))[0].unlink(),
        "lacks diffusion_pytorch_model-00002-of",
    ),
    "cut shard": (
        lambda f: cut(sorted((f / "transformer").glob("*-00002-*"))[0]),
        r"its header promises [\d,]+ bytes",
    ),
    "wrong index": (point_elsewhere, r"index\.json is wrong about diffusion_pytorch_model-00001"),
    "8-bit vae": (
        lambda f: change(
            f / "vae/diffusion_pytorch_model.safetensors", weight=lambda x: x.to(torch.int8)
        ),
        "as I8",
    ),
    "missing encoder shard": (lose_encoder_shard, "lacks model-00002-of-00002"),
    "cut encoder": (lambda f: cut(f / "text_encoder_2/model.safetensors"), "header promises"),
    "lora": (
        lambda f: safetensors_io.save(
            {"transformer.x_embedder.lora_A.weight": torch.zeros(4, 64)},
            f / "vae/diffusion_pytorch_model.safetensors",
        ),
        "holds a LoRA",
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_broken_folders_are_refused_and_say_why(broken, how):
    breaks, match = BREAKS[how]
    breaks(broken)
    with pytest.raises(WeightsError, match=match):
        load(broken)


@pytest.mark.parametrize(
    ("name", "foreign", "match"),
    [
        ("final_layer.adaLN_modulation.1.weight", "norm_out.linear.weight", "unknown norm_out"),
        ("img_in.weight", "surprise.weight", r"half of one: 'img_in\.weight'"),
    ],
)
def test_official_files_with_foreign_names_are_refused(official, tmp_path, name, foreign, match):
    shutil.copytree(official, tmp_path, symlinks=True, dirs_exist_ok=True)
    path = tmp_path / "flux1-kontext-dev.safetensors"
    state = safetensors_io.load(path)
    state[foreign] = state.pop(name)
    safetensors_io.save(state, path)
    with pytest.raises(WeightsError, match=match):
        load(tmp_path)


FLUX = "flux1-kontext-dev.safetensors"
OFFICIAL_BREAKS = {
    "half a transformer": (lambda f: cut(f / FLUX), rf"{FLUX} .*header promises [\d,]+ bytes"),
    "half an autoencoder": (lambda f: cut(f / "ae.safetensors"), "ae.safetensors .*promises"),
    "no autoencoder": (lambda f: (f / "ae.safetensors").unlink(), "neither the folder vae nor ae"),
    "no encoder": (lambda f: (f / "text_encoder_2").unlink(), "lacks the folders text_encoder_2"),
    "a pointer": (
        lambda f: (f / FLUX).write_text("version https://git-lfs.github.com/spec/v1"),
        "Git LFS pointer",
    ),
    "autoencoders change places": (
        lambda f: shutil.copy(f / "ae.safetensors", f / FLUX),
        "holds a autoencoder|or half of one",
    ),
    "another shape": (
        lambda f: change(f / FLUX, linear2__weight=lambda x: x[:-1].clone()),
        r"linear2\.weight has shape",
    ),
    "lora": (
        lambda f: safetensors_io.save({"x_embedder.lora_A.weight": torch.zeros(4, 64)}, f / FLUX),
        "holds a LoRA",
    ),
}


@pytest.mark.parametrize("how", OFFICIAL_BREAKS)
def test_broken_official_files_are_refused_and_say_why(official, tmp_path, how):
    shutil.copytree(official, tmp_path / "flux", symlinks=True)
    breaks, match = OFFICIAL_BREAKS[how]
    breaks(tmp_path / "flux")
    with pytest.raises(WeightsError, match=match):
        load(tmp_path / "flux")


LORAS = {
    "of a UNet": ({"lora_unet_input_blocks_1_1_proj_in": (320, 320)}, "no layer lora_unet_input"),
    "of a text encoder": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1": (8, 8)},
        "also changes the text encoders .*lora_te1",
    ),
    "of a wider FLUX": (
        {"lora_unet_single_blocks_0_linear2": (15360, 3072)},
        "single_blocks_0_linear2.*another model",
    ),
    "of a deeper FLUX": (
        {"lora_unet_single_blocks_37_linear2": (8, 8)},
        "no layer lora_unet_single_blocks_37_linear2",
    ),
}


@pytest.mark.parametrize("whose", LORAS)
@pytest.mark.parametrize("place", ["folder", "official"])
def test_a_lora_of_another_model_is_refused_and_changes_nothing(place, whose, request, tmp_path):
    layers, match = LORAS[whose]
    state = {}
    for name, (width, out) in layers.items():
        state[f"{name}.lora_down.weight"] = torch.zeros(2, width)
        state[f"{name}.lora_up.weight"] = torch.zeros(out, 2)
    safetensors_io.save(state, tmp_path / "x.safetensors")
    pipe = load(request.getfixturevalue(place))
    with pytest.raises(WeightsError, match=match):
        pipe.load_lora(tmp_path / "x.safetensors")
    assert not pipe.loras and not any(m._forward_hooks for m in pipe.transformer.modules())


def test_two_single_files_need_a_choice(official, tmp_path):
    shutil.copytree(official, tmp_path, symlinks=True, dirs_exist_ok=True)
    path = tmp_path / "flux1-kontext-dev.safetensors"
    shutil.copy(path, tmp_path / "flux1-dev.safetensors")
    with pytest.raises(WeightsError, match="several models"):
        load(tmp_path)
    assert load(path).name == "flux1-kontext-dev"


def test_toy_parts_have_no_place_in_diffusers(tiny_pipe, tmp_path):
    with pytest.raises(ConfigError, match="ToyTextEncoder"):
        tiny_pipe.save_pretrained(tmp_path, layout="diffusers")


# ---- the command


def command(*words):
    return app.main([str(word) for word in words])


@pytest.mark.parametrize("place", ["folder", "official"])
def test_inspect_and_verify_look_at_every_part(place, request, capsys):
    place = request.getfixturevalue(place)
    assert command("weights", "inspect", place) == 0
    shown = capsys.readouterr().out
    for kind in ("transformer", "autoencoder", "CLIP", "T5"):
        assert f"  {kind}, " in shown
    count = sum(p.numel() for p in load(place).transformer.parameters())
    assert f"{count:,} parameters" in shown and "\n  stream: 1." in shown
    capsys.readouterr()
    assert command("weights", "verify", place) == 0
    assert capsys.readouterr().out.count("[OK]") == 5


def test_our_own_folders_can_be_verified_too(tiny_pipe, tmp_path, capsys):
    tiny_pipe.save_pretrained(tmp_path)
    assert command("weights", "verify", tmp_path) == command("weights", "inspect", tmp_path) == 0
    assert capsys.readouterr().out.count("[OK]") == 3


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (None, "lacks text_encoder.safetensors"),
        ({"format_version": 99}, "expected .'minikontext', 1"),
        ({"saftey": "toy"}, "saftey, which is nothing of ours"),
        ({"safety": "../other"}, "says safety="),
        ({"defaults": {"width": -64}}, "width = -64"),
    ],
)
def test_verify_holds_our_own_folder_to_what_loading_asks(tiny_pipe, tmp_path, capsys, entry, says):
    tiny_pipe.save_pretrained(tmp_path)
    if entry:
        edit_json(tmp_path / "config.json", **entry)
    else:
        (tmp_path / "text_encoder.safetensors").unlink()
    with pytest.raises(WeightsError, match=says):
        load(tmp_path)
    assert command("weights", "verify", tmp_path) == 1
    shown = capsys.readouterr().out
    assert re.search(rf"\[FAIL\] .*{says}", shown) and shown.count("[FAIL]") == 1


@pytest.mark.parametrize("part", ["transformer", "autoencoder", "text_encoder"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_verify_finds_what_is_no_number(tiny, tmp_path, capsys, part, number):
    pipe = tiny()
    with torch.no_grad():
        [*pipe.modules[part].parameters()][-1].view(-1)[-1] = number
    pipe.save_pretrained(tmp_path)
    assert command("weights", "verify", tmp_path) == 1
    shown = capsys.readouterr().out
    assert shown.count("[OK]") == 2 and "holds NaN or infinity" in shown and part in shown


def test_verify_names_what_is_wrong(broken, capsys):
    cut(broken / "text_encoder_2/model.safetensors")
    edit_json(broken / "transformer/config.json", num_layers=3)
    assert command("weights", "verify", broken) == 1
    shown = capsys.readouterr().out
    assert shown.count("[OK]") == 3 and "promises" in shown and "missing double_blocks.2" in shown


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer"])
def test_verify_misses_text_parts_and_reads_the_tokenizers(broken, part, capsys):
    if part == "tokenizer":
        for file in (broken / part).iterdir():
            file.write_text("{")
    else:
        shutil.rmtree(broken / part)
    assert command("weights", "verify", broken) == 1
    assert part in capsys.readouterr().out.split("[FAIL]")[1]


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_convert_there_and_back_changes_nothing(folder, tmp_path, part):
    single, back = tmp_path / f"{part}.safetensors", tmp_path / part
    assert command("weights", "convert", folder / part, single) == 0
    assert command("weights", "convert", single, back) == 0
    first, last = safetensors_io.load(folder / part), safetensors_io.load(back)
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    theirs, ours = (json.loads((x / part / "config.json").read_text()) for x in (folder, tmp_path))
    same = theirs.keys() & ours.keys() - {"sample_size"}
    assert {k: theirs[k] for k in same} == {k: ours[k] for k in same} and len(same) > 8


def test_a_whole_folder_is_converted_there_and_back(folder, tmp_path):
    official, back = tmp_path / "official", tmp_path / "back"
    assert command("weights", "convert", folder, official) == 0
    assert (official / "flux1-kontext-dev.safetensors").exists()
    assert command("weights", "convert", official, back) == 0
    for place in (official, back):
        assert command("weights", "verify", place) == 0
    call = {"image": picture((64, 64)), "seed": SEED, "num_inference_steps": 1, "resize": "none"}
    first, *others = (load(p)(PROMPT, **call).latents for p in (folder, official, back))
    for other in others:
        torch.testing.assert_close(other, first)
    opened = FluxKontextPipeline.from_pretrained(back)
    assert opened.transformer.config.guidance_embeds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "official"]


def test_a_conversion_that_fails_leaves_nothing(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "tokenizer")
    assert command("weights", "convert", broken, tmp_path / "new") == 2
    assert command("weights", "convert", folder, tmp_path / "new.safetensors") == 2
    assert "Name a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("shifted", [True, False])
def test_a_schedule_that_its_kind_does_not_have_stays_with_the_weights(broken, tmp_path, shifted):
    """A guided model without a shift: with one, its pictures would be others."""
    edit_json(broken / "scheduler/scheduler_config.json", use_dynamic_shifting=shifted, shift=1.0)
    pipe = load(broken)
    pipe.save_pretrained(tmp_path / "saved")
    for source, target in ((broken, "official"), (tmp_path / "official", "back")):
        assert command("weights", "convert", source, tmp_path / target) == 0
    for name in ("saved", "official", "back"):
        assert load(tmp_path / name).defaults == pipe.defaults and pipe.defaults.shifted is shifted


def test_convert_says_before_its_work_which_folder_is_missing(broken, tmp_path, capsys):
    shutil.rmtree(broken / "tokenizer_2")
    assert command("weights", "convert", broken, tmp_path / "new") == 2
    assert "lacks the folders tokenizer_2 of FLUX's text encoders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("double_blocks.0.img_mlp.2.weight", None),
        ("double_blocks.0.img_attn.qkv.weight", ()),
        ("final_layer.adaLN_modulation.1.weight", ()),
        ("single_blocks.0.linear1.bias", (7,)),
    ],
)
def test_convert_writes_no_half_of_a_model(official, tmp_path, capsys, name, how):
    state = safetensors_io.load(official / "flux1-kontext-dev.safetensors")
    del state[name]
    state |= {} if how is None else {name: torch.zeros(how)}
    safetensors_io.save(state, tmp_path / "half.safetensors")
    assert command("weights", "convert", tmp_path / "half.safetensors", tmp_path / "new") == 2
    assert name in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_parts_of_one_matrix_may_be_float8_and_others_not(broken, ours, tmp_path, capsys):
    def holder(name):
        files = (broken / "transformer").glob("*.safetensors")
        return next(x for x in files if any(n.endswith(name) for n in safetensors_io.inspect(x)))

    change(holder("to_q.weight"), to_q__weight=lambda x: x.to(torch.float8_e4m3fn))
    streamed = load(broken, offload="stream").transformer.state_dict()
    assert command("weights", "convert", broken / "transformer", tmp_path / "x.safetensors") == 0
    written = safetensors_io.load(tmp_path / "x.safetensors")
    for name, whole in ours.transformer.state_dict().items():
        for got in (streamed[name], written[name]):
            assert got.itemsize > 1
            torch.testing.assert_close(got.float(), whole, atol=1e-3, rtol=0.07)
    change(holder("norm_out.linear.bias"), norm_out__linear__bias=lambda x: x[0])
    with pytest.raises(WeightsError, match="no halves"):
        load(broken)


def test_encoders_without_a_tensor_are_shown_as_such(broken, capsys):
    for name in ("text_encoder", "text_encoder_2"):
        safetensors_io.save({}, broken / name / "model.safetensors")
    assert command("weights", "inspect", broken) == 0
    assert "encoders 0.0" in capsys.readouterr().out


@torch.no_grad()
def test_a_lora_is_as_strong_where_blocks_stay_in_float8(official, tmp_path):
    """Streamed weights lie as they are stored: a merge, or a DoRA in float8, would be rounded."""
    place, layer = tmp_path / "flux", "double_blocks.0.img_attn.proj"
    shutil.copytree(official, place)
    state = safetensors_io.load(place / "flux1-kontext-dev.safetensors")
    narrow = {k: x.to(torch.float8_e4m3fn) if x.dim() == 2 else x for k, x in state.items()}
    safetensors_io.save(narrow, place / "flux1-kontext-dev.safetensors")
    nets = [load(place, offload=plan).transformer for plan in ("resident", "stream")]
    weight = nets[0].get_submodule(layer).weight
    draw = torch.Generator().manual_seed(0)
    down, up = (
        torch.randn(s, generator=draw) / 30 for s in ((2, weight.shape[1]), (len(weight), 2))
    )
    lengths = (weight + up @ down).norm(dim=1) * 1.01
    thin = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    safetensors_io.save(thin | {f"{layer}.dora_scale": lengths}, tmp_path / "dora.safetensors")
    exact, got = (lora.load(tmp_path / "dora.safetensors", net).layers[layer].delta for net in nets)
    torch.testing.assert_close(got, exact, atol=1e-6, rtol=0.01)
    safetensors_io.save(thin, tmp_path / "thin.safetensors")
    before = nets[1].get_submodule(layer).weight.float()
    with pytest.raises(ConfigError, match="in float8. Use attach"):
        lora.load(tmp_path / "thin.safetensors", nets[1]).merge(nets[1])
    assert torch.equal(nets[1].get_submodule(layer).weight.float(), before)


def test_convert_refuses_what_it_cannot_do(folder, tmp_path, capsys):
    assert command("weights", "convert", folder / "text_encoder_2", tmp_path / "x") == 2
    assert "holds a T5" in capsys.readouterr().err
    assert command("weights", "convert", folder / "vae", tmp_path) == 2
    assert "is there already" in capsys.readouterr().err


def test_edit_works_with_a_folder_of_published_weights(official, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layouts, "KONTEXT_SIZES", ((64, 64),))
    picture((50, 50)).save("fox.png")
    words = ("make the hat red", "--weights", official, "--steps", 1, "--device", "cpu")
    assert command("edit", "fox.png", *words, "--offload", "encoders") == 0
    said = capsys.readouterr()
    assert said.out == "fox_edited.png\n" and "plan encoders:" in said.err
    assert "50×50 resized to 64×64, and back to 50×50" in said.err
    assert Image.open("fox_edited.png").size == (50, 50)


def test_published_weights_without_filters_tell_their_licences_demand(folder, monkeypatch, caplog):
    monkeypatch.setattr(registry, "_told", set())
    assert load(folder, safety=safety.Safety()).safety is not None
    assert "licence" not in caplog.text
    assert load(folder).safety is None
    load(folder)
    assert caplog.text.count("filter what they draw") == 1


# ---- what weights are for


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("FluxFillPipeline", "FLUX.1 Fill"),
        ("FluxControlPipeline", "Canny, Depth"),
        ("FluxControlInpaintPipeline", "Canny, Depth"),
        ("FluxControlNetPipeline", "a ControlNet"),
        ("FluxPriorReduxPipeline", "FLUX.1 Redux"),
        ("Flux2Pipeline", "another model"),
        ("StableDiffusion3Pipeline", "another model"),
        (["FluxPipeline"], "another model"),
    ],
)
def test_a_folder_for_another_pipeline_is_refused_by_name(broken, kind, says, capsys):
    edit_json(broken / "model_index.json", _class_name=kind)
    with pytest.raises(WeightsError, match=f"is for .*{says}.*Use FLUX.1 Kontext"):
        load(broken)
    assert command("weights", "verify", broken) != 0
    shown = "".join(capsys.readouterr())
    assert says in shown and "[OK]" not in shown


def test_a_redux_folder_has_no_transformer_and_is_named_all_the_same(broken):
    edit_json(broken / "model_index.json", _class_name="FluxPriorReduxPipeline")
    shutil.rmtree(broken / "transformer")
    with pytest.raises(WeightsError, match="Redux"):
        load(broken)


@pytest.mark.parametrize(
    ("kind", "contexts", "says"),
    [
        ("FluxKontextPipeline", 2, "edits pictures\n"),
        ("FluxKontextInpaintPipeline", 2, "edits pictures .*masks are not used"),
        (None, 2, "edits pictures\n"),
        ("FluxPipeline", 0, "only paints\n"),
        ("FluxImg2ImgPipeline", 0, "only paints .*start from a picture"),
        ("FluxInpaintPipeline", 0, "only paints .*masks are not used"),
    ],
)
def test_the_pipelines_class_says_what_a_folder_does(broken, kind, contexts, says, caplog):
    caplog.set_level("INFO", "minikontext")
    edit_json(broken / "model_index.json", _class_name=kind)
    assert load(broken).defaults.max_contexts == contexts
    assert re.search(says, caplog.text)


def widen(state, name, times):
    """More input channels in a first matrix, as Fill (6 times) and Control (twice) have them."""
    return {**state, name: state[name].repeat(1, times).contiguous()}


@pytest.mark.parametrize(("times", "says"), [(6, "FLUX.1 Fill"), (2, "Canny"), (3, "no editor")])
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_first_matrix_that_takes_more_is_refused_whatever_the_folder_says(
    theirs, broken, official, tmp_path, times, says, layout, capsys
):
    if layout == "folder":  # of FLUX.1 Fill, where somebody has edited model_index.json
        place, config = broken, broken / "transformer/config.json"
        edit_json(config, in_channels=times * CONFIG.in_channels, out_channels=CONFIG.out_channels)
        state = widen(theirs[0].transformer.state_dict(), "x_embedder.weight", times)
        shutil.rmtree(broken / "transformer")
        (broken / "transformer").mkdir()
        official_config = {**theirs[0].transformer.config, "_class_name": "FluxTransformer2DModel"}
        official_config |= {"in_channels": times * CONFIG.in_channels}
        official_config |= {"out_channels": CONFIG.out_channels}
        config.write_text(json.dumps(official_config))
        safetensors_io.save(state, broken / "transformer/diffusion_pytorch_model.safetensors")
    else:
        place = tmp_path / "official"
        shutil.copytree(official, place, symlinks=True)
        (place / FLUX).unlink()
        state = widen(theirs[1].state_dict(), "img_in.weight", times)
        safetensors_io.save(state, place / "my-edits.safetensors")
    with pytest.raises(WeightsError, match=rf"{times * 64} channels and gives back 64: .*{says}"):
        load(place)
    assert command("weights", "verify", place) == 1
    assert says in capsys.readouterr().out


FOREIGN = {
    "redux_up.weight": "Redux",
    "controlnet_blocks.0.weight": "ControlNet",
    "double_stream_modulation_img.lin.weight": "FLUX.2",
    "model.diffusion_model.input_blocks.0.0.weight": "U-Net",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_model_is_named(official, tmp_path, name, capsys):
    shutil.copytree(official, tmp_path, symlinks=True, dirs_exist_ok=True)
    (tmp_path / FLUX).unlink()
    path = safetensors_io.save({name: torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    for place in (tmp_path, path):
        with pytest.raises(WeightsError, match=f"holds .*{FOREIGN[name]}"):
            load(place)
    assert command("weights", "verify", path) == 1
    assert FOREIGN[name] in capsys.readouterr().out


def test_parts_of_two_models_are_refused_before_anything_is_read(broken, monkeypatch, capsys):
    """An autoencoder of other channels, encoders of other widths: each names both numbers."""
    state = safetensors_io.load(broken / "text_encoder_2/model.safetensors")
    wide = {k: v.repeat(1, 2) if "shared" in k else v.clone() for k, v in state.items()}
    (broken / "text_encoder_2/model.safetensors").unlink()
    safetensors_io.save(wide, broken / "text_encoder_2/model.safetensors")
    monkeypatch.setattr(safetensors_io, "load_into", None)
    with pytest.raises(WeightsError, match="T5's features have 96 .* takes 48"):
        load(broken)
    edit_json(broken / "vae/config.json", latent_channels=4)
    with pytest.raises(WeightsError, match="autoencoder has 4 channels, 16 in a token .* takes 64"):
        load(broken)
    assert command("weights", "verify", broken) == 1
    assert "autoencoder has 4 channels" in capsys.readouterr().out


def test_parts_of_two_toys_are_refused(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    edit_json(tmp_path / "config.json", text_encoder=config["text_encoder"] | {"pooled": 7})
    with pytest.raises(WeightsError, match="CLIP's vector has 7 channels"):
        load(tmp_path)


STRAY = {"empty": {}, "of an application": {"format": "mine"}, "of a part": {"_class_name": "X"}}


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("layout", ["folder", "official"])
def test_a_stray_config_json_blocks_nothing(request, layout, stray, tmp_path, capsys):
    place = tmp_path / "flux"
    shutil.copytree(request.getfixturevalue(layout), place, symlinks=True)
    broken = "{" if layout == "folder" and stray == "empty" else json.dumps(STRAY[stray])
    (place / "config.json").write_text(broken)
    assert load(place).defaults.max_contexts == 2
    assert command("weights", "inspect", place) == command("weights", "verify", place) == 0
    assert capsys.readouterr().out.count("[OK]") == 5


def test_a_folder_called_toy_with_another_config_does_not_hide_ours(
    tiny_pipe, tmp_path, monkeypatch
):
    tiny_pipe.save_pretrained(tmp_path / "home" / "mine")
    monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(tmp_path / "home"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert load("mine").folder == tmp_path / "home" / "mine"
    with pytest.raises(WeightsError, match="mine/config.json says format"):
        monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(tmp_path))
        load("mine")
