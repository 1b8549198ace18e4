"""Whether guidance makes colours too strong: what is told of pictures that are more colourful."""

import json

import pytest
from PIL import Image, ImageEnhance

from benchmarks import saturation


def test_stronger_colours_are_found_and_the_same_ones_are_not():
    cases = saturation.wishes(8, free=False)
    assert len(cases) == 8 and not any(case.free or len(case.contexts) != 1 for case in cases)
    right = [case.target_image(64, 64) for case in cases]
    strong = [ImageEnhance.Color(p).enhance(2.0) for p in right]
    row = saturation.beside(cases, (64, 64), 3.0, strong, right)
    assert row.word == row.ends_word == "more" and row.saturation > 3 and row.ends > 1
    assert row.off == row.saturation  # beside the right answers, which `plain` is here
    pale = saturation.beside(cases, (64, 64), 3.0, right, strong)
    assert pale.word == "less" and pale.saturation == -row.saturation and pale.off == 0
    same = saturation.beside(cases, (64, 64), 3.0, right, right)
    assert same.word == same.ends_word == "not decided" and same.saturation == 0
    assert saturation.saturation(Image.new("RGB", (8, 8), (255, 0, 0))) == pytest.approx(100)
    assert saturation.at_the_ends(Image.new("RGB", (8, 8), (255, 0, 7))) == pytest.approx(200 / 3)


def test_the_command_draws_and_tells_closed_and_open_wishes(tmp_path, capsys):
    place = tmp_path / "rows.json"
    rows = saturation.main(["--cases", "2", "--steps", "1", "--scales", "3", "--json", str(place)])
    assert [row.free for row in rows] == [False, True] and rows[1].off is None
    stored = json.loads(place.read_text())
    assert list(stored) == ["toy"] and [r["scale"] for r in stored["toy"]["rows"]] == [3.0, 3.0]
    place.write_text('{"another": 1}')
    saturation.main(["--cases", "2", "--steps", "1", "--scales", "3", "--json", str(place)])
    assert list(json.loads(place.read_text())) == ["another", "toy"]  # others stay
    assert "2 closed" in capsys.readouterr().out
