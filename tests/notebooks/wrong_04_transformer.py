"""Answers that a student might plausibly give to notebook 04, all wrong: `exercise__mistake`.

They are the known mistakes that the checks name, so that both come from one source.
"""

from minikontext.course.exercises import transformer

for exercise in ("rms_norm", "who_sees_whom", "single_block"):
    for place, wrong in enumerate(getattr(transformer, exercise.upper()).values()):
        globals()[f"{exercise}__{place}"] = wrong
