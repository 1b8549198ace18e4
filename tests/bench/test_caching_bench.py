"""The bench of step caching: its rows are stored, kept, and on the results page."""

import json

import pytest

from minikontext.bench import caching, results
from minikontext.pipeline import KontextPipeline

SETTINGS = (
    caching.Setting(4),
    caching.Setting(28, 0.1),
    caching.Setting(28, 0.1, 0),
)


@pytest.mark.weights
def test_rows_are_measured_once_and_shown_on_the_page(tmp_path, monkeypatch):
    pipe, place = KontextPipeline.from_pretrained("toy", device="cpu"), tmp_path / "caching.json"
    rows = dict(caching.run(pipe, 2, place, SETTINGS))
    assert list(rows) == ["4 steps", "28 steps, cache 0.1", "28 steps, cache 0.1, order 0"]
    four, line, flat = rows.values()
    assert (four.skipped, four.whole, four.cases) == (0, 4, 2)
    assert line.skipped > 50 and line.whole == pytest.approx(28 * (1 - line.skipped / 100), abs=0.1)
    assert 60 > line.psnr > flat.psnr > 30 and line.psnr >= line.lowest
    assert list(json.loads(place.read_text())) == list(rows)
    monkeypatch.setattr(caching, "measure", None)  # a row that is there is kept
    assert dict(caching.run(pipe, 2, place, SETTINGS)) == rows
    assert f"| {line.skipped} | {line.whole} |" in results.page({}, {}, tmp_path)


def test_the_stored_rows_are_all_there_and_on_the_page():
    rows = caching.load()
    assert list(rows) == [str(setting) for setting in caching.SETTINGS]
    assert caching.table(rows) in (caching.STORED.parent / "README.md").read_text()
