"""Every fault that `make mutants` plants still fits the code, and names tests that are there."""

import re

import pytest

from tests import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.why)
def test_a_planted_fault_fits_the_code(mutant):
    text = (mutants.ROOT / "minikontext" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1 and mutant.new != mutant.old
    for test in mutant.tests.split():
        file, *names = test.split("::")
        source = (mutants.ROOT / file).read_text(encoding="utf-8")
        assert all(re.search(rf"def {name.split('[')[0]}\(", source) for name in names)
