"""Install minikontext in every way that docs/install.md names, and see whether it works.

For each way and Python: a fresh environment, a picture edited, the student's copy of the course
opened in JupyterLab; and the minutes from nothing to the edited picture, which the network and what
pip has kept decide as well. Prints a Markdown table, and puts it into docs/install.md if asked.

    python tools/installs.py [clone:python3.11 wheel:python3.13 …] [--store]

Without rows: every way with this Python. Rows that are stored already stay. "newest" takes the
wheel without constraints.txt. PIP_ARGS in the environment goes to every pip.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "install.md"
PLACE = re.compile(r"(<!-- installs -->\n).*?(<!-- end -->)", re.DOTALL)
WAYS = ("clone", "wheel", "sdist", "git", "newest")
PATIENCE = 900  # seconds, for JupyterLab to answer
# Stands for the repository's address: git takes what lies here instead. Older versions of pip
# refuse an address of a file behind "@".
ADDRESS = "https://minikontext.invalid/minikontext"
INSTEAD = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
    "GIT_CONFIG_VALUE_0": ADDRESS,
}
FACTS = """import torch, platform
from minikontext.runtime.files import shipped
print(platform.python_version(), torch.__version__, shipped("data", "images", "demo.png"))
"""


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """The output of a command; its last lines are the error if it fails."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean | env, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    return done.stdout


def pip(python: Path, *words: str | Path) -> None:
    more = shlex.split(os.environ.get("PIP_ARGS", ""))
    run(python, "-m", "pip", "install", "-q", *more, *words, **INSTEAD)


def environment(way: str, base: str, home: Path) -> Path:
    """Install in one way with one Python; return the environment's own Python."""
    if way == "clone":
        run("git", "clone", "-q", "--depth", "1", f"file://{ROOT}", home / "clone")
        more = f"PIP_ARGS={os.environ.get('PIP_ARGS', '')}"
        run("make", "-C", home / "clone", ".venv/.installed", f"PYTHON={base}", more)
        return home / "clone" / ".venv" / "bin" / "python"
    run(base, "-m", "venv", home / "venv")
    python = home / "venv" / "bin" / "python"
    pinned = [] if way == "newest" else ["-c", ROOT / "constraints.txt"]
    if way == "git":
        pip(python, *pinned, f"minikontext[flux] @ git+{ADDRESS}")
        return python
    kind = "sdist" if way == "sdist" else "wheel"
    run(base, "-m", "venv", home / "builder")
    builder = home / "builder" / "bin" / "python"
    pip(builder, "hatchling")
    run(builder, "-m", "hatchling", "build", "-t", kind, "-d", home / "dist", cwd=ROOT)
    (built,) = (home / "dist").iterdir()
    pip(python, *pinned, f"minikontext[flux] @ {built.as_uri()}")
    return python


def edits(python: Path, picture: str, home: Path) -> bool:
    """Whether the command edits a picture far from the clone, and the result is as written."""
    words = ("make the hat red", "--seed", "0", "--weights", "toy-max", "-o", "red.png")
    run(python, "-m", "minikontext", "edit", picture, *words, cwd=home)
    run(python, "-m", "minikontext", "inspect", "red.png", cwd=home)
    return True


@contextmanager
def served(python: Path, home: Path) -> Iterator[str]:
    """`minikontext lab` on a copy of the course; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ("--no-browser", f"--port={port}", "--IdentityProvider.token=secret", "--allow-root")
    command = [python, "-m", "minikontext", "lab", home / "course", "--", *words]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(list(map(str, command)), cwd=home, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/api/contents/00_start_here.ipynb?token=secret"
    finally:
        server.terminate()
        server.wait(60)


def opens(python: Path, home: Path) -> bool:
    """Whether JupyterLab hands out notebook 00 of the copy."""
    with served(python, home) as address:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    return b'"nbformat"' in answer.read()
            except OSError:
                time.sleep(1)
    raise RuntimeError((home / "lab.log").read_text()[-1500:])


def row(way: str, base: str) -> str:
    """One line of the table; what fails is told on stderr and marked."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        try:
            began = time.monotonic()
            python = environment(way, base, home)
            version, torch, picture = run(python, "-c", FACTS, cwd=home).split()
            edited = edits(python, picture, home)
            minutes = f"{(time.monotonic() - began) / 60:.1f}"
            marks = ["yes" if edited else "no", "yes" if opens(python, home) else "no", minutes]
        except RuntimeError as error:
            print(f"{way}, {base}: {error}", file=sys.stderr)
            version = run(base, "-c", "import platform; print(platform.python_version())").strip()
            torch, marks = "", ["**no**", "**no**", ""]
        return f"| {way} | {version} | {torch} | {' | '.join(marks)} |"


def weight() -> str:
    """What a clone of the last commit alone weighs, and its files without the history."""
    with tempfile.TemporaryDirectory() as folder:
        run("git", "clone", "-q", "--depth", "1", f"file://{ROOT}", Path(folder, "clone"))
        sizes = {path: path.lstat().st_size for path in Path(folder, "clone").rglob("*")
                 if path.is_file()}  # fmt: skip
        history = sum(size for path, size in sizes.items() if ".git" in path.parts)
        return f"`git clone --depth 1` fetches {history / 1e6:.0f} MB and takes " \
               f"{sum(sizes.values()) / 1e6:.0f} MB of the disk."  # fmt: skip


def stored(text: str) -> dict[tuple[str, str], str]:
    """The rows that docs/install.md has already, by way and Python's minor version."""
    rows = re.findall(r"^(\| (\w+) \| (\d+\.\d+)[^|]* \|.*)$", PLACE.search(text)[0], re.MULTILINE)
    return {(way, version): _whole(line) for line, way, version in rows}


def _whole(line: str) -> str:
    """A row of before the minutes were taken has an empty cell for them."""
    return line + "  |" * (line.count("|") == 6)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    everything = [f"{way}:{sys.executable}" for way in WAYS]
    options.add_argument("rows", nargs="*", metavar="WAY:PYTHON", default=everything)
    options.add_argument("--store", action="store_true", help="put them into docs/install.md")
    chosen, text = options.parse_args(), PAGE.read_text(encoding="utf-8")
    lines = stored(text)
    names = "way", "Python", "torch", "edits a picture", "opens the course", "minutes to the edit"
    head = [weight(), "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for one in chosen.rows:
        way, _, base = one.partition(":")
        line = row(way, shutil.which(base) or base)
        print(line, flush=True)
        lines |= stored(f"<!-- installs -->\n{line}\n<!-- end -->")
        rows = [lines[key] for key in sorted(lines, key=_order)]
        table = "\n".join([*head, *rows, "", ""])
        if chosen.store:  # at once: a row takes its time
            PAGE.write_text(PLACE.sub(rf"\g<1>{table}\g<2>", text), encoding="utf-8")
    return int(any("**no**" in line for line in lines.values()))


def _order(key: tuple[str, str]) -> tuple[int, int]:
    return WAYS.index(key[0]), int(key[1].partition(".")[2])


if __name__ == "__main__":
    sys.exit(main())
