"""The door to transformers: no code, no hub, no memory beside what is mapped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from folders import clip_tokenizer, t5_tokenizer, text_encoders

from minikontext.errors import WeightsError
from minikontext.pretrained import safetensors_io, transformers_io
from minikontext.pretrained.text_encoders import FluxTextEncoder
from minikontext.safety.classifiers import TextClassifier

NAMES = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@pytest.fixture
def folder(tmp_path):
    words = clip_tokenizer(), t5_tokenizer()
    for part, name in zip((*text_encoders(*words), *words), NAMES, strict=True):
        part.save_pretrained(tmp_path / name)
    return tmp_path


def edit(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


FETCHED = {
    "a kernel": ("text_encoder_2/config.json", {"attn_implementation": "somebody/kernel"}),
    "an old name": ("text_encoder/config.json", {"_attn_implementation": "somebody/kernel@v1"}),
    "an inner name": ("text_encoder/config.json", {"_attn_implementation_internal": "x/y:z"}),
    "one for each part": ("text_encoder/config.json", {"attn_implementation": {"": "a/b"}}),
    "deep inside": ("text_encoder/config.json", {"text_config": [{"attn_implementation": "a/b"}]}),
    "a kernel by its short name": (
        "text_encoder_2/config.json",
        {"attn_implementation": "flash_attention_3"},
    ),
    "experts": ("text_encoder_2/config.json", {"experts_implementation": "a/b"}),
    "a quantiser": ("text_encoder_2/config.json", {"quantization_config": {"quant_method": "hqq"}}),
    "in the tokenizer": ("tokenizer/tokenizer_config.json", {"attn_implementation": "a/b"}),
}


@pytest.mark.parametrize("how", FETCHED)
def test_what_would_be_fetched_is_refused_by_name(folder, how):
    name, entries = FETCHED[how]
    edit(folder / name, **entries)
    with pytest.raises(WeightsError, match="neither fetched nor run"):
        FluxTextEncoder.from_folder(folder, torch.float32)


def test_built_in_attention_is_no_kernel_of_others(folder):
    edit(folder / "text_encoder_2/config.json", attn_implementation="sdpa")
    edit(folder / "text_encoder/config.json", _attn_implementation=None)
    assert (
        FluxTextEncoder.from_folder(folder, torch.float32).encode(["hat"]).tokens.isfinite().all()
    )


def test_an_adapter_does_not_lead_elsewhere(folder):
    beside = {"base_model_name_or_path": str(folder / "text_encoder"), "peft_type": "LORA"}
    (folder / "text_encoder_2/adapter_config.json").write_text(json.dumps(beside))
    with pytest.raises(WeightsError, match="holds an adapter"):
        FluxTextEncoder.from_folder(folder, torch.float32)


@pytest.mark.parametrize("part", NAMES)
def test_code_in_a_folder_is_never_run(folder, part, monkeypatch):
    """Classes named by auto_map, and a user who would say yes to all questions."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / part / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass C: pass")
    name = "config.json" if "encoder" in part else "tokenizer_config.json"
    kinds = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    classes = dict.fromkeys(kinds, "evil.C") | {"AutoTokenizer": ["evil.C", "evil.C"]}
    edit(folder / part / name, auto_map=classes)
    FluxTextEncoder.from_folder(folder, torch.float32)  # its own classes do
    edit(folder / part / name, model_type="unheard-of", tokenizer_class="Unheard")
    with pytest.raises(WeightsError):
        TextClassifier.from_folder(folder / part, ["bad"])
    with pytest.raises(WeightsError):
        transformers_io.read_local(hf.AutoModel, folder / part)
    assert not (folder / "ran").exists()


def rewrite(path, change):
    state = {name: tensor.clone() for name, tensor in safetensors_io.load(path).items()}
    path.unlink()
    safetensors_io.save(change(state), path)


def without(state, end):
    return {name: tensor for name, tensor in state.items() if not name.endswith(end)}


def test_a_tensor_that_is_missing_is_not_made_up(folder):
    rewrite(
        folder / "text_encoder_2/model.safetensors",
        lambda s: without(s, "block.1.layer.1.DenseReluDense.wo.weight"),
    )
    with pytest.raises(WeightsError, match="missing .*wo"):
        FluxTextEncoder.from_folder(folder, torch.float32)


@pytest.mark.parametrize("how", ["prefix", "no prefix", "tied", "both"])
def test_older_names_of_the_same_tensors_load(folder, how):
    """CLIP had a prefix; T5's embedding stands under one name, the other, or both."""
    expected = FluxTextEncoder.from_folder(folder, torch.float32).encode(["make the hat red"])
    if "prefix" in how:
        start = "text_model." * (how == "prefix")
        rewrite(
            folder / "text_encoder/model.safetensors",
            lambda s: {start + k.removeprefix("text_model."): v for k, v in s.items()},
        )
    else:
        tied = {"encoder.embed_tokens.weight": 1.0}
        rewrite(
            folder / "text_encoder_2/model.safetensors",
            lambda s: (
                (s if how == "both" else without(s, "shared.weight"))
                | {name: s["shared.weight"].clone() for name in tied}
            ),
        )
    got = FluxTextEncoder.from_folder(folder, torch.float32).encode(["make the hat red"])
    assert torch.equal(got.tokens, expected.tokens) and torch.equal(got.pooled, expected.pooled)


MEASURE = """
import sys
from pathlib import Path
import torch, transformers as hf
from minikontext.pretrained import safetensors_io, transformers_io

safetensors_io.MAPPED_FROM = 0  # as if the files were large

def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

folder = Path(sys.argv[1])
transformers_io.load_encoder(hf.T5EncoderModel, folder / "small", "cpu", None)  # imports
before = anonymous()
model = transformers_io.load_encoder(hf.T5EncoderModel, folder / "large", "cpu", None)
print(anonymous() - before, sum(p.nbytes for p in model.parameters()) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is mapped")
def test_encoders_in_their_stored_dtype_stay_on_the_disk(tmp_path):
    """What the streamed plan lives on: the host's own memory holds none of the weights."""
    for name, layers in (("small", 1), ("large", 12)):
        sizes = {"vocab_size": 100, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8}
        model = hf.T5EncoderModel(hf.T5Config(num_layers=layers, **sizes)).bfloat16()
        model.save_pretrained(tmp_path / name, max_shard_size="20MB")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    grown, size = map(float, done.stdout.split()[-2:])
    assert size > 60 and grown < 0.15 * size, (grown, size)
