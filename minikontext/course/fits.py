"""The widget of notebook 11: will the full weights fit, and in which way?"""

from __future__ import annotations

from functools import lru_cache

import ipywidgets as W
import torch
from matplotlib.figure import Figure

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.course import style
from minikontext.course.flow_pictures import png
from minikontext.course.parts import THIRD, TIGHT, Widget, follow, plot_box, row, stops, wide
from minikontext.course.plots import stacked_bars
from minikontext.runtime import memory_plan
from minikontext.training.plan import forward_flops
from minikontext.transformer import KontextTransformer, TransformerConfig

# T5-XXL's encoder and CLIP's text encoder as published, in 16 bits; T5's largest layer visits
# alone: its embedding or a block. Counted once from their configurations.
T5, T5_EMBEDDING, CLIP = 4_762_310_656, 32_128 * 4_096, 123_060_480
ENCODERS = memory_plan.Encoders(2 * (T5 + CLIP), 2 * max(T5_EMBEDDING, (T5 - T5_EMBEDDING) // 24))
CARDS = {"8 GB": 8, "12 GB": 12, "16 GB": 16, "24 GB": 24, "32 GB": 32, "48 GB": 48, "80 GB": 80}
PARTS = {
    "transformer": style.BLUE,
    "encoders": style.GREEN,
    "autoencoder": style.GOLD,
    "activations": style.ACCENT,
    "reserve": style.GREY,
}


@lru_cache
def plans(side: int = 1024, contexts: int = 1) -> list[memory_plan.Plan]:
    """Every memory plan of FLUX.1 Kontext [dev] in bfloat16 for a square edit; no weight exists."""
    with torch.device("meta"):
        net = KontextTransformer(TransformerConfig.flux_dev())
        pixels = AutoEncoder(AutoEncoderConfig.flux())
    inputs = (ENCODERS, torch.bfloat16, (side, side), 1 + contexts)
    return memory_plan.predict(net, pixels, *inputs)


def show_plans(found: list[memory_plan.Plan], limit: float | None = None) -> Figure:
    """Stacked bars of what each plan holds on the device, in GB; the line is the card."""
    figure = Figure(figsize=(style.PLOT, 2.4), layout="constrained")
    axes = figure.subplots()
    rows = {
        one.name: {part: getattr(one, part) / memory_plan.GB for part in PARTS} for one in found
    }
    stacked_bars(axes, rows, PARTS, limit)
    axes.set_xlabel("GB on the device")
    return figure


class FitsWidget(Widget):
    """Choose a card, a size and a number of pictures; read which plan is taken, and why.

    Parts: card, side, contexts, image, status; `plan` is the one taken, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        follow(self.show, self.card, self.side, self.contexts)
        self.show()

    def _make_controls(self) -> None:
        same = {"style": TIGHT, "layout": wide(THIRD)}
        self.card = stops(CARDS, "Card", value=24)
        self.side = stops((512, 768, 1024, 1536, 2048), "Pixels", value=1024)
        self.contexts = W.IntSlider(1, 0, 2, description="Contexts", **same)
        self.image = plot_box("what each plan holds")

    def _arrange(self) -> list[W.Widget]:
        return [row([self.card, self.side, self.contexts]), self.image, self.status]

    def show(self) -> None:
        """Predict, choose, and say so."""
        found = plans(self.side.value, self.contexts.value)
        self.image.show(png(show_plans(found, self.card.value)))
        fitting = [plan for plan in found if plan.peak <= self.card.value * memory_plan.GB]
        self.plan = fitting[0] if fitting else None
        self._say(*self._summary(found))

    def _summary(self, found: list[memory_plan.Plan]) -> tuple[str, str]:
        if self.plan is None:
            least = min(plan.peak for plan in found) / memory_plan.GB
            return "error", f"No plan fits into {self.card.value} GB: the least is {least:.1f} GB."
        tokens = (1 + self.contexts.value) * (self.side.value // 16) ** 2
        flops = forward_flops(TransformerConfig.flux_dev(), tokens, 512) / 1e12
        taken = self.plan
        return "done", (
            f"offload=“{taken.name}”: {taken.peak / memory_plan.GB:.1f} of "
            f"{self.card.value} GB. A step is {flops:,.0f} TFLOP."
        )
