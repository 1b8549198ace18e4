"""A killed training goes on: three kills here, as many as you like with the command."""

import sys

import pytest

from minikontext.training import kills


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_training_goes_on(tmp_path):
    report = kills.run(3, tmp_path)
    assert len(report.steps) == 3 and not report.failures, report
    assert report.saving >= 1 and report.lost <= 1, report
    assert not list(tmp_path.rglob("*.tmp"))  # what a kill leaves is tidied up
    assert report.equal and max(done for done, _ in report.steps) > 5
