"""The widgets by one name; each lives in a module of its own."""

from minikontext.course.editing import EditingWidget
from minikontext.course.latents import LatentWidget
from minikontext.course.parts import CSS, REPR, TIGHT
from minikontext.course.parts import button as _button  # noqa: F401
from minikontext.course.parts import chip as _chip  # noqa: F401
from minikontext.course.parts import fade as _fade  # noqa: F401
from minikontext.course.parts import picture_box as _picture_box  # noqa: F401
from minikontext.course.parts import row as _row  # noqa: F401
from minikontext.course.parts import show as _show  # noqa: F401
from minikontext.course.parts import wide as _wide  # noqa: F401

__all__ = ["CSS", "REPR", "TIGHT", "EditingWidget", "LatentWidget"]
