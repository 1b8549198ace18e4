"""The report names what is missing, what to run, and ends with the right exit code."""

import pytest

from minikontext.cli import doctor


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_core_is_installed_here():
    checks = list(doctor.check_packages())
    assert {"torch", "einops", "pillow", "jupyterlab"} <= {check.name for check in checks}
    assert all(check.ok is not False for check in checks)


@pytest.mark.parametrize(
    ("requirement", "ok", "words"),
    [
        ("einops>=0.8", True, "0."),
        ("einops>=99.1", False, "is not >=99.1"),
        ("einops>=0.1,<0.2", False, "is not <0.2,>=0.1"),
        ("einops[extra]~=0.8", True, "0."),
        ("no-such-package>=1", False, "not installed. Run: pip install"),
        ('no-such-package>=1; extra == "flux"', None, 'pip install -e ".[flux]"'),
    ],
)
def test_one_package(requirement, ok, words):
    (check,) = doctor.check_packages([requirement])
    assert check.ok is ok
    assert words in check.detail


def test_what_does_not_concern_this_machine_is_left_out():
    others = ['tomli>=2; python_version < "3.9"', 'pytest>=8; extra == "test"']
    assert list(doctor.check_packages(others)) == []


def test_the_installed_package_has_its_course():
    assert doctor.check_notebooks().ok is True


def test_a_package_without_notebooks_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "shipped", lambda *_: tmp_path)
    assert doctor.check_notebooks().ok is False


def test_a_package_that_does_not_import(monkeypatch):
    monkeypatch.setitem(doctor.IMPORTS, "einops", "einops.no_such_module")
    (check,) = doctor.check_packages(["einops>=0.1"])
    assert check.ok is False
    assert "does not import: ModuleNotFoundError" in check.detail


@pytest.mark.parametrize(
    ("version", "ok"),
    [((3, 9, 1), False), ((3, 10, 0), True), ((3, 13, 9), True), ((3, 14), False)],
)
def test_python_version(version, ok):
    assert doctor.check_python(version).ok is ok


def test_the_device_multiplies():
    assert doctor.check_device().ok is True


def test_missing_weights_fail_and_the_report_goes_on(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(tmp_path))
    assert doctor.main() == 1
    report = lines(capsys)
    (weights,) = [line for line in report if " weights " in line]
    assert weights.startswith("[FAIL]") and "WeightsError" in weights
    assert any("notebooks" in line for line in report)
    assert "1 problem(s)" in report[-1]


def test_all_well(capsys, monkeypatch):
    good = doctor.Check("thing", True, "fine")
    absent = doctor.Check("other", None, "optional")
    monkeypatch.setattr(doctor, "checks", lambda: iter([good, absent]))
    assert doctor.main() == 0
    assert lines(capsys) == [
        "[OK]   thing            fine",
        "[--]   other            optional",
        "",
        "All is well.",
    ]
