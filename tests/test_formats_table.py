"""docs/formats.md promises nothing without a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_row_of_the_table_names_a_test_that_there_is():
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "opens?" not in line]
    named = [re.search(r"`(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 20 and all(named)
    there = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    assert not [found[1] for found in named if f"def {found[1]}(" not in there]
