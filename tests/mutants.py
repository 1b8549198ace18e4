"""Plant one fault at a time in a copy of the package, and see whether the tests notice.

python tests/mutants.py                  # all of them; `make mutants`
python tests/mutants.py --only kl ema    # those whose reasons hold one of the words
python tests/mutants.py --table data/bench/mutants.md
python tests/mutants.py --since 80b9e57 --table data/bench/mutants.md

With --since only those are planted whose code or tests have changed since a commit, and those that
the table lacks; its other rows stay, and its head says so.

A planted fault is caught if one of its tests fails. Each says which tests should: a few, so that
all of them take minutes. A fault that survives is a hole in the tests, or makes no difference.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot  # noqa: F401 - these are imported once, for all forks
import pydantic  # noqa: F401
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FLOW, LOSSES, WIRING = "tests/test_flow.py", "tests/distillation/test_losses.py", \
    "tests/distillation/test_wiring.py"  # fmt: skip
DISTIL, ROLLOUT = "tests/distillation/test_distillation.py", "tests/distillation/test_rollout.py"
RUNS, SIZES = "tests/training/test_runs.py", "tests/toyworld/test_sizes.py"
TRAINING, LINEAGE = "tests/training/test_training.py", "tests/training/test_lineage.py"
POLICY = "tests/distillation/test_policy.py"
WORLD, ORACLE = "tests/toyworld/test_world.py", "tests/toyworld/test_oracle_sizes.py"
CAPTIONS = "tests/training/test_captions.py"


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` (below minikontext/), `old` becomes `new`; `tests` should notice."""

    why: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("the path runs from noise to picture", "flow.py", "torch.lerp(x, noise,", "torch.lerp(noise, x,", FLOW),
    Mutant("the loss wants the opposite velocity", "flow.py", "(noise - x).float()", "(x - noise).float()", FLOW),
    Mutant("the clean estimate goes the wrong way", "flow.py", "return z - per_sample", "return z + per_sample", FLOW),
    Mutant("times ignore mu", "flow.py", "torch.sigmoid(mu + sigma", "torch.sigmoid(sigma", FLOW),
    Mutant("times ignore sigma", "flow.py", "mu + sigma * torch.randn", "mu + torch.randn", FLOW),
    Mutant("shifting does nothing", "flow.py", "alpha = math.exp(mu)", "alpha = 1.0", FLOW),
    Mutant("the line of mu starts elsewhere", "flow.py", "return 0.5 + (count", "return 0.4 + (count", FLOW),
    Mutant("the loss is a sum", "flow.py", ".flatten(1).mean(dim=1)", ".flatten(1).sum(dim=1)", FLOW),
    Mutant("the empty prompt is never trained", "training/editor.py", "< config.empty_prompts", "< 0 * config.empty_prompts", f"{WIRING}::test_the_empty_prompt_is_trained_as_often_as_asked"),
    Mutant("the two contexts are swapped", "training/editor.py", "contexts[rows, i].float()", "contexts[rows, count - 1 - i].float()", f"{WIRING}::test_an_editor_sees_its_own_pictures_in_order_and_every_wording"),
    Mutant("what an edit changes has no weight of its own", "training/world_editor.py", "1 - share + share * far", "1 + 0 * share * far", f"{WIRING}::test_half_of_the_weight_lies_on_the_part_that_an_edit_changes"),
    Mutant("the weight of what an edit changes is left out of the loss", "training/editor.py", "root * v, root * x, root * noise", "v, x, noise", f"{WIRING}::test_a_share_of_the_loss_goes_where_an_edit_changes_something"),
    Mutant("one wording only", "training/editor.py", "tokens[rows, wording]", "tokens[rows, 0 * wording]", f"{WIRING}::test_an_editor_sees_its_own_pictures_in_order_and_every_wording"),
    Mutant("pixels are counted for tokens", "training/editor.py", "x.shape[-1] // PATCH**2, draw)", "x.shape[-1], draw)", f"{WIRING}::test_times_follow_the_tokens_of_the_target_not_its_pixels"),
    Mutant("the width of times is ignored", "training/editor.py", "(count, mu, self.sigma, generator)", "(count, mu, 1.0, generator)", f"{WIRING}::test_times_follow_the_tokens_of_the_target_not_its_pixels"),
    Mutant("early times are ignored", "training/editor.py", "chosen < self.early", "chosen < 0", "tests/training/test_times.py"),
    Mutant("latents are noised at another time than told", "training/editor.py", "z = flow.interpolate(x, noise, t)", "z = flow.interpolate(x, noise, t.flip(0))", f"{WIRING}::test_an_editor_sees_its_own_pictures_in_order_and_every_wording"),
    Mutant("the guidance student is told w = 1", "distillation/guidance.py", "guidance=w)", "guidance=torch.ones_like(w))", f"{WIRING}::test_guidance_teaches_only_edits_and_tells_the_student_its_scale"),
    Mutant("the teacher's guidance is ignored", "distillation/guidance.py", "null, contexts, w)\n", "null, contexts, torch.ones_like(w))\n", f"{WIRING}::test_guidance_teaches_only_edits_and_tells_the_student_its_scale"),
    Mutant("text-to-image pairs in [dev]", "distillation/guidance.py", "if not contexts:", "if False:", f"{WIRING}::test_guidance_teaches_only_edits_and_tells_the_student_its_scale"),
    Mutant("scales start at 0", "distillation/guidance.py", "w = config.low +", "w =", f"{WIRING}::test_guidance_teaches_only_edits_and_tells_the_student_its_scale"),
    Mutant("guidance mixes the wrong way round", "distillation/losses.py", "torch.lerp(without, with_words,", "torch.lerp(with_words, without,", f"{LOSSES}::test_the_guidance_loss_learns_both_passes_in_one"),
    Mutant("LADD's student wants to be caught", "distillation/losses.py", "- adversarial * on_fake.mean()", "+ adversarial * on_fake.mean()", f"{LOSSES}::test_the_discriminator_likes_what_is_real_and_the_student_wants_to_be_liked"),
    Mutant("the hinge's labels are swapped", "distillation/losses.py", "F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()", "F.relu(1 + on_real).mean() + F.relu(1 - on_fake).mean()", f"{LOSSES}::test_the_discriminator_likes_what_is_real_and_the_student_wants_to_be_liked"),
    Mutant("the hinge has no margin", "distillation/losses.py", "F.relu(1 - on_real)", "F.relu(-on_real)", f"{LOSSES}::test_the_discriminator_likes_what_is_real_and_the_student_wants_to_be_liked"),
    Mutant("the student's squared error does not count", "distillation/losses.py", "return mse * F.mse_loss", "return 0 * F.mse_loss", f"{LOSSES}::test_the_discriminator_likes_what_is_real_and_the_student_wants_to_be_liked"),
    Mutant("real latents are judged at another noise than told", "distillation/losses.py", "flow.interpolate(x, again, at)", "flow.interpolate(x, again, t)", f"{WIRING}::test_real_and_fake_are_judged_with_the_same_noise_at_the_time_told"),
    Mutant("fakes are judged at another noise than told", "distillation/losses.py", "flow.interpolate(generated, again, at)", "flow.interpolate(generated, again, t)", f"{WIRING}::test_real_and_fake_are_judged_with_the_same_noise_at_the_time_told"),
    Mutant("fakes get noise of their own", "distillation/losses.py", "flow.interpolate(generated, again, at)", "flow.interpolate(generated, noise, at)", f"{WIRING}::test_real_and_fake_are_judged_with_the_same_noise_at_the_time_told"),
    Mutant("the student's loss teaches the heads", "distillation/losses.py", "judge.heads(fake, at, False)", "judge.heads(fake, at, True)", f"{DISTIL}::test_the_students_loss_leaves_the_heads_alone"),
    Mutant("the student learns while the heads start", "distillation/ladd.py", "step >= config.head_start\n", "step >= 0\n", f"{DISTIL}::test_heads_learn_first_and_then_both"),
    Mutant("LADD's first phase never ends", "distillation/ladd.py", "<= step < self.switch", "<= step", f"{DISTIL}::test_the_students_times_come_in_two_phases"),
    Mutant("a fake's gradient reaches the student by the heads' loss", "distillation/losses.py", "[f.detach() for f in fake]", "fake", f"{DISTIL}::test_heads_learn_first_and_then_both"),
    Mutant("rollouts weigh all times alike", "distillation/losses.py", "weights[:, 0] * far).mean() / t", "weights[:, 0] * far).mean()", f"{LOSSES}::test_the_rollout_loss_weighs_late_steps_more_and_squares_nothing"),
    Mutant("rollouts square their distance", "distillation/losses.py", "far = ((generated - x).square().mean(1) + TINY).sqrt()", "far = (generated - x).square().mean(1) + TINY", f"{LOSSES}::test_the_rollout_loss_weighs_late_steps_more_and_squares_nothing"),
    Mutant("rollouts forget what an edit changes", "distillation/rollout.py", "float(times[-1]), weights)", "float(times[-1]))", f"{ROLLOUT}::test_what_an_edit_changes_weighs_more"),
    Mutant("rollouts ignore the share of last steps", "distillation/rollout.py", "< self.final", "< 0", f"{ROLLOUT}::test_times_are_those_of_the_sampler_up_to_one_of_its_steps"),
    Mutant("rollouts teach one answer where many are right", "distillation/rollout.py", "torch.where(determined.view(-1, 1, 1, 1), generated, x)", "generated", f"{ROLLOUT}::test_where_many_answers_are_right_the_student_is_left_alone"),
    Mutant("a policy's velocity forgets its time", "distillation/policy.py", "return (z - self.estimate(t)) / flow.per_sample(t, z)", "return z - self.estimate(t)", POLICY),
    Mutant("a policy is followed the wrong way", "distillation/policy.py", "z = torch.lerp(clean, z, flow.per_sample(later / now, z))", "z = torch.lerp(z, clean, flow.per_sample(later / now, z))", POLICY),
    Mutant("a policy is compared away from its path", "distillation/policy.py", "        z = policy.follow(z, start, t)\n", "", f"{POLICY}::test_the_student_learns_the_plane_in_one_pass"),
    Mutant("sentences of held-out cases are read", "training/words.py", 'split="train", seed', 'split="test", seed', f"{LINEAGE}::test_nothing_held_out_is_read"),
    Mutant("words say what only pictures show", "training/words.py", "if len(case.contexts) < 2:", "if True:", f"{LINEAGE}::test_of_several_pictures_only_the_words_are_facts"),
    Mutant("no fact is right", "training/words.py", "if name in places]] = 1", "if name in places]] = 0", f"{LINEAGE}::test_an_encoder_learns_to_tell_facts"),
    Mutant("no clipping", "training/loop.py", "self.model.parameters(), c.clip)", "self.model.parameters(), 1e9)", f"{WIRING}::test_gradients_are_clipped_to_the_norm_asked_for"),
    Mutant("the average has no warm-up (ema)", "training/loop.py", "min(self.config.ema, (1 + self.step) / (10 + self.step))", "self.config.ema", f"{WIRING}::test_the_average_warms_up"),
    Mutant("the schedule ignores the clock", "training/loop.py", "return max(self.step, self.config.steps * self.seconds / limit) if limit else self.step", "return self.step", f"{WIRING}::test_the_schedule_follows_the_clock_where_minutes_are_given"),
    Mutant("the rate has no warm-up", "training/optimizer.py", "return (step + 1) / warmup", "return 1.0", f"{TRAINING}::test_learning_rate_rises_stays_and_falls"),
    Mutant("KL off", "training/pictures.py", "+ config.kl * kl", "+ 0 * kl", f"{WIRING}::test_the_kl_term_counts_as_much_as_asked"),
    Mutant("validation on cases of training", "training/data.py", 'sample_edit(i, level, split="test") for i in range(count)', "sample_edit(i, level) for i in range(count)", f"{WIRING}::test_validation_is_on_cases_that_no_training_sees"),
    Mutant("the oracle's factor 0.5 -> 0.95", "toyworld/oracle.py", "NEARER = 0.5 ", "NEARER = 0.95 ", f"{WIRING}::test_the_oracle_wants_the_right_picture_nearer_by_a_clear_factor"),
    Mutant("combinations are no longer held out", "toyworld/split.py", "    return zlib.crc32(\"|\".join((kind, *values)).encode()) % SHARE == 0", "    return kind != 'combination' and zlib.crc32(\"|\".join((kind, *values)).encode()) % SHARE == 0", f"{WIRING}::test_one_in_ten_of_each_kind_is_held_out"),
    Mutant("pairs are no longer held out", "toyworld/split.py", "return PAIRS[values]", 'return "train"', f"{SIZES}::test_pairs_are_held_out_whole_and_their_values_are_not"),
    Mutant("the oracle does not look who it is", "toyworld/oracle.py", "identity=all(getattr(found, n) == getattr(wanted, n) for n in identity)", "identity=True", f"{WORLD}::test_oracle_refuses_wrong_answers"),
    Mutant("the oracle does not read what was asked for", "toyworld/oracle.py", "followed=followed and pixels.edited", "followed=pixels.edited", f"{WORLD}::test_oracle_refuses_wrong_answers"),
    Mutant("the oracle lets all the rest change", "toyworld/oracle.py", "preserved=pixels.preserved and _nothing_else(array, found, wanted, attributes)", "preserved=True", f"{WORLD}::test_oracle_measures_preservation_apart_from_following"),
    Mutant("the oracle takes small changes of the rest for none", "toyworld/oracle.py", "preserved=pixels.preserved and _nothing_else(array, found, wanted, attributes)", "preserved=pixels.preserved", f"{ORACLE}::test_planted_wrong_answers_fail"),
    Mutant("the oracle reads one letter of a sign", "toyworld/oracle.py", "for i in range(len(scene.sign)):", "for i in range(min(1, len(scene.sign))):", f"{WORLD}::test_read_finds_the_scene_again"),
    Mutant("no case is kept for choices (dev)", "toyworld/split.py", "dev = zlib.crc32(\"|\".join((\"dev\", kind, *values)).encode()) % DEV_SHARE == 0", "dev = False", f"{SIZES}::test_what_the_first_edition_held_out_is_test_in_the_second"),
    Mutant("a character is no key of a picture", "toyworld/split.py", "return [(\"identity\", *scene.identity), *word,", "return [*word,", f"{SIZES}::test_a_picture_of_a_held_out_character_or_word_is_not_trained_on"),
    Mutant("a caption that tells all leaves something out", "training/captions.py", "    rng.shuffle(said)\n", "    rng.shuffle(said)\n    said = said[1:]\n", f"{CAPTIONS}::test_every_attribute_is_told_and_what_is_absent_is_not"),
    Mutant("no caption tells all", "training/stream.py", "if not count and random.Random(", "if False and random.Random(", f"{CAPTIONS}::test_told_pictures_take_their_share_of_those_without_a_context"),
    Mutant("a checkpoint's sum is not compared", "training/store.py", "if SUM in facts and checksum(facts, tensors) != facts[SUM]:", "if False:", f"{RUNS}::test_a_damaged_checkpoint_is_passed_over_and_told"),
    Mutant("a run goes on from another config", "training/runs.py", "    if names:\n", "    if not names:\n", f"{RUNS}::test_a_run_is_tied_to_what_it_was_made_from"),
    Mutant("a restart goes on with the old run", "training/runs.py", "aside = not resume and", "aside = False and", f"{RUNS}::test_a_restart_sets_the_old_run_aside_whole"),
    Mutant("a context of the result's shape keeps its size", "images/resize.py", "        return target\n", "        pass\n", f"{SIZES}::test_a_picture_comes_to_the_size_of_its_result_if_it_has_nearly_its_shape"),
    Mutant("a result goes on at its own size, whatever is asked", "editing/contexts.py", "plan.working != asked or", "True or", "tests/test_pipeline.py::test_a_result_goes_on_at_another_size_through_its_picture"),
    Mutant("a folder that another trains in is not held", "training/runs.py", "    lock.acquire(timeout=0)\n", "    pass\n", f"{RUNS}::test_whoever_trains_by_itself_holds_its_folder_as_a_run_does"),
    Mutant("a small cache is taken for a large one", "training/data.py", "if _holds(path, len(indices)):", "if path.exists():", f"{RUNS}::test_a_cache_grows_when_more_is_asked_for"),
)  # fmt: skip


REASONS: dict[str, str] = {}  # of those that survive: why they make no difference


def survives(mutant: Mutant, copy: Path) -> bool | None:
    """Whether no test notices; None if the fault cannot be planted any more."""
    path = copy / "minikontext" / mutant.file
    sound = path.read_text(encoding="utf-8")
    if sound.count(mutant.old) != 1:
        return None
    path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, said = _tested(mutant.tests.split(" "), copy)
    finally:
        path.write_text(sound, encoding="utf-8")
    if code not in (0, 1):
        raise RuntimeError(f"{mutant.why}: pytest could not run\n{said[-2000:]}")
    return code == 0


def _tested(tests: list[str], copy: Path) -> tuple[int, str]:
    """pytest's exit code in a process of its own, and what it said.

    The process is a fork, so that torch is imported once; nothing of the package is, before.
    """
    log = copy / "pytest.log"
    child = os.fork()
    if child == 0:
        with open(log, "w", encoding="utf-8") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            os.environ["PYTHONPATH"] = str(copy)
            torch.set_num_threads(1)  # a fork has no other threads, and would wait for them
            os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8")


SAID = {True: "**survived**", False: "caught", None: "**cannot be planted**"}


def kept(place: Path) -> dict[str, bool | None]:
    """The outcomes in a table that was written."""
    rows = [line.split(" | ") for line in place.read_text(encoding="utf-8").splitlines()]
    ends = {end: outcome for outcome, end in SAID.items()}
    known = {mutant.why for mutant in MUTANTS}
    found = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows if len(row) > 3}
    return {why: ends[end] for why, end in found.items() if why in known}


def changed(since: str, before: dict[str, bool | None]) -> list[Mutant]:
    """Mutants whose file or tests have changed since a commit, or that have no outcome yet."""
    command = ["git", "diff", "--name-only", since]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    touched = set(names.splitlines())

    def is_touched(one: Mutant) -> bool:
        tests = {test.partition("::")[0] for test in one.tests.split(" ")}
        return bool(touched & {f"minikontext/{one.file}", *tests})

    return [one for one in MUTANTS if one.why not in before or is_touched(one)]


def table(found: dict[str, bool | None], again: str = "") -> str:
    """The outcome of each, as a Markdown table."""
    said = SAID
    caught = sum(one is False for one in found.values())
    lines = [f"{caught} of {len(found)} planted faults are caught (`make mutants`).{again}", ""]
    lines += ["| fault | in | tests | |", "|---|---|---|---|"]
    lines += [
        f"| {m.why} | {m.file} | {m.tests.split('::')[-1].removeprefix('tests/')} "
        f"| {said[found[m.why]]} |"
        for m in MUTANTS if m.why in found
    ]  # fmt: skip
    lines += [
        "",
        *(f"{why}: {REASONS[why]}" for why, one in found.items() if one and why in REASONS),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    sys.dont_write_bytecode = True  # two faults of one second would share a .pyc
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="words that stand in their reasons")
    parser.add_argument("--table", type=Path, help="write the table here")
    parser.add_argument("--since", metavar="COMMIT", help="only what has changed since")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.only or any(w in m.why for w in options.only)]
    found: dict[str, bool | None] = {}
    again = ""
    if options.since:
        found = kept(options.table)
        chosen = changed(options.since, found)
        again = (
            f" The last run planted the {len(chosen)} of them that are new or whose code or tests "
            f"had changed since {options.since}."
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        skip = shutil.ignore_patterns(".*", "__pycache__", "runs", "outputs", "results")
        shutil.copytree(ROOT, copy, ignore=skip, symlinks=True)
        tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests.split(" "))
        code, said = _tested([*tests], copy)
        if code:
            sys.exit(f"without any fault, the tests fail already:\n{said[-2000:]}")
        for mutant in chosen:
            found[mutant.why] = survives(mutant, copy)
            said = {True: "SURVIVED", False: "caught", None: "CANNOT BE PLANTED"}
            print(f"{said[found[mutant.why]]:18}{mutant.why}", flush=True)
    if options.table:
        options.table.write_text(table(found, again) + "\n", encoding="utf-8")
    caught = sum(one is False for one in found.values())
    print(f"{caught} of {len(found)} caught")
    sys.exit(caught < 0.9 * len(found))


if __name__ == "__main__":
    main()
