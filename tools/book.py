"""The course, the results and the package's reference as one static site: `make book`.

Sources are gathered into a folder with the paths of the repository, so that links among them hold;
the notebooks come with their stored outputs. The page of `minikontext page` is the front, if given.

    python tools/book.py build/book [--page build/page]
"""

import argparse
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import minikontext
from minikontext import IDEAS

ROOT = Path(__file__).resolve().parent.parent
GATHERED = ("notebooks/*.ipynb", "notebooks/*.md", "docs/*.md", "data/bench/*.md",
            "data/bench/*.png", "data/bench/*.json", "data/weights/*/README.md",
            "data/safety/*/README.md", "data/lora/README.md", "records/*.md", "records/*/*.toml",
            "data/images/*.png", "docs/*.webp", "docs/*.png", "README.md", "DEPENDENCIES.md",
            "LICENSE", "constraints.txt", "pyproject.toml")  # fmt: skip
DOCUMENTED = ("editing", "images", "pretrained", "runtime", "safety", "toyworld", "training",
              "distillation", "bench")  # fmt: skip

SAME = r"^(## The same in the package.*)$"

# The front of the book: the editor itself, in a frame that takes the book's theme.
EDITOR = """\
<p>Edit a picture right here: a net that runs in your browser, no install.
<a class="reference" href="page/index.html">The editor alone</a></p>
<iframe class="editor" src="page/index.html" title="The editor" loading="lazy"></iframe>"""


def gather(target: Path) -> None:
    """Copy what the book is made of, and write the pages that only it has."""
    shutil.rmtree(target, ignore_errors=True)
    for pattern in GATHERED:
        for source in sorted(ROOT.glob(pattern)):
            place = target / source.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    for page in target.glob("data/**/*.md"):
        text = page.read_text(encoding="utf-8")
        if not text.startswith("#"):  # a table alone
            page.write_text(
                f"# {page.stem.replace('_', ' ').capitalize()}\n\n{text}", encoding="utf-8"
            )
    for notebook in target.glob("notebooks/*.ipynb"):
        notebook.write_text(linked(notebook.read_text(encoding="utf-8")), encoding="utf-8")
    (target / "index.md").write_text(front())
    (target / "api").mkdir()
    (target / "api" / "index.md").write_text(contents("The package", "*", glob=True))
    (target / "api" / "0-the-paper.md").write_text(reference("The paper", IDEAS))
    for wing in DOCUMENTED:
        names = sorted(path.stem for path in (ROOT / "minikontext" / wing).glob("[a-z]*.py"))
        page = reference(wing, [f"{wing}.{name}" for name in names])
        (target / "api" / f"{wing}.md").write_text(page)


def linked(text: str) -> str:
    """A notebook as the book shows it.

    Its prose leads from `mk.flow.loss` to its reference and source, its plots have the width
    that they have in JupyterLab, and what a cell draws has a text for who cannot see it.
    """
    notebook, heading = json.loads(text), ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [heading])[-1]
            cell["source"] = re.sub(r"`(mk|minikontext)\.([\w.]+)(\(\))?`", _link, source)
        texts = []
        for output in cell.get("outputs", []):
            said = "".join(output.get("data", {}).get("text/plain", ""))
            if "image/png" in output.get("data", {}):
                texts.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
            if plot := re.match(r"<Figure size (\d+)", said):
                output["metadata"] = {"image/png": {"width": int(plot[1])}}
        if texts:  # one for all that a cell draws
            drawn = f"What the code above draws: {re.sub('[`*_]', '', heading)}"
            alt = " · ".join(filter(None, texts)) or drawn
            cell.setdefault("metadata", {})["mystnb"] = {"image": {"alt": alt}}
    return json.dumps(with_sources(notebook))


def with_sources(notebook: dict) -> dict:
    """Under "The same in the package" stands what the section's code takes from the package."""
    cells = notebook["cells"]
    code = ["".join(cell["source"]) * (cell["cell_type"] == "code") for cell in cells]
    for i, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "markdown" or not re.search(SAME, source, re.MULTILINE):
            continue
        ends = [j for j in range(i + 1, len(cells)) if cells[j]["cell_type"] == "markdown"
                and re.match("##? ", "".join(cells[j]["source"]))]  # fmt: skip
        if links := _taken("\n".join(code), "\n".join(code[i + 1 : (ends or [len(cells)])[0]])):
            head, title, rest = re.split(SAME, source, maxsplit=1, flags=re.MULTILINE)
            said = f"Reference and source of what is used here: {', '.join(links)}."
            cell["source"] = f"{head}{title}\n\n{said}\n{rest}"
    return notebook


def _taken(every: str, here: str) -> list[str]:
    """Links to what a section's code takes from the package, in order; `every`: the notebook's."""
    whole = dict.fromkeys(re.findall(r"\bmk\.([A-Za-z_]\w*(?:\.\w+)*)", here))
    named = {f"mk.{path}": path for path in whole}
    imports = r"^from minikontext\.?([\w.]*) import (.+)$"
    for module, names in re.findall(imports, every, re.MULTILINE):
        for name in re.findall(r"\w+", names):
            if re.search(rf"(?<![\w.]){name}\b", here):
                named[name] = f"{module}.{name}".lstrip(".")
    found = ((shown, _target(path)) for shown, path in named.items())
    targets = {target: shown for shown, target in found if target}
    return [f"{{py:obj}}`{shown} <{target}>`" for target, shown in targets.items()]


def _link(found: re.Match) -> str:
    target = _target(found[2])
    return f"{{py:obj}}`{found[1]}.{found[2]}{found[3] or ''} <{target}>`" if target else found[0]


def _target(path: str) -> str | None:
    """`flow.loss` -> where the reference describes it; None for what it does not describe."""
    thing = minikontext
    try:
        for name in path.split("."):
            thing = getattr(thing, name)
    except AttributeError:
        return None
    if inspect.ismodule(thing):  # one of many, in a page of its folder; a folder has none
        whole, module = thing.__name__, "" if hasattr(thing, "__path__") else thing.__name__
    else:
        name, module = getattr(thing, "__qualname__", ""), f"{getattr(thing, '__module__', '')}"
        whole = f"{module}.{name}" if name and thing.__doc__ else ""
    wing = module.removeprefix("minikontext.").split(".")[0]
    return whole if whole and wing in (*DOCUMENTED, *IDEAS) else None


def front() -> str:
    """The first page: what it is, the editor, and where to go on."""
    return "\n".join([
        "# minikontext",
        "",
        "FLUX.1 Kontext, the model that edits a picture as an instruction says, rebuilt so that it",
        "can be understood: a course of notebooks, and a package that runs the full weights too.",
        "",
        "{{FRONT}}",
        "",
        contents("The course", *pages("notebooks/*.ipynb"), "notebooks/glossary", heading=False),
        contents("What was measured", "data/bench/README", *pages("data/bench/[a-z]*.md"),
                 *pages("data/weights/*/README.md"), *pages("data/lora/*.md"),
                 *pages("data/safety/*/README.md"), heading=False),
        contents("How to", *pages("docs/*.md"), "records/README", heading=False),
        contents("Reference", "api/index", "README", "DEPENDENCIES", heading=False),
    ])  # fmt: skip


def pages(pattern: str) -> list[str]:
    """Pages of the repository as a table of contents names them."""
    return sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob(pattern))


def contents(title: str, *names: str, heading: bool = True, glob: bool = False) -> str:
    """A table of contents under a title."""
    head = [f"# {title}", ""] if heading else []
    options = [f":caption: {title}", ":maxdepth: 1", *([":glob:"] if glob else [])]
    return "\n".join([*head, "```{toctree}", *options, "", *names, "```", ""])


def reference(title: str, modules: list[str] | tuple[str, ...]) -> str:
    """A page with the docstrings of some modules."""
    parts = [f"# {title}", ""]
    for name in modules:
        parts += [f"## {name}", "", "```{eval-rst}", f".. automodule:: minikontext.{name}",
                  "   :members:", "   :show-inheritance:", "```", ""]  # fmt: skip
    return "\n".join(parts)


def build(target: Path, page: Path | None) -> None:
    """Gather, run Sphinx, check that nothing asks the network and no link leads nowhere."""
    source = target.with_name(f"{target.name}-source")
    gather(source)
    index = source / "index.md"
    shown = EDITOR if page else ""
    index.write_text(index.read_text().replace("{{FRONT}}", shown))
    kept = target.with_name(f"{target.name}-doctrees")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html",
               "-c", str(ROOT / "docs"), "-d", str(kept), str(source), str(target)]  # fmt: skip
    if (target / ".buildinfo").is_file():
        shutil.rmtree(target)  # what an older book had and this one has not
    subprocess.run(command, check=True)
    if page:
        shutil.copytree(page, target / "page", dirs_exist_ok=True)
    if found := [*asked_from_elsewhere(target), *dead_links(target)]:
        raise SystemExit("\n".join(found))


LOADED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="(https?:)?//[^"]*"'
    r'|<link\b(?=[^>]*\brel="(?:stylesheet|preload|icon)")[^>]*?\bhref="(https?:)?//[^"]*"'
)


def asked_from_elsewhere(target: Path) -> list[str]:
    """What a page would load from another place when it is read."""
    return [
        f"{path.relative_to(target)} loads {found.group(0)[:120]}"
        for path in sorted(target.rglob("*.html"))
        for found in LOADED.finditer(path.read_text(encoding="utf-8"))
    ]


def dead_links(target: Path) -> list[str]:
    """Links to files of the site that are not there."""
    found = set()
    for path in target.rglob("*.html"):
        text = re.sub(r"<pre>.*?</pre>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for href in re.findall(r'<[a-z]+ [^<>]*?\b(?:href|src)="([^"#?]+)', text):
            if re.match(r"[a-z]+:|//", href):
                continue
            if not (path.parent / href).exists():
                found.add(f"{path.relative_to(target)} leads to {href}, which is not there")
    return sorted(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--page", type=Path, help="a folder that `minikontext page` made")
    options = parser.parse_args()
    build(options.target.resolve(), options.page)
