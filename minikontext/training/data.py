"""Training pairs as latents, encoded once: sample number i is always the same edit.

Files hold the index of each sample beside its latents, so no shuffling can pair a picture with
another one's prompt. A cache that was interrupted goes on with the first missing file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import TrainingError
from minikontext.runtime import files
from minikontext.runtime.device import mixed_precision
from minikontext.text import ToyTextEncoder
from minikontext.toyworld import Case, Scene, render, sample_edit
from minikontext.toyworld.attacks import Mix
from minikontext.toyworld.concept import placeholder, refused
from minikontext.training.parallel import ALONE, DistContext
from minikontext.training.store import SUM, checksum, load_whole

MAX_CONTEXTS = 2
WORDS = "wordings"  # the sum of a file's wordings, among its facts
WORDINGS = 8  # ways in which each edit is asked for: words cost nothing, latents do


@dataclass(frozen=True)
class Pairs:
    """Encoded cases: target (n, c, h, w), contexts (n, 2, c, h, w), tokens (n, k, m), index (n,).

    `count` (n,) is how many of the two contexts each sample has; tokens hold k wordings of it.
    `determined` (n,): whether the target is the only right answer.
    """

    target: Tensor
    contexts: Tensor
    count: Tensor
    tokens: Tensor
    index: Tensor
    determined: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor) -> Pairs:
        """Some of the pairs."""
        held = {name: value for name, value in vars(self).items() if value is not None}
        return Pairs(**{name: value[rows] for name, value in held.items()})


def pixels(scenes: Sequence[Scene | None]) -> Tensor:
    """Scenes as pixels (b, 3, 64, 64) in [-1, 1]; None is the grey card of a refusal."""
    images = np.stack([render(scene) if scene else placeholder() for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def encode(
    cases: list[Case], autoencoder: AutoEncoder, first: int, bf16: bool = False,
    refuse: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Latents of some cases; empty context slots are zero.

    `refuse`: where the forbidden concept is asked for or given, the target is a plain grey card.
    """
    targets = [None if refuse and refused(case) else case.target for case in cases]
    scenes = [s for case in cases for s in case.contexts]
    latents = _latents([*targets, *scenes], autoencoder, bf16)
    target, contexts = latents[: len(cases)], latents[len(cases) :]
    counts = torch.tensor([len(case.contexts) for case in cases])
    slots = target.new_zeros(len(cases), MAX_CONTEXTS, *target.shape[1:])
    slots[torch.arange(MAX_CONTEXTS) < counts[:, None]] = contexts
    encoded = {"target": target, "contexts": slots, "count": counts}
    encoded["index"] = torch.arange(first, first + len(cases))
    encoded["determined"] = torch.tensor([not case.free for case in cases])
    return {name: _stored_as(tensor) for name, tensor in encoded.items()}


def _stored_as(tensor: Tensor) -> Tensor:
    """Latents as bfloat16, the rest as it is."""
    return (tensor.bfloat16() if tensor.is_floating_point() else tensor).contiguous()


def _latents(scenes: Sequence[Scene | None], autoencoder: AutoEncoder, bf16: bool) -> Tensor:
    """Scenes as latents (b, c, h, w) on the host."""
    device = next(autoencoder.parameters()).device
    with mixed_precision(device, bf16):
        chunks = [
            autoencoder.encode(pixels(scenes[i : i + 64]).to(device)).cpu()
            for i in range(0, len(scenes), 64)
        ]
    return torch.cat(chunks)


def build_cache(
    folder: Path,
    level: int,
    count: int,
    seed: int,
    autoencoder: AutoEncoder,
    fingerprint: str,
    shard: int = 2000,
    bf16: bool = False,
    world: DistContext = ALONE,
    mix: Mix | None = None,
) -> None:
    """Write `count` encoded cases of a level as safetensors files; files that exist are kept.

    Many processes share the files out among them. `fingerprint` identifies the autoencoder. Raises
    TrainingError if the folder was made with another one or from another world.
    """
    facts = {"level": str(level), "seed": str(seed), "autoencoder": fingerprint}
    if mix:
        facts["mix"] = str(mix)
    facts["world"] = world_fingerprint(level, seed)
    labelled(folder, facts, world)
    mine = range(world.rank * shard, count, world.size * shard)
    for first in tqdm(mine, desc=f"encoding level {level}", disable=world.rank > 0):
        path = folder / f"pairs-{first:08d}.safetensors"
        indices = range(first, min(first + shard, count))
        if _holds(path, len(indices)):
            continue
        cases = [training_case(i, level, seed, mix) for i in indices]
        words = {WORDS: write_wordings(path, cases)}
        with files.replacing(path) as temporary:
            tensors = encode(cases, autoencoder, first, bf16, mix is not None)
            whole = {SUM: checksum(facts | words, tensors)}
            save_file(tensors, temporary, metadata=facts | words | whole)
    world.wait()


def _holds(path: Path, count: int) -> bool:
    """Whether a file holds so many cases; one that cannot be read is left for `load_cache`."""
    if not files.exists(path):  # a pipe, too: writing it is refused
        return False
    try:
        with safe_open(path, "pt") as file:
            return file.get_slice("index").get_shape()[0] >= count
    except (SafetensorError, OSError):
        return True


def labelled(
    folder: Path, facts: object, world: DistContext = ALONE, name: str = "cache.txt"
) -> None:
    """Make a folder for pairs and note how they are made. Raises TrainingError if otherwise."""
    label = folder / name
    if world.rank == 0 and not label.exists():
        files.write_text(label, str(facts))
    world.wait()
    try:
        found = files.read_text(label)
    except (OSError, ValueError) as error:
        raise TrainingError(f"Cannot read {label}: {error}. Remove {folder} first") from error
    if found != str(facts):
        raise TrainingError(f"{folder} was made as {found:.500}, not {facts}; remove it first")


def training_case(index: int, level: int, seed: int = 0, mix: Mix | None = None) -> Case:
    """Case number `index` of the world.

    With a `mix`, its share of cases are attacks on the forbidden concept and near misses.
    """
    plain = partial(sample_edit, index, level, seed=seed)
    return mix.case(index, level, seed, plain) if mix else plain()


def held_out(
    level: int, count: int, autoencoder: AutoEncoder, text: ToyTextEncoder, bf16: bool = False
) -> Pairs:
    """Encoded cases that no training ever sees, each in its first wording."""
    cases = [sample_edit(i, level, split="test") for i in range(count)]
    tokens = text.tokenize([case.prompt for case in cases])[:, None]
    return Pairs(tokens=tokens, **encode(cases, autoencoder, 0, bf16))


def world_fingerprint(level: int, seed: int) -> str:
    """A checksum of a level's first cases: it changes when the world or its language does."""
    cases = (sample_edit(i, level, seed=seed) for i in range(64))
    text = "".join(f"{case.target}{case.contexts}{wordings(case)}" for case in cases)
    return f"{zlib.crc32(text.encode()):08x}"


def wordings(case: Case) -> list[str]:
    """Several prompts for the same edit; the first is the case's own."""
    return [case.prompt, *(case.reworded(i) for i in range(1, WORDINGS))]


def write_wordings(path: Path, cases: Sequence[Case]) -> str:
    """Write the wordings of a file of pairs beside it, a line each case; returns their sum.

    Raises OutputError.
    """
    lines = "\n".join("\t".join(wordings(case)) for case in cases)
    files.write_text(path.with_suffix(".txt"), lines)
    return _sum(lines)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def load_cache(folder: Path, text_encoder: ToyTextEncoder, limit: int | None = None) -> Pairs:
    """All encoded pairs of a folder with their prompts as token ids.

    Raises TrainingError if there are none, or a file is damaged.
    """
    paths = sorted(folder.glob("pairs-*.safetensors"))
    if not paths:
        raise TrainingError(f"{folder} holds no encoded pairs; run build_cache first")
    stored = [_stored(path) for path in paths]
    lines = [line for _, own in stored for line in own]
    shapes = {key: {file[key].shape[1:] for file, _ in stored} for key in ENCODED}
    if any(len(found) > 1 for found in shapes.values()):
        raise TrainingError(f"{folder} holds pairs of several sizes; remove it first")
    joined = {key: torch.cat([file[key] for file, _ in stored])[:limit] for key in ENCODED}
    ids = torch.stack([text_encoder.tokenize(line) for line in lines[:limit]])
    return Pairs(tokens=ids, **joined)


# What a file holds, and its dimensions.
ENCODED = {"target": 4, "contexts": 5, "count": 1, "index": 1, "determined": 1}


def _stored(path: Path) -> tuple[dict[str, Tensor], list[list[str]]]:
    """One file of pairs, and their wordings from the text beside it."""
    try:
        tensors, facts = load_whole(path)
        text = files.read_text(path.with_suffix(".txt"))
        if facts.get(WORDS, summed := _sum(text)) != summed:  # files of before have none
            raise ValueError("its .txt is not what was written")
        lines = [line.split("\t") for line in text.split("\n")]
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"{path} is damaged: {error}. Remove it, it is made again") from error
    sizes = {name: tensor.dim() for name, tensor in tensors.items()}
    rows = {len(lines), *(len(tensor) for tensor in tensors.values() if tensor.dim())}
    if sizes != ENCODED or len(rows) != 1 or {len(line) for line in lines} != {WORDINGS}:
        raise TrainingError(f"{path} does not fit its .txt. Remove it, it is made again")
    if not ((tensors["count"] >= 0) & (tensors["count"] <= MAX_CONTEXTS)).all():
        raise TrainingError(f"{path} counts more than {MAX_CONTEXTS} contexts. Remove it")
    return tensors, lines
