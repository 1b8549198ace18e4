"""What became of a wish: the oracle's verdict where the scene is known, else how much changed."""

import random

import numpy as np
import pytest
from PIL import Image

from minikontext.course.editing import EditingWidget
from minikontext.course.verdict import blurred, cannot, judge, unseen
from minikontext.images.change import changed
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, render, sample_scene
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.grammar import CLEAN
from minikontext.toyworld.reader import LongSign
from minikontext.toyworld.wishes import ask, sample_wishes

CAT = Scene(species="cat", colour="orange", eyes="big", accessory="hat", accessory_colour="blue",
            left="tree", left_colour="green", sign="HI")  # fmt: skip


def picture(scene):
    return Image.fromarray(render(scene))


def verdict(prompt, scene=CAT, **changes):
    return judge(prompt, picture(scene), picture(scene.change(**changes)), scene)


@pytest.mark.parametrize(
    ("prompt", "changes"),
    [
        ("make the hat red", {"accessory_colour": "red"}),
        ("remove the tree", {"left": "none"}),
        ("turn the kitty into a rabbit", {"species": "bunny"}),
        ("make it night", {"time": "night"}),
        ('make the sign say "NO"', {"sign": "NO"}),
        ("remove the sign", {"sign": ""}),
        ("do away with what is on the left", {"left": "none"}),
        ("give it stripes", {"pattern": "striped"}),
        ("draw it in sketch style", {"style": "sketch"}),
        ("show the same cat on the beach", {"background": "beach", "place": "left"}),
    ],
)
def test_what_the_words_name_passes(prompt, changes):
    found = verdict(prompt, **changes)
    assert found.kind == "done" and found.text.startswith("Passes"), found.text
    assert found.scene == CAT.change(**changes) or "sketch" in prompt


NEON = Scene(species="robot", colour="blue", background="city", style="neon", pattern="striped")
BUNNY = {"species": "bunny", "colour": "white", "background": "room"}


@pytest.mark.parametrize(
    "prompt",
    [
        "using this style draw a white bunny in the room",
        "a white bunny in the room in the same style",
        "use the style of this picture to draw a white bunny in the room",
        "a white bunny in the room painted like this",
        "in that style show a white bunny in the room",
    ],
)
def test_a_picture_in_a_lent_style_is_free_in_what_the_words_leave_out(prompt):
    found = verdict(prompt, NEON, **BUNNY, pattern="spotted", eyes="single", place="left")
    assert found.kind == "done" and found.text.startswith("Passes, as far"), found.text
    found = verdict(prompt, NEON, **BUNNY | {"species": "cat"})
    assert found.kind == "error" and "species is cat" in found.text
    found = verdict(prompt, NEON, **BUNNY, style="comic")
    assert found.kind == "error" and ", not neon" in found.text


@pytest.mark.parametrize(
    "prompt",
    [
        "make the hat red but keep everything else the same",
        "make the hat red, everything else should stay the same",
        "make the hat red in this picture",
    ],
)
def test_words_that_keep_the_rest_lend_nothing(prompt):
    found = verdict(prompt, accessory_colour="red", left="house")
    assert found.kind == "error" and "left is house, not tree" in found.text


def test_right_answers_of_every_task_with_one_picture_never_fail():
    rng, wrong, tasks = random.Random(0), [], set()
    drawn = [sample_case(i, 4, "dev", contexts=1) for i in range(136)]
    for case in [c for i, c in enumerate(drawn) if i % 8 == 1 or c.task.endswith("reference")]:
        prompt = ask(case, rng, noise=CLEAN)
        found = judge(prompt, picture(case.contexts[0]), picture(case.target), case.contexts[0])
        wrong += [(prompt, found.text)] if found.kind == "error" else []
        tasks.add(case.task)
    assert wrong == [] and len(tasks) == 6


@pytest.mark.parametrize(
    ("prompt", "number"),
    [("make the picture pastel style", 43), ("paint it as a neon picture", 144)],
)
def test_a_new_style_does_not_hide_the_character(prompt, number):
    case = sample_case(number, 4, "dev", contexts=1)
    assert case.prompt == prompt
    found = judge(prompt, picture(case.contexts[0]), picture(case.target), case.contexts[0])
    assert found.kind == "done" and found.scene == case.target


def test_what_nobody_asked_for_fails_and_is_named():
    found = verdict("make the hat red", accessory_colour="red", eyes="round")
    assert found.kind == "error"
    assert found.text == "Fails: identity. Read by the oracle: eyes is round, not big."
    found = verdict("make the hat red", left="house")
    assert found.text.startswith("Fails: instruction, preservation.") and "not tree" in found.text
    found = verdict("show the same cat on the beach", background="beach", species="bear")
    assert "identity" in found.text


def test_a_picture_that_is_the_same_is_not_called_done():
    found = verdict("make the hat red")
    assert found.kind == "note" and "as it was" in found.text
    noise = np.random.default_rng(0).normal(0, 4, (64, 64, 3))
    near = Image.fromarray((render(CAT) + noise).clip(0, 255).astype(np.uint8))
    assert judge("make the hat red", picture(CAT), near, CAT).kind == "note"


@pytest.mark.parametrize(
    ("prompt", "changes", "lost"),
    [
        ("make the hat red and the background night", {"accessory_colour": "red"}, "night"),
        ("make it night, then remove the tree", {"time": "night"}, "tree"),
        ("remove the hat and the tree", {"accessory": "none"}, "tree"),
        ("make the hat red and the tree pink", {"accessory_colour": "red"}, "pink"),
        ("the same cat on the beach at night", {"background": "beach"}, "at night"),
        ('make it night and the sign say "NO"', {"time": "night"}, "NO"),
        ("make it night and turn the cat into a frog", {"time": "night"}, "frog"),
    ],
)
def test_a_wish_of_two_that_is_not_done_is_named(prompt, changes, lost):
    found = verdict(prompt, **changes)
    assert found.kind == "note", found.text
    assert found.text.startswith(f"Passes in part: not seen: {lost}, as far as"), found.text


def test_right_answers_are_hardly_ever_doubted_and_half_answers_mostly_are():
    rng, doubted, halves = random.Random(0), [], []
    for case in map(sample_wishes, range(200)):
        if len(case.contexts) == 1:
            prompt = ask(case, rng, noise=CLEAN)
            doubted.append(bool(unseen(prompt, case.contexts[0], case.target)))
            some = [case.contexts[0].change(**{n: getattr(case.target, n) for n in one.claims})
                    for one in case.wishes]  # fmt: skip
            halves += [bool(unseen(prompt, case.contexts[0], one)) for one in some]
    assert np.mean(doubted) < 0.05 and np.mean(halves) > 0.75


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("write HELLO WORLD on the sign", "HELLOWORLD"),
        ("write 'HELLO' on it", "HELLO"),
        ("add a sign with the text WELCOME", "WELCOME"),
        ('add a sign that says "HELLO WORLD"', "HELLO WORLD"),
    ],
)
def test_a_sign_is_too_long_however_its_letters_are_written(prompt, word):
    (warning,) = [one for one in cannot(prompt) if isinstance(one, LongSign)]
    assert warning.word == word
    assert cannot("MAKE THE HAT RED") == cannot('add a sign with the text HI') == []


def test_what_the_autoencoder_alone_does_is_no_change():
    pipe, rng = KontextPipeline.from_pretrained("toy"), random.Random(1)
    scenes = [sample_scene(rng) for _ in range(24)]
    through = pipe.decode(pipe.encode([picture(scene) for scene in scenes]))
    told = [judge("x", picture(scene), one).kind for scene, one in zip(scenes, through)]
    assert told.count("note") >= 18
    eyes = [judge("x", picture(CAT), picture(CAT.change(eyes=e))).kind for e in ("single", "round")]
    assert eyes == ["done", "done"]


def test_of_an_unknown_picture_it_is_said_how_much_changed_and_where():
    before = Image.new("RGB", (90, 90), "grey")
    after = before.copy()
    after.paste("red", (60, 0, 90, 30))
    share, where = changed(before, after)
    assert share == pytest.approx(1 / 9, abs=0.01) and where == "at the top right"
    assert (
        judge("x", before, after).text == "11% of the picture changed, most of it at the top right."
    )
    assert judge("x", before, before).kind == "note"
    assert changed(before.resize((45, 45)), after)[0] == pytest.approx(share, abs=0.02)


class Answers:
    """A pipeline's answer: a picture that was drawn beforehand."""

    def __init__(self, pipe, scene):
        self.pipe, self.scene = pipe, scene

    def __getattr__(self, name):
        return getattr(self.pipe, name)

    def __call__(self, prompt, **call):
        out = self.pipe(prompt, **call)
        out.images[0] = picture(self.scene)
        return out


def asked(tiny_pipe, prompt, scene):
    demo = EditingWidget(tiny_pipe, {"cat": picture(CAT)}, ["a sign"], scenes={"cat": CAT})
    demo.pipe = Answers(tiny_pipe, scene)
    demo.prompt.value = prompt
    before = demo.status.value
    demo.run.click()
    demo.wait()
    return demo, before


def test_the_widget_says_the_verdict_and_goes_on_from_what_was_read(tiny_pipe):
    red = CAT.change(accessory_colour="red")
    demo, _ = asked(tiny_pipe, "make the hat red", red)
    assert "Passes" in demo.status.value and demo.turns[0].verdict.scene == red
    demo.pipe.scene = red.change(eyes="round")
    demo.prompt.value = "make it night"
    demo.run.click()
    demo.wait()
    assert "mk-error" in demo.status.value and "mk-done" not in demo.status.value
    assert "eyes is round, not big" in demo.status.value and "Done" not in demo.status.value


def test_a_wish_that_cannot_be_fulfilled_is_said_before_and_after(tiny):
    pipe = tiny()
    demo, before = asked(pipe, "remove the flower", CAT)
    for line in (before, demo.status.value):
        assert "shows no flower" in line and "mk-note" in line
    assert "Done" not in demo.status.value
    demo, before = asked(pipe, "add a dog", CAT)
    assert "no &#x27;dog&#x27;" in before and "nearest" in before


def test_another_seed_is_judged_by_the_picture_that_it_starts_from(tiny):
    demo, _ = asked(tiny(), "remove the hat", CAT.change(accessory="none"))
    assert "Passes" in demo.status.value
    demo.again.click()  # the result has no hat, its picture has one
    demo.wait()
    assert "Passes" in demo.status.value and "shows no hat" not in demo.status.value


@pytest.mark.parametrize(
    ("answer", "kind"), [(CAT, "note"), (CAT.change(accessory="none"), "done")]
)
def test_beside_a_second_picture_it_is_said_how_much_changed(tiny, answer, kind):
    """What the second one should lend, nobody knows; that nothing changed can be seen."""
    pipe = tiny()
    demo = EditingWidget(pipe, {"cat": picture(CAT)}, ["a sign"], scenes={"cat": CAT})
    demo.pipe = Answers(pipe, answer)
    demo.second.value = "cat"
    demo.prompt.value = "a hat"
    demo.run.click()
    demo.wait()
    found = demo.turns[0].verdict
    assert found.kind == kind and found.scene is None and "changed" in found.text
    assert found.text in demo.status.value
    assert "Done" not in demo.status.value if kind == "note" else "changed" in demo.status.value


class Strip(Answers):
    """Answers one after the other."""

    def __init__(self, pipe, scenes):
        self.pipe, self.scenes = pipe, iter(scenes)

    @property
    def scene(self):
        return next(self.scenes)


def strip(tiny, wrong):
    pipe = tiny()
    demo = EditingWidget(pipe, {"cat": picture(CAT)}, ["a sign"], scenes={"cat": CAT})
    red = CAT.change(accessory_colour="red")
    answers = [red.change(eyes="round") if i in wrong else red for i in range(4)]
    demo.pipe = Strip(pipe, answers)
    demo.prompt.value = "make the hat red"
    demo.strip.click()
    demo.wait()
    return demo


@pytest.mark.parametrize(("wrong", "says"), [((1, 2, 3), "1 of 4 passes."), ((0,), "3 of 4 pass.")])
def test_of_several_seeds_each_is_judged(tiny, wrong, says):
    demo = strip(tiny, wrong)
    assert says in demo.status.value and "mk-error" in demo.status.value
    assert "Done" not in demo.status.value and "mk-done" not in demo.status.value
    for i in range(4):
        demo.tiles[i].children[1].click()
        kind, text = ("error", "eyes is round") if i in wrong else ("done", "Passes")
        assert f"mk-{kind}" in demo.status.value and text in demo.status.value
        assert f"Go on from {i + 1}." in demo.status.value
    demo.tiles[-1].children[1].click()
    assert "Go on from the start." in demo.status.value and "mk-idle" in demo.status.value


def test_several_seeds_that_all_pass_are_done(tiny):
    demo = strip(tiny, ())
    assert "4 of 4 pass. The first: Passes" in demo.status.value
    assert "eyes" not in demo.status.value


@pytest.mark.weights
@pytest.mark.parametrize("name", ["toy", "toy-max", "toy-words", "toy-pro"])
def test_a_drawing_is_called_blurred_only_where_it_is(name):
    """Captions of the training name a character, its colour and a place; others end in a blur."""
    pipe = KontextPipeline.from_pretrained(name, device="cpu", dtype="float32")

    def told(prompt, seed):
        return blurred(prompt, pipe(prompt, seed=seed, progress=False).images[0])

    whole = (
        "a green frog with a red hat on the beach",
        "a blue cat in the meadow",
        "a pink robot in the city at night",
        "a red striped bunny in the forest at sunset",
    )
    assert [(p, s) for p in whole for s in (0, 1) if told(p, s)] == []
    for prompt, lack in (("a green frog with a red hat", "no place"),
                         ("draw a pink bear with a green hat", "no place")):  # fmt: skip
        assert lack in told(prompt, 0).text


@pytest.mark.parametrize("scene", [CAT, Scene(style="sketch"), Scene(background="room", sign="OK")])
@pytest.mark.parametrize("side", [64, 96, 256])
def test_a_scene_of_the_world_and_a_card_are_not_blurred(scene, side):
    assert blurred("a cat", Image.fromarray(render(scene, side, side))) is None
    assert blurred("a cat", Image.new("RGB", (side, side), (128, 128, 128))) is None


@pytest.mark.parametrize("side", [64, 256])
def test_what_the_caption_of_a_blurred_drawing_lacks_is_said(side):
    shown = picture(CAT).resize((4, 4)).resize((side, side))
    found = blurred("a cat on the beach", shown)
    assert found.kind == "note" and found.text.endswith("This prompt has no colour.")
    assert blurred("a red cat on the beach", shown).text.endswith("Try another seed.")


def test_the_widget_says_that_a_drawing_is_blurred(tiny):
    demo = EditingWidget(tiny(), {"nothing": None}, ["a blue cat"])
    demo.prompt.value = "a blue cat"
    demo.run.click()
    demo.wait()
    assert demo.turns[0].before is None and "Blurred" in demo.status.value
    assert "no place" in demo.status.value and "Done" not in demo.status.value
