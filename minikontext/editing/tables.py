"""What a notebook shows of an output and of a pipeline: pictures; a table of parts and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from PIL import Image
from torch import nn

from minikontext import images
from minikontext.editing.defaults import Defaults
from minikontext.runtime.log import markup

SIDE = 256  # pixels of a picture on the page; twice as many are sent, for dense screens
MOST = 16  # pictures: of more, only the number is said


class HasParts(Protocol):
    """A pipeline, as far as its table needs it."""

    name: str
    defaults: Defaults
    loras: Sequence[object]

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Its parts by name."""


def pictures(rows: Iterable[tuple[Image.Image, str, str]]) -> str:
    """Pictures side by side, each above its prompt and a line of facts."""
    found = list(rows)
    figures = [_figure(*row) for row in found[:MOST]]
    more = f"<p>… and {len(found) - MOST} more</p>" if len(found) > MOST else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>{more}'


def _figure(picture: Image.Image, prompt: str, facts: str) -> str:
    words = markup(prompt)
    # Few pixels are shown as such, many are smoothed.
    pixels = "image-rendering:pixelated;" if max(picture.size) <= SIDE // 2 else ""
    shape = "width:100%" if picture.width >= picture.height else f"height:{SIDE}px"
    said = f"“{words}”<br>" if words else ""
    return (
        f'<figure style="margin:0;width:{SIDE}px">'
        f'<img src="{images.data_url(images.shrunk(picture, 2 * SIDE))}" '
        f'alt="{words or "result"}" style="{pixels}{shape}">'
        f'<figcaption style="line-height:1.4">{said}<small>{facts}</small></figcaption></figure>'
    )


def parts(pipe: HasParts) -> str:
    """A table of a pipeline's parts and their sizes; below it what its weights were made for."""
    rows = [_row(name, module) for name, module in pipe.modules.items()]
    head = _cells(["part", "class", "parameters", "MB", "numbers", "device"], "th")
    body = "".join(_cells(row) for row in rows)
    loras = f" LoRA: {', '.join(map(str, pipe.loras))}." if pipe.loras else ""
    return (
        f"<table><caption>{markup(pipe.name)}</caption><thead>{head}</thead>"
        f"<tbody>{body}</tbody></table><p>{markup(_made_for(pipe.defaults) + loras)}</p>"
    )


def _made_for(defaults: Defaults) -> str:
    steps, most = defaults.num_inference_steps, defaults.max_contexts
    sizes = ", ".join(f"{width} × {height}" for width, height in defaults.sizes[:4])
    more = f" and {len(defaults.sizes) - 4} more" if len(defaults.sizes) > 4 else ""
    return (
        f"{steps} steps where a call says nothing; sizes {sizes}{more}; "
        f"{most} context picture{'s' * (most != 1)} at most."
    )


def _row(name: str, module: nn.Module) -> list[str]:
    weights = list(module.parameters())
    size = sum(one.numel() * one.element_size() for one in weights)
    kinds = dict.fromkeys(str(one.dtype).removeprefix("torch.") for one in weights)
    places = dict.fromkeys(str(one.device) for one in weights)
    count = sum(one.numel() for one in weights)
    return [name.replace("_", " "), type(module).__name__, f"{count:,}", f"{size / 1e6:,.1f}",
            ", ".join(kinds), ", ".join(places)]  # fmt: skip


def _cells(values: Iterable[str], kind: str = "td") -> str:
    return f"<tr>{''.join(f'<{kind}>{markup(value)}</{kind}>' for value in values)}</tr>"
