"""A killed training goes on: a few kills here, as many as you like with the command of `kills`."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import kills
from children import programs

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


def test_trainers_end_with_their_torchrun_and_lose_nothing(tmp_path):
    child = kills._start(tmp_path, 2, 10**6)
    assert kills._resumed(child) == 0
    kills._until(lambda: kills._last_step(tmp_path) >= 3, child, "no step was done")
    trainers = [int(note.read_text()) for note in tmp_path.glob("pid-*")]
    child.kill()
    end = time.monotonic() + kills.PATIENCE
    while any(map(alive, trainers)):
        assert time.monotonic() < end, "the trainers live on"
        time.sleep(0.05)
    child.communicate()
    done = kills._last_step(tmp_path)
    again = programs(2, kills.__file__, "--train", tmp_path, "--until", done + 1)
    assert kills._resumed(again[0]) == done  # the last step was saved
    assert [one.communicate() and one.returncode for one in again] == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_full_disk_ends_a_training_with_a_typed_error_and_costs_nothing(tmp_path):
    report = kills.run(2, tmp_path, seed=2, full=True)  # first within a line of the log
    assert len(report.steps) == 2 and not report.failures, report
    assert report.equal and report.lost <= 1 and not list(tmp_path.rglob("*.tmp")), report


def alive(pid):
    """Whether a process still works; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_flipped_bit_costs_one_checkpoint_and_nothing_else(tmp_path):
    report = kills.run(1, tmp_path, seed=2, flip=True)  # while the second checkpoint is written
    assert len(report.steps) == 1 and not report.failures, report
    assert report.equal and 0 < report.lost <= 2, report
