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
        for question in voters.QUESTIONS
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
