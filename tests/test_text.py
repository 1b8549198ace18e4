"""Text encoders: what becomes a token, what is reported, and FLUX's way of padding."""

import json
import shutil
import string
import subprocess
import zlib
from dataclasses import asdict

import pytest
import torch

from minikontext.errors import ConfigError, PromptError, PromptWarning, WeightsError
from minikontext.pretrained.text_encoders import FluxTextEncoder
from minikontext.runtime import files
from minikontext.runtime.config import build_config, read_json_if_there, write_json
from minikontext.text import (
    NGRAMS_PER_WORD,
    ToyTextConfig,
    ToyTextEncoder,
    ngram_rows,
    split_prompt,
)

WORDS = ("make", "the", "hat", "red", "write", "on", "sign", "a", "t-shirt")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ToyTextEncoder(ToyTextConfig(WORDS, max_length=8, width=16, depth=1, heads=2, pooled=12))


def tokens(prompt):
    return [piece.token for piece in split_prompt(prompt, WORDS)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Make the hat red!", ["make", "the", "hat", "red"]),
        ("MAKE THE HAT RED", ["make", "the", "hat", "red"]),
        ("", []),
        ("write HI on the sign", ["write", "<h>", "<i>", "on", "the", "sign"]),
        ("write “hi” on", ["write", "<h>", "<i>", "on"]),
        ("the hat's 'A'", ["the", "hat", "<a>"]),
        ("A red t-shirt, on-hat", ["a", "red", "t-shirt", "on", "hat"]),
        ("thé hát", ["the", "hat"]),
        ("the 帽子 🎩", ["the", "<unk>", "<unk>"]),
    ],
)
def test_a_prompt_becomes_these_tokens(prompt, expected):
    assert tokens(prompt) == expected


def test_ids_are_closed_and_padded_to_the_full_length(encoder):
    ids = encoder.tokenize(["make the hat red", ""])
    words = [[encoder.words[i] for i in row] for row in ids.tolist()]
    assert words[0] == ["make", "the", "hat", "red", "<end>", "<pad>", "<pad>", "<pad>"]
    assert words[1] == ["<end>"] + ["<pad>"] * 7
    assert encoder.tokenize([]).shape == (0, 8)


def test_features_have_the_promised_shapes_and_do_not_depend_on_the_batch(encoder):
    both, one = encoder.encode(["make the hat red", ""]), encoder.encode([""])
    assert both.tokens.shape == (2, 8, 16) and both.pooled.shape == (2, 12)
    torch.testing.assert_close(both.tokens[1:], one.tokens)
    torch.testing.assert_close(both.pooled[1:], one.pooled)
    assert not both.tokens.requires_grad


def test_training_reaches_every_parameter(encoder):
    features = encoder(encoder.tokenize(["make the hat red", "a sign"]))
    (features.tokens.square().mean() + features.pooled.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_unknown_words_are_named_with_the_nearest_known_ones(encoder):
    with pytest.warns(PromptWarning, match=r"'haat'.*Nearest known: hat"):
        encoder.encode(["make the haat red"])
    assert "No known word" in str(encoder.report("zzzzzz")[0])
    assert encoder.report("make the hat red") == []
    assert len(encoder.report("blob blob")) == 1


def test_a_too_long_prompt_says_what_it_lost(encoder):
    (warning,) = encoder.report("make the hat red on the sign a hat")
    assert "10 tokens but only 8 fit" in str(warning) and "'a hat'" in str(warning)
    with pytest.warns(PromptWarning, match="Dropped"):
        features = encoder.encode(["make the hat red on the sign a hat"])
    assert features.tokens.shape == (1, 8, 16)


@pytest.mark.parametrize("bad", [None, 3, b"red", ["red", 3], [None], {"a": 1}])
def test_anything_but_text_is_refused(encoder, bad):
    with pytest.raises(PromptError):
        encoder.encode(bad)
    assert issubclass(PromptError, ValueError)


# ------------------------------------------------------------------ FLUX, real parts, tiny sizes


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    """A diffusers folder with random T5 and CLIP of a few thousand parameters."""
    hf = pytest.importorskip("transformers")
    folder, letters = tmp_path_factory.mktemp("flux"), string.ascii_lowercase
    torch.manual_seed(0)
    clip_words = [*letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    clip = hf.CLIPTokenizer(vocab={w: i for i, w in enumerate(clip_words)}, merges=[])
    t5_words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    t5 = hf.T5Tokenizer(vocab=t5_words + [(x, -2.0) for x in letters], extra_ids=0)
    clip.save_pretrained(folder / "tokenizer")
    t5.save_pretrained(folder / "tokenizer_2")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 12}
    ends = {"bos_token_id": len(clip_words) - 2, "eos_token_id": len(clip_words) - 1}
    clip_config = hf.CLIPTextConfig(
        vocab_size=len(clip_words), intermediate_size=16, **small, **ends
    )
    hf.CLIPTextModel(clip_config).save_pretrained(folder / "text_encoder")
    t5_config = hf.T5Config(
        vocab_size=len(t5), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    hf.T5EncoderModel(t5_config).save_pretrained(folder / "text_encoder_2")
    return folder


@pytest.fixture(scope="module")
def flux(flux_folder):
    return FluxTextEncoder.from_folder(flux_folder, dtype=torch.float32, max_length=24)


def test_flux_features_are_padded_and_unmasked(flux):
    features = flux.encode(["make the hat red", ""])
    assert features.tokens.shape == (2, 24, 16) and features.pooled.shape == (2, 12)
    ids = flux.t5_tokenizer("make the hat red", padding="max_length", max_length=24)["input_ids"]
    everything = torch.ones(1, 24, dtype=torch.long)
    seen = flux.t5(input_ids=torch.tensor([ids]), attention_mask=everything)[0]
    torch.testing.assert_close(features.tokens[:1], seen)


def test_flux_prompts_are_encoded_once(flux, monkeypatch):
    first = flux.encode(["a hat"])
    monkeypatch.setattr(flux, "_encode", lambda prompt: pytest.fail("encoded again"))
    assert torch.equal(flux.encode(["a hat", "a hat"]).tokens[1:], first.tokens)


def test_flux_reports_what_does_not_fit(flux):
    long = "red " * 90
    t5, clip = (str(warning) for warning in flux.report(long))
    assert "T5" in t5 and "only 24 fit" in t5 and "CLIP" in clip and "only 77 fit" in clip
    with pytest.warns(PromptWarning, match="Dropped"):
        assert flux.encode([long]).tokens.shape == (1, 24, 16)


def test_flux_words_go_where_the_encoder_is(flux_folder):
    moved = FluxTextEncoder.from_folder(flux_folder, dtype=torch.float32, max_length=24)
    assert moved.to("meta")._ids(moved.clip_tokenizer, "a hat", 8).is_meta


def test_a_folder_without_text_encoders_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="tokenizer, text_encoder"):
        FluxTextEncoder.from_folder(tmp_path)


SCRIPTS = ["a hat ❤️", "写上HI", "你好 HI", "हिन्दी hat", "1️⃣ hat", "𝐇𝐈 hat", "HİÇ hat", "Ⅷ a",
           "make it 🏳️‍🌈"]  # fmt: skip


def test_the_marks_of_an_emoji_are_no_words(encoder):
    assert [one.word for one in encoder.report("a red hat ❤️")] == ["❤"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_cuts_other_scripts_and_emoji_as_python_does(tmp_path):
    page = files.PACKAGE / "page" / "static" / "model.js"
    shutil.copy(page, tmp_path / "model.mjs")
    words = ["a", "hat", "make", "it"]
    code = f"""import {{ splitPrompt }} from "./model.mjs";
        const cut = (prompt) => splitPrompt(prompt, new Set({json.dumps(words)}));
        const pieces = {json.dumps(SCRIPTS)}.map(cut);
        console.log(JSON.stringify(pieces.map((p) => p.map((x) => [x.token, x.source]))));"""
    (tmp_path / "cut.mjs").write_text(code, encoding="utf-8")
    found = subprocess.run(["node", "cut.mjs"], cwd=tmp_path, capture_output=True, check=True)
    wanted = [[[p.token, p.source] for p in split_prompt(one, words)] for one in SCRIPTS]
    assert json.loads(found.stdout) == wanted


def test_unfinished_words_can_be_completed():
    encoder = ToyTextEncoder(ToyTextConfig(vocabulary=("hat", "house", "red", "the")))
    assert encoder.complete("the h") == ["hat", "house"]
    assert encoder.complete("the h", count=1) == ["hat"]
    assert encoder.complete("the hat") == encoder.complete("the ") == encoder.complete("zz") == []


# ------------------------------------------------------------------ the second edition: n-grams


@pytest.fixture
def speller():
    torch.manual_seed(0)
    words = ("make", "hat", "spotted", "rain", "yellow", "flower")
    return ToyTextEncoder(
        ToyTextConfig(words, max_length=8, width=16, depth=1, heads=2, pooled=12, ngrams=512)
    )


def test_letter_groups_are_few_known_and_the_same_everywhere():
    rows = ngram_rows("hat", 512)
    assert len(rows) == NGRAMS_PER_WORD and sum(row > 0 for row in rows) == 6
    assert rows[:2] == [zlib.crc32(b"<ha") % 511 + 1, zlib.crc32(b"hat") % 511 + 1]
    assert len(ngram_rows("watercolours-and-more", 512)) == NGRAMS_PER_WORD
    assert not any(ngram_rows("", 512))


def test_words_spelled_alike_have_vectors_that_are_alike(speller):
    def vector(word):
        return speller.ngrams.table(torch.tensor([ngram_rows(word, 512)]))[0]

    def likeness(one, other):
        return torch.cosine_similarity(vector(one), vector(other), dim=0)

    assert likeness("spots", "spotted") > 0.3 > likeness("spots", "yellow")
    assert likeness("flwoer", "flower") > likeness("flwoer", "yellow")


def test_unknown_words_differ_only_with_n_grams(speller, encoder):
    one, other = encoder(encoder.tokenize(["blorp"])), encoder(encoder.tokenize(["quux"]))
    assert torch.equal(one.pooled, other.pooled)
    one, other = speller(speller.tokenize(["blorp"])), speller(speller.tokenize(["quux"]))
    assert not torch.allclose(one.pooled, other.pooled)


def test_an_encoder_without_n_grams_is_what_it_was():
    torch.manual_seed(3)
    plain = ToyTextEncoder(ToyTextConfig(WORDS, max_length=8, width=16, depth=1, heads=2))
    torch.manual_seed(3)
    more = ToyTextEncoder(ToyTextConfig(WORDS, max_length=8, width=16, depth=1, heads=2, ngrams=64))
    shared = plain.state_dict()
    assert {key for key in more.state_dict() if key not in shared} == {
        "ngrams.table.weight",
        "ngrams.proj.weight",
    }
    assert all(torch.equal(more.state_dict()[key], value) for key, value in shared.items())
    assert torch.equal(plain.tokenize(["the hat"]), more.tokenize(["the hat"])[:, :8])


def test_sign_letters_and_padding_have_no_letter_groups(speller):
    rows = speller.tokenize(['make "HI"'])[0, 8:].view(8, NGRAMS_PER_WORD)
    assert rows.any(dim=1).tolist() == [True] + [False] * 7


def test_training_reaches_the_letter_groups(speller):
    speller(speller.tokenize(["mkae hat"])).pooled.sum().backward()
    assert speller.ngrams.table.weight.grad.abs().sum() > 0
    assert speller.ngrams.proj.weight.grad.abs().sum() > 0


def test_a_slip_of_the_finger_is_no_unknown_word(speller):
    assert speller.report("mkae hat yelow spoted") == []
    assert [warning.word for warning in speller.report("make dog helicopter")] == [
        "dog",
        "helicopter",
    ]


def test_a_table_of_one_row_is_refused():
    with pytest.raises(ConfigError, match="ngrams 1"):
        ToyTextConfig(ngrams=1)


def test_an_absent_word_is_named_with_what_stands_nearest():
    absent = (("flowerpot", "flower"), ("dog", "cat"))
    encoder = ToyTextEncoder(ToyTextConfig(("make", "flower"), ngrams=64, absent=absent))
    dog, pot = encoder.report("make Dog flowerpot")
    assert dog.suggestions == ("cat",) and pot.suggestions == ("flower",)
    plain = ToyTextEncoder(ToyTextConfig(("make", "flower"), ngrams=64))
    assert [warning.word for warning in plain.report("flowerr")] == []


def test_a_config_of_the_second_edition_survives_a_file(tmp_path):
    config = ToyTextConfig(("make",), max_length=32, ngrams=64, absent=(("dog", "cat"),))
    write_json(tmp_path / "text.json", asdict(config))
    assert build_config(ToyTextConfig, read_json_if_there(tmp_path / "text.json")) == config
    with pytest.raises(ConfigError, match="ngrams"):
        build_config(ToyTextConfig, {"ngrams": 2**30})
