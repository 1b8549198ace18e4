"""Training the toy's safety classifier: two towers, contrastively, on the toy world.

A batch is made of groups of four scenes that differ in the character's species and colour only:
these are the hard negatives that a classifier of characters must tell apart. The rest is the
world's own stream, with the prompts that it asks its edits by.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from PIL import Image
from torch import Tensor

from minikontext import images
from minikontext.autoencoder import AutoEncoder
from minikontext.runtime.bounds import Batch, Seed, Share, Weight
from minikontext.runtime.device import mixed_precision
from minikontext.safety import filters
from minikontext.safety.clip import (
    TwoTowers,
    ZeroShot,
    contrastive_loss,
    load_clip,
    save_safety,
)
from minikontext.toyworld import Case, Scene, render
from minikontext.toyworld.attacks import (
    NAMED,
    Mix,
    sample_attack,
    sample_benign,
    sample_near_miss,
    sample_picture,
    unseen_picture,
)
from minikontext.toyworld.concept import PURPLE_STAR, Concept
from minikontext.toyworld.edits import sample_edit
from minikontext.toyworld.language import ask
from minikontext.toyworld.scene import COLOURLESS, COLOURS, SPECIES, pick
from minikontext.training.loop import LossFunction

# What can be said of a scene that names its character's colour, and what leaves the colour open.
NAMING = ("text_to_image", "recolour_character", "style_reference")
OPEN = (
    "replace_character", "swap_character", "change_pattern", "change_eyes", "change_background",
    "character_reference", "move_character",
)  # fmt: skip
# Height and width of pictures in other shapes, which the filter squeezes into its square.
SHAPES = ((64, 80), (80, 64), (64, 96), (80, 56), (48, 64), (56, 56), (96, 96))


@dataclass(frozen=True)
class SafetyLossConfig:
    """The dials of the contrastive loss.

    `groups` of four and `stream` cases make a batch. `concept` is the share of groups around the
    forbidden concept, `roundtrip` that of pictures that went once through the autoencoder, as all
    pictures do that the output filter sees.
    """

    groups: Batch = 36
    stream: Annotated[int, Interval(ge=0, le=2**24)] = 48
    seed: Seed = 0
    concept: Share = 0.25
    roundtrip: Share = 0.3
    noise: Weight = 0.03
    bf16: bool = True


@dataclass(frozen=True)
class Shown:
    """A scene, a caption of it, and a prompt that asks for it."""

    scene: Scene
    caption: str
    prompt: str


# ---------------------------------------------------------------- what is said


def describe(rng: random.Random, scene: Scene) -> str:
    """A caption of what can be seen; in styles without colours it names the style instead."""
    shows = scene.style not in COLOURLESS
    words = [scene.colour, scene.species] if shows else [scene.species]
    if scene.accessory != "none" and rng.random() < 0.2:
        words += ["with", "a", scene.accessory]
    if rng.random() < 0.6:
        words += ["in", "the", scene.background]
    if rng.random() < 0.3:
        words += ["at", scene.time]
    if not shows or (scene.style != "plain" and rng.random() < 0.5):
        words += ["in", scene.style, "style"]
    return ask("text_to_image", {"caption": " ".join(words)}, rng, held_out=False)


def request(rng: random.Random, scene: Scene) -> str:
    """A prompt of the world that a scene can be the right answer to."""
    named = scene.style not in COLOURLESS and rng.random() < 0.6
    words = {name: getattr(scene, name) for name in vars(scene)}
    words |= {"old": pick(rng, SPECIES, scene.species)}
    words |= {"caption": f"{scene.colour} {scene.species} in the {scene.background}"}
    return ask(rng.choice(NAMING if named else OPEN), words, rng, held_out=False)


def group(rng: random.Random, concept: Concept, share: float) -> list[Shown]:
    """Four scenes that are equal but for the character's species, colour, or both."""
    kind = "shown" if rng.random() < share else "any"
    while True:
        scene = sample_picture(rng.randrange(2**40), kind, concept=concept)
        colour, species = pick(rng, COLOURS, scene.colour), pick(rng, SPECIES, scene.species)
        pairs = [(s, c) for s in (scene.species, species) for c in (scene.colour, colour)]
        if scene.style in COLOURLESS:  # there, colours make no difference
            others = rng.sample([s for s in SPECIES if s != scene.species], 3)
            pairs = [(s, scene.colour) for s in (scene.species, *others)]
        scenes = [scene.change(species=s, colour=c) for s, c in pairs]
        if not any(map(unseen_picture, scenes)):
            return [Shown(s, describe(rng, s), request(rng, s)) for s in scenes]


def from_stream(index: int, seed: int) -> Shown:
    """Case number `index` of the world with attacks and near misses, or the next seen one."""
    mix = Mix(attacks=0.2, near_misses=0.3)
    while True:
        case = mix.case(index, 4, seed, lambda: sample_edit(index, 4, seed=seed))  # noqa: B023
        if not unseen_picture(case.target):
            break
        seed += 1009
    return Shown(case.target, describe(random.Random(f"{seed}/{index}"), case.target), case.prompt)


def batch(step: int, config: SafetyLossConfig, concept: Concept = PURPLE_STAR) -> list[Shown]:
    """The rows of a step; the same on every call."""
    rng = random.Random(f"{config.seed}/safety/{step}")
    rows = [row for _ in range(config.groups) for row in group(rng, concept, config.concept)]
    first = step * config.stream
    return rows + [from_stream(i, config.seed) for i in range(first, first + config.stream)]


# ---------------------------------------------------------------- what is seen


def picture(scene: Scene, rng: random.Random, side: int = 64) -> np.ndarray:
    """A scene in a shape of its own, a fifth of the time, squeezed to the square."""
    if rng.random() < 0.8:
        return render(scene, side, side)
    image = Image.fromarray(render(scene, *rng.choice(SHAPES)))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def seen(scenes: Sequence[Scene], step: int, config: SafetyLossConfig, side: int = 64) -> Tensor:
    """Scenes as pixels (b, 3, side, side) in [-1, 1], a little brighter, darker or noisier."""
    rng = random.Random(f"{config.seed}/pictures/{step}")
    array = np.stack([picture(scene, rng, side) for scene in scenes])
    pixels = torch.from_numpy(array).permute(0, 3, 1, 2) / 127.5 - 1
    draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    strength = config.noise * torch.rand(len(pixels), 1, 1, 1, generator=draw)
    light = config.noise * 2 * (torch.rand(len(pixels), 3, 1, 1, generator=draw) - 0.5)
    noise = torch.randn(pixels.shape, generator=draw)
    return (pixels + light + strength * noise).clamp(-1, 1)


@torch.no_grad()
def roundtrip(pixels: Tensor, autoencoder: AutoEncoder, bf16: bool = True) -> Tensor:
    """Pixels once through the autoencoder."""
    with mixed_precision(pixels.device, bf16):
        return torch.cat([autoencoder.decode(autoencoder.encode(x)) for x in pixels.split(64)])


def safety_loss(
    model: TwoTowers, autoencoder: AutoEncoder, config: SafetyLossConfig, device: torch.device,
    concept: Concept = PURPLE_STAR,
) -> LossFunction:  # fmt: skip
    """The loss of a step: pictures, captions and prompts, each pair of them contrastively."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = batch(step, config, concept)
        x = seen([row.scene for row in rows], step, config, model.config.side).to(device)
        through = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))
        through = through[: int(config.roundtrip * len(x))]
        x[through] = roundtrip(x[through], autoencoder, config.bf16).clamp(-1, 1).float()
        texts = [[row.caption for row in rows], [row.prompt for row in rows]]
        ids = [model.text.tokenize(some).to(device) for some in texts]
        with mixed_precision(device, config.bf16):
            pictures = model.embed_pixels(x)
            captions, prompts = (model.embed_tokens(one) for one in ids)
        twice = [_equal(some).to(device) for some in texts]
        each = {
            "caption": contrastive_loss(pictures, captions, model.scale, twice[0]),
            "prompt": contrastive_loss(pictures, prompts, model.scale, twice[1]),
            "texts": contrastive_loss(prompts, captions, model.scale, twice[0] | twice[1]),
        }
        hits = (pictures @ captions.T).argmax(1) == torch.arange(len(x), device=device)
        facts = {name: float(value.detach()) for name, value in each.items()}
        facts |= {"hits": float(hits.float().mean()), "scale": float(model.scale.detach())}
        return sum(each.values()) / len(each), facts

    return loss


def _equal(texts: list[str]) -> Tensor:
    """Which texts are the same, (n, n): the same words are no wrong answer."""
    return torch.tensor([[a == b for b in texts] for a in texts])


# ---------------------------------------------------------------- the threshold


@dataclass(frozen=True)
class Exam:
    """What a filter is asked: pictures or prompts that it should flag, and others."""

    flag: list[Any]
    pass_on: list[Any]


def picture_exam(count: int, split: str, autoencoder: AutoEncoder | None, seed: int = 1) -> Exam:
    """Pictures in every style and time, `count` to flag; with an autoencoder, through it.

    To be passed on are near misses, pictures whose style hides the concept, and any others.
    """
    kinds = {"shown": count, "near": count, "hidden": count // 4, "any": count // 2}
    scenes = {
        kind: [sample_picture(i, kind, split, seed) for i in range(n)] for kind, n in kinds.items()
    }
    harmless = [s for kind in ("near", "hidden", "any") for s in scenes[kind] if not _shown(s)]
    return Exam(*(as_images(scenes, autoencoder) for scenes in (scenes["shown"], harmless)))


def _shown(scene: Scene) -> bool:
    return PURPLE_STAR.shown_in(scene)


def as_images(scenes: Sequence[Scene], autoencoder: AutoEncoder | None) -> list[Image.Image]:
    """Scenes as pictures of 64 x 64, as rendered or once through the autoencoder."""
    pictures = [Image.fromarray(render(scene)) for scene in scenes]
    if autoencoder is None:
        return pictures
    batches = [images.to_tensor(pictures[i : i + 64]) for i in range(0, len(pictures), 64)]
    return [p for part in batches for p in images.to_pil(roundtrip(part, autoencoder).float())]


def prompt_exam(count: int, split: str, seed: int = 1) -> Exam:
    """Prompts that name the concept, and as many near misses and as many others.

    Compositions are in neither: the prompt alone does not settle what they draw.
    """
    named = [attack(i, split, seed).prompt for i in range(count)]
    near = [sample_near_miss(i, 4, split, seed)[1].prompt for i in range(count)]
    other = [sample_benign(i, 4, split, seed).prompt for i in range(count)]
    return Exam(named, near + other)


def attack(index: int, split: str, seed: int) -> Case:
    """Attack number `index` of those that name the concept."""
    return sample_attack(index, 4, split, seed, kind=NAMED[index // 2 % len(NAMED)])[1]


def best_threshold(flag: Sequence[float], pass_on: Sequence[float]) -> float:
    """The score with the fewest errors, misses and false alarms counted as shares; of equally good
    ones the middle of the widest gap, measured in log-odds."""
    known = np.unique(np.clip([*flag, *pass_on], 1e-6, 1 - 1e-6))
    odds = np.log(known / (1 - known))
    middles = 1 / (1 + np.exp(-(odds[1:] + odds[:-1]) / 2))
    misses = np.array([np.mean(np.array(flag) < t) for t in middles])
    alarms = np.array([np.mean(np.array(pass_on) >= t) for t in middles])
    errors = misses + alarms
    return float(max(zip(-errors.round(9), np.diff(odds), middles))[2])


def calibrated(
    model: TwoTowers, autoencoder: AutoEncoder, concept: Concept, count: int, split: str = "train"
) -> dict[str, float]:
    """Thresholds of both layers from validation: new scenes and prompts of the seen side."""
    captions = concept.captions()
    raw, through = (picture_exam(count, split, a) for a in (None, autoencoder))
    pictures = Exam(raw.flag + through.flag, raw.pass_on + through.pass_on)
    found = {}
    for name, kind, exam in (
        ("prompt", "text", prompt_exam(count, split)),
        ("image", "image", pictures),
    ):
        score = ZeroShot(model, *captions, of=kind).score
        found[name] = round(best_threshold(score(exam.flag), score(exam.pass_on)), 4)
    return found


# ---------------------------------------------------------------- what is written


def finish(model: TwoTowers, autoencoder: AutoEncoder, folder: Path, count: int) -> Path:
    """Write the towers, and their thresholds as measured on what was written."""
    captions = PURPLE_STAR.captions()
    save_safety(model, folder, *captions, {"prompt": 0.5, "image": 0.5})
    stored = load_clip_of(folder)
    save_safety(stored, folder, *captions, calibrated(stored, autoencoder, PURPLE_STAR, count))
    return folder


def load_clip_of(folder: Path) -> TwoTowers:
    """The model of a filter's folder."""
    return load_clip(folder, filters.read_config(folder))
