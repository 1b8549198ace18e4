"""Write the exercises of the notebooks from their one source, `minikontext/course/exercises`.

`python tools/exercises.py` puts stubs and solutions into them; `--check` only says which differ. In
the source, a table beside the checks of a notebook has the solutions, and the mistakes that are
named. A stub is a solution without its body. Prose and hints are the notebook's own.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

import nbformat

from minikontext.course import exercises  # noqa: F401  fills the table
from minikontext.course.checks import SOLVED

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FOLD = re.compile(r"(<summary>Solution</summary>\n\n```python\n).*?(\n```)", re.DOTALL)


def parts(solution: str) -> tuple[str, str]:
    """A solution as its stub, and as it is shown: without what the stub says already."""
    lines, stubs, left_out = solution.splitlines(), [], set()
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef):
            first, told = node.body[0], ast.get_docstring(node) is not None
            end = first.end_lineno if told else first.lineno - 1
            kept = [*lines[node.lineno - 1 : end], "    raise NotImplementedError"]
            stubs.append("\n".join(kept))
            left_out |= set(range(first.lineno - 1, end)) if told else set()
    shown = [line for i, line in enumerate(lines) if i not in left_out]
    return "\n\n".join(stubs), "\n".join(shown)


def renewed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put stubs and solutions into a notebook. Raises ValueError where a fold is missing."""
    for place, cell in enumerate(notebook.cells):
        if "exercise" not in cell.metadata.get("tags", []):
            continue
        names = re.findall(r"mk\.course\.check\((\w+)\)", cell.source)
        stubs, shown = zip(*(parts(SOLVED[name]) for name in names), strict=True)
        fold = notebook.cells[place + 1]
        if not FOLD.search(fold.source):
            raise ValueError(f"No fold with a solution follows the exercise {', '.join(names)}.")
        rest = cell.source[cell.source.index("mk.course.check(") :]
        cell.source = "\n\n".join([*stubs, rest])
        text = "\n\n".join(shown)
        fold.source = FOLD.sub(lambda found, text=text: found[1] + text + found[2], fold.source)
    return notebook


def main(arguments: list[str] | None = None) -> int:
    """Command line: 1 where --check finds a notebook that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, say what differs")
    options, old = parser.parse_args(arguments), []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        before = nbformat.read(path, as_version=4)
        if renewed(nbformat.read(path, as_version=4)) == before:
            continue
        old.append(path.stem)
        if not options.check:
            nbformat.write(renewed(before), path)
    print("differ:" if options.check else "written:", ", ".join(old) or "none")
    return int(options.check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
