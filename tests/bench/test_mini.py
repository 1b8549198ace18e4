"""MiniKontextBench: KontextBench's proportions and format, held out, the same cases everywhere."""

import json
from collections import Counter

import numpy as np
from PIL import Image

from minikontext.bench import mini
from minikontext.toyworld import held_out, render, score

CHECKSUM = "1e0c8a558b8aa468ab005c0ce98cdab6884d48a89cb0a427edf7f2a814d42691"
BRIGHTNESS = 159.7342  # mean of all base scenes' pixels, of 255


def test_it_has_kontextbenchs_proportions():
    rows = mini.cases()
    found = Counter(category for _, category, _, _ in rows)
    assert found == {
        "Instruction Editing - Local": 416,
        "Instruction Editing - Global": 262,
        "Text Editing": 92,
        "Style Reference": 63,
        "Character Reference": 193,
    }
    assert len(rows) == 1026 and len({key for key, *_ in rows}) == 1026
    assert {base for _, _, base, _ in rows} == set(range(108))
    assert len({case.operation for *_, case in mini.cases(more=True)}) == 27


def test_nothing_in_it_can_occur_in_training():
    for scene in mini.base_scenes():
        assert held_out("identity", *scene.identity)
    rows = mini.cases(more=True)
    assert all(case.unseen for *_, case in rows)
    assert abs(sum(case.phrasing_held_out for *_, case in rows) - len(rows) / 2) <= 2
    asked = Counter((base, case.prompt) for _, _, base, case in rows)
    assert max(asked.values()) == 1


def test_it_is_the_same_on_every_machine():
    assert mini.checksum() == CHECKSUM
    shown = np.stack([render(scene) for scene in mini.base_scenes()])
    assert abs(shown.mean() - BRIGHTNESS) < 0.01  # processors may round a pixel differently


def test_written_it_reads_like_kontextbench(tmp_path):
    path = mini.write(tmp_path, more=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cases = {key: case for key, _, _, case in mini.cases(more=True)}
    assert [row["key"] for row in rows] == list(cases)
    for row in rows[:: len(rows) // 40]:
        case = cases[row["key"]]
        assert row["instruction"] == case.prompt
        names = [row["file_name"], *row.get("more", [])] if row["file_name"] else []
        for name, scene in zip(names, case.contexts, strict=True):
            assert np.array_equal(np.asarray(Image.open(tmp_path / name)), render(scene))


def test_right_answers_pass_and_copies_do_not():
    for *_, case in mini.cases(more=True)[::40]:
        assert score(case.target_image(), case).success
        assert not any(score(context, case).success for context in case.context_images())
