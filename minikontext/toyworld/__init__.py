"""A small picture world in which the right answer to every instruction is known exactly."""

from minikontext.toyworld.edits import OPERATIONS, TASKS, Case, sample_edit
from minikontext.toyworld.language import vocabulary
from minikontext.toyworld.oracle import Score, psnr, read, score
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import LEVELS, Scene, sample_scene
from minikontext.toyworld.several import combine_four, combine_three
from minikontext.toyworld.split import held_out

Edit = Case

__all__ = [
    "LEVELS",
    "OPERATIONS",
    "TASKS",
    "Case",
    "Edit",
    "Scene",
    "Score",
    "combine_four",
    "combine_three",
    "held_out",
    "psnr",
    "read",
    "render",
    "sample_edit",
    "sample_scene",
    "score",
    "vocabulary",
]
