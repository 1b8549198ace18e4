"""The pictures of a widget: a menu, random ones, your own, and what else the model gets to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as W
from PIL import Image

from minikontext import images as image_io
from minikontext.course import samples
from minikontext.course.parts import NOTHING, Desk, button, choice, follow, put, row, thumb, wide
from minikontext.errors import MinikontextError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, render

ADD = "add one …"


class Gallery(Desk):
    """A desk whose pictures can become more, and whose model may see several of them.

    Parts: picture, random, upload, second, tray. `others` are the names of the pictures that the
    model sees beside the one that is open. A subclass opens a picture in `_open`, and says in
    `_titled` which pictures of its own bear a name.
    """

    pipe: KontextPipeline

    def _collect(
        self,
        pictures: Mapping[str, Image.Image] | None,
        scene: Callable[[int], Image.Image] | None,
        scenes: Mapping[str, Scene] | None,
    ) -> None:
        """Take these pictures, by default the toy world's. `known`: what they show, by name."""
        toy = pictures is None
        self.known = dict(samples.SCENES | samples.MORE if toy else scenes or {})
        self.pictures = dict(samples.pictures() | samples.more_pictures() if toy else pictures)
        self.scene, self.own_scenes = scene, toy and scene is None
        self.others: list[str] = []
        self.drawn = 0  # random pictures so far
        self.filling = False
        self.adding = False  # pictures on their way in become further contexts

    def _make_gallery(self) -> None:
        self.random = button("Random", "A new random picture", "mk-quiet", "80px")
        self.random.layout.display = None if self.scene or self.own_scenes else "none"
        self.upload = W.FileUpload(
            accept="image/*", description="Your own", layout=wide("122px"), multiple=True,
            tooltip="Open pictures of your own: the first is edited, the others are shown, too",
        )  # fmt: skip
        self.second = choice([ADD, *self.pictures], "More pictures", "215px")
        self.chips = row([])
        hint = W.HTML('<span class="mk-hint">or drop pictures here</span>')
        self.tray = row([self.second, hint, self.chips])
        self.tray.add_class("mk-tray")
        self._gallery = [row([self.picture, self.random, self.upload]), self.tray]

    def _connect_gallery(self) -> None:
        self.random.on_click(lambda _: self._random())
        follow(self._choose, self.picture)
        self.upload.observe(lambda change: self._open_upload(change["new"]), "value")
        self.second.observe(lambda change: self._add_context(change["new"]), "value")

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, self.picture, self.random, self.upload, self.second)

    def _choose(self) -> None:
        if not self.filling:
            self._open(self.pictures.get(self.picture.value))

    def _open(self, picture: Image.Image | None) -> None:
        raise NotImplementedError

    def _titled(self, name: str) -> Image.Image | None:
        """A picture of the widget that is in no menu."""
        raise NotImplementedError

    def _random(self) -> None:
        if self.at_work:
            return
        self.drawn += 1
        name = f"random {self.drawn}"
        if self.own_scenes:
            self.known[name] = samples.random_scene(self.drawn)
            self._add(name, Image.fromarray(render(self.known[name])))
        else:
            self._add(name, self.scene(self.drawn))

    def _add(self, name: str, picture: Image.Image, context: bool = False) -> None:
        """Add a picture to both menus, and open it or show it to the model, too."""
        chosen, self.pictures[name] = self.picture.value if context else name, picture
        self.filling = True  # new options choose the first one for a moment
        self.picture.options = [*self.pictures, NOTHING]
        self.picture.value, self.second.options = chosen, [ADD, *self.pictures]
        self.filling = False
        self._add_context(name) if context else self._open(picture)

    def _open_upload(self, uploads: Sequence[Mapping[str, Any]]) -> None:
        """Pictures from the button or dropped: the first is opened, the others are contexts."""
        adding, self.adding = self.adding, False
        for upload in uploads:
            try:
                picture = image_io.read(bytes(upload["content"]))
            except MinikontextError as error:
                return self._say("error", str(error))
            if scene := samples.shown(picture):
                self.known[str(upload["name"])] = scene
            self._add(str(upload["name"]), picture, context=adding)
            adding = True
        self.upload.value = ()
        return None

    def _drop(self, name: str) -> None:
        """A picture of this widget was dropped, on the tray or on the picture itself."""
        adding, self.adding = self.adding, False
        picture = self.pictures.get(name) or self._titled(name)
        if picture is not None:
            self._add(name, picture, context=adding)

    def _add_context(self, name: str) -> None:
        """One more picture for the model to see; the oldest goes where there is no room."""
        if name == ADD or self.at_work:
            return
        room = max(0, self.pipe.defaults.max_contexts - (self.picture.value != NOTHING))
        before = [one for one in self.others if one != name]
        self._show_others([*before, name][-room:] if room else [])
        self.second.value = ADD
        if gone := [one for one in [*before, name] if one not in self.others]:
            self._say("note", f"These weights see {self.pipe.defaults.max_contexts} pictures at "
                      f"most: {', '.join(gone)} was left out.")  # fmt: skip

    def _show_others(self, names: Sequence[str]) -> None:
        self.others, chips = list(names), []
        for name in names:
            part = button(f"× {name}", f"Take away: {name}", "mk-chip", "auto")
            part.on_click(lambda _, name=name: self._show_others(
                [one for one in self.others if one != name]))  # fmt: skip
            chips += [thumb(self.pictures[name], name, name_button=part)]
        put(self.chips, chips)
