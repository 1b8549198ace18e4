"""The training times: their share at the noisy end."""

import pytest
import torch

from minikontext.errors import ConfigError
from minikontext.training.editor import EditorLossConfig


def drawn(**how) -> torch.Tensor:
    return EditorLossConfig(**how).times(20000, 64, torch.Generator().manual_seed(0))


def test_early_adds_its_share_at_the_noisy_end_and_leaves_the_rest_alone():
    plain, early = drawn(), drawn(early=0.4)
    same = plain == early
    assert abs(float(same.float().mean()) - 0.6) < 0.02
    others = early[~same]
    assert others.min() >= 0.9 and others.max() <= 1 and abs(float(others.mean()) - 0.95) < 0.002


def test_a_share_above_one_is_refused():
    with pytest.raises(ConfigError, match="early"):
        EditorLossConfig(early=1.5)
