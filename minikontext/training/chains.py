"""Pairs whose context is an editor's own work, as it is in the middle of a chain of edits.

Every other context in training is a perfect picture. In a chain the editor is given its own last
answer: the next one copies its small errors and adds to them, until a pale spot is gone. So an
editor that is trained already edits training scenes several times in a row, and each answer
becomes a context: its latents, or what is left of them after a way through a picture. The target
is the right answer, without any error.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from minikontext.autoencoder import AutoEncoder
from minikontext.editing.output import KontextOutput
from minikontext.errors import ConfigError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.bounds import Count, Seed, Share, Steps
from minikontext.text import ToyTextEncoder
from minikontext.toyworld import Case, Scene, read, sample_scene
from minikontext.toyworld.edits import OPERATIONS, make_case
from minikontext.toyworld.scene import COLOURLESS, IDENTITY
from minikontext.toyworld.scene import level as scene_level
from minikontext.training.answers import open_editor
from minikontext.training.data import Pairs, encode, labelled, load_cache, wordings
from minikontext.training.parallel import ALONE, DistContext

SHARD = 100  # chains a file
TRIES = 40  # to go on from a scene; some have hardly anything left that is not held out
# No context, a new picture or a new character: nothing that could fade would be handed on.
AFRESH = (
    "text_to_image", "style_reference", "character_reference", "replace_character",
    "recolour_character", "change_pattern", "change_eyes",
)  # fmt: skip


@dataclass(frozen=True)
class Chains:
    """What a config's [data.chains] says.

    editor: the weights that edit, a folder or a shipped name. count: how many chains. turns: edits
    in each; all but the first start from an answer. steps: of sampling. pictures: the share of
    answers that are handed on as a picture, decoded and encoded again. share: of all training
    pairs; the chains' are repeated if need be. folder: where they are kept, for several trainings;
    else in the run's.
    """

    editor: str
    count: Count
    turns: Annotated[int, Interval(ge=2, le=1024)] = 6
    steps: Steps = 4
    pictures: Share = 0.0
    share: Share = 0.3
    seed: Seed = 0
    folder: str = ""

    def __post_init__(self) -> None:
        if self.count < 1 or self.turns < 2 or self.steps < 1:
            raise ConfigError("chains: count and steps are at least 1, turns at least 2")
        if not 0 < self.share < 1:
            raise ConfigError(f"chains: share={self.share} is not between 0 and 1")
        if not 0 <= self.pictures <= 1:
            raise ConfigError(f"chains: pictures={self.pictures}: give a share, 0 to 1")


def chain(index: int, level: int, turns: int, seed: int = 0) -> list[Case]:
    """Chain number `index`: each edit starts from the scene of the one before; none is held out.

    Raises ConfigError for a level without such edits.
    """
    for start in itertools.count():
        rng = random.Random(f"{seed}/chain/{index}/{start}")
        cases = list(itertools.islice(_edits(rng, level), turns))
        if len(cases) == turns:
            return cases


def _edits(rng: random.Random, level: int) -> Iterator[Case]:
    """Edits in a row, until none can be found for the scene."""
    scene = sample_scene(rng, level)
    known = scene_level(level).operations
    names = [name for name in OPERATIONS if name in known and name not in AFRESH]
    if not names:
        raise ConfigError(f"chains: level {level} has no edits that leave the character as it is")
    while True:
        tries = (make_case(rng.choice(names), rng, scene, level) for _ in range(TRIES))
        fits = (c for c in tries if c.contexts == (scene,) and not c.unseen and c.target != scene)
        case = next(fits, None)
        if case is None:
            return
        yield case
        scene = case.target


def build_chains(
    folder: Path, chains: Chains, level: int, autoencoder: AutoEncoder, bf16: bool = False,
    world: DistContext = ALONE,
) -> None:  # fmt: skip
    """Let the editor work, and write what it made as pairs; files that exist are kept.

    An answer in which the character is not itself any more is left out, with all that follow:
    nobody could tell what it was. Raises TrainingError if the folder was made otherwise, or if no
    answer is left, and ConfigError if the editor's latents are not the autoencoder's.
    """
    pipe = open_editor(chains.editor, autoencoder, world.device)
    told = {name: str(value) for name, value in asdict(chains).items()}
    facts = {n: told[n] for n in ("editor", "count", "turns", "steps", "seed", "pictures")}
    facts |= {"level": str(level), "weights": pipe.weights_fingerprint}
    labelled(folder, facts, world)
    mine = range(world.rank * SHARD, chains.count, world.size * SHARD)
    for first in tqdm(mine, desc="editing in a row", disable=world.rank > 0):
        path = folder / f"pairs-{first:08d}.safetensors"
        if path.exists():
            continue
        indices = range(first, min(first + SHARD, chains.count))
        given = [chain(i, level, chains.turns, chains.seed) for i in indices]
        cases, contexts = _edited(pipe, given, chains)
        number = first * chains.turns
        tensors = encode(cases, autoencoder, number, bf16, contexts=contexts[:, None])
        path.with_suffix(".txt").write_text("\n".join("\t".join(wordings(c)) for c in cases))
        with files.replacing(path) as temporary:
            save_file(tensors, temporary)
    world.wait()


def _edited(
    pipe: KontextPipeline, given: list[list[Case]], chains: Chains
) -> tuple[list[Case], torch.Tensor]:
    """Edit chains turn by turn -> the cases from the second turn on, and what they started from."""
    rng = random.Random(f"{chains.seed}/{given[0][0].prompt}")
    before: list = [cases[0].context_images()[0] for cases in given]
    cases, contexts = [], []
    for turn in range(chains.turns - 1):
        asked = [cases[turn] for cases in given]
        seeds = [rng.getrandbits(31) for _ in asked]
        out = pipe(
            [case.prompt for case in asked], image=[[one] for one in before], seed=seeds,
            num_inference_steps=chains.steps, progress=False,
        )  # fmt: skip
        kept = [i for i, case in enumerate(asked) if _is_itself(out.images[i], case.target)]
        given = [given[i] for i in kept]
        if not given:
            break
        before = [out.images[i] if rng.random() < chains.pictures else out[i] for i in kept]
        cases += [chain[turn + 1] for chain in given]
        contexts += [_latents(pipe, one) for one in before]
    if not cases:
        raise TrainingError(f"chains: {chains.editor} keeps no character; train it further first")
    return cases, torch.stack(contexts).bfloat16().cpu()


def _latents(pipe: KontextPipeline, answer: Image.Image | KontextOutput) -> torch.Tensor:
    """What the next turn is given, (c, h, w); a picture has lost a little on its way."""
    return pipe.encode([answer])[0] if isinstance(answer, Image.Image) else answer.latents[0]


def _is_itself(picture: Image.Image, scene: Scene) -> bool:
    """Whether the character reads as in a scene, its colour only in styles that show one."""
    names = [n for n in IDENTITY if n != "colour" or scene.style not in COLOURLESS]
    found = read(picture, scene, names)
    return all(getattr(found, name) == getattr(scene, name) for name in names)


def with_chains(pairs: Pairs, folder: Path, share: float, text: ToyTextEncoder) -> Pairs:
    """Pairs, and as many of a folder of chains as make `share` of all, over and over if need be."""
    chained = load_cache(folder, text)
    wanted = round(share / (1 - share) * len(pairs))
    return pairs.plus(chained.take(torch.arange(wanted) % len(chained)))
