"""Around one call of the pipeline, one module a question.

defaults  what a call uses where it says nothing
request   is what the call says usable?
contexts  which pictures does it start from?
codec     pixels to latents and back; noise of a seed
output    what does it return?
tables    how does a notebook show that, and the pipeline?
"""

from minikontext import lazy

MODULES = ("codec", "contexts", "defaults", "output", "request", "tables")
__getattr__ = lazy(__name__, MODULES, {})
