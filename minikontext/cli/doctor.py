"""Is everything here that the course needs? One [OK] or [FAIL] line for each thing."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from minikontext.runtime import log
from minikontext.runtime.files import shipped

# Where the name that is imported is not the name that is installed.
IMPORTS = {"pillow": "PIL", "protobuf": "google.protobuf"}
EXTRAS = ("flux", "quant")  # what full weights may want
INSTALL = "pip install -e . -c constraints.txt"


@dataclass(frozen=True)
class Check:
    """One line of the report: `ok` is None for a thing that is absent and may be."""

    name: str
    ok: bool | None
    detail: str

    def __str__(self) -> str:
        mark = {True: "[OK]  ", False: "[FAIL]", None: "[--]  "}[self.ok]
        return f"{mark} {self.name:<16} {self.detail}"


def main() -> int:
    """Print the report; return 0 if all is well and 1 if something that is needed fails."""
    failed = 0
    for check in checks():
        log.say(check, keep="")
        failed += check.ok is False
    print(f"\n{failed} problem(s). See the lines marked [FAIL]." if failed else "\nAll is well.")
    return 1 if failed else 0


def checks() -> Iterator[Check]:
    """Run every check, each only when its line is asked for; none of them raises."""
    yield check_python()
    yield from check_packages()
    yield _guarded("device", check_device)
    yield _guarded("weights", check_weights)
    yield _guarded("notebooks", check_notebooks)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Python 3.10 to 3.13."""
    shown = ".".join(map(str, version))
    if (3, 10) <= version[:2] <= (3, 13):
        return Check("python", True, f"{shown} on {platform.system()} {platform.machine()}")
    return Check("python", False, f"{shown}; 3.10 to 3.13 are supported")


def check_packages(requirements: list[str] | None = None) -> Iterator[Check]:
    """Every package of the core, which must be there and import, and those for full weights."""
    try:
        lines = metadata.requires("minikontext") if requirements is None else requirements
    except metadata.PackageNotFoundError:
        yield Check("minikontext", False, f"is not installed. Run: {INSTALL}")
        return
    seen: set[str] = set()
    for requirement in map(Requirement, lines or []):
        name, extra = requirement.name.lower(), _extra(requirement)
        if extra is not None and name not in seen:
            seen.add(name)
            yield check_package(requirement, extra)


def _extra(requirement: Requirement) -> str | None:
    """Which part of this package asks for it: "" is the core; None concerns nobody here."""
    marker = requirement.marker
    fitting = (e for e in ("", *EXTRAS) if marker is None or marker.evaluate({"extra": e}))
    return next(fitting, None)


def check_package(requirement: Requirement, extra: str = "") -> Check:
    """Is the package installed, within its range, and does it import?"""
    name = requirement.name.lower()
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra:
            return Check(name, None, f'not installed; optional: pip install -e ".[{extra}]"')
        return Check(name, False, f"not installed. Run: {INSTALL}")
    if not requirement.specifier.contains(version, prereleases=True):
        wanted = f"{version} is not {requirement.specifier}"
        return Check(name, False, f"{wanted}. Run: {INSTALL}")
    if not extra and (trouble := _import_trouble(IMPORTS.get(name, name.replace("-", "_")))):
        return Check(name, False, f"{version} does not import: {trouble}")
    return Check(name, True, version)


def check_device() -> Check:
    """A matrix product on the device that would be chosen, compared with the CPU's."""
    import torch

    from minikontext.runtime import device

    choice = device.explain_device()
    factors = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    product = (factors.to(choice.device) @ factors.to(choice.device)).cpu()
    if not torch.allclose(product, factors @ factors, atol=1e-1):
        return Check("device", False, "multiplies wrongly; set MINIKONTEXT_DEVICE=cpu")
    return Check("device", True, str(choice).removeprefix("device: "))


def check_weights(name: str = "toy") -> Check:
    """The shipped weights: there, complete, and fitting the code."""
    from minikontext.pretrained import native, safetensors_io

    folder = native.find_weights(name)
    tensors = sum(
        len(safetensors_io.inspect(file)) for file in sorted(folder.glob("*.safetensors"))
    )
    return Check("weights", True, f"{name}: {tensors} tensors in {_short(folder)}")


def check_notebooks() -> Check:
    """The course's notebooks, as shipped; `minikontext lab` copies them."""
    folder = shipped("notebooks")
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        return Check("notebooks", False, f"none in {_short(folder)}. Run: {INSTALL}")
    return Check("notebooks", True, f"{len(found)} in {_short(folder)}")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A broken installation can raise anything; the report must reach its last line."""
    try:
        return check()
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _import_trouble(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _short(folder: Path) -> str:
    return str(folder).replace(str(Path.home()), "~") if Path.home() != Path("/") else str(folder)
