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
lease          files that nobody may write to while they are read
log            what the package tells on the way
config         dataclasses from JSON and TOML
bounds         numbers that several configs have, with their bounds
moved          where the modules of version 0.1 went
"""

from minikontext import lazy

MODULES = (
    "attention", "bounds", "config", "device", "files", "isolated", "lease", "log", "memory_plan",
    "moved", "offload", "quantization", "step_cache", "tiling",
)  # fmt: skip
__getattr__ = lazy(__name__, MODULES, {})
