"""`import harness` and `import mutate` from any test of this folder; a box for its inputs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def feed(tmp_path):
    """`feed(name, make, run)`: give all inputs of a target to the code, see `harness.feed`."""
    import harness

    return lambda *how, **more: harness.feed(tmp_path, *how, **more)
