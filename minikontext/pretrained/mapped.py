"""Files that stay mapped into memory while weights are used: has anybody written into them?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from minikontext.errors import WeightsError
from minikontext.pretrained import safetensors_io
from minikontext.runtime import files

Stamp = tuple[int, int, int]


def watch(modules: Iterable[nn.Module], weight_files: Iterable[Path]) -> None:
    """Let modules look, before each of their calls, whether their large files are as they were.

    They then raise WeightsError: such a file may be read while it is used, so one that is written
    to changes the model, and one that is cut short ends the process. A file that another has
    replaced by a rename, or removed, stays mapped as it was.
    """
    large = {path: stamp for path in weight_files if (stamp := _stamp(path)) and _is_large(stamp)}
    for module in modules if large else ():
        module.register_forward_pre_hook(lambda one, _: _require_untouched(one, large))


def _stamp(path: Path) -> Stamp | None:
    if not files.exists(path):
        return None
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_large(stamp: Stamp) -> bool:
    return stamp[1] > safetensors_io.MAPPED_FROM


def _require_untouched(module: nn.Module, before: dict[Path, Stamp]) -> None:
    for path, stamp in before.items():
        now = _stamp(path)
        if now in (None, stamp) or now[0] != stamp[0]:
            continue
        if any(parameter.device.type == "cpu" for parameter in module.parameters()):
            raise WeightsError(
                f"{path} was written to after it was loaded, and these weights are read from it "
                "while they are used. Restore the file, and load the pipeline again."
            )
