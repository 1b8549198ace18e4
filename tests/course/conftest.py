"""What the tests of exercises share."""

import pytest

from minikontext import course


@pytest.fixture
def checked(capsys):
    """Checks a function as the exercise of that name, and gives what is printed."""

    def check(name, function):
        function.__name__ = name
        capsys.readouterr()
        course.check(function)
        return capsys.readouterr().out

    return check
