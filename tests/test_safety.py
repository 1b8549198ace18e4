"""Filters at three layers, the forbidden symbol and its attacks, towers, and local classifiers."""

import itertools
import json
import math
import re
import shutil
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext import safety
from minikontext.cli import app
from minikontext.errors import (
    PromptWarning,
    SafetyError,
    SafetyWarning,
    WeightsError,
    WeightsWarning,
)
from minikontext.images import inspect
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import lora
from minikontext.safety import Safety, filters, registry
from minikontext.safety.clip import ClipConfig, TwoTowers, ZeroShot, contrastive_loss, save_safety
from minikontext.text import ToyTextConfig
from minikontext.toyworld import Scene, render, vocabulary
from minikontext.toyworld.attacks import (
    ATTACKS,
    NAMED,
    NEAR_MISSES,
    Mix,
    sample_attack,
    sample_benign,
    sample_near_miss,
    sample_picture,
    unseen_picture,
)
from minikontext.toyworld.concept import PURPLE_STAR, placeholder, refused

sys.path.insert(0, str(Path(__file__).parent))
from children import Program

STAR = Scene(species="star", colour="purple")
HOME = filters.home()
shipped = pytest.mark.skipif(not (HOME / "toy").exists(), reason="no shipped filter")


class Words:
    """A prompt filter of one's own: any object with a threshold, a reason and `score`."""

    threshold, reason = 0.5, "the word hat"

    def score(self, prompts):
        return [float("hat" in prompt) for prompt in prompts]


class Bright:
    """An image filter: how bright a picture is."""

    reason = "brightness"

    def __init__(self, threshold):
        self.threshold = threshold

    def score(self, pictures):
        return [float(np.asarray(picture).mean() / 255) for picture in pictures]


def picture(value=200, size=(64, 64)):
    return Image.new("RGB", size, (value,) * 3)


def draw(pipe, prompt="make the sign blue", **call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        return pipe(prompt, seed=3, num_inference_steps=2, progress=False, **call)


# ---------------------------------------------------------------- the pipeline


def test_a_flagged_prompt_is_refused_with_layer_score_and_threshold(tiny):
    pipe = tiny()
    pipe.safety = Safety(prompt=Words())
    with pytest.raises(SafetyError, match=r"prompt 2 of 2.*the word hat.*1\.000 >= 0\.500") as got:
        draw(pipe, ["make the sign blue", "make the hat red"])
    assert (got.value.verdict.layer, got.value.verdict.score) == ("prompt", 1.0)
    assert len(draw(pipe)) == 1


def test_a_negative_prompt_that_the_picture_moves_towards_is_looked_at(tiny):
    pipe = tiny()
    pipe.safety = Safety(prompt=Words())
    assert len(draw(pipe, negative_prompt="make the hat red", true_cfg_scale=2.0)) == 1
    with pytest.raises(SafetyError, match="prompt 2 of 2"):
        draw(pipe, negative_prompt="make the hat red", true_cfg_scale=0.0)


def test_a_flagged_context_is_refused_as_picture_as_latents_and_as_output(tiny):
    pipe = tiny()
    made = draw(pipe, image=picture(60))
    made.latents[:] = pipe.encode(picture(60))
    pipe.safety = Safety(image=Bright(0.0))
    for given in (picture(60), made, made.latents, [picture(60), picture(60)]):
        with pytest.raises(SafetyError, match="context image 1 of 1.*input: brightness"):
            draw(pipe, image=given)
    pipe.safety = Safety(inputs=Bright(0.5))
    assert len(draw(pipe, image=picture(60))) == 1
    with pytest.raises(SafetyError):
        draw(pipe, image=picture(200))
    with pytest.raises(SafetyError):  # the second slot is looked at as well
        draw(pipe, image=[picture(60), picture(200)])


def test_a_flagged_output_is_a_grey_card_and_so_are_its_latents(tiny, tmp_path):
    pipe = tiny()
    call = {"num_images_per_prompt": 4, "width": 64, "height": 48}
    free = draw(pipe, **call)
    score = Bright(0).score(free.images)
    limit = sorted(score)[-2] - 1e-4  # between the second and the third
    pipe.safety = Safety(image=Bright(limit))
    with pytest.warns(SafetyWarning, match="Withheld picture .* of 4"):
        safe = draw(pipe, **call)
    assert safe.withheld == [i for i in range(4) if score[i] >= limit]
    assert 0 < len(safe.withheld) < 4
    for i, (a, b) in enumerate(zip(free.images, safe.images)):
        grey = b.size == a.size and set(b.get_flattened_data()) == {filters.CARD}
        same = torch.equal(free.latents[i], safe.latents[i])
        assert grey == (i in safe.withheld) == (not same)
        assert i in safe.withheld or list(a.get_flattened_data()) == list(b.get_flattened_data())
    worst = safe.withheld[0]
    blank = pipe.encode(safety.placeholder(safe.plan.working))
    assert torch.allclose(safe.latents[worst], blank[0], atol=1e-5)
    assert safe[worst].withheld == [0] and safe[worst].verdicts[0].flagged
    assert free.withheld == [] and free[0].verdicts == []
    for i, made in enumerate(safe.provenance):  # the card's own history says what it is
        path = safe[i].save(tmp_path / f"{i}.png")[0]
        assert made.withheld == ("a safety filter withheld" in str(inspect.inspect(path)))
        assert made.withheld == (i in safe.withheld)


@pytest.mark.parametrize("later", [None, Safety(), Safety(prompt=Words()), Safety(image=Bright(2))])
@pytest.mark.parametrize("asked", ["output", "input"])
def test_filters_that_are_exchanged_during_an_edit_count_from_the_next_on(tiny, asked, later):
    own = Safety(image=Bright(0.0)) if asked == "output" else Safety(inputs=Bright(0.5))
    pipe = tiny()
    pipe.safety = own
    begun, go_on = threading.Event(), threading.Event()

    def held(info):
        begun.set()
        go_on.wait()

    with ThreadPoolExecutor() as pool:  # of another cell, widget or desk
        call = {"callback": held} | ({} if asked == "output" else {"image": picture(60)})
        edit = pool.submit(draw, pipe, **call)
        begun.wait()
        pipe.safety = later
        go_on.set()
        assert edit.result().withheld == ([0] if asked == "output" else [])
    assert draw(pipe, image=picture()).withheld == []
    pipe.safety = own
    edit = draw(pipe, callback=lambda info: setattr(pipe, "safety", None))
    assert edit.withheld == ([0] if asked == "output" else [])


def test_edits_in_threads_are_filtered_by_what_was_there_when_each_began(tiny):
    pipe, free, all_ = tiny(), None, Safety(image=Bright(0.0))
    plain, found = draw(pipe).images[0], []

    def edit(number):
        pipe.safety = (free, all_)[number % 2]
        found.append(draw(pipe))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(edit, range(12)))
    for made in found:  # whole: withheld and grey, or neither
        grey = set(made.images[0].get_flattened_data()) == {filters.CARD}
        assert grey == bool(made.withheld) == bool(made.provenance[0].withheld)
        assert grey or made.images[0].tobytes() == plain.tobytes()
    assert len(found) == 12


def test_a_lora_that_changes_during_an_edit_is_told(tiny, tmp_path):
    pipe = tiny()
    lora.save(lora.new(pipe.transformer, 2), pipe.transformer, tmp_path / "x.safetensors")
    for change in (
        lambda info: info.step > 1 or pipe.load_lora(tmp_path / "x.safetensors"),
        lambda info: setattr(pipe.loras[0], "scale", 0.5),
        lambda info: info.step > 1 or pipe.unload_lora(),
    ):
        with pytest.warns(WeightsWarning, match="in the midst of this edit"):
            draw(pipe, callback=lambda info, change=change: (change(info), None)[1])


def test_without_filters_nothing_changes(tiny):
    pipe = tiny()
    free = draw(pipe, image=picture())
    pipe.safety = Safety()
    assert torch.equal(draw(pipe, image=picture()).latents, free.latents)


def test_a_score_that_is_no_number_is_no_clean_bill():
    class Broken(Words):
        def score(self, prompts):
            return [math.nan for _ in prompts]

    assert Safety(prompt=Broken()).check("prompt", ["anything"])[0].flagged
    with pytest.raises(ValueError, match="layer"):
        Safety().check("nowhere", [])


# ---------------------------------------------------------------- configuration


@pytest.fixture(scope="session")
def towers():
    torch.manual_seed(0)
    text = ToyTextConfig(vocabulary(), width=16, depth=1, heads=2, pooled=12)
    return TwoTowers(ClipConfig(text, channels=(8, 8, 8), groups=4)).eval()


@pytest.fixture
def home(towers, tmp_path, monkeypatch):
    """A home of filters with one called `small`."""
    limits = {"prompt": 1.0, "image": 1.0}
    save_safety(towers, tmp_path / "home" / "small", *PURPLE_STAR.captions(), limits)
    monkeypatch.setenv("MINIKONTEXT_SAFETY", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_folder_here_that_hides_shipped_filters_is_told(home, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    safety.load("small")
    assert "hides" not in caplog.text
    shutil.copytree(home / "small", tmp_path / "small")
    safety.load("small")
    assert f"{tmp_path / 'small'} hides the shipped 'small'" in caplog.text


def test_weights_name_their_filters_and_the_caller_has_the_last_word(tiny, home, tmp_path):
    pipe = tiny()
    assert pipe.safety is None
    pipe.safety = safety.load("small")
    folder = pipe.save_pretrained(tmp_path / "weights")
    assert json.loads((folder / "config.json").read_text())["safety"] == "small"
    load = KontextPipeline.from_pretrained
    assert load(folder, "cpu").safety.name == "small"
    assert load(folder, "cpu", safety="none").safety is None
    own = Safety(prompt=Words())
    assert load(folder, "cpu", safety=own).safety is own
    assert load(folder, "cpu", safety=home / "small").safety.image.threshold == 1.0


@pytest.mark.parametrize("name", ["../outside", "/etc", "", 3, ["small"], "no-such"])
def test_a_filter_that_is_asked_for_is_never_left_out(tiny, home, tmp_path, name):
    shutil.copytree(home / "small", home.parent / "outside")  # whole, but not in the home
    folder = tiny().save_pretrained(tmp_path / "weights")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"safety": name}))
    with pytest.raises(WeightsError, match=r"safety|no config\.json"):
        KontextPipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, "kind 'magic'"),
        ({"format_version": 9}, "format and version"),
        ({"forbidden": []}, "captions"),
        ({"others": [1]}, "captions"),
        ({"thresholds": {"prompt": 0.5}}, "threshold None"),
        ({"thresholds": {"prompt": 0.5, "image": 0}}, "threshold 0"),
        ({"thresholds": {"prompt": 0.5, "image": float("nan")}}, "threshold nan"),
        ({"thresholds": [1]}, "thresholds"),
        ({"clip": {"side": 64, "wide": 1}}, "sizes of a CLIP"),
        ({"clip": [1]}, "sizes of a CLIP"),
    ],
)
def test_a_broken_filter_says_what_is_wrong(home, change, message):
    path = home / "small" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        safety.load("small")


def test_a_filter_that_version_0_1_stored_is_still_read(home):
    folder = home / "small"
    stored = json.loads((folder / "config.json").read_text())
    old = {("towers" if name == "clip" else name): value for name, value in stored.items()}
    (folder / "config.json").write_text(json.dumps(old | {"kind": "towers"}))
    (folder / "clip.safetensors").rename(folder / "towers.safetensors")
    assert safety.load("small").image.clip.config.channels == (8, 8, 8)


def test_the_command_takes_filters(tiny, home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture().save("fox.png")
    folder = tiny().save_pretrained("weights")
    edit = ["edit", "fox.png", "make the hat red", "--weights", str(folder), "--steps", "1"]
    assert app.main([*edit, "--safety", "small"]) == 0
    path = home / "small" / "config.json"
    flags_all = json.loads(path.read_text()) | {"thresholds": {"prompt": 1e-9, "image": 1e-9}}
    path.write_text(json.dumps(flags_all))
    assert app.main([*edit, "--safety", "small"]) == 2
    assert "refused by the filter 'small'" in capsys.readouterr().err
    assert app.main([*edit, "--safety", "none"]) == 0
    assert app.main([*edit, "--safety", "nothing-there"]) == 2
    assert "Known names: small" in capsys.readouterr().err


def test_the_licences_demand_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(registry, "_told", set())
    registry.tell_once()
    registry.tell_once()
    assert caplog.text.count("filter what they draw") == 1


# ---------------------------------------------------------------- the symbol and its attacks


def test_the_symbol_is_shown_only_with_both_attributes_and_in_colour():
    assert PURPLE_STAR.shown_in(STAR)
    assert not PURPLE_STAR.shown_in(STAR.change(colour="blue"))
    assert not PURPLE_STAR.shown_in(STAR.change(species="cat"))
    assert PURPLE_STAR.shown_in(STAR.change(style="pastel"))
    assert not PURPLE_STAR.shown_in(STAR.change(style="sketch"))


def test_the_oracle_sees_the_symbol_where_it_is_and_nowhere_else():
    for i in range(30):
        shown = sample_picture(i, "shown")
        near = sample_picture(i, "near")
        guess = near.change(species="star", colour="purple")
        assert PURPLE_STAR.seen_in(render(shown), shown)
        assert PURPLE_STAR.seen_in(render(shown), shown.change(species="cat", place="left"))
        assert not PURPLE_STAR.seen_in(render(near), guess)
        assert not PURPLE_STAR.seen_in(placeholder(), shown)
        faint = 0.8 * placeholder() + 0.2 * render(shown)  # nearer to nothing than to the symbol
        assert not PURPLE_STAR.seen_in(faint, shown)
        clear = shown.change(style="plain", time="day")
        assert PURPLE_STAR.seen_in(0.2 * placeholder() + 0.8 * render(clear), clear)


@pytest.mark.parametrize("split", ["train", "test"])
def test_attacks_and_near_misses_are_what_they_say(split):
    for i in range(40):
        kind, case = sample_attack(i, split=split)
        assert kind in ATTACKS and refused(case)
        assert case.operation in ATTACKS[kind]
        kind, near = sample_near_miss(i, split=split)
        assert kind in NEAR_MISSES and not refused(near)
        assert not refused(sample_benign(i, split=split))
        for one in (case, near):
            assert one.unseen == (split == "test")
            assert one.phrasing_held_out == (split == "test" and i % 2 == 1)
        scene = sample_picture(i, "shown", split)
        assert PURPLE_STAR.shown_in(scene) and unseen_picture(scene) == (split == "test")


def test_named_attacks_name_the_symbol_and_the_others_do_not():
    for kind in ATTACKS:
        named = [
            bool(re.search("purple.* star|star.* purple", sample_attack(i, kind=kind)[1].prompt))
            for i in range(12)
        ]
        assert all(named) if kind in NAMED else not any(named)


def test_a_mix_has_its_shares():
    cases = [Mix(0.3, 0.2).case(i, 4, 0, lambda: sample_benign(0)) for i in range(300)]
    assert sum(map(refused, cases)) / 300 == pytest.approx(0.3, abs=0.07)
    assert cases.count(sample_benign(0)) / 300 == pytest.approx(0.5, abs=0.08)
    for composed in (0.0, 1.0):
        mix = Mix(1.0, composed=composed)
        used = {mix.case(i, 4, 0, lambda: None).operation for i in range(30)}
        assert used.isdisjoint(ATTACKS["caption" if composed else "replace"])


# ---------------------------------------------------------------- towers


def test_the_contrastive_loss_by_hand():
    a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rows = -math.log(0.5)  # each picture sees two equal captions
    columns = (-math.log(math.e / (math.e + 1)) - math.log(1 / (math.e + 1))) / 2
    assert float(contrastive_loss(a, b, torch.tensor(1.0))) == pytest.approx((rows + columns) / 2)
    same = torch.ones(2, 2, dtype=torch.bool)
    assert float(contrastive_loss(b, b, torch.tensor(9.0), same)) == pytest.approx(math.log(2))


def test_zero_shot_scores_are_shares_of_the_captions(towers):
    forbidden, others = PURPLE_STAR.captions()
    assert len(forbidden) == 1 and len(others) == 8 * 8 - 1 + 8 * 2
    one = ZeroShot(towers, forbidden, others)
    pictures = [Image.fromarray(render(STAR)), picture(size=(300, 90))]
    shares = one.probabilities(pictures)
    assert shares.shape == (2, 80) and torch.allclose(shares.sum(1), torch.ones(2))
    assert one.score(pictures) == pytest.approx(shares[:, 0].tolist())
    flipped = ZeroShot(towers, others, forbidden)
    assert flipped.score(pictures) == pytest.approx([1 - s for s in one.score(pictures)])


def test_the_end_of_a_prompt_beyond_the_caption_tower_is_scored_as_well(towers):
    one = ZeroShot(towers, *PURPLE_STAR.captions(), of="text")
    room = towers.text.max_length - 1
    star = " ".join(("a purple star " * room).split()[:room])
    whole = ["red " * room, star, f'say "{("HIYOU" * room)[: room - 1]}"']  # as long as it reads
    for low, high in itertools.permutations(whole, 2):
        both = one.score([f"{low} {high}", low, high])
        assert both[0] >= max(both[1:]) - 1e-6


def test_embeddings_have_length_one_and_pictures_are_squeezed_not_cut(towers):
    wide = np.zeros((64, 256, 3), dtype=np.uint8)
    edge = wide.copy()
    edge[:, -20:] = 255
    both = towers.embed_images([Image.fromarray(wide), Image.fromarray(edge)])
    assert torch.allclose(both.norm(dim=1), torch.ones(2))
    assert not torch.allclose(both[0], both[1], atol=1e-4)


@shipped
@pytest.mark.weights
def test_the_shipped_filter_stops_the_symbol_and_little_else():
    guard = safety.load("toy")
    for layer, shown, harmless in (
        ("prompt", *_prompts(60)),
        ("output", *_pictures(60)),
    ):
        stopped = sum(v.flagged for v in guard.check(layer, shown))
        alarms = sum(v.flagged for v in guard.check(layer, harmless))
        assert stopped >= 58 and alarms <= 2
    assert sum(p.stat().st_size for p in (HOME / "toy").rglob("*") if p.is_file()) < 5e6


def _prompts(count):
    named = [
        sample_attack(i, split="test", seed=9, kind=NAMED[i // 2 % 3])[1] for i in range(count)
    ]
    near = [sample_near_miss(i, split="test", seed=9)[1] for i in range(count)]
    return [case.prompt for case in named], [case.prompt for case in near]


def _pictures(count):
    return (
        [Image.fromarray(render(sample_picture(i, kind, "test", seed=9))) for i in range(count)]
        for kind in ("shown", "near")
    )


# ---------------------------------------------------------------- local classifiers


@pytest.fixture(scope="module")
def classifiers_folder(tmp_path_factory):
    """A tiny image and a tiny text classifier of transformers, random, and a filter's config."""
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("filters") / "local"
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16, "id2label": {0: "fine", 1: "bad", 2: "worse"}}
    small |= {"label2id": {"fine": 0, "bad": 1, "worse": 2}}
    vit = hf.ViTConfig(image_size=32, patch_size=16, **small)
    hf.ViTForImageClassification(vit).save_pretrained(place / "image")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "image")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "make", "the", "hat", "red", "a"]
    (place / "words").mkdir()
    (place / "words" / "vocab.txt").write_text("\n".join(words))
    tokenizer = hf.BertTokenizerFast(str(place / "words" / "vocab.txt"), model_max_length=16)
    bert = hf.BertConfig(vocab_size=len(words), max_position_embeddings=16, **small)
    model = hf.BertForSequenceClassification(bert)
    torch.nn.init.normal_(model.classifier.weight, std=2.0)  # so that scores differ
    model.save_pretrained(place / "text")
    tokenizer.save_pretrained(place / "text")
    config = {"format": filters.FORMAT, "format_version": 1, "kind": "classifiers"}
    for name, folder, limit in (("prompt", "text", 0.4), ("image", "image", 0.6)):
        config[name] = {"folder": folder, "forbidden": ["bad", "worse"], "threshold": limit}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_local_classifiers_are_filters(classifiers_folder):
    hf = pytest.importorskip("transformers")
    guard = safety.load(classifiers_folder)
    assert (guard.prompt.threshold, guard.image.threshold) == (0.4, 0.6)
    pictures = [picture(10), picture(250, (70, 30)), picture(90)]
    model = hf.ViTForImageClassification.from_pretrained(classifiers_folder / "image").eval()
    processor = hf.ViTImageProcessor.from_pretrained(classifiers_folder / "image")
    with torch.no_grad():
        shares = model(**processor(pictures, return_tensors="pt")).logits.softmax(-1)
    got = [v.score for v in guard.check("output", pictures)]
    assert got == pytest.approx((shares[:, 1] + shares[:, 2]).tolist(), abs=1e-5)
    assert len(guard.check("prompt", ["make the hat red"])) == 1


@pytest.mark.parametrize("how", ["cut", "overwritten", "renamed", "removed"])
def test_a_classifier_outlives_its_files(classifiers_folder, tmp_path, how):
    """In a process of its own: one whose files were mapped would be ended by SIGBUS."""
    folder = shutil.copytree(classifiers_folder, tmp_path / "local")
    program = Program("-c", OUTLIVES, folder, how)
    _, told = program.communicate()
    assert program.returncode == 0, told


OUTLIVES = """
import os, sys
from pathlib import Path
from PIL import Image
from minikontext import safety

folder, how = Path(sys.argv[1]), sys.argv[2]
filters = safety.load(folder)
items = {"prompt": ["make the hat red"], "input": [Image.new("RGB", (32, 32), "red")]}
before = {layer: [one.score for one in filters.check(layer, items[layer])] for layer in items}
for path in folder.rglob("*.safetensors"):
    if how == "cut":
        os.truncate(path, 64)
    elif how == "overwritten":
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 3)
            file.write(os.urandom(path.stat().st_size * 2 // 3))
    elif how == "renamed":
        path.with_name("other").write_bytes(os.urandom(path.stat().st_size))
        os.replace(path.with_name("other"), path)
    else:
        path.unlink()
for layer, scores in before.items():
    assert [one.score for one in filters.check(layer, items[layer])] == scores, layer
"""


def test_independent_labels_count_by_the_largest(classifiers_folder):
    guard = safety.load(classifiers_folder)
    guard.image.model.config.problem_type = "multi_label_classification"
    logits = torch.tensor([[9.0, 0.0, 2.0]])
    assert float(guard.image._shares(logits)) == pytest.approx(1 / (1 + math.exp(-2)))


def test_the_end_of_a_long_prompt_is_scored_as_well(classifiers_folder):
    prompt = safety.load(classifiers_folder).prompt
    alone = prompt.score(["red red red"])[0]
    filler = "make the hat a " * 40
    pieces, owners = prompt._pieces([filler + "red red red", "red red red"])
    assert all(len(piece["input_ids"]) <= prompt.max_length for piece in pieces)
    assert owners == [0] * (len(pieces) - 1) + [1] and len(pieces) > 10
    words = [prompt.tokenizer.decode(p["input_ids"], skip_special_tokens=True) for p in pieces]
    assert words[-2].endswith("red red red")
    shared = prompt.max_length // 4
    for one, other in itertools.pairwise(words[:-1]):  # none begins where another ends
        assert one.split()[-shared:] == other.split()[:shared]
    both = prompt.score([filler + "red red red", "red red red"])
    assert both == [max(prompt.score(words[:-1])), pytest.approx(alone)]
    assert prompt.score([]) == []


def test_a_pipeline_of_transformers_would_score_the_first_piece_only(classifiers_folder):
    """Why `TextClassifier` cuts prompts by itself. Should this fail, the pipeline may do it."""
    hf = pytest.importorskip("transformers")
    prompt = safety.load(classifiers_folder).prompt
    torch.manual_seed(0)
    for weight in prompt.model.parameters():  # so that pieces differ
        torch.nn.init.normal_(weight)
    ready = hf.pipeline("text-classification", prompt.model, tokenizer=prompt.tokenizer, top_k=None)
    pieces = {"truncation": True, "max_length": prompt.max_length, "stride": 3}
    pieces |= {"return_overflowing_tokens": True, "return_tensors": "pt", "padding": True}
    encoded = prompt.tokenizer("make the hat a " * 40 + "red red red", **pieces)
    owners = encoded.pop("overflow_to_sample_mapping")
    with torch.no_grad():
        shares = prompt.model(**encoded).logits.softmax(-1)
        answers = ready.postprocess(ready.model(**encoded), top_k=None)
    apart = (shares - shares[0]).abs().amax(-1)
    assert len(owners) > 10 and apart[-1] > 1e-3  # the end does not look like the beginning
    told = {one["label"]: one["score"] for one in answers}
    assert [told[name] for name in ("fine", "bad", "worse")] == pytest.approx(shares[0].tolist())


@pytest.mark.parametrize("pads", [True, False])
def test_a_word_without_end_is_cut_and_scored(classifiers_folder, tmp_path, pads):
    """A tokenizer of letters, so that the word is longer than the model reads."""
    hf = pytest.importorskip("transformers")
    prompt = safety.load(classifiers_folder).prompt
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", "##x", "##y", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(letters))
    prompt.tokenizer = hf.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=16)
    if not pads:
        prompt.tokenizer.pad_token = None
    long = "x" * 90 + "y" * 9
    pieces, _ = prompt._pieces([long])
    assert len(pieces) > 5 and all(len(p["input_ids"]) <= prompt.max_length for p in pieces)
    assert prompt.tokenizer.convert_ids_to_tokens(pieces[-1]["input_ids"])[-2] == "##y"
    scores = prompt.score([long, "a"])
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("length", [0, 3, 8])
def test_a_classifier_that_reads_next_to_nothing_is_refused(classifiers_folder, tmp_path, length):
    copy = change_config(classifiers_folder, tmp_path)
    path = copy / "text" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    if length == 8:
        assert safety.load(copy).prompt.score(["make the hat red a a a a"])
        return
    with pytest.raises(WeightsError, match="to cut long prompts"):
        safety.load(copy)


def change_config(folder, tmp_path, **change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    config = json.loads(path.read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": {"forbidden": ["terrible"]}}, "terrible.*fine, bad, worse"),
        ({"image": {"forbidden": []}}, "nothing is forbidden"),
        ({"image": {"folder": "../elsewhere"}}, "leads out"),
        ({"image": {"folder": "empty"}}, "lacks config.json"),
        ({"image": {"threshold": 2}}, "threshold 2"),
        ({"image": 5}, "expected 'folder'"),
    ],
)
def test_a_broken_classifier_says_what_is_wrong(classifiers_folder, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        safety.load(change_config(classifiers_folder, tmp_path, **change))


def test_pickled_weights_and_code_are_not_read(classifiers_folder, tmp_path):
    copy = change_config(classifiers_folder, tmp_path)
    weights = copy / "image" / "model.safetensors"
    weights.rename(copy / "image" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="Pickled weights"):
        safety.load(copy)
    (copy / "image" / "pytorch_model.bin").rename(weights)
    path = copy / "image" / "config.json"
    evil = copy / "image" / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\nclass C: pass")
    custom = {"auto_map": {"AutoModelForImageClassification": "evil.Model", "AutoConfig": "evil.C"}}
    changed = json.loads(path.read_text()) | custom | {"model_type": "unheard-of"}
    path.write_text(json.dumps(changed))
    with pytest.raises(WeightsError, match="Cannot read AutoModelForImageClassification"):
        safety.load(copy)
    assert not (tmp_path / "ran").exists()
