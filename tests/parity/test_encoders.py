"""The door to transformers: no code, no hub, no memory beside what is mapped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from folders import clip_tokenizer, t5_tokenizer, text_encoders
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from minikontext.errors import PromptWarning, WeightsError
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


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_expressions_that_never_end_are_refused(folder, tokenizer, part):
    """Doubling with each letter, up to a panic of Rust, which no `except Exception` sees."""
    one = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}
    if part == "pre_tokenizer":
        one = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
        one["invert"] = False
    many = {"type": "Sequence", part.replace("_", "") + "s": [one]}
    edit(folder / tokenizer / "tokenizer.json", **{part: many})
    with pytest.raises(WeightsError, match="could take for ever"):
        FluxTextEncoder.from_folder(folder, torch.float32)


def test_a_panic_of_a_tokenizer_is_an_error_in_words():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    words = hf.PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(WeightsError, match="cannot read this prompt"):
        transformers_io.tokenize(words, "a" * 40 + "b")


def test_letters_that_a_tokenizer_does_not_know_are_told(folder):
    text = FluxTextEncoder.from_folder(folder, torch.float32)
    assert text.report("make the hat red") == []
    said = [str(one) for one in text.report("make the 帽子 red 🎩")]
    assert any(one.startswith("T5 cannot read 帽子, 🎩:") for one in said), said
    with pytest.warns(PromptWarning, match="T5 cannot read 帽子"):
        text.encode(["帽子"])


def model_file(folder, part):
    return folder / part / "model.safetensors"


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "transformer."])
def test_prefixes_of_trainers_are_taken_off_encoders_too(folder, part, prefix):
    """transformers would find none of its names, and take random numbers."""
    expected = FluxTextEncoder.from_folder(folder, torch.float32).encode(["make the hat red"])
    rewrite(model_file(folder, part), lambda s: {prefix + k: v for k, v in s.items()})
    got = FluxTextEncoder.from_folder(folder, torch.float32).encode(["make the hat red"])
    assert torch.equal(got.tokens, expected.tokens) and torch.equal(got.pooled, expected.pooled)


def test_scaled_float8_of_a_text_encoder_is_multiplied_out(folder):
    """As ComfyUI writes T5: transformers would take the numbers without their scales."""
    path = model_file(folder, "text_encoder_2")
    whole = {k: v.float() for k, v in safetensors_io.load(path).items()}
    stored, expected = dict(whole), dict(whole)
    for name in [k for k, v in whole.items() if v.dim() == 2 and "block" in k]:
        scale = whole[name].abs().max() / 448
        stored[name] = (whole[name] / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix("weight") + "scale_weight"] = scale
        expected[name] = (stored[name].float() * scale).bfloat16()
    rewrite(path, lambda _: stored)
    t5 = transformers_io.load_encoder(hf.T5EncoderModel, path.parent, "cpu", torch.float32)
    for name, tensor in t5.state_dict().items():
        if name in expected:
            torch.testing.assert_close(tensor, expected[name].float(), atol=1e-2, rtol=0)
    largest = max(v.abs().max() for v in t5.state_dict().values())
    assert largest < 100  # without scales up to 448


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_plain_float8_of_a_text_encoder_computes(folder, name):
    """As T5 is often passed on: nothing of torch builds a model in it."""
    kind = hf.CLIPTextModel if name == "text_encoder" else hf.T5EncoderModel
    path, narrow = model_file(folder, name), torch.float8_e4m3fn
    rewrite(path, lambda state: {k: x.to(narrow) for k, x in state.items()})
    expected = {k: x.float() for k, x in safetensors_io.load(path).items()}
    for dtype in (torch.float32, None):
        got = transformers_io.load_encoder(kind, path.parent, "cpu", dtype).state_dict()
        assert {x.dtype for x in got.values()} == {dtype or torch.bfloat16}
        plain = {transformers_io._plain(k): x.float() for k, x in got.items()}
        for k, x in expected.items():
            assert torch.equal(plain[transformers_io._plain(k)], x)
    assert FluxTextEncoder.from_folder(folder, None).encode(["a hat"]).tokens.isfinite().all()


def test_a_second_file_beside_the_shards_is_not_taken_for_them(folder):
    """The index says which files are the model; transformers would take model.safetensors."""
    path = model_file(folder, "text_encoder_2")
    expected = transformers_io.load_encoder(hf.T5EncoderModel, path.parent, "cpu", None)
    expected = {name: x.clone() for name, x in expected.state_dict().items()}
    whole = safetensors_io.load(path)
    shard = path.with_name("model-00001-of-00001.safetensors")
    safetensors_io.save(whole, shard)
    homes = {"weight_map": dict.fromkeys(whole, shard.name)}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(homes))
    rewrite(path, lambda s: {k: torch.zeros_like(v) for k, v in s.items()})
    got = transformers_io.load_encoder(hf.T5EncoderModel, path.parent, "cpu", None).state_dict()
    assert all(torch.equal(got[name], x) for name, x in expected.items())


def test_two_embeddings_that_differ_are_refused(folder):
    rewrite(
        model_file(folder, "text_encoder_2"),
        lambda s: s | {"encoder.embed_tokens.weight": s["shared.weight"] + 1},
    )
    with pytest.raises(WeightsError, match="which differ and mean one"):
        FluxTextEncoder.from_folder(folder, torch.float32)


@pytest.mark.parametrize(
    "entry",
    [{"transformers_weights": "other.safetensors"}, {"fusion_config": {"a": "b"}},
     {"compression_config": {"a": 1}}, {"use_kernels": True}, {"distributed_config": {"a": 1}}],
)  # fmt: skip
def test_entries_that_lead_elsewhere_are_refused(folder, entry):
    edit(folder / "text_encoder_2/config.json", **entry)
    with pytest.raises(WeightsError, match="neither fetched nor run"):
        FluxTextEncoder.from_folder(folder, torch.float32)


def test_a_note_that_transformers_chose_attention_by_itself_is_no_kernel(folder):
    edit(folder / "text_encoder_2/config.json", _attn_implementation_autoset=True)
    FluxTextEncoder.from_folder(folder, torch.float32)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny classifier of prompts."""
    place = tmp_path_factory.mktemp("classifier")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.BertConfig(
        vocab_size=200, intermediate_size=64, id2label={0: "fine", 1: "bad"},
        label2id={"fine": 0, "bad": 1}, **sizes,
    )  # fmt: skip
    hf.BertForSequenceClassification(config).save_pretrained(place)
    t5_tokenizer().save_pretrained(place)
    return place


@pytest.mark.parametrize("how", ["no head", "no layer", "a prefix", "another shape", "scales"])
def test_a_classifier_without_all_its_numbers_is_refused(classifier, tmp_path, how):
    """transformers would make the rest up: a filter that says anything."""
    folder = tmp_path / "classifier"
    shutil.copytree(classifier, folder)
    assert len(TextClassifier.from_folder(folder, ["bad"]).score(["a hat"])) == 1
    changes = {
        "no head": lambda s: without(s, "classifier.weight"),
        "no layer": lambda s: without(s, "attention.self.query.weight"),
        "a prefix": lambda s: {f"net.{k}": v for k, v in s.items()},
        "another shape": lambda s: s | {"classifier.weight": torch.zeros(3, 32)},
        "scales": lambda s: s | {"classifier.scale_weight": torch.ones(())},
    }
    rewrite(folder / "model.safetensors", changes[how])
    with pytest.raises(WeightsError):
        TextClassifier.from_folder(folder, ["bad"])


def test_a_classifiers_expressions_that_never_end_are_refused(classifier, tmp_path):
    folder = tmp_path / "classifier"
    shutil.copytree(classifier, folder)
    one = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}
    edit(folder / "tokenizer.json", normalizer=one)
    with pytest.raises(WeightsError, match="could take for ever"):
        TextClassifier.from_folder(folder, ["bad"])


def test_a_classifier_in_plain_float8_computes(classifier, tmp_path):
    folder = tmp_path / "classifier"
    shutil.copytree(classifier, folder)
    rewrite(folder / "model.safetensors", lambda s: {
        k: v.to(torch.float8_e4m3fn) if v.dim() == 2 else v for k, v in s.items()
    })  # fmt: skip
    (score,) = TextClassifier.from_folder(folder, ["bad"]).score(["a hat"])
    assert 0 < score < 1


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
