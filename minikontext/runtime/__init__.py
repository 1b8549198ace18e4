"""Where and how the work is done; nothing here knows what a picture shows.

device         which device, which number format
attention      which kernel
memory_plan    what fits, predicted before anything is loaded
offload        weights that are on the device only while they work
quantization   8 and 4 bits, float8
step_cache     steps that skip blocks
isolated       contexts that see only each other, computed once for all steps
tiling         large pictures in tiles
files          writing whole or not at all
log            what the package tells on the way
config         dataclasses from JSON and TOML
bounds         numbers that several configs have, with their bounds
"""

from minikontext import lazy

MODULES = (
    "attention", "bounds", "config", "device", "files", "isolated", "log", "memory_plan",
    "offload", "quantization", "step_cache", "tiling",
)  # fmt: skip
__getattr__ = lazy(__name__, MODULES, {})
