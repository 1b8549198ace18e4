"""An editor carried over to another autoencoder and another vocabulary."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minikontext as mk
from minikontext.errors import ConfigError
from minikontext.training import carry
from minikontext.training.editor import Editor, editor_loss
from minikontext.training.jobs import read_job
from minikontext.training.models import load_autoencoder
from minikontext.training.stream import Inputs, Stream, StreamConfig, grammar_encoder
from minikontext.training.world_editor import WorldEditorTraining
from minikontext.transformer import TransformerConfig

ROOT = Path(__file__).resolve().parents[2]
AUTOENCODER = ROOT / "runs-kept/autoencoder-e75f0d4631/weights"


@pytest.fixture(scope="module")
def lineage():
    return load_autoencoder(AUTOENCODER, torch.device("cpu"))


def text_config(**more):
    return replace(grammar_encoder(), max_length=20, **more)


def test_a_linear_map_is_found():
    torch.manual_seed(0)
    weight, bias, x = torch.randn(5, 5), torch.randn(5), torch.randn(2000, 5) + 3
    found, shift = carry.linear_map(x, x @ weight.T + bias)
    torch.testing.assert_close(found, weight, atol=0.02, rtol=0)
    torch.testing.assert_close(x @ found.T + shift, x @ weight.T + bias, atol=0.1, rtol=0)


def test_known_words_keep_their_meaning_and_new_ones_begin_with_that_of_their_synonym():
    old = mk.KontextPipeline.from_pretrained("toy").text_encoder
    new = carry.carry_words(old, text_config())

    def features(encoder, prompt):
        return encoder(encoder.tokenize([prompt])).tokens

    for prompt in ("make the hat red", "change the sign to HI", ""):
        torch.testing.assert_close(features(new, prompt), features(old, prompt))
    red, crimson = features(new, "make the hat red"), features(new, "make the hat crimson")
    torch.testing.assert_close(crimson, red)
    assert not torch.allclose(features(new, "make the hat navy"), red, atol=1e-2)
    assert "crimson" not in old.words  # so it was new


def test_a_longer_encoder_goes_on_with_the_last_place():
    old = mk.KontextPipeline.from_pretrained("toy").text_encoder
    new = carry.carry_words(old, replace(grammar_encoder(), max_length=28))
    assert new.tokenize(["make the hat red"]).shape == (1, 28 * 25)
    assert all(torch.equal(row, old.position[-1]) for row in new.position[20:])


def test_nothing_changes_where_the_autoencoder_stays():
    pipe = mk.KontextPipeline.from_pretrained("toy")
    weight, bias = pipe.transformer.img_in.weight.clone(), pipe.transformer.img_in.bias.clone()
    pictures = carry.training_pictures(150)
    carry.carry_latents(pipe.transformer, pipe.autoencoder, pipe.autoencoder, pictures)
    first = pipe.transformer.img_in
    assert (first.weight - weight).norm() < 0.05 * weight.norm()
    assert (first.bias - bias).norm() < 0.05 * bias.norm()


def test_what_latents_are_scaled_and_shifted_by_goes_into_the_first_and_the_last_layer():
    pipe = mk.KontextPipeline.from_pretrained("toy")
    first, last = pipe.transformer.img_in, pipe.transformer.final_layer.linear
    before = {layer: (layer.weight.clone(), layer.bias.clone()) for layer in (first, last)}
    new = copy.deepcopy(pipe.autoencoder)
    scale, shift = new.config.scale_factor, new.config.shift_factor
    new.config = replace(new.config, scale_factor=1.5 * scale, shift_factor=shift + 0.5)
    added = -0.75 * scale  # new latents are 1.5 old + added
    carry.carry_latents(pipe.transformer, pipe.autoencoder, new, carry.training_pictures(150))
    near = {"atol": 0.03, "rtol": 0.03}
    weight, bias = before[first]
    torch.testing.assert_close(first.weight, weight / 1.5, **near)
    torch.testing.assert_close(first.bias, bias - weight.sum(1) * added / 1.5, **near)
    weight, bias = before[last]
    torch.testing.assert_close(last.weight, 1.5 * weight, **near)
    torch.testing.assert_close(last.bias, 1.5 * bias - added, **near)  # velocity: noise - latent


def test_a_carried_editor_reads_the_new_latents(lineage):
    drawn = StreamConfig(words="plain", seed=7, sizes=((64, 64),), other_size=0.0, contexts=(1,))
    stream = Stream(drawn, lineage)
    dials = WorldEditorTraining(seed=5, layout="scaled_4", empty_prompts=0.0)

    def loss(editor):
        inputs, null = Inputs(stream, editor.text), editor.text.tokenize([""])[0]
        with torch.no_grad():
            return float(editor_loss(editor, inputs, null, dials, torch.device("cpu"))(0)[0])

    pipe = mk.KontextPipeline.from_pretrained("toy")
    words = carry.carry_words(pipe.text_encoder, text_config())
    carried = carry.carried_editor("toy", pipe.transformer.config, lineage, text_config())
    carried.layout = "scaled_4"
    assert loss(carried) < 0.5 * loss(Editor(pipe.transformer, words, "scaled_4"))


@pytest.mark.parametrize(
    ("sizes", "text", "said"),
    [
        (replace(TransformerConfig.toy(), depth=1), {}, r"\[transformer\] has to say"),
        (TransformerConfig.toy(), {"depth": 3}, r"\[text\] has to be of the same"),
    ],
)
def test_what_does_not_fit_is_told(lineage, sizes, text, said):
    with pytest.raises(ConfigError, match=said):
        carry.carried_editor("toy", sizes, lineage, text_config(**text))


def test_a_config_begins_in_one_way_only(tmp_path):
    config = ROOT / "configs/lineage/toy_carried.toml"
    text = config.read_text().replace("stage:autoencoder", "toy")
    path = tmp_path / "two.toml"
    path.write_text(text.replace('carry = "toy"', 'carry = "toy"\nstart = "toy"'))
    with pytest.raises(ConfigError, match="begins from those weights alone"):
        read_job(path)
