"""The idea files are typed throughout: mypy --strict has nothing to say of them."""

import subprocess
import sys
from pathlib import Path

import pytest

import minikontext

ROOT = Path(__file__).resolve().parent.parent


def checked(*files, cache):
    run = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml",
           "--cache-dir", cache, *files]  # fmt: skip
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_the_idea_files_are_clean_and_a_wrong_type_is_not(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    files = [f"minikontext/{name}.py" for name in minikontext.IDEAS]
    found = checked(*files, cache=tmp_path)
    assert found.returncode == 0, found.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from minikontext import flow\n\nmu: str = flow.mu_for_tokens(16)\n")
    assert "incompatible type" in checked(wrong, cache=tmp_path).stdout.lower()


def test_the_package_says_that_it_is_typed():
    assert (Path(minikontext.__file__).parent / "py.typed").is_file()
