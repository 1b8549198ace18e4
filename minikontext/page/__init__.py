"""The editor in a web page that needs no install: `minikontext page FOLDER`.

command  the command: builds it, and serves it if asked
export   the parts of a pipeline as ONNX files
build    the folder: page, weights, sample pictures, ONNX Runtime Web
static/  the page itself; model.js is the sampler, the words and the positions again
"""

from minikontext import lazy

MODULES = ("build", "command", "export")
__getattr__ = lazy(__name__, MODULES, {})
