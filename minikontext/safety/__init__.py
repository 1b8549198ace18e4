"""Filters around the model: on the prompt, on pictures that go in, and on those that come out.

filters       what a filter is; `Safety` holds those of a pipeline
registry      filters by name or folder
clip          two towers as in CLIP: the toy's classifier
classifiers   local `transformers` classifiers as filters
"""

from minikontext import lazy
from minikontext.safety.filters import ImageFilter, PromptFilter, Safety, Verdict, placeholder
from minikontext.safety.registry import chosen, find, load

__all__ = [
    "ImageFilter", "PromptFilter", "Safety", "Verdict", "chosen", "find", "load", "placeholder",
]  # fmt: skip

MODULES = ("classifiers", "clip", "filters", "registry")
__getattr__ = lazy(__name__, MODULES, {})
