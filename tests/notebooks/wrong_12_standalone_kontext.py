"""Answers that a student might plausibly give to notebook 12, all wrong: `exercise__mistake`.

They are the known mistakes that the checks name, so that both come from one source.
"""

from minikontext.course.exercises import standalone_kontext

for exercise in ("count_blocks", "apply_weights", "run_blocks"):
    for place, wrong in enumerate(getattr(standalone_kontext, exercise.upper()).values()):
        globals()[f"{exercise}__{place}"] = wrong
