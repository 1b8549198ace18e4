"""The pictures of a widget: a menu, random ones, your own, and what else the model gets to see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as W
from PIL import Image

from minikontext import images as image_io
from minikontext.course import samples
from minikontext.course.parts import (
    NOTHING,
    Desk,
    button,
    choice,
    heard,
    put,
    row,
    thumb,
    wide,
)
from minikontext.errors import MinikontextError, shorten_list
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
        self.pictures = samples.by_name(pictures) | (samples.more_pictures() if toy else {})
        self.scene, self.own_scenes = scene, toy and scene is None
        self.others: list[str] = []
        self.drawn = 0  # random pictures so far
        self.filling = False
        self.meanwhile: list[str] = []  # what was to be told while an edit ran
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
        self.picture.observe(lambda change: self._choose(change["old"]), "value")
        self.upload.observe(lambda change: self._open_upload(change["new"]), "value")
        self.second.observe(lambda change: self._add_context(change["new"]), "value")

    def _dials(self) -> Iterable[W.Widget]:
        chips = (tile.children[1] for tile in self.chips.children)
        menus = (self.picture, self.second, self.tasks)
        return (self.run, self.random, *menus, *chips)

    def _busy(self, busy: bool) -> None:
        """As above; behind the outcome stands what was to be told meanwhile."""
        super()._busy(busy)
        if self.meanwhile and not busy:
            (kind, text), told, self.meanwhile = self._outcome, self.meanwhile, []
            self._say(kind, " ".join([text, *told]))

    def _tell(self, kind: str, text: str) -> None:
        """Say it; while an edit runs, behind what comes of that."""
        self.meanwhile.append(text) if self.at_work else self._say(kind, text)

    def _choose(self, before: str) -> None:
        if self.filling:
            return
        if self.at_work:  # a click that came before the menu was locked: it says what is open
            self.filling = True
            self.picture.value, self.filling = before, False
        else:
            self._open(self.pictures.get(self.picture.value))

    def _open(self, picture: Image.Image | None) -> None:
        raise NotImplementedError

    def _titled(self, name: str) -> tuple[str, Image.Image | None] | None:
        """A picture of the widget that is in no menu, and what it is called there from now on."""
        raise NotImplementedError

    def _random(self) -> None:
        if self.at_work:
            return
        self.drawn += 1
        name = f"random {self.drawn}"
        if self.own_scenes:
            scene = samples.random_scene(self.drawn)
            self._add(name, Image.fromarray(render(scene)), scene=scene)
        else:
            self._add(name, image_io.read(self.scene(self.drawn)))

    def _add(
        self, name: str, picture: Image.Image, context: bool = False, scene: Scene | None = None
    ) -> None:
        """Add a picture to both menus, and open it or show it to the model, too.

        scene: what it shows, if known. One that comes while an edit runs waits in the menus.
        """
        name = self._free(name, picture)
        if scene:
            self.known[name] = scene
        self.pictures[name] = picture
        chosen = self.picture.value if context or self.at_work else name
        self.filling = True  # new options choose the first one for a moment
        self.picture.options = [*self.pictures, NOTHING]
        self.picture.value, self.second.options = chosen, [ADD, *self.pictures]
        self.filling = False
        if self.at_work:
            self._tell("idle", f"{name} is in the menus now.")
        else:
            self._add_context(name) if context else self._open(picture)

    def _free(self, name: str, picture: Image.Image) -> str:
        """The name, or with a number: what earlier edits saw under a name must stay there."""
        number, free = 1, name
        while free in (NOTHING, ADD) or self.pictures.get(free, picture) != picture:
            number += 1
            free = f"{name} ({number})"
        return free

    def _open_upload(self, uploads: Sequence[Mapping[str, Any]]) -> None:
        """Pictures from the button or dropped: the first is opened, the others are contexts."""
        adding, self.adding = self.adding, False
        failed, notes, waiting = [], [], ""
        if uploads and not self.at_work:  # a large file takes a second, or many
            names = [str(upload["name"]) for upload in uploads]
            self._say("busy", f"Reading {shorten_list(names)} …")
            waiting = self.status.value
        for upload in uploads:
            name = str(upload["name"])
            try:
                with heard() as warned:
                    picture = image_io.read(bytes(upload["content"]))
            except MinikontextError as error:
                failed.append(f"{name}: {error}")
                continue
            notes += [f"{name}: {warning}" for warning in warned]
            self._add(name, picture, adding, samples.shown(picture))
            adding = True
        self.upload.value = ()  # so that the same file can be chosen again
        if failed or notes:
            self._tell("error" if failed else "note", " ".join([*failed, *notes]))
        elif waiting and self.status.value == waiting:  # nothing was opened, so nothing was said
            self._say("idle", f"The model sees {shorten_list(names)}, too.")

    def _drop(self, name: str) -> None:
        """A picture of this widget was dropped, on the tray or on the picture itself."""
        adding, self.adding = self.adding, False
        name, picture = self._titled(name) or (name, self.pictures.get(name))
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
        before = dict(zip(self.others, self.chips.children))
        self.others = list(names)
        put(self.chips, [before.get(name) or self._chip(name) for name in names])

    def _chip(self, name: str) -> W.VBox:
        part = button(f"× {name}", f"Take away: {name}", "mk-chip", "auto")
        part.on_click(lambda _: self._take_away(name))
        return thumb(self.pictures[name], name, part)

    def _take_away(self, name: str) -> None:
        if not self.at_work:
            self._show_others([one for one in self.others if one != name])
