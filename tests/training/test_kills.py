"""A killed training goes on: a few kills here, as many as you like with the command of `kills`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kills

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL"),
    pytest.mark.slow,
]


def test_a_killed_training_goes_on(tmp_path):
    report = kills.run(2, tmp_path)
    assert len(report.steps) == 2 and not report.failures, report
    assert report.saving == 1 and report.lost <= 1, report
    assert not list(tmp_path.rglob("*.tmp"))  # what a kill leaves is tidied up
    assert report.equal and max(done for done, _ in report.steps) >= 5


def test_a_flipped_bit_costs_one_checkpoint_and_nothing_else(tmp_path):
    report = kills.run(1, tmp_path, flip=True)
    assert len(report.steps) == 1 and not report.failures, report
    assert report.equal and 0 < report.lost <= 2, report
