"""The widget of notebook 01: knobs for a picture's latents."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as W
import torch
from PIL import Image

from minikontext import images as image_io
from minikontext.course import plots, samples
from minikontext.course.parts import (
    THIRD,
    TIGHT,
    Picture,
    Widget,
    button,
    captioned,
    choice,
    follow,
    row,
    show,
    wide,
)


class LatentWidget(Widget):
    """Turn the knobs of a picture's latents and see what the decoder makes of them.

    Parts: picture, channel, push, noise, reset, before, image, latents, status.
    """

    def __init__(
        self, autoencoder: torch.nn.Module, pictures: Mapping[str, Image.Image] | None = None
    ) -> None:
        self.autoencoder = autoencoder
        self.pictures = samples.by_name(pictures)
        super().__init__()
        follow(self.show, self.picture, self.channel, self.push, self.noise)
        self.reset.on_click(lambda _: self._reset())
        self.show()

    def _make_controls(self) -> None:
        self.picture = choice(list(self.pictures), "Picture", "190px")
        same = {"style": TIGHT, "layout": wide(THIRD)}
        channels = self.autoencoder.config.z_channels
        self.channel = W.IntSlider(0, 0, channels - 1, description="Channel", **same)
        self.push = W.FloatSlider(0, min=-4, max=4, description="Add", **same)
        self.noise = W.FloatSlider(0, min=0, max=2, description="Noise", **same)
        self.reset = button("Reset", "Back to the latents of the picture", "mk-quiet", "80px")
        self.before, self.image, self.latents = (
            Picture(name) for name in ("the picture", "the decoded latents", "one channel")
        )

    def _arrange(self) -> list[W.Widget]:
        names = ("picture", "latents, this channel", "decoded")
        boxes = (self.before, self.latents, self.image)
        for box in boxes:
            box.layout.width = "200px"
        self.latents.add_class("mk-plot")  # white is 0
        return [
            row([self.picture, self.reset]),
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
        self._say("idle", text)
