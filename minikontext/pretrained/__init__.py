"""Weights in and out.

native            folders in our own layout
layouts           FLUX as it is published: diffusers folders and official single files
summary           what lies in a folder, and is it complete?
safetensors_io    tensors from files, checked before they are read
key_mapping       official and diffusers names of tensors
config_mapping    sizes of a model from config.json or from shapes
convert           one layout into the other
text_encoders     T5 and CLIP
lora              low-rank updates of any naming
"""

from minikontext import lazy

MODULES = (
    "config_mapping", "convert", "key_mapping", "layouts", "lora", "native", "safetensors_io",
    "summary", "text_encoders",
)  # fmt: skip
__getattr__ = lazy(__name__, MODULES, {"find_weights": "native", "from_diffusers": "key_mapping",
                                       "to_diffusers": "key_mapping"})  # fmt: skip
