"""What a file is that is no safetensors file, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from minikontext.runtime.config import parse_json

SUFFIXES = (".safetensors", ".sft", ".gguf")  # the first two are names of one format
GET = "Expected safetensors: download or copy it again, in that format."
PICKLE = "can run any code when it is loaded"
_KINDS = {  # by the first bytes
    b"PK": f"a pickle (PyTorch's .pt, .bin, .ckpt), which {PICKLE}",
    b"\x80": f"a pickle, which {PICKLE}",
    b"version": "a Git LFS pointer: the weights themselves were not downloaded",
    b"<": "a web page: the download needs a login, or the address is wrong",
    b"\x08": "ONNX or another protocol buffer",
}
# Weights in formats that are not read, by the end of their name.
FOREIGN = (".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pkl")


def diagnose(path: Path, reason: str) -> str:
    """A sentence about a file that safetensors could not open, for the given reason."""
    if not path.is_file():
        return f"{path} is no file, or leads nowhere. Give a .safetensors file."
    try:
        size, promised = path.stat().st_size, promised_bytes(path)
        with open(path, "rb") as file:
            start = file.read(8)
    except PermissionError:
        return f"You may not read {path}. Allow it (chmod u+r), or copy it."
    kind = next((text for magic, text in _KINDS.items() if start.startswith(magic)), None)
    if promised == size and path.suffix.lower() in FOREIGN:
        return f"{path} is safetensors by a pickle's name. Rename it, to end in .safetensors."
    if promised:
        kind, reason = None, f"its header promises {promised:,} bytes"
    what = kind or f"no complete safetensors file: {reason}"
    return f"{path} ({size:,} bytes) is {what}. {GET}"


def promised_bytes(path: str | Path) -> int | None:
    """How long the header says that a safetensors file is; None without a readable header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(100 << 20, Path(path).stat().st_size):
            return None
        try:
            header = parse_json(file.read(length))
            ends = [info["data_offsets"][1] for k, info in header.items() if k != "__metadata__"]
            return 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None
