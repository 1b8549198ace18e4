"""Run the model with the student's own functions: `with mk.course.mine(pack=pack): pipe(…)`.

A piece counts when the pictures that it helped to make are those of the package, byte for byte, or
but for rounding: sums in another order, by which a value of 8 bits moves by one at most.
It is then kept (`course.progress`), and a box of the map whose pieces are all kept turns green.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from minikontext import flow
from minikontext.course import progress
from minikontext.course.checks import describe, same
from minikontext.course.map import show_system
from minikontext.course.plots import show_images
from minikontext.pipeline import KontextPipeline

Function = Callable[..., Any]
KEPT_CALLS, TOLERANCE = 3, 1e-4


@dataclass(frozen=True)
class Piece:
    """One function of the model that a student can write.

    form: what the student's function is given and returns. places: what it replaces, under
    `minikontext`. adapt: student's function -> one with the signature of the package's.
    """

    form: str
    places: tuple[str, ...]
    adapt: Callable[[Function], Function] = lambda f: f


def _rotated(f: Function) -> Function:
    """From [cos, sin] for every pair, as the package keeps angles, to angles."""

    def rotate(x: Tensor, r: Tensor) -> Tensor:
        angles = getattr(r, "angles", None)  # cosine and sine alone have lost their last digits
        angles = torch.atan2(r[..., 1], r[..., 0]) if angles is None else angles
        return f(x, angles.unsqueeze(-3)).float()

    return rotate


def _rotary(f: Function) -> Function:
    """`rope.rotations` of angles, which they keep for a student's `rotate`."""

    def rotations(ids: Tensor, axes_dim: tuple[int, ...], theta: float) -> Tensor:
        angles = f(ids, axes_dim, theta)
        rotary = torch.stack((angles.cos(), angles.sin()), dim=-1).float()
        rotary.angles = angles  # type: ignore[attr-defined]
        return rotary

    return rotations


def _angles(ids: Tensor, axes_dim: tuple[int, ...], theta: float) -> Tensor:
    speeds = [theta ** -(torch.arange(0, d, 2).double() / d) for d in axes_dim]
    return torch.cat([ids[..., a, None] * speed for a, speed in enumerate(speeds)], dim=-1)


def _numbered(f: Function) -> Function:
    def position_ids(rows: int, cols: int, index: int = 0, row: int = 0, col: int = 0) -> Tensor:
        return f(rows, cols, index) + torch.tensor([0, row, col])

    return position_ids


def _scheduled(f: Function) -> Function:
    def schedule(
        steps: int, num_target_tokens: int | None = None, mu: float | None = None,
        shifted: bool = True, mu_16: float | None = None,
    ) -> Tensor:  # fmt: skip
        if mu is None:
            mu = flow.mu_for_tokens(num_target_tokens or 0, mu_16) if shifted else 0.0
        return f(steps, mu)

    return schedule


def _scales(f: Function, net: str) -> Function:
    return lambda self, x: f(
        getattr(self, net), x, self.config.scale_factor, self.config.shift_factor
    )


PIECES: dict[str, Piece] = {
    "encode": Piece("encode(encoder, pixels, scale, shift) -> latents",
                    ("autoencoder.AutoEncoder.encode",), lambda f: _scales(f, "encoder")),
    "decode": Piece("decode(decoder, latents, scale, shift) -> pixels",
                    ("autoencoder.AutoEncoder.decode",), lambda f: _scales(f, "decoder")),
    "downsample": Piece("downsample(x, weight, bias) -> x of half the size",
                        ("autoencoder.Downsample.forward",),
                        lambda f: lambda self, x: f(x, self.conv.weight, self.conv.bias)),
    "res_block": Piece("res_block(block, x) -> x", ("autoencoder.ResnetBlock.forward",)),
    "pack": Piece("pack(latents) -> tokens", ("tokens.pack",),
                  lambda f: lambda latents, patch=2: f(latents)),
    "unpack": Piece("unpack(tokens, rows, cols) -> latents", ("tokens.unpack",),
                    lambda f: lambda tokens, h, w, patch=2: f(tokens, h // 2, w // 2)),
    "position_ids": Piece("position_ids(rows, cols, index) -> ids", ("tokens.position_ids",),
                          _numbered),
    "join_context": Piece("join_context(target, target_ids, contexts, context_ids) -> img, ids",
                          ("tokens.join_context",)),
    "angles": Piece("angles(ids, axes_dim, theta) -> angles",
                    ("transformer.rotations", "rope.rotations"), _rotary),
    "rotate": Piece("rotate(x, angles) -> x", ("layers.rotate", "rope.rotate"), _rotated),
    "attend": Piece("attend(q, k, v) -> x", ("layers.attend",)),
    "modulate": Piece("modulate(x, shift, scale) -> x", ("layers.modulate",)),
    "timestep_embedding": Piece("timestep_embedding(t) -> (b, 256)",
                                ("transformer.timestep_embedding",)),
    "double_block": Piece("double_block(block, img, txt, vec, rotations) -> img, txt",
                          ("layers.DoubleStreamBlock.forward",)),
    "single_block": Piece("single_block(block, x, vec, rotations) -> x",
                          ("layers.SingleStreamBlock.forward",)),
    "text_block": Piece("text_block(block, x) -> x", ("text.TextBlock.forward",)),
    "interpolate": Piece("interpolate(x, noise, t) -> z", ("flow.interpolate",)),
    "loss": Piece("loss(v, x, noise) -> (b,), one for each sample", ("flow.loss_per_sample",)),
    "mu_for_tokens": Piece("mu_for_tokens(count) -> mu", ("flow.mu_for_tokens",
                           "sampler.mu_for_tokens"), lambda f: lambda count, mu_16=None: f(count)),
    "schedule": Piece("schedule(steps, mu) -> times", ("sampler.schedule",), _scheduled),
    "euler": Piece("euler(predict, z, times) -> z", ("sampler.sample",),
                   lambda f: torch.no_grad()(lambda predict, z, times, *_: f(predict, z, times))),
    "guide": Piece("guide(conditional, unconditional, scale) -> v", ("sampler.guided",),
                   lambda f: lambda c, u, scale: lambda z, t: f(c(z, t), u(z, t), scale)),
}  # fmt: skip


def mine(*, keep: bool = True, **functions: Function) -> Run:
    """Put functions into the model for the calls inside of `with`, and compare the pictures.

    Names are those of PIECES. A stub that raises NotImplementedError is "not attempted yet".
    With keep=False the functions are compared, but no box of the map becomes the student's: so
    a notebook runs the functions that it gives. Raises KeyError for an unknown name, ValueError for
    a function of the package itself.
    """
    for name, function in functions.items():
        if name not in PIECES:
            forms = "\n  ".join(piece.form for piece in PIECES.values())
            raise KeyError(f"No piece is called {name!r}. Give one of these:\n  {forms}")
        if (getattr(function, "__module__", "") or "").partition(".")[0] == "minikontext":
            raise ValueError(f"This {name} is the package's own. Give the one that you wrote.")
    return Run({name: Own(name, function) for name, function in functions.items()}, keep)


@dataclass
class Own:
    """A student's function in the place of the package's: what it was asked, what it said."""

    name: str
    function: Function
    calls: list[tuple[Function, tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    count: int = 0
    resting: bool = False
    raised: Exception | None = None  # also where somebody above has caught it

    def put(self, place: str) -> tuple[Any, str, Function]:
        """(module or class, attribute, what stands there meanwhile) for one place."""
        *owner, attribute = place.split(".")
        holder = import_module(f"minikontext.{owner[0]}")
        for step in owner[1:]:
            holder = getattr(holder, step)
        own, adapted = getattr(holder, attribute), PIECES[self.name].adapt(self.function)

        def standing(*args: Any, **named: Any) -> Any:
            if self.resting:
                return own(*args, **named)
            self.count += 1
            inputs = [a.clone() if isinstance(a, Tensor) else a for a in args]
            try:
                result = adapted(*args, **named)
            except Exception as error:
                self.raised = error
                raise
            if len(self.calls) < KEPT_CALLS:
                self.calls.append((own, tuple(inputs), named, result))
            return result

        return holder, attribute, standing

    @torch.no_grad()
    def differs(self) -> str:
        """The first call in which the package says something else, in words; "" if there is none.

        What returns a function (guidance) is compared by its pictures only.
        """
        for own, args, named, result in self.calls:
            expected = own(*args, **named)
            if not callable(expected) and not same(result, expected, TOLERANCE):
                return f"expected {describe(expected)}\n       got      {describe(result)}"
        return ""


class Run:
    """What `mine` returns: patches the model on entry; on exit compares, prints and keeps."""

    def __init__(self, functions: dict[str, Own], keep: bool = True) -> None:
        self.functions, self.keep = functions, keep
        self.pictures: list[tuple[Any, Any]] = []  # (the package's, the student's) of each call

    def __enter__(self) -> Run:
        self._patches = ExitStack()
        for name, own in self.functions.items():
            for place in PIECES[name].places:
                self._patches.enter_context(patch.object(*own.put(place)))
        if "rotate" in self.functions and "angles" not in self.functions:
            kept = patch("minikontext.transformer.rotations", _rotary(_angles))
            self._patches.enter_context(kept)
        call = KontextPipeline.__call__

        def compared(pipe: KontextPipeline, *args: Any, **named: Any) -> Any:
            output = call(pipe, *args, **named)
            self._rest(True)
            again = {**named, "seed": output.seeds, "callback": None, "progress": False}
            expected = call(pipe, *args, **again)
            self._rest(False)
            self.pictures += zip(expected.images, output.images)
            return output

        self._patches.enter_context(patch.object(KontextPipeline, "__call__", compared))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self._patches.close()
        raised = [error, *(own.raised for own in self.functions.values())]
        if any(isinstance(one, NotImplementedError) for one in raised):
            print(f"{', '.join(self.functions)}: not attempted yet")
            return True
        if kind is None:
            self._report()
        return False

    def _rest(self, resting: bool) -> None:
        for own in self.functions.values():
            own.resting = resting

    @property
    def wrong(self) -> list[tuple[Any, Any]]:
        """Pairs of pictures, the package's and the student's, that differ by more than rounding."""
        return [pair for pair in self.pictures if _apart(*pair) > 1]

    @property
    def rounded(self) -> bool:
        """Whether sums in another order moved some value across the edge of 8 bits, by one."""
        return any(_apart(*pair) == 1 for pair in self.pictures)

    @property
    def same(self) -> bool:
        """Whether every piece was called and the model did what it does with the package's."""
        if not all(own.count and not own.raised for own in self.functions.values()):
            return False
        return not self.wrong and not any(own.differs() for own in self.functions.values())

    def _report(self) -> None:
        for name, own in self.functions.items():
            if own.raised:
                print(f"[FAIL] {name}: your code raised {own.raised!r}")
            elif not own.count:
                print(f"[FAIL] {name}: nothing has called it; run the model inside of `with`")
            elif difference := own.differs():
                print(f"[FAIL] {name}: not what the package says\n       {difference}")
        if self.wrong:
            show_images(self.wrong[0], ["expected", "with your code"])
            print(f"[FAIL] {len(self.wrong)} of {len(self.pictures)} pictures differ")
        if self.same:
            self._tell()
            if self.keep:
                self._keep()

    def _tell(self) -> None:
        counts = [f"{name} ran {own.count} times" for name, own in self.functions.items()]
        picture = "the same but for rounding" if self.rounded else "the same, byte for byte"
        end = f"the picture is {picture}" if self.pictures else "all numbers agree"
        whose = "Your" if self.keep else "The notebook's"
        print("[OK]  ", f"{whose} {', '.join(counts)}; {end}.")

    def _keep(self) -> None:
        before = progress.green()
        codes = {name: _kept_source(name, own.function) for name, own in self.functions.items()}
        progress.keep("pieces", codes)
        kept = progress.load("pieces")
        for box in dict.fromkeys(b for b, names in progress.BOXES.items() if {*names} & {*codes}):
            left = [name for name in progress.BOXES[box] if name not in kept]
            state = f"still to come: {', '.join(left)}" if left else "green on the map"
            print(f"       {box}: {state}")
        if progress.green() - before:
            show_system()


def _apart(expected: Any, got: Any) -> int:
    """The largest difference of two pictures, in steps of 0 … 255."""
    a, b = (np.asarray(picture, dtype=int) for picture in (expected, got))
    return int(np.abs(a - b).max()) if a.shape == b.shape else 255


def _kept_source(name: str, function: Function) -> str:
    """A piece's lines, as they can be pasted under the piece's name: `rotate = rotate_complex`."""
    lines, own = _source(function), getattr(function, "__name__", "")
    alias = lines and own.isidentifier() and own != name
    return f"{lines.rstrip()}\n\n{name} = {own}\n" if alias else lines


def _source(function: Function) -> str:
    """The student's lines, so that the last notebook can show them; "" where there are none.

    Other functions of the student's that these lines call stand above them.
    """
    sources: dict[Function, str] = {}

    def collect(one: Function) -> None:
        sources[one] = ""  # seen: two functions may call each other
        try:
            lines = textwrap.dedent(inspect.getsource(one))
        except (OSError, TypeError):
            return
        with suppress(SyntaxError):  # a lambda's line may be a part of something
            known = getattr(one, "__globals__", {})
            for node in ast.walk(ast.parse(lines)):
                other = known.get(node.id) if isinstance(node, ast.Name) else None
                own = inspect.isfunction(other) and other.__module__ == one.__module__
                if own and other not in sources:
                    collect(other)
        del sources[one]
        sources[one] = lines  # below what it calls

    collect(function)
    return "\n\n".join(filter(None, sources.values()))
