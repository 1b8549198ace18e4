"""What the tests of all distillations share."""

import pytest

from minikontext.training.editor import Editor


@pytest.fixture
def teacher(tiny):
    """A tiny random editor."""
    pipe = tiny()
    return Editor(pipe.transformer, pipe.text_encoder).eval()
