"""The parts of an editor as ONNX files, for the page: stored in float16, computed in float32."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minikontext import layers
from minikontext.autoencoder import AutoEncoder
from minikontext.errors import MissingPackageError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.text import ToyTextEncoder
from minikontext.transformer import KontextTransformer

OPSET = 18
SMALL = 1024  # numbers: a tensor below keeps its digits, it costs nothing


class Words(nn.Module):
    """A row of `tokenize` (1, …) to token features (1, m, d) and the pooled vector (1, p)."""

    def __init__(self, text: ToyTextEncoder) -> None:
        super().__init__()
        self.text = text

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """As `ToyTextEncoder.forward`."""
        features = self.text(ids)
        return features.tokens, features.pooled


class Net(nn.Module):
    """The transformer, and beside its velocity the mean attention of every block.

    The page computes positions itself, so that they can be played with: rotations come in.
    """

    def __init__(self, transformer: KontextTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, img: Tensor, txt: Tensor, rotary: Tensor, t: Tensor, pooled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """img (1, n, c), txt (1, m, d), rotary (m + n, d/2, 2), t (1,), pooled (1, p)
        -> velocity (1, n, c), attention (blocks, m + n, m + n)."""
        ids = torch.zeros(1, 3)  # not looked at where rotations are given
        with kept_attention() as kept:
            v = self.transformer(img, ids, txt, ids, t, pooled, None, rotary)
        return v, torch.stack(kept)


class Encode(nn.Module):
    """Pixels (1, 3, h, w) in [-1, 1] to latents (1, c, h/8, w/8)."""

    def __init__(self, autoencoder: AutoEncoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pixels: Tensor) -> Tensor:
        """As `AutoEncoder.encode`."""
        return self.autoencoder.encode(pixels)


class Decode(nn.Module):
    """Latents (1, c, h, w) to pixels (1, 3, 8h, 8w)."""

    def __init__(self, autoencoder: AutoEncoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        """As `AutoEncoder.decode`."""
        return self.autoencoder.decode(latents)


@contextmanager
def kept_attention() -> Iterator[list[Tensor]]:
    """Note the attention weights of each block that runs inside, mean over heads (n, n)."""
    kept: list[Tensor] = []
    real = layers.attend

    def keeping(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, dim=-1)  # (1, heads, n, n)
        if q.shape[2] == k.shape[2]:
            kept.append(weights[0].mean(0))
        return weights @ v

    layers.attend = keeping
    try:
        yield kept
    finally:
        layers.attend = real


@dataclass(frozen=True)
class Piece:
    """One ONNX file: the module, an example of its inputs, names, and which axes may vary."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    varies: tuple[dict[int, Any] | None, ...]


def pieces(pipe: KontextPipeline) -> list[Piece]:
    """What is exported of a pipeline, with examples of 64 × 64 pixels and one context."""
    dim = torch.export.Dim
    config, text = pipe.transformer.config, pipe.text_encoder
    n, m, half = 2 * 16, text.max_length, config.hidden_size // config.num_heads // 2
    tokens, joined = dim("n", min=2, max=4096), dim("all", min=2, max=8192)
    side = {2: 2 * dim("h", min=1, max=64), 3: 2 * dim("w", min=1, max=64)}
    pixels = {2: 16 * dim("y", min=1, max=64), 3: 16 * dim("x", min=1, max=64)}
    net = (
        torch.randn(1, n, config.in_channels), torch.randn(1, m, config.context_in_dim),
        torch.randn(m + n, half, 2), torch.ones(1), torch.randn(1, config.vec_in_dim),
    )  # fmt: skip
    z = torch.randn(1, pipe.autoencoder.config.z_channels, 8, 8)
    ids = (text.tokenize([""]),)
    names = ("img", "txt", "rotary", "t", "pooled")
    varies = ({1: tokens}, None, {0: joined}, None, None)
    return [
        Piece("words", Words(text), ids, ("ids",), ("tokens", "pooled"), (None,)),
        Piece("net", Net(pipe.transformer), net, names, ("velocity", "attention"), varies),
        Piece("encode", Encode(pipe.autoencoder), (torch.randn(1, 3, 64, 64),), ("pixels",),
              ("latents",), (pixels,)),
        Piece("decode", Decode(pipe.autoencoder), (z,), ("latents",), ("pixels",), (side,)),
    ]  # fmt: skip


def export(pipe: KontextPipeline, folder: Path) -> list[Path]:
    """Write words.onnx, net.onnx, encode.onnx and decode.onnx; -> their paths.

    Raises MissingPackageError without onnx and onnxscript.
    """
    _import_onnx()
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(piece, folder) for piece in pieces(pipe)]


@torch.no_grad()
def _write(piece: Piece, folder: Path) -> Path:
    onnx, path = _import_onnx(), folder / f"{piece.name}.onnx"
    # It warns of every operation of torchvision that it does without.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            piece.module.eval(), piece.inputs, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=piece.names, output_names=piece.outputs, dynamic_shapes=piece.varies,
        )  # fmt: skip
    model = halve(program.model_proto)
    with files.replacing(path) as temporary:
        onnx.save_model(model, temporary)
    return path


def halve(model: Any) -> Any:
    """Store large weights in 16 bits, each with a cast back: half the download, float32 sums."""
    onnx = _import_onnx()
    from onnx import numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or array.size < SMALL:
            continue
        wide, tensor_name = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(numpy_helper.from_array(array.astype("float16"), tensor_name))
        casts.append(
            onnx.helper.make_node("Cast", [tensor_name], [wide], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = used_names(model.graph)
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]  # the exporter leaves some; a browser's console complains
    model.graph.initializer.extend(kept)
    return model


def used_names(graph: Any) -> set[str]:
    """What the nodes of an ONNX graph read, those of graphs inside (of a loop) included."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute]
    read = {name for node in graph.node for name in node.input}
    return read.union((out.name for out in graph.output), *map(used_names, inner))


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch.onnx writes with
    except ImportError as error:
        raise MissingPackageError(
            "The page needs onnx and onnxscript: pip install 'minikontext[page]'"
        ) from error
    return onnx
