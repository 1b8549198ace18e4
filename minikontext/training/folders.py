"""A source of triplets, encoded once, and batches of it by size.

What is stored is keyed by sample: latents and text features lie under the sample's own name in one
file, so no shuffling can pair a picture with another one's prompt. Whatever cannot be used is left
out, counted, and listed with its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import flow, images
from minikontext.denoiser import PATCH, Denoiser
from minikontext.errors import ConfigError, ImageError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import config_fingerprint, safetensors_io
from minikontext.runtime import files
from minikontext.runtime.bounds import Scale
from minikontext.runtime.config import parse_json, read_json, require_entries
from minikontext.runtime.device import mixed_precision
from minikontext.text import TextFeatures
from minikontext.training.editor import EditorLossConfig
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import ALONE, WHOLE, DistContext, Microbatch
from minikontext.training.sources import AS_IT_IS, Bad, Reading, Triplet, triplets
from minikontext.training.store import file_sum
from minikontext.training.watch import Metrics, losses_at_fixed_times, validation_metrics
from minikontext.transformer import KontextTransformer

NULL = "null"  # the file with the features of the empty prompt


# -------------------------------------------------------------------------------- encoding once


def buckets(side: int, multiple: int = 16) -> tuple[images.Size, ...]:
    """The sizes that pictures are brought to: about side × side pixels, of all aspect ratios."""
    return images.KONTEXT_SIZES if side == 1024 else images.sizes_near(side, side, multiple)


def encode_folder(
    source: str | Path, cache: Path, pipe: KontextPipeline, side: int, shard: int = 256,
    world: DistContext = ALONE, bf16: bool = False, how: Reading = AS_IT_IS,
) -> None:  # fmt: skip
    """Encode a source into safetensors shards of so many samples; whole ones are kept.

    Many processes share the shards out among them. Raises TrainingError if the folder was made
    with other weights or another size.
    """
    facts = {"weights": pipe.weights_fingerprint[:12], "side": side, "shard": shard}
    facts["config"] = config_fingerprint(pipe)[:12]
    label = cache / "cache.json"
    if world.rank == 0 and not label.exists():
        files.write_text(label, json.dumps(facts))
    world.wait()
    found = read_json(label, TrainingError, f"Remove {cache}.")
    if facts != {"config": facts["config"]} | found:  # which caches of before do not name
        raise TrainingError(f"{cache} was made as {json.dumps(found)}, not {facts}; remove it")
    if world.rank == 0:
        safetensors_io.save(_text(pipe, ""), cache / f"{NULL}.safetensors")
    bar = iter(tqdm(triplets(source, how), desc="encoding", disable=world.rank > 0))
    number = -1
    for number, chunk in enumerate(iter(lambda: list(itertools.islice(bar, shard)), [])):
        place = cache / f"triplets-{number:06d}.safetensors"
        if number % world.size == world.rank and not _is_whole(place, chunk, how):
            _encode_shard(chunk, place, pipe, side, bf16, how)
    for old in cache.glob("triplets-*"):  # of a source that was longer
        if world.rank == 0 and int(old.stem.split("-")[1]) > number:
            old.unlink()
    world.wait()


def _is_whole(place: Path, chunk: list[Triplet | Bad], how: Reading) -> bool:
    try:
        facts = parse_json(files.read_text(place.with_suffix(".json")))
        if facts["bytes"] != place.stat().st_size:
            return False
        seen = facts.get("seen") == _asked(chunk, how, quick=True)
        return seen or facts["asked"] == _asked(chunk, how, quick=False)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _asked(chunk: list[Triplet | Bad], how: Reading, quick: bool) -> str:
    """What a shard is made of: it is made again when pictures, prompts or their order change."""
    facts = [*(one.identity(quick) for one in chunk), (how.max_aspect, how.upscale)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _encode_shard(
    chunk: list[Triplet | Bad], place: Path, pipe: KontextPipeline, side: int, bf16: bool,
    how: Reading,
) -> None:  # fmt: skip
    tensors: dict[str, Tensor] = {}
    samples, skipped = [], []
    # Before the work: what changes meanwhile is made again.
    facts: dict = {name: _asked(chunk, how, name == "seen") for name in ("seen", "asked")}
    for one in chunk:
        try:
            if isinstance(one, Bad):
                raise _LeftOut(one.why)
            pictures, resized = _sized(one, side, how)
            encoded = _encode(one, pictures, pipe, bf16)
        except _LeftOut as error:
            skipped.append({"key": one.key, "why": str(error)})
            continue
        tensors |= {f"{one.key}//{name}": tensor for name, tensor in encoded.items()}
        shapes = [list(encoded[name].shape) for name in sorted(encoded) if name.isdigit()]
        colours = next(filter(None, map(images.odd_colours, (one.image, *one.contexts))), "")
        row = {"key": one.key, "prompt": one.prompt, "shapes": shapes, "colours": colours}
        samples.append(row | {"resized": resized})
    with files.replacing(place) as temporary:
        save_file(tensors, temporary)
        facts |= {"bytes": temporary.stat().st_size, "sha256": file_sum(temporary)}
        facts |= {"samples": samples, "skipped": skipped}
    files.write_text(place.with_suffix(".json"), json.dumps(facts, indent=0))


class _LeftOut(Exception):
    """A sample cannot be used; the text says why."""


def _sized(one: Triplet, side: int, how: Reading) -> tuple[list[Image.Image], tuple[float, float]]:
    """A sample's pictures, each at a trained size, and the most that any was stretched, enlarged.

    Raises _LeftOut for a picture that cannot be read, or is changed more than the config allows.
    """
    pictures, stretched, enlarged = [], 1.0, 0.0
    for picture in (one.image, *one.contexts):
        try:
            found = images.read(picture)
        except ImageError as error:
            raise _LeftOut(str(error)) from error
        plan = images.plan(found.size, sizes=buckets(side))
        across, down = (new / old for new, old in zip(plan.working, plan.original))
        for name, limit, factor in (
            ("max_aspect", how.max_aspect, max(across / down, down / across)),
            ("upscale", how.upscale, math.sqrt(across * down)),
        ):
            if 0 < limit < factor:
                raise _LeftOut(f"it is changed beyond {name} = {limit:g}: by {factor:.2f}, {plan}")
        stretched = max(stretched, across / down, down / across)
        enlarged = max(enlarged, math.sqrt(across * down))
        sized = plan.apply(found)
        pictures.append(ImageOps.mirror(sized) if one.mirrored else sized)
    return pictures, (round(stretched, 2), round(enlarged, 2))


def _encode(
    one: Triplet, pictures: list[Image.Image], pipe: KontextPipeline, bf16: bool
) -> dict[str, Tensor]:
    """Latents "0" (the picture), "1" … (its contexts), and the features of its prompt."""
    with mixed_precision(pipe.device, bf16):
        tensors = {
            str(i): pipe.encode(picture)[0].bfloat16().cpu().contiguous()
            for i, picture in enumerate(pictures)
        }
    if not all(latents.isfinite().all() for latents in tensors.values()):
        raise _LeftOut("its latents are not finite")
    return tensors | _text(pipe, one.prompt)


def _text(pipe: KontextPipeline, prompt: str) -> dict[str, Tensor]:
    features = pipe.text_encoder.encode([prompt])
    named = {"tokens": features.tokens[0], "pooled": features.pooled[0]}
    return {name: x.detach().bfloat16().cpu().contiguous() for name, x in named.items()}


# --------------------------------------------------------------------------------- reading again

REMADE = "Remove it, and it is made again."
Shape = tuple[int, ...]


class Encoded:
    """The samples of a cache, by number; `skipped` says what was left out, and why.

    keys, prompts and shapes (the picture's first) of all samples are known without reading them.
    repeats: beginnings of keys -> how often an epoch shows such samples; the longest one counts.
    Raises TrainingError if there is nothing to train on, ConfigError for repeats of no sample.
    """

    def __init__(self, cache: str | Path, repeats: Mapping[str, int] | None = None) -> None:
        self.cache = Path(cache)
        self.resized: list[tuple[float, float]] = []  # the most that any picture was
        self.colours: list[str] = []  # how pictures name theirs that are taken for sRGB
        self.places: list[tuple[str, Path]] = []
        self.prompts: list[str] = []
        self.shapes: list[tuple[Shape, ...]] = []
        self.skipped: list[Bad] = []
        self._sums: dict[Path, str] = {}
        self._open: dict[Path, safe_open] = {}
        for place in sorted(self.cache.glob("triplets-*.json")):
            facts = read_json(place, TrainingError, REMADE)
            try:
                self._add(place.with_suffix(".safetensors"), facts)
            except (ConfigError, TypeError, KeyError) as error:
                raise TrainingError(f"{place} is damaged: {error}. {REMADE}") from error
        if not self.places:
            raise TrainingError(f"{self.cache} holds no samples. {self.report()}")
        self.repeats = self._repeats(repeats or {})

    def _repeats(self, wanted: Mapping[str, int]) -> list[int]:
        """How often each sample comes in an epoch."""
        keys = [key for key, _ in self.places]
        if idle := [start for start in wanted if not any(key.startswith(start) for key in keys)]:
            raise ConfigError(f"[data.repeats] {idle[0]!r:.80}: no sample's name begins so, as "
                              f"{keys[0]!r:.80} does")  # fmt: skip
        longest = sorted(wanted, key=len, reverse=True)
        found = (next((s for s in longest if key.startswith(s)), None) for key in keys)
        return [1 if start is None else wanted[start] for start in found]

    def _add(self, place: Path, facts: dict) -> None:
        require_entries(facts, {"sha256": str, "skipped": list, "samples": list})
        self._sums[place] = facts["sha256"]
        self.skipped += [Bad(**one) for one in facts["skipped"]]
        for one in facts["samples"]:
            known = {"key": str, "prompt": str, "shapes": tuple[Shape, ...], "colours": str | None}
            require_entries(one, known | {"resized": tuple[float, float] | None})
            self.places.append((one["key"], place))
            self.prompts.append(one["prompt"])
            self.shapes.append(tuple(map(tuple, one["shapes"])))
            self.resized.append(tuple(one.get("resized") or (1.0, 1.0)))
            self.colours.append(one.get("colours") or "")

    def __len__(self) -> int:
        return len(self.places)

    def report(self) -> str:
        """How many samples there are, what is left out and why, and what pictures went through."""
        contexts = Counter(len(shapes) - 1 for shapes in self.shapes)
        counts = ", ".join(f"{n} with {k or 'no'} context(s)" for k, n in sorted(contexts.items()))
        lines = [f"{len(self)} samples{counts and f' ({counts})'}, {len(self.skipped)} left out"]
        lines[0] += f", {n} with an empty prompt" if (n := self.prompts.count("")) else ""
        kinds: dict[str, list[Bad]] = {}
        for bad in self.skipped:
            kinds.setdefault(bad.why.split(":")[0].split(" /")[0], []).append(bad)
        for some in sorted(kinds.values(), key=len, reverse=True)[:5]:
            lines.append(f"  {len(some)} × like {some[0].key:.80}: {some[0].why:.160}")
        for which, what, dial, from_ in (
            (0, "stretched", "max_aspect", 1.1), (1, "enlarged", "upscale", 1.0),
        ):  # fmt: skip
            found = [(one[which], key) for one, (key, _) in zip(self.resized, self.places)]
            if some := [one for one in found if one[0] > from_]:
                most, key = max(some)
                lines.append(f"  {len(some)} have pictures that are {what}, at most by {most:g} "
                             f"({key:.80}); {dial} in [data] leaves such out")  # fmt: skip
        if odd := [(found, key) for found, (key, _) in zip(self.colours, self.places) if found]:
            lines.append(f"  {len(odd)} have colours that are taken for sRGB ({odd[0][1]:.80})")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """12 hex digits that change with the samples, their order, or what is made of them."""
        facts = [(key, self._sums[place]) for key, place in self.places]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def sample(self, number: int) -> dict[str, Tensor]:
        """Its tensors: "0" the picture's latents, "1" … the contexts', "tokens", "pooled".

        Each file is checked against its checksum once; raises TrainingError if it is damaged.
        """
        key, place = self.places[number]
        file = self._file(place)
        names = [*map(str, range(len(self.shapes[number]))), "tokens", "pooled"]
        try:
            found = {name: file.get_tensor(f"{key}//{name}") for name in names}
        except SafetensorError as error:
            raise TrainingError(f"{place} lacks {key!r:.80}: {error}. {REMADE}") from error
        if any(found[str(i)].shape != shape for i, shape in enumerate(self.shapes[number])):
            raise TrainingError(f"{place} has other shapes than its .json says. {REMADE}")
        return found

    def null(self) -> dict[str, Tensor]:
        """The features of the empty prompt."""
        place = self.cache / f"{NULL}.safetensors"
        try:
            with safe_open(place, "pt") as file:
                return {name: file.get_tensor(name) for name in ("tokens", "pooled")}
        except (SafetensorError, OSError) as error:
            raise TrainingError(f"{place} is damaged: {error}. {REMADE}") from error

    def _file(self, place: Path) -> safe_open:
        if place not in self._open:
            try:
                if file_sum(place) != self._sums[place]:
                    raise TrainingError(f"{place} is damaged. {REMADE}")
                self._open[place] = safe_open(place, "pt")
            except (SafetensorError, OSError) as error:
                raise TrainingError(f"{place} cannot be read: {error}. {REMADE}") from error
        return self._open[place]


class Order:
    """Which samples make up a step: of one shape each time, each sample `repeats` times an epoch.

    A function of the step alone, so a run can go on anywhere, with any number of workers and
    processes. The last batch of a shape is filled up with samples from its beginning.
    """

    def __init__(self, samples: Encoded, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        self.groups: dict[tuple, list[int]] = {}
        for number, shapes in enumerate(samples.shapes):
            self.groups.setdefault(shapes, []).extend([number] * samples.repeats[number])
        self.length = sum(-(-len(group) // batch) for group in self.groups.values())
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, step: int) -> list[int]:
        """The samples of a step."""
        epoch, place = divmod(step, self.length)
        known = self._epoch  # one of several threads may be in the next epoch already
        if known[0] != epoch:
            self._epoch = known = epoch, self._shuffled(epoch)
        return known[1][place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for group in self.groups.values():
            mixed = [group[i] for i in torch.randperm(len(group), generator=draw)]
            full = itertools.islice(
                itertools.cycle(mixed), -(-len(mixed) // self.batch) * self.batch
            )
            batches += [
                list(itertools.islice(full, self.batch)) for _ in range(0, len(mixed), self.batch)
            ]
        return [batches[i] for i in torch.randperm(len(batches), generator=draw)]


class Ahead:
    """Calls `make(step)` on other threads a few steps before it is asked for."""

    def __init__(self, make: Callable[[int], object], workers: int = 2, steps: int = 4) -> None:
        self.make, self.steps = make, steps
        self._pool = ThreadPoolExecutor(workers)
        self._coming: dict[int, Future] = {}

    def __call__(self, step: int) -> object:
        """What `make(step)` returns, or raises."""
        wanted = range(step, step + self.steps)
        for late in self._coming.keys() - set(wanted):
            self._coming.pop(late).cancel()
        for s in wanted:
            if s not in self._coming:
                self._coming[s] = self._pool.submit(self.make, s)
        return self._coming.pop(step).result()


# -------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class FolderLossConfig(EditorLossConfig):
    """The dials of `EditorLossConfig`, for a transformer alone: its text encoders stay as they are.

    guidance: what a model that takes guidance as an input is told. workers: threads that read.
    """

    guidance: Scale = 1.0
    workers: Annotated[int, Interval(ge=1, le=1024)] = 2


def folder_loss(
    model: KontextTransformer, samples: Encoded, config: FolderLossConfig, device: torch.device
) -> LossFunction:
    """The loss of a step: the paper's flow loss on one bucket of an encoded folder."""
    order, null = Order(samples, config.batch, config.seed), samples.null()
    ahead: dict[Microbatch, Ahead] = {}

    def read(step: int, microbatch: Microbatch) -> dict[str, Tensor]:
        each = [samples.sample(row) for row in microbatch.of(order.rows(step))]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        if microbatch not in ahead:
            ahead[microbatch] = Ahead(lambda s: read(s, microbatch), config.workers)
        some = {name: x.to(device, torch.float32) for name, x in ahead[microbatch](step).items()}
        x, contexts = some["0"], [some[str(i)] for i in range(1, len(some) - 2)]
        draw = torch.Generator().manual_seed(config.seed * 7_000_003 + step)
        patches = x.shape[-2] * x.shape[-1] // PATCH**2
        t = config.times(config.batch, patches, draw)
        empty = torch.rand(config.batch, generator=draw) < config.empty_prompts
        t, empty = microbatch.to(device, t, empty)
        noise = _noise(config.seed, step, microbatch, x).to(device)
        text = TextFeatures(
            *(
                torch.where(empty.view(-1, *[1] * null[name].ndim), null[name].to(x), some[name])
                for name in ("tokens", "pooled")
            )
        )
        guidance = config.guidance if model.config.guidance_embed else None
        with mixed_precision(device, config.bf16):
            v = Denoiser(model, text, contexts, guidance_scale=guidance)(
                flow.interpolate(x, noise, t), t
            )
        each = flow.loss_per_sample(v, x, noise)
        return each.mean(), {}

    return loss


def _noise(seed: int, step: int, microbatch: Microbatch, like: Tensor) -> Tensor:
    """Each row has its own noise, so that a process draws only that of its own rows."""
    first = microbatch.index * len(like)
    seeds = ((seed * 1_000_003 + step) * 100_003 + first + row for row in range(len(like)))
    in_range = (s % 2**64 if s >= 0 else -(-s % 2**63) for s in seeds)  # what a generator takes
    draws = (torch.Generator().manual_seed(s) for s in in_range)
    return torch.stack([torch.randn(like.shape[1:], generator=draw) for draw in draws])


def validate_folder(
    model: KontextTransformer, samples: Encoded, config: FolderLossConfig, device: torch.device
) -> Metrics:
    """The loss on all samples of a folder at fixed times and noise, one after the other."""
    found = []
    guidance = config.guidance if model.config.guidance_embed else None
    for number in range(len(samples)):
        one = {k: x[None].to(device, torch.float32) for k, x in samples.sample(number).items()}
        contexts = [one[str(i)] for i in range(1, len(one) - 2)]
        text = TextFeatures(one["tokens"], one["pooled"])
        predict = Denoiser(model, text, contexts, guidance_scale=guidance)
        found.append(losses_at_fixed_times(model, predict, one["0"], config.bf16, number))
    return validation_metrics(torch.cat(found))
