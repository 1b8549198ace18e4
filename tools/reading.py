"""How long a notebook takes to read: words and lines of code, counted, at rates that are named.

`python tools/reading.py` prints the table; `python tools/tables.py` writes it into the docs.

An estimate: nobody was timed. WORDS a minute is the mean of silent reading of English non-fiction
(Brysbaert 2019, doi 10.1016/j.jml.2019.104047, 190 studies; most adults read 175 to 300). LINES an
hour is the middle of the 300 to 500 that code reviewers are advised to keep below (Cohen and others
2006, Best Kept Secrets of Peer Code Review). Exercises are the minutes that their headings say.
"""

import re
from pathlib import Path

import nbformat

from minikontext.bench import report

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
WORDS, LINES = 238, 400
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
BOX = re.compile(r"^### Exercise .*· (\d+) minutes", re.MULTILINE)


def markdown(notebook: nbformat.NotebookNode) -> str:
    """All that is no code cell."""
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def prose(text: str) -> list[str]:
    """All words beside the code: headings, tables, folds and end sections count."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"<[^>]+>", " ", text))  # no tags, no addresses
    return re.findall(r"\b[\w'’-]+\b", text)


def lines_of_code(notebook: nbformat.NotebookNode) -> list[str]:
    """Every line of code that a student reads: cells and solutions."""
    shown = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    shown += FENCED.findall(markdown(notebook))
    lines = [line.strip() for source in shown for line in source.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def row(path: Path) -> tuple[str, int, int, int, int, float]:
    """Name, words, lines, minutes of reading, minutes of exercises, measured seconds of cells."""
    notebook = nbformat.read(path, as_version=4)
    words, lines = len(prose(markdown(notebook))), len(lines_of_code(notebook))
    boxes = sum(map(int, BOX.findall(markdown(notebook))))
    reading = round(words / WORDS + 60 * lines / LINES)
    return path.stem, words, lines, reading, boxes, notebook.metadata["measured_seconds"]


def stated(path: Path) -> str:
    """What a notebook's header says of its time."""
    _, _, _, reading, boxes, seconds = row(path)
    return f"{5 * round(reading / 5)} minutes to read and {boxes} of exercises, both estimated; " \
           f"all cells run in {spoken(seconds)} on two CPU cores"  # fmt: skip


def spoken(seconds: float) -> str:
    """Measured seconds in words, to half a minute."""
    if seconds < 20:
        return "less than half a minute"
    halves = round(seconds / 30)
    minutes = ("", "a minute", "two minutes", "three minutes")[halves // 2]
    return "about " + " and ".join(filter(None, [minutes, "half a minute" if not minutes else
                                                 "a half" if halves % 2 else ""]))  # fmt: skip


def table() -> str:
    """All notebooks, and their sums."""
    rows = [row(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    sums = [round(sum(column), 1) for column in list(zip(*rows, strict=True))[1:]]
    head = ("notebook", "words", "lines of code", "reading, min", "exercises, min", "cells, s")
    return report.table(head, [*rows, ("**together**", *sums)])


if __name__ == "__main__":
    print(table())
