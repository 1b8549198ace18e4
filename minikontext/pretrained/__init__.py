"""Weights in and out. docs/formats.md says which files open, and why others do not.

loader            the parts of a pipeline, whatever the layout; `load` and `save`
native            folders in our own layout
layouts           FLUX as it is published: diffusers folders and official single files
summary           what lies in a folder, and is it complete?
safetensors_io    tensors from files, checked before they are read
key_mapping       official and diffusers names of tensors
purpose           what weights are for; do the parts fit each other?
config_mapping    sizes of a model from config.json or from shapes
stored            how other programs store a model: prefixes, scales
packed            weights in fewer bits: GGUF, bitsandbytes
file_kinds        what a file is that is no safetensors file
convert           one layout into the other
text_encoders     T5 and CLIP
transformers_io   the door to `transformers`: local folders, no code of theirs
lora              low-rank updates: attached, merged, trained, saved
lora_files        LoRA files of any naming
lora_layers       the update of one layer
mapped            large files in use: has anybody written into them?
"""

from minikontext import lazy

PARTS = ("transformer", "autoencoder", "text_encoder")

MODULES = (
    "config_mapping", "convert", "file_kinds", "key_mapping", "layouts", "loader", "lora",
    "lora_files", "lora_layers", "mapped", "native", "packed", "purpose", "safetensors_io",
    "stored", "summary", "text_encoders", "transformers_io",
)  # fmt: skip
HOMES = {
    "computed": "loader", "config_fingerprint": "loader", "find_weights": "native",
    "from_diffusers": "key_mapping", "inspect": "safetensors_io", "load": "loader",
    "save": "loader", "to_diffusers": "key_mapping",
}  # fmt: skip
__getattr__ = lazy(__name__, MODULES, HOMES)
