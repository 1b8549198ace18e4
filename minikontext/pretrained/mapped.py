"""Files that stay mapped into memory while weights are used: has anybody written into them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from minikontext.errors import WeightsError, WeightsWarning, shorten_list, warn
from minikontext.pretrained import safetensors_io
from minikontext.runtime import files
from minikontext.runtime.lease import Lease

Stamp = tuple[int, int, int]


def watch(modules: Iterable[nn.Module], weight_files: Iterable[Path]) -> None:
    """Let modules look, before each of their calls, whether their large files are as they were.

    They then raise WeightsError: such a file may be read while it is used, so one that is written
    to changes the model, and one that is cut short would end the process. During a call the files
    are leased: another program that wants to write waits, and the call ends with a WeightsError
    before the next block. A file that another has replaced by a rename, or removed, stays mapped.
    Warns of files on which no lease is to be had.
    """
    large = {path: stamp for path in weight_files if (stamp := _stamp(path)) and _is_large(stamp)}
    here = [one for one in modules if any(p.device.type == "cpu" for p in one.parameters())]
    for module in here if large else ():
        _guard(module, large, Lease(large))
    with Lease(large if here else ()) as lease:
        loose = lease.unheld()
    if loose:
        warn(WeightsWarning(
            f"{shorten_list(map(str, loose))} stays mapped into memory and cannot be held: the "
            "file is another user's, or its disk or this system lends no lease. A program that "
            "overwrites it ends an edit in an error; one that cuts it ends this process. Copy "
            "the file to a folder of your own on a local disk."
        ))  # fmt: skip


def _guard(module: nn.Module, before: dict[Path, Stamp], lease: Lease) -> None:
    def enter(one: nn.Module, _: object) -> None:
        lease.__enter__()  # no wrapped forward: that of a copied module would be its original's
        _require_untouched(one, before)

    def leave(one: nn.Module, *_: object) -> None:
        lease.__exit__(None, None, None)
        _require_untouched(one, before)

    @contextmanager
    def held() -> Iterator[None]:
        enter(module, None)
        try:
            yield
        except BaseException:  # it says more than that the file has changed, once it may
            lease.__exit__(None, None, None)
            raise
        leave(module)

    module.held = held  # see `lease.held`
    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)
    for blocks in (part for part in module.modules() if isinstance(part, nn.ModuleList)):
        for block in blocks:
            block.register_forward_pre_hook(lambda *_: lease.check())


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
