"""Guess before you measure: `guess = mk.course.predict("Which is best?", ["a", "b"])`.

The cell that measures ends with `guess.measured("b")`, the last one of a notebook with
`mk.course.score()`. The first guess counts, and is kept (`course.progress`).
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

import ipywidgets as W

from minikontext.course import progress, start
from minikontext.course.parts import Widget

ASKED: list[Prediction] = []  # in this notebook, in order


class Prediction(Widget):
    """A question with answers to choose from. Parts: choices, status; `guess` is None or one."""

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        self.question, self.options = question, list(choices)
        kept = progress.load("predictions").get(question, {})
        self.guess: str | None = kept.get("guess") if kept.get("guess") in self.options else None
        self.truth: str | None = kept.get("measured") if self.guess else None
        super().__init__()
        self.choices.observe(self._chosen, "value")

    def _make_controls(self) -> None:
        self.label = W.HTML(f"<b>Predict:</b> {html.escape(self.question)}")
        self.choices = W.RadioButtons(
            options=self.options, value=self.guess, disabled=self.truth is not None,
            layout=W.Layout(width="auto"),
        )  # fmt: skip
        self._say("idle", self._verdict() if self.truth else "Choose, then run the next cell.")

    def _arrange(self) -> list[W.Widget]:
        return [self.label, self.choices, self.status]

    def _chosen(self, change: dict[str, object]) -> None:
        self.guess = str(change["new"])
        progress.keep("predictions", {self.question: {"guess": self.guess}})
        self._say("idle", "Kept. Now run the next cell.")

    @property
    def right(self) -> bool:
        """Whether a guess was made, and measured to be so."""
        return self.guess is not None and self.guess == self.truth

    def measured(self, truth: str) -> None:
        """Say what was measured beside the guess; from now on the guess stands.

        Raises ValueError if `truth` is none of the choices.
        """
        if truth not in self.options:
            raise ValueError(f"Measured {truth!r}, which is none of {self.options}.")
        self.truth, self.choices.disabled = truth, True
        if self.guess is not None:
            progress.keep("predictions", {self.question: {"guess": self.guess, "measured": truth}})
        print(self._verdict())
        self._say("done" if self.right else "note", self._verdict())

    def _verdict(self) -> str:
        guess = f"You predicted: {self.guess}." if self.guess else "You made no prediction."
        return f"Measured: {self.truth}. {guess}"


def predict(question: str, choices: Sequence[str]) -> Prediction:
    """Ask for a guess; end the cell with it, so that it is shown."""
    for earlier in [one for one in ASKED if one.question == question]:
        ASKED.remove(earlier)  # the cell was run again
    ASKED.append(Prediction(question, choices))
    return ASKED[-1]


def score() -> None:
    """Print how many guesses were right, in this notebook and in the course so far.

    Who guessed was there: so the minutes are told that the notebook took. The time in its header
    is an estimate, for nobody was timed.
    """
    guessed = [one for one in ASKED if one.guess and one.truth]
    kept = [one for one in progress.load("predictions").values() if "measured" in one]
    hits = sum(one["guess"] == one["measured"] for one in kept)
    here = f"{sum(one.right for one in guessed)} of {len(guessed)} right, {len(ASKED)} asked"
    print(f"Your predictions in this notebook: {here}; in the course: {hits} of {len(kept)} right.")
    if guessed and start.BEGAN:
        minutes = (time.monotonic() - start.BEGAN[0]) / 60
        print(f"{minutes:.0f} minutes since the first cell, breaks included.")
