"""Weights as other programs store them: what opens gives the same numbers; the rest is named."""

import json
import os
import shutil

import pytest
import torch
from folders import CONFIG, build
from safetensors.torch import save_file

from minikontext.cli import app
from minikontext.errors import WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import safetensors_io
from minikontext.transformer import KontextTransformer


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A tiny model in official single files beside its encoders' folders."""
    place = tmp_path_factory.mktemp("sound")
    theirs, transformer, autoencoder = build()
    theirs.save_pretrained(place)
    for part in ("transformer", "vae", "scheduler"):
        shutil.rmtree(place / part)
    (place / "model_index.json").unlink()
    safetensors_io.save(transformer.state_dict(), place / "kontext.safetensors", torch.bfloat16)
    safetensors_io.save(autoencoder.state_dict(), place / "ae.safetensors")
    return place


@pytest.fixture(scope="module")
def state(sound):
    return {k: v.float() for k, v in safetensors_io.load(sound / "kontext.safetensors").items()}


@pytest.fixture
def folder(sound, tmp_path):
    """A copy without its transformer, for another program's file."""
    shutil.copytree(sound, tmp_path / "model")
    (tmp_path / "model/kontext.safetensors").unlink()
    return tmp_path / "model"


def load(place, **how):
    return KontextPipeline.from_pretrained(place, device="cpu", dtype="float32", **how)


def same(model, expected, atol=0.0):
    got = model.state_dict()
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor.float(), expected[name].float(), atol=atol, rtol=0)


def matrices(state):
    return [name for name, tensor in state.items() if tensor.dim() == 2 and "blocks" in name]


# ---- prefixes

PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "_orig_mod.",
    "module._orig_mod.", "_orig_mod.module.transformer.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_tools_and_trainers_are_taken_off(folder, state, prefix):
    save_file({prefix + k: v for k, v in state.items()}, folder / "kontext.safetensors")
    same(load(folder).transformer, state)


def test_blocks_that_were_compiled_one_by_one_load(folder, state):
    names = {k: k.replace("_blocks.0.", "_blocks.0._orig_mod.") for k in state}
    save_file({names[k]: v for k, v in state.items()}, folder / "kontext.safetensors")
    same(load(folder).transformer, state)


def test_one_tensor_under_two_prefixes_is_refused(folder, state):
    double = state | {"module.img_in.bias": state["img_in.bias"] + 1}
    save_file(double, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match="holds img_in.bias twice"):
        load(folder)


# ---- float8 with scales, as ComfyUI writes it


def scaled(state, names, rows=False, kind=torch.float8_e4m3fn):
    """Each matrix divided by its largest number over 448; the scale beside it."""
    stored, scales, expected = dict(state), {}, dict(state)
    for name in names:
        large = state[name].abs().amax(1 if rows else None).clamp(min=1e-12) / 448
        column = large[:, None] if rows else large
        stored[name] = (state[name] / column).to(kind)
        scales[name] = large
        expected[name] = (stored[name].float() * column).bfloat16()
    return stored, scales, expected


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("style", ["scaled_fp8", "comfy_quant"])
@pytest.mark.parametrize("offload", ["resident", "stream"])
def test_scaled_float8_opens_with_the_right_values(folder, state, style, rows, offload):
    stored, scales, expected = scaled(state, matrices(state), rows)
    for name, scale in scales.items():
        stem = name.removesuffix(".weight")
        if style == "scaled_fp8":
            stored |= {f"{stem}.scale_weight": scale, f"{stem}.scale_input": torch.ones(())}
        else:
            note = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored |= {f"{stem}.weight_scale": scale, f"{stem}.input_scale": torch.ones(())}
            stored[f"{stem}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    if style == "scaled_fp8":
        stored["scaled_fp8"] = torch.empty(2).to(torch.float8_e4m3fn)
    prefix = "model.diffusion_model."
    save_file({prefix + k: v for k, v in stored.items()}, folder / "kontext_fp8_scaled.safetensors")
    model = load(folder, offload=offload).transformer
    same(model, expected, atol=0.0 if offload == "stream" else 1e-2)
    error = max((model.state_dict()[n].float() - state[n]).abs().max() for n in scales)
    assert error < 0.1 * max(state[n].abs().max() for n in scales)
    assert app.main(["weights", "verify", str(folder)]) == 0


def test_scaled_float8_keeps_all_its_digits_in_float32(tmp_path, state):
    stored, scales, _ = scaled(state, matrices(state))
    stored |= {n.removesuffix("weight") + "scale_weight": scale for n, scale in scales.items()}
    save_file(stored, tmp_path / "x.safetensors")
    with torch.device("meta"):
        model = KontextTransformer(CONFIG)
    model = safetensors_io.load_into(model, tmp_path / "x.safetensors", dtype=torch.float32)
    for name, scale in scales.items():
        assert torch.equal(model.state_dict()[name], stored[name].float() * scale)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("scale of another length", "has shape"),
        ("scale without a matrix", "nothing; expected float8"),
        ("scale beside full width", "F32; expected float8"),
        ("infinite scale", "no finite"),
        ("another packing", "packed as nvfp4"),
        ("a note that is no JSON", "packed as no JSON"),
    ],
)
def test_scales_that_make_no_sense_are_refused(folder, state, how, match):
    name = matrices(state)[0]
    stem = name.removesuffix(".weight")
    stored, scales, _ = scaled(state, [name])
    stored[f"{stem}.scale_weight"] = scales[name]
    if how == "scale of another length":
        stored[f"{stem}.scale_weight"] = torch.ones(7)
    elif how == "scale without a matrix":
        stored["nowhere.scale_weight"] = torch.ones(())
    elif how == "scale beside full width":
        stored[name] = state[name]
    elif how == "infinite scale":
        stored[f"{stem}.scale_weight"] = torch.tensor(float("inf"))
    else:
        note = json.dumps({"format": "nvfp4"}) if how == "another packing" else "{"
        stored[f"{stem}.comfy_quant"] = torch.tensor(list(note.encode()), dtype=torch.uint8)
    save_file(stored, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match=match):
        load(folder)


# ---- several parts in one file


def test_an_all_in_one_file_opens(folder, sound, state, capsys):
    vae = safetensors_io.load(folder / "ae.safetensors")
    (folder / "ae.safetensors").unlink()
    whole = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    whole |= {f"vae.{k}": v for k, v in vae.items()}
    for name, prefix in (("text_encoder", "clip_l.transformer."), ("text_encoder_2", "t5xxl.")):
        words = safetensors_io.load(folder / name)
        whole |= {f"text_encoders.{prefix}{k}": v for k, v in words.items()}
    save_file(whole, folder / "kontext-all-in-one.safetensors")
    pipe = load(folder)
    same(pipe.transformer, state)
    same(pipe.autoencoder, load(sound).autoencoder.state_dict())
    assert len(pipe.weight_files) == 1 + 2  # the encoders' own are there, too
    assert app.main(["weights", "verify", str(folder)]) == 0
    file = str(folder / "kontext-all-in-one.safetensors")
    assert app.main(["weights", "inspect", file]) == app.main(["weights", "verify", file]) == 0
    assert "all in one (autoencoder, text_encoder, transformer)" in capsys.readouterr().out


def test_an_all_in_one_file_with_half_an_autoencoder_is_refused(folder, state):
    vae = safetensors_io.load(folder / "ae.safetensors")
    whole = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    whole |= {f"vae.{k}": v for k, v in vae.items() if "decoder.mid" not in k}
    save_file(whole, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match="missing decoder.mid"):
        load(folder)
    assert app.main(["weights", "verify", str(folder / "kontext.safetensors")]) == 1


# ---- other names and other formats


def test_sft_is_safetensors(folder, state):
    save_file(state, folder / "kontext.sft")
    (folder / "ae.safetensors").rename(folder / "ae.sft")
    same(load(folder).transformer, state)
    same(load(folder / "kontext.sft").transformer, state)


OTHERS = {
    "model.gguf": (b"GGUF\x03\0\0\0", "GGUF, .*gguf.quants.dequantize"),
    "model.ckpt": (b"PK\x03\x04", "a pickle"),
    "model.bin": (b"\x80\x02", "a pickle"),
    "model.onnx": (b"\x08\x07", "ONNX"),
    "model.safetensors": (b"GGUF\x03\0\0\0", "GGUF"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_other_formats_are_named_with_what_to_do(folder, name, given):
    content, match = OTHERS[name]
    (folder / name).write_bytes(content + bytes(100))
    with pytest.raises(WeightsError, match=f"is {match}"):
        load(folder / name if given == "file" else folder)


QUANTISERS = {
    "weight.quant_state.bitsandbytes__nf4": "NF4",
    "SCB": "8-bit weights of bitsandbytes",
    "weight_scale_2": "NVFP4",
    "qweight": "SVDQuant",
}


@pytest.mark.parametrize("end", QUANTISERS)
def test_packed_weights_are_named_with_what_to_do(folder, state, end):
    name = matrices(state)[0]
    stored = dict(state)
    stored[name] = torch.zeros(state[name].numel() // 2, 1, dtype=torch.uint8)
    stored[f"{name.removesuffix('weight')}{end}"] = torch.zeros(8, dtype=torch.uint8)
    save_file(stored, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match=f"{QUANTISERS[end]}.*offload='4-bit'"):
        load(folder)


# ---- files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
@pytest.mark.parametrize("what", ["pipe", "folder", "dangling link", "device"])
@pytest.mark.parametrize(
    "name",
    ["kontext.safetensors", "text_encoder_2/model.safetensors", "text_encoder/config.json",
     "tokenizer/tokenizer_config.json", "vae/diffusion_pytorch_model.safetensors.index.json"],
)  # fmt: skip
def test_what_is_no_file_is_refused_at_once(folder, sound, name, what):
    path = folder / name
    shutil.copy(sound / "kontext.safetensors", folder)
    if name.startswith("vae"):
        path.parent.mkdir()
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere" if what == "dangling link" else "/dev/zero")
    with pytest.raises(WeightsError):
        load(folder)


def test_a_file_that_another_program_overwrites_does_not_change_a_living_pipeline(folder, sound):
    path = folder / "kontext.safetensors"
    shutil.copy(sound / "kontext.safetensors", path)
    pipe = KontextPipeline.from_pretrained(folder, device="cpu", dtype="bfloat16")
    before = {name: p.clone() for name, p in pipe.transformer.state_dict().items()}
    words = pipe.text_encoder.t5.shared.weight.clone()
    for file in (path, folder / "text_encoder_2/model.safetensors"):
        with open(file, "r+b") as opened:
            opened.seek(-file.stat().st_size // 2, os.SEEK_END)
            opened.write(bytes(file.stat().st_size // 2))
        os.truncate(file, 4096)  # a mapped page would now be an error of the bus
    same(pipe.transformer, before)
    assert torch.equal(pipe.text_encoder.t5.shared.weight, words)


# ---- sizes without sense


@pytest.mark.parametrize(
    "entry", ["[" + "1," * 19_999 + "1]", "1" + "0" * 400, "9" * 6000, "[" * 5000]
)
@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_sizes_of_no_sense_are_refused_at_once(tmp_path, entry, part):
    build()[0].save_pretrained(tmp_path)
    path, field = (
        tmp_path / part / "config.json",
        {"vae": "block_out_channels"}.get(part, "num_layers"),
    )
    config = json.loads(path.read_text()) | {field: "HERE"}
    path.write_text(json.dumps(config).replace('"HERE"', entry))
    with pytest.raises(WeightsError):
        load(tmp_path)


def test_an_autoencoder_of_20_000_levels_is_refused_at_once(tiny_pipe, tmp_path):
    path = tiny_pipe.save_pretrained(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["autoencoder"]["ch_mult"] = [1] * 20_000
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="20000 entries; expected at most 16"):
        load(tmp_path)
    assert app.main(["weights", "verify", str(tmp_path)]) == 1


# ---- a folder's links, and names here


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
@pytest.mark.parametrize("what", ["a link out", "a pipe", "a device", "a folder linked out"])
def test_convert_copies_nothing_from_elsewhere(sound, tmp_path, what):
    place = tmp_path / "model"
    shutil.copytree(sound, place)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key.txt").write_text("secret")
    odd = place / "tokenizer/notes.txt"
    if what == "a pipe":
        os.mkfifo(odd)
    else:
        to = {"a link out": tmp_path / "secret/key.txt", "a device": "/dev/zero"}
        odd.symlink_to(to.get(what, tmp_path / "secret"))
    assert app.main(["weights", "convert", str(place), str(tmp_path / "new")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "secret"]


def test_convert_follows_the_links_of_a_hubs_cache(sound, tmp_path):
    """There a snapshot is a folder of links to the blobs beside it."""
    cache = tmp_path / "models--somebody--kontext"
    shutil.copytree(sound, cache / "blobs")
    snapshot = cache / "snapshots" / "0a1b2c"
    for path in (cache / "blobs").rglob("*"):
        if path.is_file():
            link = snapshot / path.relative_to(cache / "blobs")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    assert app.main(["weights", "convert", str(snapshot), str(tmp_path / "new")]) == 0
    assert load(tmp_path / "new").defaults.max_contexts == 2


def test_a_folder_here_that_hides_shipped_weights_is_told(tiny_pipe, tmp_path, monkeypatch, caplog):
    tiny_pipe.save_pretrained(tmp_path / "home" / "mine")
    monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert load("mine").folder == tmp_path / "home" / "mine"
    assert "hides" not in caplog.text
    tiny_pipe.save_pretrained("mine")
    assert load("mine").folder.resolve() == tmp_path / "mine"
    assert f"{tmp_path / 'mine'} hides the shipped 'mine'" in caplog.text
