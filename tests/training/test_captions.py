"""Captions that tell all of a picture: nothing is missing, nothing else is said."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import ConfigError, TrainingError
from minikontext.text import ToyTextEncoder, split_prompt
from minikontext.toyworld import Case, Scene
from minikontext.toyworld.lexicon import forms
from minikontext.toyworld.scene import sample_scene
from minikontext.toyworld.split import scene_keys, split_of_all
from minikontext.training import captions
from minikontext.training.stream import Stream, StreamConfig, grammar_encoder

SLOTS = {"left": ("thing",), "right": ("thing",)} | {
    f"{name}colour": ("colour",) for name in ("", "accessory_", "left_", "right_")
}
ALSO = {"background": ("background", "where"), "time": ("time", "when")}


def case(scene: Scene) -> Case:
    """A case whose prompt tells all of a scene."""
    return replace(captions.sample_told(0, 4, "train", 0), target=scene)


def said(scene: Scene, name: str, text: str) -> bool:
    """Whether a caption holds a form of an attribute's value that training hears."""
    value = getattr(scene, name)
    if name == "sign":
        return f'"{value}"' in text
    slots = SLOTS.get(name) or ALSO.get(name, (name,))
    known = [form for slot in slots for form in forms(slot, value, unheard=False)]
    return any(re.search(rf"\b{re.escape(form)}\b", text) for form in known)


@pytest.mark.parametrize("share", [0.0, 1.0])  # lists, and sentences where they fit
def test_every_attribute_is_told_and_what_is_absent_is_not(monkeypatch, share):
    monkeypatch.setattr(captions, "SENTENCE_SHARE", share)
    monkeypatch.setattr(captions.grammar, "finish", lambda text, *_: text)  # no slips of the finger
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng, 4).change(mark="none")
        text = captions.tell(case(scene), rng)
        there = {"species", "colour", *captions.SAID} - {
            name for name, absent in captions.ABSENT.items() if getattr(scene, name) == absent
        }
        there |= {"pattern"} if scene.pattern != "plain" else set()
        there |= {f"{name}_colour" for name in ("accessory", "left", "right")} & {
            f"{name}_colour" for name in there
        }
        missing = [name for name in there if not said(scene, name, text)]
        assert not missing, (scene, text)
        assert ("sign" in text) == bool(scene.sign) and ("style" in text) == ("style" in there)
        assert "none" not in text and "{" not in text


def test_a_caption_is_read_to_its_end_and_is_seldom_the_same():
    rng, encoder = random.Random(1), ToyTextEncoder(grammar_encoder())
    scene = Scene("robot", "pink", "striped", "single", "glasses", "blue", "left", "tree", "green",
                  "house", "white", "WORD", "desert", "sunset", "pastel")  # fmt: skip
    told = {captions.tell(case(scene), rng) for _ in range(100)}
    assert len(told) > 90
    room = encoder.max_length - 1  # one token closes the prompt
    assert all(len(split_prompt(text, encoder.config.vocabulary)) <= room for text in told)


@pytest.fixture(scope="module")
def autoencoder():
    sizes = AutoEncoderConfig(64, 3, 4, 3, (1, 1, 1, 1), 1, 16, 1.0, 0.0, norm_groups=2)
    return AutoEncoder(sizes).eval()


def test_told_pictures_take_their_share_of_those_without_a_context(autoencoder, tmp_path):
    config = StreamConfig(tokens=500, text_to_image=0.5, told=0.6)
    stream = Stream(config, autoencoder, tmp_path)
    kinds: Counter[str] = Counter()
    for number in range(300):
        cases = stream.cases(number)
        (kind,) = {
            "told" if case.operation == captions.NAME
            else "left open" if not case.contexts else "edit"
            for case in cases
        }  # fmt: skip
        kinds[kind] += 1
        for case in cases:
            scenes = (*case.contexts, case.target)
            assert split_of_all(key for one in scenes for key in scene_keys(one)) == "train"
    assert 0.24 < kinds["told"] / 300 < 0.36 and 0.14 < kinds["left open"] / 300 < 0.26
    with pytest.raises(TrainingError, match="remove it first"):
        Stream(StreamConfig(tokens=500, text_to_image=0.5), autoencoder, tmp_path)
    with pytest.raises(ConfigError, match="told=1.5"):
        StreamConfig(told=1.5)


def test_a_told_batch_is_of_right_answers_to_edits_and_is_determined(autoencoder):
    stream = Stream(StreamConfig(tokens=500, text_to_image=1.0, told=1.0), autoencoder)
    seen = [(stream.cases(step), stream.batch(step)) for step in range(12)]
    for step, (cases, batch) in enumerate(seen):
        assert not batch.contexts and len(batch.prompts) == len(cases) == len(batch.target)
        assert bool(stream.determined(step).all())
    drawn = [case.target for cases, _ in seen for case in cases]
    assert any(scene.sign for scene in drawn) and any(scene.left != "none" for scene in drawn)
    assert not [scene for scene in drawn if scene.mark != "none"]
