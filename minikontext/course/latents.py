"""The widget of notebook 01: knobs for a picture's latents."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as W
import torch
from PIL import Image

from minikontext import images as image_io
from minikontext.course import plots, samples
from minikontext.course.parts import (
    CSS,
    REPR,
    THIRD,
    TIGHT,
    button,
    captioned,
    picture_box,
    row,
    show,
    status_line,
    wide,
)


class LatentWidget(W.VBox):
    """Turn the knobs of a picture's latents and see what the decoder makes of them.

    Parts: picture, channel, push, noise, reset, before, image, latents, status.
    """

    def __init__(
        self, autoencoder: torch.nn.Module, pictures: Mapping[str, Image.Image] | None = None
    ) -> None:
        self.autoencoder = autoencoder
        self.pictures = dict(pictures if pictures is not None else samples.pictures())
        self._make_controls(autoencoder.config.z_channels)
        super().__init__(self._arrange())
        self.add_class("mk")
        for part in (self.picture, self.channel, self.push, self.noise):
            part.observe(lambda _: self.show(), "value")
        self.reset.on_click(lambda _: self._reset())
        self.show()

    def __repr__(self) -> str:
        return REPR

    def _make_controls(self, channels: int) -> None:
        self.picture = W.Dropdown(options=list(self.pictures), layout=W.Layout(width="190px"))
        same = {"style": TIGHT, "layout": wide(THIRD)}
        self.channel = W.IntSlider(0, 0, channels - 1, description="Channel", **same)
        self.push = W.FloatSlider(0, min=-4, max=4, description="Add", **same)
        self.noise = W.FloatSlider(0, min=0, max=2, description="Noise", **same)
        self.reset = button("Reset", "Back to the latents of the picture", "mk-quiet", "80px")
        self.before, self.image, self.latents = (
            picture_box(name) for name in ("the picture", "the decoded latents", "one channel")
        )
        self.status = W.HTML()

    def _arrange(self) -> list[W.Widget]:
        names = ("picture", "latents, this channel", "decoded")
        boxes = (self.before, self.latents, self.image)
        for box in boxes:
            box.layout.width = "200px"
        return [
            W.HTML(CSS, layout=W.Layout(display="none")),
            row([W.Label("Picture"), self.picture, self.reset]),
            captioned(boxes, names),
            row([self.channel, self.push, self.noise]),
            self.status,
        ]

    def _reset(self) -> None:
        self.push.value = self.noise.value = 0.0

    @torch.no_grad()
    def show(self) -> None:
        """Encode the picture, push one channel, add noise, decode, and show all three."""
        picture = self.pictures[self.picture.value]
        weight = next(self.autoencoder.parameters())
        pixels = image_io.to_tensor(picture).to(weight)
        latents = self.autoencoder.encode(pixels)  # (1, c, h, w)
        changed = latents.clone()
        changed[:, self.channel.value] += self.push.value
        seeded = torch.Generator().manual_seed(0)
        changed += self.noise.value * torch.randn(latents.shape, generator=seeded).to(weight)
        decoded = self.autoencoder.decode(changed)
        show(self.before, picture)
        show(self.image, image_io.to_pil(decoded)[0])
        show(self.latents, plots.colours(changed[0, self.channel.value].float().cpu(), 4.0))
        error = (decoded.clamp(-1, 1) - pixels).square().mean().clamp_min(1e-8)
        db = 10 * torch.log10(4 / error).item()
        text = f"Channel {self.channel.value}. Decoded against the picture: {db:.1f} dB."
        self.status.value = status_line("idle", text)
