"""What the tests of exercises share."""

import pytest

from minikontext import course


@pytest.fixture(autouse=True)
def progress_of_its_own(tmp_path, monkeypatch):
    """No test keeps a student's progress where the next one finds it."""
    monkeypatch.setenv("MINIKONTEXT_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture
def checked(capsys):
    """Checks a function as the exercise of that name, and gives what is printed."""

    def check(name, function):
        function.__name__ = name
        capsys.readouterr()
        course.check(function)
        return capsys.readouterr().out

    return check
