"""Weights as other programs store them: what opens gives the same numbers; the rest is named."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import CONFIG, build
from safetensors.torch import load_file, save_file

from minikontext.cli import app
from minikontext.errors import MissingPackageError, WeightsError, WeightsWarning
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import safetensors_io
from minikontext.runtime.lease import Lease
from minikontext.training.models import new_transformer
from minikontext.transformer import KontextTransformer

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import Program


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
    "module._orig_mod.", "_orig_mod.module.transformer.", "_forward_module.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_tools_and_trainers_are_taken_off(folder, state, prefix):
    save_file({prefix + k: v for k, v in state.items()}, folder / "kontext.safetensors")
    same(load(folder).transformer, state)


def test_a_prefix_that_nobody_knows_is_named(folder, state):
    save_file({f"net.{k}": v for k, v in state.items()}, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match="names that begin with 'net.', as no tool does"):
        load(folder)


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


SCALES = {
    "infinite scale": lambda matrix: torch.tensor(float("inf")),
    "scale of columns": lambda matrix: torch.ones(1, matrix.shape[1]),
    "scale of 0": lambda matrix: torch.zeros(()),
    "negative scale": lambda matrix: torch.tensor(-1.0),
    "whole scale": lambda matrix: torch.tensor(2),
}


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("scale of another length", "has shape"),
        ("scale of columns", "has shape"),
        ("scale of 0", "no finite numbers above 0"),
        ("negative scale", "no finite numbers above 0"),
        ("whole scale", "no finite numbers above 0"),
        ("two scales", "two scales for"),
        ("one scale gone", "no scale beside"),
        ("all scales gone", "no scale beside"),
        ("a note of another float8", "is float8_e5m2, and stores F8_E4M3"),
        ("a note beside nothing", "is float8_e4m3fn, and stores nothing"),
        ("scale without a matrix", "nothing; expected float8"),
        ("scale beside full width", "F32; expected float8"),
        ("infinite scale", "no finite"),
        ("another packing", "packed as nvfp4"),
        ("a note that is no JSON", "packed as no JSON"),
        ("a list for a packing", "packed as \\['float8_e4m3fn'\\]"),
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
    elif how in SCALES:
        stored[f"{stem}.scale_weight"] = SCALES[how](state[name])
    elif how == "two scales":
        stored[f"{stem}.weight_scale"] = scales[name] * 2
    elif how == "one scale gone":
        other = matrices(state)[1]
        stored[other] = state[other].to(torch.float8_e4m3fn)
    elif how == "all scales gone":
        stored["scaled_fp8"] = stored.pop(f"{stem}.scale_weight").to(torch.float8_e4m3fn)
    elif how.startswith("a note") and "JSON" not in how:
        kind, place = ("float8_e5m2", stem) if "another" in how else ("float8_e4m3fn", "nowhere")
        note = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
        stored[f"{place}.comfy_quant"] = note
    else:
        said = {"another packing": "nvfp4", "a list for a packing": ["float8_e4m3fn"]}.get(how)
        note = json.dumps({"format": said}) if said else "{"
        stored[f"{stem}.comfy_quant"] = torch.tensor(list(note.encode()), dtype=torch.uint8)
    save_file(stored, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match=match):
        load(folder)


@pytest.mark.parametrize(
    ("header", "scales", "match"),
    [
        ("float8_e4m3fn", "all", None),
        ("float8_e4m3fn", "none", "no scale beside .* but says that its float8 is scaled"),
        ("float8_e4m3fn", "one gone", "no scale beside"),
        ("float8_e5m2", "all", "is float8_e5m2, and stores F8_E4M3"),
        ("nvfp4", "all", "packed as nvfp4"),
        (7, "all", "packed as 7"),
        ("{", "all", "in words that are not known"),
    ],
)
def test_what_the_header_says_of_its_packing_counts(folder, state, header, scales, match):
    """Newer files of ComfyUI keep the note of every layer there."""
    names = matrices(state)
    stored, beside, expected = scaled(state, names)
    kept = {"all": names, "none": [], "one gone": names[1:]}[scales]
    stored |= {f"{n.removesuffix('weight')}weight_scale": beside[n] for n in kept}
    layers = {name.removesuffix(".weight"): {"format": header} for name in names}
    note = "{" if header == "{" else json.dumps({"format_version": "1.0", "layers": layers})
    save_file(stored, folder / "kontext.safetensors", {"_quantization_metadata": note})
    if match is None:
        return same(load(folder).transformer, expected, atol=1e-2)
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


def test_what_is_of_no_part_of_an_all_in_one_file_is_not_dropped_in_silence(folder, state):
    whole = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    whole |= {f"vae.{k}": v for k, v in safetensors_io.load(folder / "ae.safetensors").items()}
    save_file(whole | {"control_model.x": torch.ones(1)}, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match="control_model.x is of none of them"):
        load(folder)


# ---- entries of a folder that decide the picture


def test_a_schedule_that_is_not_followed_is_told(tmp_path, recwarn):
    build()[0].save_pretrained(tmp_path)
    path = tmp_path / "scheduler/scheduler_config.json"
    usual = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
    path.write_text(json.dumps(usual))
    load(tmp_path)
    assert not [one for one in recwarn if "scheduler" in str(one.message)]
    for entry in ({"max_shift": 2.0}, {"use_karras_sigmas": True}, {"shift_terminal": 0.02},
                  {"_class_name": "DDIMScheduler"}, {"use_dynamic_shifting": False}):  # fmt: skip
        path.write_text(json.dumps(usual | entry))
        with pytest.warns(WeightsWarning, match="scheduler says .* not followed"):
            load(tmp_path)
    path.write_text(json.dumps(usual | {"use_dynamic_shifting": "false"}))
    with pytest.raises(WeightsError, match="neither true nor false"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("transformer", "patch_size", 2), ("vae", "act_fn", "relu"), ("vae", "latents_mean", [1])],
)
def test_an_entry_that_would_change_the_result_is_refused(tmp_path, part, name, value):
    build()[0].save_pretrained(tmp_path)
    path = tmp_path / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(WeightsError, match=f"{name} = .*; FLUX.1 has"):
        load(tmp_path)


# ---- other names and other formats


def test_one_of_several_files_is_called_so(folder, state):
    names = list(state)
    for number, some in enumerate((names[:9], names[9:]), 1):
        part = {name: state[name] for name in some}
        save_file(part, folder / f"kontext-0000{number}-of-00002.safetensors")
    for number in (1, 2):
        file = folder / f"kontext-0000{number}-of-00002.safetensors"
        with pytest.raises(WeightsError, match="one of several files: give their folder"):
            safetensors_io.load_into(KontextTransformer(CONFIG), file)


def test_sft_is_safetensors(folder, state):
    save_file(state, folder / "kontext.sft")
    (folder / "ae.safetensors").rename(folder / "ae.sft")
    same(load(folder).transformer, state)
    same(load(folder / "kontext.sft").transformer, state)


OTHERS = {
    "model.ckpt": (b"PK\x03\x04", "a pickle"),
    "model.bin": (b"\x80\x02", "a pickle"),
    "model.pt": (b"PK\x03\x04", "a pickle"),
    "model.pth": (b"\x80\x04", "a pickle"),
    "model.onnx": (b"\x08\x07", "ONNX"),
    "model.safetensors": (b"<!DOCTYPE html>", "a web page"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("given", ["folder", "file"])
def test_other_formats_are_named_with_what_to_do(folder, name, given):
    content, match = OTHERS[name]
    (folder / name).write_bytes(content + bytes(100))
    with pytest.raises(WeightsError, match=f"is {match}"):
        load(folder / name if given == "file" else folder)


def test_a_pickle_in_the_place_of_a_part_is_named(tmp_path):
    build()[0].save_pretrained(tmp_path)
    for part in ("transformer", "vae", "text_encoder"):
        (file,) = (tmp_path / part).glob("*.safetensors")
        data, other = file.read_bytes(), file.with_suffix(".bin")
        file.unlink()
        other.write_bytes(b"PK\3\4" + bytes(99))
        with pytest.raises(WeightsError, match="is a pickle"):
            load(tmp_path)
        other.write_bytes(data)
        with pytest.raises(WeightsError, match="safetensors by a pickle's name. Rename it"):
            load(tmp_path)
        other.rename(file)
    load(tmp_path)


QUANTISERS = {
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


# ---- 4 and 8 bits of bitsandbytes

# Four matrices that bitsandbytes 0.50.2 packed, and what it unpacked them to, in bfloat16.
THEIRS = Path(__file__).with_name("bitsandbytes.safetensors")


@pytest.mark.parametrize("kind", ["nf4_nested", "nf4_plain", "fp4_nested", "int8"])
def test_what_bitsandbytes_has_packed_is_unpacked_as_it_does(kind):
    reader = safetensors_io.Reader(THEIRS)
    expected = load_file(THEIRS)[f"{kind}.expected"]
    assert torch.equal(reader.read(f"{kind}.weight"), expected)
    assert torch.equal(reader.read(f"{kind}.weight", dtype=torch.float32).bfloat16(), expected)


def packed_as_nf4(matrix):
    """A matrix in NF4 without nested scales: what is stored under which end, and what it is."""
    table = load_file(THEIRS)["nf4_plain.weight.quant_map"]
    blocks = torch.nn.functional.pad(matrix.flatten(), (0, -matrix.numel() % 64)).view(-1, 64)
    largest = blocks.abs().amax(1).clamp(min=1e-12)
    index = (blocks / largest[:, None])[..., None].sub(table).abs().argmin(-1)
    note = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [*matrix.shape]}
    index_pairs = index.flatten()[: matrix.numel()].view(-1, 2).to(torch.uint8)
    stored = {
        "": (index_pairs[:, :1] << 4) | index_pairs[:, 1:], ".absmax": largest,
        ".quant_map": table,
        ".quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(note).encode())).byte(),
    }  # fmt: skip
    return stored, (table[index] * largest[:, None]).flatten()[: matrix.numel()].view_as(matrix)


def nf4(state):
    stored, expected = dict(state), dict(state)
    for name in matrices(state):
        pack, expected[name] = packed_as_nf4(state[name])
        stored |= {name + end: tensor for end, tensor in pack.items()}
    return stored, expected


@pytest.mark.parametrize("offload", ["resident", "stream"])
def test_nf4_opens_with_the_right_values(folder, state, offload, capsys):
    stored, expected = nf4(state)
    prefix = "model.diffusion_model."
    save_file({prefix + k: v for k, v in stored.items()}, folder / "kontext-bnb-nf4.safetensors")
    atol = 0.0 if offload == "resident" else 1e-2
    same(load(folder, offload=offload).transformer, expected, atol=atol)
    assert app.main(["weights", "verify", str(folder)]) == 0
    assert app.main(["weights", "inspect", str(folder)]) == 0
    assert f"{len(matrices(state))} U8" in capsys.readouterr().out


ODD_NF4 = {
    "no table": lambda s, n: s.pop(n + ".quant_map"),
    "no scales": lambda s, n: s.pop(n + ".absmax"),
    "scales of another length": lambda s, n: s.update({n + ".absmax": torch.ones(1)}),
    "scales without end": lambda s, n: s.update({n + ".absmax": s[n + ".absmax"] * torch.inf}),
    "scales in bytes": lambda s, n: s.update({n + ".absmax": s[n + ".absmax"].byte()}),
    "a short table": lambda s, n: s.update({n + ".quant_map": torch.ones(3)}),
    "half of its bytes": lambda s, n: s.update({n: s[n][::2].contiguous()}),
    "no note": lambda s, n: s.pop(n + NF4_NOTE),
    "a note of something else": lambda s, n: s.update({n + NF4_NOTE: torch.ones(9).byte()}),
    "no matrix": lambda s, n: s.pop(n),
    "a table in another order": lambda s, n: s.update(
        {n + ".quant_map": s[n + ".quant_map"].flip(0)}),
    "scales below 0": lambda s, n: s.update({n + ".absmax": -s[n + ".absmax"]}),
    "a note of FP4": lambda s, n: s.update({n + NF4_NOTE: torch.tensor(list(
        bytes(s[n + NF4_NOTE].tolist()).replace(b'"nf4"', b'"fp4"'))).byte()}),
    "a note under another name": lambda s, n: s.update(
        {n + NF4_NOTE.replace("nf4", "fp4"): s.pop(n + NF4_NOTE)}),
    "an offset of 400 digits": lambda s, n: s.update({
        n + ".absmax": s[n + ".absmax"].byte(), n + ".nested_absmax": torch.ones(1),
        n + ".nested_quant_map": torch.linspace(0, 1, 256), n + NF4_NOTE: torch.tensor(list(
            bytes(s[n + NF4_NOTE].tolist())[:-1] + b', "nested_blocksize": 4096, "nested_offset": 1'
            + b"0" * 400 + b"}")).byte()}),
}  # fmt: skip
NF4_NOTE = ".quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize("how", ODD_NF4)
def test_parts_of_nf4_that_do_not_fit_are_refused(folder, state, how):
    stored, _ = nf4(state)
    ODD_NF4[how](stored, matrices(state)[0])
    save_file(stored, folder / "kontext.safetensors")
    with pytest.raises(WeightsError, match="bitsandbytes.*Get the file again|missing"):
        load(folder)


# ---- GGUF

PLAIN = {"F32": (0, torch.float32), "F16": (1, torch.float16), "BF16": (30, torch.bfloat16)}


def gguf_file(tensors, values=b"", count=0, version=3, places=None):
    """A GGUF file by the format's description: (name, shape, type, bytes) each, aligned to 32.

    places: where a tensor of a number is said to begin, if it is not where it begins.
    """
    head, body = b"GGUF" + struct.pack("<IQQ", version, len(tensors), count) + values, b""
    for number, (name, shape, kind, data) in enumerate(tensors):
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        at = (places or {}).get(number, len(body))
        head += struct.pack(f"<{len(shape)}QIQ", *reversed(shape), kind, at)
        body += data + bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + body


def plain(state, kind="F32"):
    number, dtype = PLAIN[kind]
    return [(n, x.shape, number, bytes(x.to(dtype).flatten().view(torch.uint8).tolist()))
            for n, x in state.items()]  # fmt: skip


TEXT = struct.pack("<Q", 3) + b"key" + struct.pack("<IQ", 8, 4) + b"flux"
LIST = struct.pack("<Q", 4) + b"list" + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("called", ["kontext.gguf", "kontext.safetensors"])
def test_plain_gguf_opens(folder, state, kind, called):
    (folder / called).write_bytes(gguf_file(plain(state, kind), TEXT + LIST, 2))
    same(load(folder).transformer, {n: x.to(PLAIN[kind][1]) for n, x in state.items()})
    assert app.main(["weights", "verify", str(folder / called)]) == 0


@pytest.mark.parametrize("packing", ["Q8_0", "Q4_0", "Q5_1"])
def test_packed_gguf_opens_with_the_right_values(folder, state, packing, tmp_path, capsys):
    gguf = pytest.importorskip("gguf")
    kind, expected = gguf.GGMLQuantizationType[packing], dict(state)
    writer = gguf.GGUFWriter(folder / "kontext.gguf", "flux")
    for name, tensor in state.items():
        if name in matrices(state) and tensor.shape[1] % 32 == 0:
            data = gguf.quants.quantize(tensor.numpy(), kind)
            expected[name] = torch.from_numpy(gguf.quants.dequantize(data, kind))
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    same(load(folder).transformer, expected)
    assert app.main(["weights", "inspect", str(folder)]) == 0
    assert packing in capsys.readouterr().out
    out = tmp_path / "unpacked.safetensors"
    assert app.main(["weights", "convert", str(folder / "kontext.gguf"), str(out)]) == 0
    rounded = {n: x.bfloat16().float() for n, x in expected.items()}
    got = safetensors_io.load(out)
    assert all(torch.equal(got[name].float().bfloat16().float(), rounded[name]) for name in got)


# Blocks of 256 numbers: bytes, and where in a block the scales lie that are float16.
SUPER = {"Q4_K": (144, (0, 2)), "Q6_K": (210, (208,)), "Q5_K": (176, (0, 2)), "Q3_K": (110, (108,)),
         "Q2_K": (84, (80, 82)), "IQ4_XS": (136, (0,))}  # fmt: skip


def blocks_of(packing, shape, draw):
    """Random blocks, which mean some numbers or others; their scales are small and finite."""
    size, scales = SUPER[packing]
    blocks = draw.integers(0, 256, (*shape[:-1], shape[-1] // 256, size), np.uint8)
    for at in scales:
        some = draw.uniform(1e-3, 1e-2, blocks.shape[:-1]).astype(np.float16)[..., None]
        blocks[..., at : at + 2] = some.view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


@pytest.mark.parametrize("packing", SUPER)
def test_a_gguf_file_of_larger_blocks_is_read_as_gguf_does(tmp_path, packing):
    gguf = pytest.importorskip("gguf")
    kind, draw = gguf.GGMLQuantizationType[packing], np.random.default_rng(0)
    data = blocks_of(packing, (3, 512), draw)
    norm = torch.arange(8.0)
    (tmp_path / "x.gguf").write_bytes(gguf_file([
        ("a.weight", (3, 512), kind.value, data.tobytes()), *plain({"b.scale": norm}),
    ], TEXT, 1))  # fmt: skip
    reader = safetensors_io.Reader(tmp_path / "x.gguf")
    expected = torch.from_numpy(gguf.quants.dequantize(data, kind))
    assert torch.equal(reader.read("a.weight", dtype=torch.float32), expected)
    assert torch.equal(reader.read("b.scale"), norm) and reader.dtype("a.weight") == packing


def test_packed_gguf_without_the_package_names_it(folder, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    (folder / "kontext.gguf").write_bytes(gguf_file([("img_in.weight", (32, 32), 8, bytes(1088))]))
    with pytest.raises(MissingPackageError, match=r"minikontext\[gguf\].*offload='4-bit'"):
        load(folder)


def array(inner, count):
    return struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, inner, count)


ODD_GGUF = {
    "nothing behind its magic": lambda t: b"GGUF",
    "of version 1": lambda t: gguf_file(t, version=1),
    "cut in its header": lambda t: gguf_file(t)[:200],
    "cut in its numbers": lambda t: gguf_file(t)[:-40],
    "without end of tensors": lambda t: b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(500),
    "without end of values": lambda t: gguf_file(t, TEXT, 2**62),
    "a list without end": lambda t: gguf_file(t, array(0, 2**60), 1),
    "a million empty texts": lambda t: gguf_file(t, array(8, 10**6) + bytes(100), 1),
    "lists in lists": lambda t: gguf_file(t, struct.pack("<Q", 0) + struct.pack("<I", 9)
                                          + struct.pack("<IQ", 9, 1) * 5000, 1),
    "an unknown value": lambda t: gguf_file(t, struct.pack("<QI", 0, 99), 1),
    "an alignment of 0": lambda t: gguf_file(
        t, struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0), 1),
    "two of a name": lambda t: gguf_file([t[0], t[0]]),
    "an unknown packing": lambda t: gguf_file([("img_in.weight", (32, 32), 4000, bytes(99))]),
    "no sizes": lambda t: gguf_file([("img_in.weight", (0, 5), 0, b"")]),
    "sizes without end": lambda t: gguf_file([("img_in.weight", (2**62, 2**62), 0, b"")]),
    "90 dimensions": lambda t: gguf_file([("img_in.weight", (1,) * 90, 0, bytes(4))]),
    "two at one place": lambda t: gguf_file([t[0], ("b", *t[0][1:])], places={1: 0}),
    "two places exchanged": lambda t: gguf_file(
        [t[0], ("b", *t[0][1:])], places={0: len(t[0][3]), 1: 0}),
    "a gap before the first": lambda t: gguf_file(t[:1], places={0: 32}) + bytes(32),
    "a type of half the bytes": lambda t: gguf_file([(*t[0][:2], 1, t[0][3]), *t[1:]]),
    "bytes behind its end": lambda t: gguf_file(t) + b"more",
    "names that are no text": lambda t: gguf_file(t).replace(b"img_in", b"\xff" * 6),
}  # fmt: skip


@pytest.mark.parametrize("how", ODD_GGUF)
def test_gguf_that_makes_no_sense_is_refused(folder, state, how):
    if how == "an unknown packing":
        pytest.importorskip("gguf")
    (folder / "kontext.gguf").write_bytes(ODD_GGUF[how](plain(state)))
    with pytest.raises(WeightsError, match="is a GGUF file that cannot be read"):
        load(folder)


def test_packed_gguf_that_the_package_does_not_unpack_is_refused(tmp_path):
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_K
    data = bytes(2 * gguf.GGML_QUANT_SIZES[kind][1])
    (tmp_path / "x.gguf").write_bytes(gguf_file([("img_in.weight", (2, 256), kind, data)]))
    with pytest.raises(WeightsError, match="img_in.weight.*does not unpack Q8_K"):
        safetensors_io.load(tmp_path / "x.gguf")


# ---- files that are written to while they are in use


@pytest.mark.parametrize("how", ["cut", "overwritten", "renamed", "removed"])
def test_a_mapped_file_that_is_written_to_is_told_before_it_is_read(
    folder, state, monkeypatch, how
):
    path = folder / "kontext.safetensors"
    save_file(state, path)
    monkeypatch.setattr(safetensors_io, "MAPPED_FROM", 0)  # as if the file were large
    pipe = KontextPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    call = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 0, "progress": False}
    before = pipe("a hat", **call).images[0]
    if how in ("cut", "overwritten"):
        with open(path, "rb+") as file:
            file.truncate(1000) if how == "cut" else file.write(b"x")
        with pytest.raises(WeightsError, match="was written to after it was loaded"):
            pipe("a hat", **call)
        return
    shutil.copy(path, folder / "other")
    (folder / "other").replace(path) if how == "renamed" else path.unlink()
    assert list(pipe("a hat", **call).images[0].getdata()) == list(before.getdata())


leases = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no leases")
CUT = "import os, sys; os.truncate(sys.argv[1], 1000)"
PATIENCE = 600


def cut_from_elsewhere(path):
    """Another program that cuts a file, and by now waits for those who hold it."""
    other = subprocess.Popen([sys.executable, "-c", CUT, str(path)])
    facts, end = path.stat(), time.monotonic() + PATIENCE
    place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    while True:
        lines = [x for x in Path("/proc/locks").read_text().splitlines() if place in x]
        if any("LEASE" in line and "BREAKING" in line for line in lines):
            assert path.stat().st_size == facts.st_size
            return other
        assert time.monotonic() < end and other.poll() is None, "nobody waits"
        time.sleep(0.01)


def is_cut(path, other):
    return other.wait(PATIENCE) == 0 and path.stat().st_size == 1000


@leases
def test_who_wants_to_cut_a_leased_file_waits_and_is_seen(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(8000))
    with Lease([path, tmp_path / "gone"]) as lease:
        lease.check()
        other = cut_from_elsewhere(path)
        with pytest.raises(WeightsError, match="is about to write to"):
            lease.check()
    assert is_cut(path, other)
    with open(path, "rb+"), pytest.raises(WeightsError, match="open for writing"), Lease([path]):
        pass


@leases
@pytest.mark.parametrize("step_cache", [None, 0.0])
def test_a_mapped_file_that_is_cut_during_a_step_ends_it_in_words(
    folder, state, monkeypatch, step_cache
):
    """Without the lease the process would be ended by SIGBUS."""
    path = folder / "kontext.safetensors"
    save_file(state, path)
    monkeypatch.setattr(safetensors_io, "MAPPED_FROM", 0)  # as if the file were large
    pipe = KontextPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    call = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 0, "progress": False}
    call["step_cache"] = step_cache
    others = []

    def cut(*_):
        others.append(cut_from_elsewhere(path))

    leave = Lease.__exit__

    def leave_and_see_it_cut(*arguments):
        leave(*arguments)
        for other in others:  # who waits can go on: the file is cut while the error is on its way
            other.wait(PATIENCE)

    monkeypatch.setattr(Lease, "__exit__", leave_and_see_it_cut)
    midst = pipe.transformer.img_in.register_forward_pre_hook(cut)
    with pytest.raises(WeightsError, match="is about to write to"):
        pipe("a hat", **call)
    midst.remove()
    assert len(others) == 1 and is_cut(path, others[0])
    with pytest.raises(WeightsError, match="was written to after it was loaded"):
        pipe("a hat", **call)


@leases
def test_a_file_that_is_cut_while_it_is_loaded_ends_loading_in_words(folder, state):
    path = folder / "kontext.safetensors"
    save_file(state, path)
    reader = safetensors_io.Reader(path)
    first, second, *_ = reader.header
    with reader.leased():
        reader.read(first)
        other = cut_from_elsewhere(path)
        with pytest.raises(WeightsError, match="is about to write to"):
            reader.read(second)
    assert is_cut(path, other)


UNHELD = """
import os, sys, warnings
from minikontext import errors
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import safetensors_io

folder, how = sys.argv[1:]
safetensors_io.MAPPED_FROM = 0  # as if the files were large
call = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 0, "progress": False}

def load():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pipe = KontextPipeline.from_pretrained(folder, device="cpu", dtype="bfloat16")
    told = [str(one.message) for one in heard if one.category is errors.WeightsWarning]
    print(told, flush=True)
    return pipe

load()("a hat", **call)
written = os.open(folder + "/kontext.safetensors", os.O_RDWR)  # by their owner
size = os.fstat(written).st_size
os.setuid(65534)  # the files are another user's now, who lends no lease
pipe = load()

def change(*_):
    os.truncate(written, 1000) if how == "cut" else os.pwrite(written, bytes(100), size - 100)

for one in pipe.transformer.final_layer.children():
    one.register_forward_pre_hook(change)
try:
    pipe("a hat", **call)
except errors.WeightsError as error:
    print(error)
"""


@leases
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs two users")
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_mapped_file_that_cannot_be_held_is_told_and_death_says_where(folder, state, how):
    with tempfile.TemporaryDirectory() as open_to_all:
        path = Path(open_to_all) / "model/kontext.safetensors"
        shutil.copytree(folder, path.parent)
        save_file({k: v.bfloat16() for k, v in state.items()}, path)
        for place in (path.parents[1], path.parent):
            place.chmod(0o755)
        for place in path.parent.rglob("*"):
            place.chmod(0o755)
        program = Program("-c", UNHELD, path.parent, how)
        said, complaint = program.communicate(PATIENCE)
    assert said.count("\n") >= 2, complaint
    held, told, *error = said.splitlines()
    assert held == "[]"
    assert "kontext.safetensors" in told and "cannot be held" in told, complaint
    if how == "cut":
        assert program.returncode == -signal.SIGBUS and not error
        assert "Bus error" in complaint and "pipeline.py" in complaint
    else:
        assert program.returncode == 0 and "was written to after it was loaded" in error[0]


# ---- files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
@pytest.mark.parametrize("what", ["pipe", "folder", "dangling link", "device"])
@pytest.mark.parametrize(
    "name",
    ["kontext.safetensors", "text_encoder_2/model.safetensors", "text_encoder/config.json",
     "tokenizer/tokenizer_config.json", "vae/diffusion_pytorch_model.safetensors.index.json",
     "model_index.json", "scheduler/scheduler_config.json"],
)  # fmt: skip
def test_what_is_no_file_is_refused_at_once(folder, sound, name, what):
    path = folder / name
    shutil.copy(sound / "kontext.safetensors", folder)
    path.parent.mkdir(exist_ok=True)
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


def test_a_name_of_another_ending_is_no_reason_to_say_that_nothing_is_there(folder, sound, state):
    shutil.copy(sound / "kontext.safetensors", folder / "KONTEXT.SafeTensors")
    same(load(folder / "KONTEXT.SafeTensors").transformer, state)
    (folder / "KONTEXT.SafeTensors").rename(folder / "kontext.safetensors.part")
    with pytest.raises(WeightsError, match="ends in none of .safetensors, .sft, .gguf"):
        load(folder / "kontext.safetensors.part")


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
    for told in (["verify", "mine"], ["inspect", "mine"], ["convert", "mine", "new"]):
        caplog.clear()
        app.main(["weights", *told])
        assert "hides the shipped 'mine'" in caplog.text
    build()[0].save_pretrained("mine")  # published weights, as a start
    (tmp_path / "mine/config.json").unlink()
    caplog.clear()
    new_transformer(CONFIG, "mine")
    assert "hides the shipped 'mine'" in caplog.text
