"""Ways to break bytes, JSON, TOML and safetensors. Each is a function of the `rng` it is given."""

import copy
import json
import struct

DEEP = "[" * 50_000  # more brackets than a parser that calls itself has room for
NAMES = (
    "", ".", "..", "/", "../../outside", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", "\0", "a\0b",
    "x" * 5000, "é", "\ud800", "\u202e", "\u2028", "😀", "<script>alert(1)</script>", "{x}", "%s",
    "~", "~root", "$HOME", "nul", "-", "--help", "http://127.0.0.1:9/x", "a//0", "__metadata__",
    "__class__", "\n", "a\nb", "\x1b[31m",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 7, 255, 65_536, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**18, 10**40,
    0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip


def odd(rng):
    """A value that no file should hold in the place where it goes."""
    return rng.choice(
        (
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(NAMES),
            lambda: rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, [{}])),
            lambda: [rng.choice(NUMBERS) for _ in range(rng.randrange(5))],
            lambda: [rng.choice(NAMES) for _ in range(rng.randrange(3))],
            lambda: {rng.choice(NAMES): rng.choice(NUMBERS)},
        )
    )()


# ---------------------------------------------------------------------------------------- bytes


def broken_bytes(rng, data, times=3):
    """The same bytes with one to `times` kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.randint(1, times)):
        data = rng.choice(DAMAGES)(rng, data)
    return bytes(data)


def _flip(rng, data):
    for _ in range(rng.choice((1, 1, 2, 8, 40)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(rng, data):
    return data[: rng.randrange(len(data) + 1)]


def _cut_out(rng, data):
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 2, 8, 100))]
    return data


def _insert(rng, data):
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 8, 100)))
    return data


def _repeat(rng, data):
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 8, 64))]
    data[start:start] = part * rng.choice((1, 2, 30))
    return data


def _number(rng, data):
    """A count or a length that is a lie, in either order of bytes."""
    start = rng.randrange(len(data) + 1)
    value = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000, 0x7FFF))
    data[start : start + 4] = struct.pack(rng.choice("<>") + "I", value)
    return data


def _append(rng, data):
    return data + rng.choice((b"\0", b"more", rng.randbytes(50), bytes(data)))


def _head(rng, data):
    """Damage where a format says what it is and how much there is."""
    if data:
        data[rng.randrange(min(40, len(data)))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return data


def _noise(rng, data):
    return bytearray(rng.randbytes(rng.choice((0, 1, 7, 8, 9, 100, 1000))))


DAMAGES = (_flip, _flip, _cut, _cut_out, _insert, _repeat, _number, _append, _head, _head, _noise)


# ----------------------------------------------------------------------------------------- trees


def broken_tree(rng, tree, times=2):
    """A copy of JSON-like data with some values replaced, removed, renamed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, times)):
        holder, key = rng.choice([*_places(tree)] or [([tree], 0)])
        kind = rng.random()
        if kind < 0.6:
            holder[key] = odd(rng)
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.85:
            holder[key] = [holder[key]]
        elif isinstance(holder, dict) and kind < 0.95:
            holder[rng.choice(NAMES)] = holder.pop(key)
        elif isinstance(holder, dict):
            holder[rng.choice(("extra", "format", *NAMES))] = odd(rng)
        else:
            holder.insert(key, odd(rng))
    return tree if rng.random() < 0.97 else odd(rng)


def _places(tree):
    """Every (holder, key) in a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in [*pairs]:
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def broken_json(rng, tree, whole=0.8):
    """The bytes of a JSON file: mostly JSON with a wrong content, else no JSON."""
    if rng.random() < whole:
        text = json.dumps(broken_tree(rng, tree))
        if rng.random() < 0.03:  # a key twice
            text = text.replace("{", '{"format": 1, "weight_map": {}, "file_name": 2, ', 1)
        return text.encode()
    if rng.random() < 0.15:
        return (rng.choice(("", '{"a": ')) + DEEP).encode()
    return broken_bytes(rng, json.dumps(tree).encode())


def toml(tree, prefix=""):
    """A tree of tables as TOML; values that TOML does not have become strings."""
    lines = [f"{_word(k)} = {_value(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for key, table in tree.items():
        if isinstance(table, dict):
            name = f"{prefix}{_word(key)}"
            lines += [f"[{name}]", toml(table, f"{name}.")]
    return "\n".join(lines) + "\n"


def _word(key):
    return json.dumps(key.encode("utf-8", "replace").decode()).replace("\x7f", "")


def _value(value):
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_word(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value) if isinstance(value, (bool, int)) else _word(str(value))


# ----------------------------------------------------------------------------------- safetensors

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "U8": 1,
         "BOOL": 1, "I16": 2, "U16": 2, "F8_E5M2": 1, "F4": 1, "C64": 8}  # fmt: skip
STEMS = (
    "double_blocks.{}.img_attn.qkv.weight", "transformer_blocks.{}.attn.to_q.weight",
    "single_blocks.{}.linear1.weight", "encoder.down.{}.block.0.conv1.weight",
    "decoder.up_blocks.0.resnets.{}.norm1.weight", "single_transformer_blocks.{}.norm.linear.bias",
    "encoder.down.0.block.{}.conv1.weight", "model.diffusion_model.{}", "lora_unet_{}.alpha",
)  # fmt: skip
INDICES = ("0", "1", "99999999999", "-1", "²", "٣", "9" * 5000, "", "0x10", "1e3", " 1")


def header_of(data):
    """The header of a safetensors file, and the numbers behind it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header, numbers=b"", length=None):
    """A safetensors file, whether its header makes sense or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def broken_safetensors(rng, data):
    """A damaged file, one whose header lies, or a sound one with the wrong tensors."""
    kind = rng.random()
    if kind < 0.3:
        return broken_bytes(rng, data)
    header, numbers = header_of(data)
    if kind < 0.5:
        return packed(broken_tree(rng, header), numbers)
    if kind < 0.55:
        text = json.dumps(header)
        name = json.dumps(next(key for key in header if key != "__metadata__"))
        info = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
        return packed(text.replace("{", f"{{{name}: {info}, ", 1).encode(), numbers)
    if kind < 0.6:
        length = rng.choice((0, 1, 7, 2**20, 100 * 2**20, 2**31, 2**63, 2**64 - 1, len(data)))
        return packed(header, numbers, length)
    if kind < 0.63:
        return packed((rng.choice(("", '{"a": ')) + DEEP).encode(), numbers)
    return _sound(rng, header, numbers)


def _sound(rng, header, numbers):
    """A file that safetensors opens: tensors renamed, reshaped, of other dtypes, gone or added."""
    meta = header.pop("__metadata__", {})
    tensors = {
        name: (info["dtype"], info["shape"], numbers[slice(*info["data_offsets"])])
        for name, info in header.items()
    }
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = rng.choice([*tensors] or [""])
        dtype, shape, content = tensors.get(name, ("F32", [1], b"\0\0\0\0"))
        what = rng.random()
        if what < 0.2:
            tensors.pop(name, None)
        elif what < 0.4:
            stem = rng.choice((*STEMS, *NAMES))
            new = stem.format(rng.choice(INDICES)) if "{}" in stem else stem
            tensors[new.encode("utf-8", "replace").decode()] = (dtype, shape, content)
            if rng.random() < 0.5:
                tensors.pop(name, None)
        else:
            tensors[name] = _other(rng, dtype, shape, content, what)
    if rng.random() < 0.1:
        key = rng.choice(("lora_adapter_metadata", "format", "step"))
        meta = meta | {key: rng.choice((DEEP, "[]", "{", '{"lora_alpha": "x"}', "nan", "\0"))}
    return _built(tensors, meta)


def _other(rng, dtype, shape, content, what):
    if what < 0.5:  # not numbers, or very large ones
        return dtype, shape, rng.choice((b"\xff", b"\x7f", b"\0")) * len(content)
    if what < 0.6:  # empty, and the other side without measure
        side = rng.choice((0, 1, 2**20, 2**40, 2**62))
        return dtype, rng.choice(([0], [0, side], [side, 0], [0, 0, side])), b""
    dtype = rng.choice([*SIZES]) if what < 0.8 else dtype
    shape = rng.choice((shape[::-1], [1, *shape], shape[1:], [*shape, 1], [1], [], [2, 3], [32]))
    count = 1
    for side in shape:
        count *= side
    return dtype, shape, (content or b"\0")[:1] * (count * SIZES.get(dtype, 4))


def _built(tensors, meta):
    header, parts, end = {"__metadata__": meta}, [], 0
    for name, (dtype, shape, content) in tensors.items():
        place = [end, end := end + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        parts.append(content)
    return packed(header, b"".join(parts))
