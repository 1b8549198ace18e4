"""Weights files: what is read, what is refused and why, and that saving loses nothing."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import OutputError, WeightsError
from minikontext.pretrained import key_mapping, layouts, lora_files, safetensors_io
from minikontext.transformer import KontextTransformer, TransformerConfig

SIZES = TransformerConfig(16, 16, 12, 20, 32, 2.0, 2, 1, 2, (4, 6, 6), 10_000, True, False)
PIXELS = AutoEncoderConfig(32, 3, 8, 3, (1, 2), 1, 4, 0.5, 0.2, norm_groups=4)


def transformer():
    torch.manual_seed(0)
    return KontextTransformer(SIZES)


def empty():
    with torch.device("meta"):
        return KontextTransformer(SIZES)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def file(tmp_path):
    return safetensors_io.save(transformer().state_dict(), tmp_path / "model.safetensors")


def test_what_is_saved_is_loaded(file):
    assert same(safetensors_io.load(file), transformer().state_dict())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_what_was_saved_as_any_other_file(file, tmp_path):
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_macos_notes_beside_a_file_is_no_weights(file):
    for name in ("model.safetensors", "model.safetensors.index.json", "config.json"):
        file.with_name(f"._{name}").write_bytes(b"\0\5\x16\7Mac OS X")
    assert safetensors_io.files(file.parent) == [file]
    assert lora_files.find_file(file.parent) == file
    assert layouts._transformer_place(file.parent) == file


def test_inspect_reads_the_header_only(file):
    header = safetensors_io.inspect(file)
    assert header["img_in.weight"] == safetensors_io.TensorInfo("F32", (32, 16))
    assert header.keys() == transformer().state_dict().keys()


def test_load_into_fills_a_model_from_nothing(file):
    model = safetensors_io.load_into(empty(), file)
    assert same(model.state_dict(), transformer().state_dict())
    assert all(p.requires_grad for p in model.parameters())


def test_bfloat16_on_disk_float32_in_memory(tmp_path):
    state = transformer().state_dict()
    half = safetensors_io.save(state, tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert {info.dtype for info in safetensors_io.inspect(half).values()} == {"BF16"}
    loaded = safetensors_io.load_into(empty(), half, dtype=torch.float32).state_dict()
    assert same(loaded, {k: v.bfloat16().float() for k, v in state.items()})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_on_disk_float32_in_memory(tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in transformer().state_dict().items()}
    path = safetensors_io.save(state, tmp_path / "eighth.safetensors")
    loaded = safetensors_io.load_into(empty(), path, dtype=torch.float32).state_dict()
    assert same(loaded, {k: v.float() for k, v in state.items()})


def test_prefix_is_stripped(tmp_path):
    state = {"model.diffusion_model." + k: v for k, v in transformer().state_dict().items()}
    path = safetensors_io.save(state, tmp_path / "prefixed.safetensors")
    assert same(safetensors_io.load(path), transformer().state_dict())
    assert same(safetensors_io.load_into(empty(), path).state_dict(), transformer().state_dict())


def test_diffusers_names_load_too(tmp_path):
    state = key_mapping.to_diffusers(transformer().state_dict())
    path = safetensors_io.save(state, tmp_path / "theirs.safetensors")
    assert same(safetensors_io.load_into(empty(), path).state_dict(), transformer().state_dict())


@pytest.fixture
def shards(tmp_path):
    """A folder of three shards in diffusers' names; `shards(changes)` rewrites the index."""
    state = key_mapping.to_diffusers(transformer().state_dict())
    names, places = sorted(state), {}
    for i in range(3):
        shard = f"part-{i}.safetensors"
        safetensors_io.save({name: state[name] for name in names[i::3]}, tmp_path / shard)
        places |= dict.fromkeys(names[i::3], shard)

    def write(changes=()):
        index = {"weight_map": places | dict(changes)}
        (tmp_path / "part.safetensors.index.json").write_text(json.dumps(index))
        return tmp_path

    return write


def test_two_indices_of_shards_need_a_choice(shards):
    place = shards()
    shutil.copy(place / "part.safetensors.index.json", place / "a.safetensors.index.json")
    with pytest.raises(WeightsError, match=r"a\.safetensors\.index\.json, part.*keep the index"):
        safetensors_io.inspect(place)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = safetensors_io.save(transformer().state_dict(), tmp_path / "a.safetensors")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(WeightsError, match=r"You may not read .*a\.safetensors"):
        safetensors_io.inspect(path)


def test_a_folder_of_shards_is_one_file(shards):
    assert same(
        safetensors_io.load_into(empty(), shards()).state_dict(), transformer().state_dict()
    )


LOADER = """
import sys
from pathlib import Path
import torch
from minikontext.pretrained import safetensors_io as weights
from minikontext.transformer import KontextTransformer, TransformerConfig

def status(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024

with torch.device("meta"):
    model = KontextTransformer(TransformerConfig(*eval(sys.argv[2])))
weights.check(model, weights.Reader(sys.argv[1]))  # what this imports is no part of the peak
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
model = weights.load_into(model, sys.argv[1], "cpu", torch.float32)
print(status("VmHWM") - before, sum(p.nbytes for p in model.parameters()) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is Linux's")
def test_the_host_holds_the_model_and_one_shard_at_most(tmp_path):
    sizes = (16, 16, 12, 20, 512, 4.0, 4, 4, 8, (32, 48, 48), 10_000, True, False)
    state = KontextTransformer(TransformerConfig(*sizes)).state_dict()
    shards = safetensors_io.save_shards(
        key_mapping.to_diffusers(state), tmp_path / "model", torch.bfloat16, limit=20 * 2**20
    )
    shard = max(file.stat().st_size for file in shards) / 2**20
    command = [sys.executable, "-c", LOADER, str(tmp_path), str(sizes)]
    # glibc now and then keeps what was freed; here all but small things go back at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak, model = map(float, done.stdout.split())
    assert len(shards) > 5 and model > 200
    assert peak < model + 1.5 * shard, (peak, model, shard)


def test_a_missing_or_cut_shard_is_named(shards):
    shard = shards() / "part-1.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    refused(shard.parent, f"part-1.*{len(content) - 100:,} bytes.* promises {len(content):,} bytes")
    shard.unlink()
    refused(shard.parent, r"lacks part-1\.safetensors")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"surprise.weight": "part-0.safetensors"}, r"wrong about part-0.* surprise\.weight"),
        ({"x_embedder.weight": "part-1.safetensors"}, r"wrong about part-.* x_embedder\.weight"),
        ({"x_embedder.weight": "../part-1.safetensors"}, "outside of its folder"),
        ({"x_embedder.weight": "/etc/passwd"}, "outside of its folder"),
        ({"x_embedder.weight": "..\\part.safetensors"}, "outside of its folder"),
        ({"x_embedder.weight": 7}, "Cannot read"),
    ],
)
def test_a_wrong_index_is_refused(shards, changes, match):
    refused(shards(changes), match)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is mapped")
def test_no_more_than_one_shard_is_in_memory(tmp_path):
    wide = replace(SIZES, hidden_size=256, depth=4, num_heads=16)
    with torch.device("meta"):
        model = KontextTransformer(wide)
    zeros = {name: torch.zeros(p.shape) for name, p in model.state_dict().items()}
    limit = 4_000_000
    files = safetensors_io.save_shards(zeros, tmp_path / "model", torch.bfloat16, limit)
    assert len(files) > 4 and all(file.stat().st_size < limit + 10_000 for file in files)
    before, seen = mapped_bytes(), []

    def watch(name, tensor):
        seen.append(mapped_bytes() - before)
        return tensor

    safetensors_io.load_into(model, tmp_path, dtype=torch.float32, prepare=watch)
    assert limit / 2 < max(seen) < 1.5 * limit


def mapped_bytes():
    """How much of this process's memory are pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssFile:")[1].split()[0])


def test_two_files_with_the_same_tensors_are_refused(file):
    safetensors_io.save(transformer().state_dict(), file.with_name("again.safetensors"))
    refused(file.parent, "Two files")


def test_the_fingerprint_of_a_small_file_is_its_sha256(file):
    import hashlib

    assert safetensors_io.fingerprint(file) == hashlib.sha256(file.read_bytes()).hexdigest()


# ---- refused


def refused(path, match, model=None):
    """Loading raises a WeightsError, and the model keeps its (meta) tensors: nothing was loaded."""
    model = model or empty()
    with pytest.raises(WeightsError, match=match):
        safetensors_io.load_into(model, path)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("size", [0, 4, 8, 500, -1])
def test_truncated_files_are_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    refused(file, "no complete safetensors file")


def test_trailing_bytes_are_refused(file):
    file.write_bytes(file.read_bytes() + b"more")
    refused(file, "no complete safetensors file")


def test_a_header_that_promises_too_much_is_refused(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["img_in.weight"]["shape"] = [10**6, 10**6]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    refused(file, "no complete safetensors file")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_are_refused_and_never_run(tmp_path, how):
    path = tmp_path / "model.ckpt"
    if how == "torch":
        torch.save({"img_in.weight": torch.zeros(2), "bomb": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "a pickle")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"nothing of the kind, just words", "no complete safetensors file"),
    ],
)
def test_other_files_are_named(tmp_path, content, match):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, match)


def test_missing_places_are_named(tmp_path):
    refused(tmp_path / "nowhere.safetensors", "No weights at .*nowhere")
    refused(tmp_path, "lacks a .safetensors file")


def test_missing_and_unknown_names_are_named(tmp_path):
    state = transformer().state_dict()
    del state["img_in.bias"]
    state["surprise.weight"] = torch.zeros(3)
    path = safetensors_io.save(state, tmp_path / "odd.safetensors")
    refused(path, r"missing img_in\.bias; unknown surprise\.weight")


def test_wrong_shapes_are_named(tmp_path):
    state = transformer().state_dict()
    state["txt_in.weight"] = torch.zeros(32, 21)
    path = safetensors_io.save(state, tmp_path / "odd.safetensors")
    refused(path, r"txt_in\.weight has shape \(32, 21\), expected \(32, 20\)")


def test_quantised_weights_are_named(tmp_path):
    state = transformer().state_dict()
    state["img_in.weight"] = torch.zeros(32, 16).to(torch.int8)
    path = safetensors_io.save(state, tmp_path / "odd.safetensors")
    refused(path, r"img_in\.weight as I8")


def test_every_tensor_may_have_a_dtype_of_its_own(tmp_path):
    """bfloat16 blocks between float32 ends, and q, k and v of one matrix that differ."""
    state = transformer().state_dict()
    mixed = {k: v.bfloat16() if "blocks" in k else v for k, v in state.items()}
    path = safetensors_io.save(mixed, tmp_path / "mixed.safetensors")
    loaded = safetensors_io.load_into(empty(), path, dtype=torch.float32).state_dict()
    assert same(loaded, {k: v.float() for k, v in mixed.items()})
    kept = safetensors_io.load_into(empty(), path).state_dict()
    assert {k: v.dtype for k, v in kept.items()} == {k: v.dtype for k, v in mixed.items()}
    theirs = key_mapping.to_diffusers(state)
    theirs = {k: v.bfloat16() if ".to_q." in k else v for k, v in theirs.items()}
    path = safetensors_io.save(theirs, tmp_path / "parts.safetensors")
    loaded = safetensors_io.load_into(empty(), path).state_dict()
    expected = key_mapping.from_diffusers({k: v.float() for k, v in theirs.items()})
    assert same(loaded, expected)


def test_a_file_that_is_replaced_while_it_is_read_is_told(tmp_path):
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    safetensors_io.save({"a": torch.ones(3), "b": torch.ones(4)}, path)
    reader = safetensors_io.Reader(path)
    safetensors_io.save({"a": torch.ones(5)}, other)
    other.replace(path)
    with pytest.raises(WeightsError, match="was replaced while it was read"):
        reader.read("a")
    with pytest.raises(WeightsError, match="Cannot read b"):
        reader.read("b")


def test_the_wrong_model_is_refused(tmp_path):
    path = safetensors_io.save(AutoEncoder(PIXELS).state_dict(), tmp_path / "ae.safetensors")
    refused(path, "does not fit KontextTransformer")


def test_a_lora_is_called_one(tmp_path):
    lora = {"transformer.x_embedder.lora_A.weight": torch.zeros(4, 16)}
    refused(safetensors_io.save(lora, tmp_path / "lora.safetensors"), "LoRA")


# ---- saving


def test_a_read_only_place_keeps_the_older_file(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(safetensors_io, "save_file", _disk_full)
    with pytest.raises(OutputError, match="No space left"):
        safetensors_io.save({"a": torch.zeros(2)}, file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def _disk_full(tensors, path, metadata):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a file").touch()
    with pytest.raises(OutputError, match="a file"):
        safetensors_io.save({"a": torch.zeros(2)}, tmp_path / "a file" / "model.safetensors")


def test_views_of_one_tensor_can_be_saved(tmp_path):
    both = torch.randn(4, 3)
    path = safetensors_io.save({"a": both[:2], "b": both[2:]}, tmp_path / "views.safetensors")
    assert same(safetensors_io.load(path), {"a": both[:2], "b": both[2:]})


# ---- names


def test_renaming_there_and_back_is_exact():
    for model in (transformer(), AutoEncoder(PIXELS)):
        state = model.state_dict()
        theirs = key_mapping.to_diffusers(state)
        assert not theirs.keys() & {k for k in state if "mid." in k or "blocks" in k}
        assert same(key_mapping.from_diffusers(theirs), state)


def test_the_halves_of_the_last_modulation_change_places():
    state = transformer().state_dict()
    shift, scale = state["final_layer.adaLN_modulation.1.weight"].chunk(2)
    theirs = key_mapping.to_diffusers(state)["norm_out.linear.weight"]
    assert torch.equal(theirs, torch.cat((scale, shift)))


def test_unknown_and_missing_parts_are_named():
    theirs = key_mapping.to_diffusers(transformer().state_dict())
    with pytest.raises(WeightsError, match="surprise"):
        key_mapping.from_diffusers({**theirs, "surprise": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"no diffusers names .* double_blocks"):
        key_mapping.from_diffusers(transformer().state_dict())
    with pytest.raises(WeightsError, match="no official names .* context_embedder"):
        key_mapping.to_diffusers(theirs)
    del theirs["transformer_blocks.0.attn.to_k.bias"]
    with pytest.raises(WeightsError, match=r"2 of the 3 .* double_blocks\.0\.img_attn\.qkv\.bias"):
        key_mapping.from_diffusers(theirs)
