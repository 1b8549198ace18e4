"""Three and four pictures: the words say which picture lends what, and the oracle sees it."""

import numpy as np
import pytest

from minikontext.toyworld import OPERATIONS, psnr, render, score, vocabulary
from minikontext.toyworld.edits import SECOND_EDITION, find_operation, sample_case, sample_edit
from minikontext.toyworld.scene import ATTRIBUTES
from minikontext.toyworld.several import HELD_OUT_SENTENCES, ORDINALS, SENTENCES, words

LENT = {"worn": ("accessory", "accessory_colour"), "scene": ("background",), "drawn": ("style",)}


def cases(count: int, number: int = 30, split: str = "dev"):
    return [sample_case(i, 4, split, contexts=count) for i in range(number)]


def lender(case, role):
    return case.contexts[ORDINALS.index(case.words[role])]


@pytest.mark.parametrize("count", [3, 4])
def test_what_is_lent_comes_from_the_picture_that_the_words_name(count):
    for case in cases(count):
        roles = [role for role in LENT if role in case.words]
        assert len(case.contexts) == count and len(roles) == count - 1
        for role in roles:
            for name in LENT[role]:
                assert getattr(case.target, name) == getattr(lender(case, role), name)
            assert f"{case.words[role]} picture" in case.prompt
        assert case.before == lender(case, "character")
        rest = [n for n in ATTRIBUTES if n not in case.claims]
        assert all(getattr(case.target, n) == getattr(case.before, n) for n in rest)


def test_pictures_come_in_every_order():
    orders = [(c.words["character"], c.words["worn"]) for c in cases(3, 80)]
    assert len(set(orders)) == 6
    assert {case.base for case in cases(4)} == {0, 1, 2, 3}


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (128, 128)], ids=str)
def test_the_oracle_passes_right_answers_and_fails_what_took_from_another(count, size):
    for case in cases(count, 6):
        width, height = size
        assert score(case.target_image(height, width), case).success, case
        for picture in case.context_images(height, width):
            assert not score(picture, case).success, case
        bare = case.target.change(accessory="none")
        assert not score(render(bare, height, width), case).success


def test_what_should_stay_is_measured_against_the_picture_that_is_edited():
    case = next(c for c in cases(3) if c.base != 0 and "scene" in c.words)
    before, right = render(case.before).astype(int), render(case.target).astype(int)
    stays = np.abs(before - right).max(-1) <= 4
    noise = np.random.default_rng(0).normal(0, 6, right.shape)
    answer = (right + noise).clip(0, 255).astype(np.uint8)
    assert score(answer, case).psnr_untouched == pytest.approx(psnr(answer, right, stays), abs=0.01)


def test_contexts_can_have_sizes_of_their_own():
    case = cases(3, 1)[0]
    sizes = [(64, 64), (96, 64), (48, 80)]
    assert [picture.size for picture in case.context_images(sizes=sizes)] == sizes
    with pytest.raises(ValueError):
        case.context_images(sizes=sizes[:2])


def test_training_never_hears_the_held_out_sentences():
    kept = {s for group in SENTENCES.values() for s in group[-HELD_OUT_SENTENCES:]}
    trained = [sample_case(i, 4, "train", contexts=3 + i % 2) for i in range(80)]
    said = {s.format(**case.words) for case in trained for s in kept if fits(s, case.words)}
    assert not said & {case.prompt for case in trained} and len(said) > 50
    unheard = [case for case in cases(3) if case.phrasing_held_out]
    assert all(any(c.prompt == s.format(**c.words) for s in kept if fits(s, c.words))
               for c in unheard)  # fmt: skip


def fits(sentence, said):
    return all(f"{{{role}}}" not in sentence or role in said for role in LENT)


def test_every_word_of_a_prompt_is_listed():
    known = {*vocabulary(), *words()}
    for case in cases(3) + cases(4):
        assert set(case.prompt.replace(",", "").replace(":", "").split()) <= known


def test_the_first_edition_does_not_have_them():
    assert not set(SECOND_EDITION) & set(OPERATIONS)
    assert not {sample_edit(i).operation for i in range(500)} & set(SECOND_EDITION)
    with pytest.raises(ValueError, match="combine_three"):
        find_operation("combine_five")
