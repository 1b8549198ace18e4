"""Simulated voters: the question decides who wins, and a baked picture wins the naive one."""

from minikontext.bench import votes
from minikontext.bench.oracle_bench import held_out_cases
from minikontext.course import voters
from minikontext.toyworld import score


def test_a_baked_editor_wins_naive_votes_and_loses_the_others():
    cases = [c for c in held_out_cases(120, 4) if c.task == "local" and c.contexts][:12]
    right = [case.target_image() for case in cases]
    baked = [voters.bake(picture) for picture in right]
    lazy = [case.context_images()[0] for case in cases]
    assert all(voters.saturation(b) > voters.saturation(r) for b, r in zip(baked, right))
    editors = {"right": right, "baked": baked, "copy": lazy}
    answers = {name: [(p, score(p, c)) for p, c in zip(made, cases, strict=True)]
               for name, made in editors.items()}  # fmt: skip
    order = {
        question: list(votes.ratings(voters.simulate(answers, cases, range(12), question, 20)))
        for question, facts in voters.QUESTIONS.items()
        if "letters" not in facts
    }
    assert order["Which do you prefer?"][0] == "baked"
    assert order["Which looks more real?"].index("right") < 2
    assert order["Which looks more real?"][-1] == "baked"
    assert order["Which follows the request?"][-1] == "copy"


def test_votes_are_of_all_pairs_and_the_same_every_time():
    cases = held_out_cases(40, 4)[:2]
    made = [(c.target_image(), score(c.target_image(), c)) for c in cases]
    call = ({"a": made, "b": made, "c": made}, cases, ["x", "y"], "Which do you prefer?", 4)
    cast = voters.simulate(*call)
    assert len(cast) == 2 * 3 * 4 and {v.cluster for v in cast} == {"x", "y"}
    assert cast == voters.simulate(*call)


def test_letters_are_asked_about_where_a_request_has_some():
    held = [c for c in held_out_cases(400, 4) if len(c.contexts) == 1]
    asked = [c for c in held if c.operation in ("add_sign", "change_sign")][:6]
    others = [c for c in held if c.task == "local"][:6]
    cases = [*asked, *others]
    right, lazy = ([make(c) for c in cases] for make in (
        lambda c: c.target_image(), lambda c: c.context_images()[0]))  # fmt: skip
    made = {"right": right, "baked": [voters.bake(one) for one in right], "copy": lazy}
    answers = {name: [(p, score(p, c)) for p, c in zip(rows, cases, strict=True)]
               for name, rows in made.items()}  # fmt: skip
    cast = voters.simulate(answers, cases, range(12), "Which has the better letters?", 40)
    assert {vote.cluster for vote in cast} == {*range(6)}  # six requests have letters
    assert votes.beside(cast, "right", "copy").word() == "better"
    assert votes.beside(cast, "baked", "copy").word() == "better"  # it can be read
