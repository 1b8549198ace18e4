"""LADD on the plane: students are independent, and the discriminators really teach them."""

import pytest
import torch

from minikontext.course import plane_ladd
from minikontext.course.flow_pictures import answers
from minikontext.errors import ConfigError


def test_students_start_as_the_teacher_and_do_not_share_weights():
    teacher = plane_ladd.flow_teacher(answers("two", 100), steps=3)
    copies = plane_ladd.students(teacher, 2)
    z, t = torch.randn(2, 5, 2), torch.rand(2, 5)
    torch.testing.assert_close(copies(z, t), teacher(z, t))
    copies(z, t)[0].sum().backward()
    gradient = copies.layers[0].weight.grad
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0


def test_ladd_improves_one_step_answers_and_squared_error_does_not():
    x = answers("two", 200)
    teacher = plane_ladd.flow_teacher(x, steps=400)
    real = plane_ladd.sample(teacher, 16, 500)
    before = plane_ladd.good(plane_ladd.sample(teacher, 1), x, within=0.6)
    dials = {"steps": 250, "seeds": 2, "batch": 96, "mu": 0.0}
    shares = [
        plane_ladd.good(plane_ladd.sample(plane_ladd.ladd(teacher, real, mse=mse, **dials), 1,
                                          seeds=2), x, within=0.6)
        for mse in (False, True)
    ]  # fmt: skip
    assert shares[0].min() > before + 30 and shares[1].max() < before + 10


def test_results_are_stored_with_every_seed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plane_ladd, "VARIANTS", {plane_ladd.PLAIN: {}, "batch of 2": {"batch": 2}})
    plane_ladd.main(["--seeds", "2", "--steps", "2", "--output", str(tmp_path)])
    teacher, _, two = plane_ladd.load(tmp_path / "plane_ladd.json")
    assert list(teacher.good) == ["1", "2", "4", "28"] and len(two.good["1"]) == 2
    out = capsys.readouterr().out
    assert "| batch of 2 | 2 |" in out and out.count("not decided") == 1


@pytest.mark.parametrize(("seeds", "steps"), [(9, 1), (1, 9999), (7, 1200), (8, 1199)])
def test_a_part_of_a_run_is_not_stored(monkeypatch, seeds, steps):
    """More of one number does not make up for less of the other."""
    monkeypatch.setattr(plane_ladd, "study", lambda *_: pytest.fail("it was not refused"))
    with pytest.raises(ConfigError, match="this is a part"):
        plane_ladd.main(["--store", "--seeds", str(seeds), "--steps", str(steps)])


def test_what_a_variant_does_is_decided_student_by_student():
    def result(name, one):
        return plane_ladd.Result(name, {"1": one})

    plain = [60.0, 62, 64, 66, 60, 62, 64, 66]
    found = [result(plane_ladd.PLAIN, plain)]
    found += [result("batch of 2", [v - 30 for v in plain])]
    found += [result("momentum of 0.9 for both", [v + d for v, d in zip(plain, [5, -5] * 4)])]
    assert plane_ladd.decided(found) == {
        "batch of 2": "worse", "momentum of 0.9 for both": "not decided"
    }  # fmt: skip
