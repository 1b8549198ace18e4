"""Prompt and pictures in, pictures out; one path for the toy and for FLUX.1 Kontext.

pixels -> latents -> tokens -> transformer -> velocity -> sampler -> latents -> pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minikontext import (
    checkpoints,
    files,
    float8,
    images,
    lora,
    memory,
    provenance,
    sampler,
    weights,
)
from minikontext import safety as safe
from minikontext.arguments import (
    check_scales,
    context_slots,
    match_prompts,
    pick_seeds,
    repeat,
    warn_unused,
)
from minikontext.autoencoder import AutoEncoder
from minikontext.caching import CachedTransformer, StepCache
from minikontext.device import pick
from minikontext.errors import (
    ConfigError,
    ImageError,
    NonFiniteError,
    SizeError,
)
from minikontext.images import ResizePlan
from minikontext.lora import Lora
from minikontext.pretrained import (
    FORMAT,
    FORMAT_VERSION,
    PARTS,
    build_parts,
    find_weights,
    from_dict,
    read_config,
)
from minikontext.provenance import Provenance, Source
from minikontext.safety import Safety, Verdict
from minikontext.sampler import StepInfo
from minikontext.text import TextFeatures, ToyTextEncoder, check_prompts
from minikontext.tiling import tiled
from minikontext.transformer import KontextTransformer
from minikontext.velocity import PATCH, Velocity, grid_ids

# Pixels: above this area, which no trained size has, the autoencoder works in tiles.
UNTILED, TILE, OVERLAP = 1_150_000, 1024, 256

Picture = Image.Image | str | Path | np.ndarray | bytes


@dataclass(frozen=True)
class Defaults:
    """What a call uses where it says nothing; stored beside the weights.

    width, height: pixels of a text-to-image result. sizes: the trained (width, height), empty for
    those of about width × height pixels. max_contexts: context images the weights have seen.
    min_contexts: 1 for weights that only edit. shifted: False for few-step weights, whose times
    are evenly spaced. mu_16: of weights that were trained with the root law, see
    `flow.mu_for_tokens`; None is the line.
    """

    num_inference_steps: int = 28
    guidance_scale: float | None = None
    true_cfg_scale: float = 1.0
    width: int = 64
    height: int = 64
    multiple: int = 16
    max_contexts: int = 2
    min_contexts: int = 0
    shifted: bool = True
    mu_16: float | None = None
    sizes: tuple[images.Size, ...] = ()

    def __post_init__(self) -> None:
        sizes = tuple((w, h) for w, h in self.sizes)  # JSON gives lists
        sizes = sizes or images.sizes_near(self.width, self.height, self.multiple)
        object.__setattr__(self, "sizes", sizes)


@dataclass(frozen=True)
class KontextOutput:
    """What a call made: n images, their latents (n, c, h, w), their seeds, the resize plan.

    `verdicts` has what the output filter said of each image, if there is one. A withheld image is
    a grey card, and so are its latents.
    `output[i]` is the output with only image i. Pass an output as `image=` to edit it further
    from its latents, without the loss of a round trip through pixels.
    """

    images: list[Image.Image]
    latents: Tensor
    seeds: list[int]
    plan: ResizePlan
    provenance: list[Provenance] = field(default_factory=list, repr=False)
    verdicts: list[Verdict] = field(default_factory=list, repr=False)

    @property
    def withheld(self) -> list[int]:
        """The numbers of the images that the output filter replaced by a grey card."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.flagged]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> KontextOutput:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}, but there are {len(self)} images.")
        i = index % len(self)
        lists = (self.images, self.seeds, self.provenance, self.verdicts)
        pictures, seeds, *facts = (x[i : i + 1] for x in lists)
        return KontextOutput(pictures, self.latents[i : i + 1], seeds, self.plan, *facts)

    def save(
        self, path: str | Path, private: bool | None = None, quality: int | None = None
    ) -> list[Path]:
        """Write the images with their provenance; several get -0, -1, … in their names.

        PNG, JPEG or WebP, as `provenance.save` says; private: without the prompts.
        """
        path = Path(path)
        names = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self))]
        names = [path] if len(self) == 1 else names
        made = self.provenance or [None] * len(self)
        items = zip(self.images, names, made, strict=True)
        return [provenance.save(*item, private=private, quality=quality) for item in items]


@dataclass(frozen=True)
class Context:
    """One context image of every sample: latents (b or 1, c, h, w) and its target-size plan.

    sources: what is known of each picture behind these latents, one for each.
    """

    latents: Tensor
    plan: ResizePlan
    sources: tuple[Source, ...]


class KontextPipeline:
    """Text, autoencoder, transformer and sampler as one call: prompt + image(s) -> image(s)."""

    def __init__(
        self,
        transformer: KontextTransformer,
        autoencoder: AutoEncoder,
        text_encoder: nn.Module,
        defaults: Defaults | None = None,
        name: str = "untitled",
        folder: Path | None = None,
        weight_files: Sequence[Path] = (),
        safety: Safety | None = None,
    ) -> None:
        self.transformer = transformer.eval()
        # Convolutions are up to twice as fast with the channels of a pixel side by side.
        self.autoencoder = autoencoder.eval().to(memory_format=torch.channels_last)
        self.text_encoder = text_encoder.eval()
        self.defaults = defaults or Defaults()
        self.name, self.folder = name, folder
        self.weight_files = list(weight_files)
        self.safety = safety
        self.loras: list[Lora] = []

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "toy",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        offload: str = "auto",
        safety: Safety | str | Path | None = None,
    ) -> KontextPipeline:
        """Load shipped weights by name ("toy"), or any weights folder; never touches the network.

        Published FLUX weights, too: a folder in diffusers' layout, a folder with official single
        files and the encoders' folders, or the path of one official file in such a folder. For
        these, `offload` says what does not stay on the device, see `memory.PLANS`; "auto" takes
        the first plan that fits and prints it.
        safety: filters, or the name or folder of some; "none" for none. By default those that the
        weights' config.json names.
        Raises WeightsError if there is no such folder or a file in it does not fit, and
        NotEnoughMemoryError if the device is too small.
        """
        if not files.exists(Path(name) / "config.json") and (found := checkpoints.find(name)):
            return cls._from_checkpoint(found, device, dtype, offload, safety)
        folder = find_weights(name)
        config = read_config(folder)
        filters = safe.chosen(safety, config.get("safety"))
        where, number = pick(device, dtype)
        stored = [folder / f"{part}.safetensors" for part in PARTS]
        modules = build_parts(config)
        parts = {p: weights.load_into(modules[p], f, where, number) for p, f in zip(PARTS, stored)}
        defaults = from_dict(Defaults, config.get("defaults", {}))
        name = config.get("name") or folder.name
        where = {"folder": folder, "weight_files": stored}
        return cls(**parts, defaults=defaults, name=name, **where, safety=filters)

    @classmethod
    def _from_checkpoint(
        cls,
        found: checkpoints.Checkpoint,
        device: str | torch.device | None,
        dtype: str | torch.dtype | None,
        offload: str,
        safety: Safety | str | Path | None,
    ) -> KontextPipeline:
        filters = safe.chosen(safety)
        parts = checkpoints.load(found, *pick(device, dtype), offload)
        if filters is None and parts["transformer"].config.guidance_embed:
            safe.tell_once()
        defaults = Defaults(**checkpoints.defaults(found))
        where = {"folder": found.encoders, "weight_files": found.files}
        return cls(**parts, defaults=defaults, name=found.name, **where, safety=filters)

    def save_pretrained(
        self,
        folder: str | Path,
        name: str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        layout: str | None = None,
    ) -> Path:
        """Write a folder that `from_pretrained` reads; bfloat16 unless told otherwise.

        layout: "minikontext" is config.json and one safetensors file a part; "diffusers" is a
        folder that diffusers' FluxKontextPipeline opens, too, and the default for FLUX's text
        encoders. Raises ConfigError for a layout that these parts do not have, and OutputError if
        the place cannot be written.
        """
        folder, modules = Path(folder), {part: getattr(self, part) for part in PARTS}
        toy = isinstance(self.text_encoder, ToyTextEncoder)
        layout = layout or ("minikontext" if toy else "diffusers")
        if layout == "diffusers":
            checkpoints.save(modules, folder, dtype, edits=self.defaults.max_contexts > 0)
            return folder
        if layout != "minikontext" or not toy:
            raise ConfigError(f"Got layout={layout!r}; these weights go into 'diffusers'.")
        for part, module in modules.items():
            weights.save(module.state_dict(), folder / f"{part}.safetensors", dtype)
        config = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name or self.name}
        config |= {part: asdict(module.config) for part, module in modules.items()}
        config["defaults"] = asdict(self.defaults)
        if self.safety is not None and self.safety.shipped:
            config["safety"] = self.safety.name
        checkpoints.write_json(folder / "config.json", config)
        return folder

    @property
    def device(self) -> torch.device:
        """Where the transformer lives, and so all of the work."""
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's number format. The sampler itself always works in float32."""
        return next(self.transformer.parameters()).dtype

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights' files; empty for a pipeline that was not loaded from a folder.

        Of files above a gigabyte it sees a sample, so that a first picture need not wait.
        """
        return files.sha256(self.weight_files) if self.weight_files else ""

    def to(self, device: str | torch.device) -> KontextPipeline:
        """Move all parts to a device, and return self. Raises ConfigError for streamed weights."""
        parts = [getattr(self, part) for part in PARTS]
        if any(map(memory.is_streamed, parts)):
            raise ConfigError("Streamed weights stay where they are. Load again for that device.")
        for part in (*parts, *self.loras):
            part.to(device)
        return self

    def load_lora(
        self, path: str | Path, scale: float = 1.0, merge: bool = False
    ) -> KontextPipeline:
        """Add a LoRA file of any naming (see `lora`) to the transformer, and return self.

        Several add up; turn one by `pipe.loras[i].scale`. merge: into the weights for good, which
        costs nothing in a step; else `unload_lora` gives the old model back exactly, and
        `save_pretrained` writes the weights without it.
        Raises WeightsError, with the keys' names, for a file that does not fit.
        """
        one = lora.load(path, self.transformer, scale)
        if merge:
            one.merge(self.transformer)
            self.name = f"{self.name} + {one}"
        else:
            self.loras.append(one.attach(self.transformer))
        return self

    def unload_lora(self, name: str | None = None) -> KontextPipeline:
        """Take away the LoRA of a name (its file's stem), or all that are not merged."""
        if name is not None and name not in (known := [one.name for one in self.loras]):
            raise ConfigError(f"no LoRA is called {name!r}; loaded are {known}")
        for one in [one for one in self.loras if name in (None, one.name)]:
            self.loras.remove(one.detach())
        return self

    def use_float8(self) -> KontextPipeline:
        """Multiply the blocks' matrices in float8 from now on, and return self; see `float8`.

        Meant for speed, and a little off: compare a picture of the same seed. Load
        LoRAs without `merge` afterwards, or merge them before. Raises ConfigError elsewhere.
        """
        float8.use(self.transformer)
        return self

    def compile(self, **options: Any) -> KontextPipeline:
        """Compile the two kinds of blocks, once for all their copies, and return self.

        Seconds instead of minutes, and from the third size on nothing is compiled again; a LoRA
        that comes, goes or is turned is seen, and compiled in. `options` go to torch.compile; CUDA
        graphs are left out, because at 1024 × 1024 a kernel takes longer than its launch.
        Raises ConfigError where blocks are streamed: they change at each step.
        """
        if memory.is_streamed(self.transformer):
            raise ConfigError("Streamed blocks cannot be compiled. Load with another plan.")
        # LoRAs are hooks, and compiled code does not look whether hooks have changed, unless asked.
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        for block in memory.transformer_blocks(self.transformer):
            block.compile(**options)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Picture | KontextOutput | Tensor | Sequence[Any] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        true_cfg_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        context_layout: str = "index",
        resize: str = "kontext",
        step_cache: StepCache | float | None = None,
        callback: Callable[[StepInfo], object] | None = None,
        progress: bool = True,
    ) -> KontextOutput:
        """Edit `image` as `prompt` says; with no image, paint what the prompt describes.

        image: a picture (PIL, path, uint8 array); a KontextOutput, or latents, to go on without a
            round trip through pixels; or a list of these: several context images.
            A list of such lists has one for each prompt.
        width, height: pixels of the result; by default those of the first context image.
        guidance_scale: for weights that take guidance as an input ([dev]).
        true_cfg_scale: above 1, classifier-free guidance against `negative_prompt` (or "").
        seed: one int (image i gets seed + i) or one for each image. None draws them.
        resize: "kontext" brings pictures to a trained size, "none" only to whole tokens.
        step_cache: skips blocks in steps that hardly change: a `StepCache`, or its threshold. Not
            exact, and so off by default; see `caching`.
        callback: gets a StepInfo after each step; `pipe.decode(info.clean)` shows the estimate.
            Return False or raise Cancelled to stop.
        Filters (`pipe.safety`) look at the prompt, the context images and the results; a callback
        sees what is being drawn before they do.
        Raises PromptError, ImageError, SizeError, ConfigError, SafetyError, Cancelled, and
        NonFiniteError with the step at which the numbers broke.
        """
        prompts = repeat(check_prompts(prompt), num_images_per_prompt)
        if self.safety:
            self.safety.refuse("prompt", list(dict.fromkeys(prompts)))
        seeds = pick_seeds(seed, len(prompts))
        contexts = self._contexts(image, len(prompts), num_images_per_prompt, resize)
        plan = self._target_plan(width, height, contexts)
        warn_resized([context.plan for context in contexts], plan)
        settings = self._settings(num_inference_steps, guidance_scale, true_cfg_scale)
        z = self.noise(seeds, *plan.working)
        cache = as_cache(step_cache)
        predict = self._predict(prompts, negative_prompt, contexts, context_layout, settings, cache)
        n = grid_ids(z).shape[0]
        steps, known = settings.num_inference_steps, self.defaults
        times = sampler.schedule(steps, n, shifted=known.shifted, mu_16=known.mu_16)
        z = sampler.sample(predict, z, times, callback, progress)
        pictures, verdicts = self.decode(z), []
        if self.safety:
            pictures, verdicts = self.safety.withhold(pictures)
        made = self._provenance(prompts, negative_prompt, seeds, settings, cache)
        for i in (i for i, verdict in enumerate(verdicts) if verdict.flagged):
            z[i] = self.encode(pictures[i])[0]  # what was drawn must not come back from its latents
            made[i] = replace(made[i], withheld=True)
        pictures = [plan.undo(picture) for picture in pictures]
        made = carry_on(made, contexts, pictures)
        return KontextOutput(pictures, z, seeds, plan, made, verdicts)

    @torch.no_grad()
    def encode(self, pictures: Image.Image | list[Image.Image]) -> Tensor:
        """RGB images of one size, divisible by `defaults.multiple`, to latents (b, c, h, w)."""
        pixels = images.to_tensor(pictures).to(self.device, self._pixel_dtype)
        encode = self.autoencoder.encode
        return torch.cat([self._tiled(encode, x, 1) for x in split_by_area(pixels)]).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents (b, c, h, w) to RGB images; works for the estimate that a callback gets, too."""
        if not latents.isfinite().all():
            raise NonFiniteError("The latents contain NaN or infinity: nothing to decode.")
        latents = latents.to(self.device, self._pixel_dtype)
        area = self.autoencoder.config.downsample**2
        return [
            picture
            for part in split_by_area(latents, area)
            for picture in images.to_pil(self._tiled(self.autoencoder.decode, part))
        ]

    def _tiled(
        self, function: Callable[[Tensor], Tensor], x: Tensor, scale: int | None = None
    ) -> Tensor:
        """Run the autoencoder on pixels (scale 1) or latents; very large ones in tiles."""
        factor = self.autoencoder.config.downsample
        scale = scale or factor
        if x.shape[-1] * x.shape[-2] * scale**2 <= UNTILED:
            return function(x)
        return tiled(function, x, TILE // scale, OVERLAP // scale, factor // scale)

    def noise(self, seeds: Sequence[int], width: int, height: int) -> Tensor:
        """Draw noise (b, c, h, w) for a result of width × height pixels, one generator an image.

        Drawn on the CPU, one by one, so that a seed means the same picture in any batch anywhere.
        """
        config = self.autoencoder.config
        side = PATCH * config.downsample
        shape = (config.z_channels, *(PATCH * math.ceil(x / side) for x in (height, width)))
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        return torch.cat([torch.randn(1, *shape, generator=g) for g in generators]).to(self.device)

    @property
    def _pixel_dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype

    # ---- what a call is made of

    def _contexts(self, image: Any, count: int, per_prompt: int, resize: str) -> list[Context]:
        """Read and encode the context images: one Context a slot, each for all samples."""
        slots = context_slots(image, count // per_prompt)
        if len(slots) > self.defaults.max_contexts:
            raise ImageError(
                f"Got {len(slots)} context images, but {self.name} was trained with at most "
                f"{self.defaults.max_contexts}. For one image a prompt, give a list of lists."
            )
        if len(slots) < self.defaults.min_contexts:
            raise ImageError(f"{self.name} only edits: give an image, or use other weights.")
        contexts = [self._context(slot, resize) for slot in slots]
        return [self._for_all(context, count, per_prompt) for context in contexts]

    def _context(self, slot: list[Any], resize: str) -> Context:
        """Encode the pictures of one slot together; all need one size inside the model."""
        given, planned, sources = zip(*(self._read(item, resize) for item in slot))
        plans = {str(plan) for plan in planned}
        if len(plans) > 1:
            raise SizeError(
                f"The pictures of one batch have different sizes ({'; '.join(sorted(plans))}). "
                "Edit them one by one, or bring them to one size first."
            )
        if self.safety:
            self.safety.refuse("input", self._as_pictures(given))
        pictures = [item for item in given if isinstance(item, Image.Image)]
        encoded = iter(self.encode(pictures).split(1) if pictures else ())
        parts = [next(encoded) if isinstance(item, Image.Image) else item for item in given]
        return Context(torch.cat(parts), planned[0], sum(sources, ()))

    def _read(
        self, item: Any, resize: str
    ) -> tuple[Image.Image | Tensor, ResizePlan, tuple[Source, ...]]:
        """A picture in its size inside the model, or latents as they are; its plan and sources."""
        if isinstance(item, KontextOutput):
            return self._checked_latents(item.latents), item.plan, output_sources(item)
        if isinstance(item, Tensor):
            latents = self._checked_latents(item)
            size = tuple(x * self.autoencoder.config.downsample for x in latents.shape[:1:-1])
            return latents, ResizePlan(size, size, "none"), (Source(),) * len(latents)
        picture = images.read(item)
        plan = self._plan(picture.size, resize)
        return plan.apply(picture), plan, (provenance.source(picture),)

    def _as_pictures(self, given: Sequence[Image.Image | Tensor]) -> list[Image.Image]:
        """What the model is shown, as a filter can look at it: latents are decoded."""
        pictures: list[Image.Image] = []
        for item in given:
            pictures += [item] if isinstance(item, Image.Image) else self.decode(item)
        return pictures

    def _checked_latents(self, latents: Tensor) -> Tensor:
        channels = self.autoencoder.config.z_channels
        fits = latents.ndim == 4 and latents.shape[1] == channels and latents.is_floating_point()
        if not fits or any(side % PATCH or side == 0 for side in latents.shape[2:]):
            raise SizeError(
                f"Got latents of shape {tuple(latents.shape)} and type {latents.dtype}; expected "
                f"floats of (b, {channels}, h, w) with h and w divisible by {PATCH}."
            )
        if not latents.isfinite().all():
            raise NonFiniteError("The context latents contain NaN or infinity: step 0, the input.")
        return latents.detach().to(self.device, torch.float32)

    def _for_all(self, context: Context, count: int, per_prompt: int) -> Context:
        """One latent for all samples, one for each prompt, or one for each sample."""
        n = len(context.latents)
        if n in (1, count):
            return context
        if n * per_prompt == count:
            latents = context.latents.repeat_interleave(per_prompt, dim=0)
            sources = tuple(s for s in context.sources for _ in range(per_prompt))
            return replace(context, latents=latents, sources=sources)
        raise ImageError(
            f"Got {n} context images for {count} results. Give one for all, or one for each prompt."
        )

    def _target_plan(
        self, width: int | None, height: int | None, contexts: Sequence[Context]
    ) -> ResizePlan:
        """Size of the result: as asked, else that of the first context image, else the default."""
        if width is None and height is None and contexts:
            return contexts[0].plan
        size = (
            contexts[0].plan.original if contexts else (self.defaults.width, self.defaults.height)
        )
        asked = (size[0] if width is None else width, size[1] if height is None else height)
        return self._plan(asked, "none")

    def _plan(self, size: images.Size, resize: str) -> ResizePlan:
        multiple = PATCH * self.autoencoder.config.downsample
        return images.plan(size, resize, multiple, self.defaults.sizes)

    def _settings(
        self, steps: int | None, guidance_scale: float | None, true_cfg_scale: float | None
    ) -> Defaults:
        """The defaults with what this call says in their place."""
        given = {
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "true_cfg_scale": true_cfg_scale,
        }
        check_scales(given, self.transformer.config.guidance_embed)
        return replace(self.defaults, **{k: v for k, v in given.items() if v is not None})

    def _predict(
        self,
        prompts: list[str],
        negative: str | Sequence[str] | None,
        contexts: Sequence[Context],
        layout: str,
        settings: Defaults,
        cache: StepCache | None = None,
    ) -> sampler.Predict:
        """The velocity of the prompts; with a scale, guided away from the negative ones."""
        latents, guidance = [c.latents for c in contexts], settings.guidance_scale
        parts = {"contexts": latents, "layout": layout, "guidance_scale": guidance}
        conditional = Velocity(self._net(cache), self._encode_text(prompts), **parts)
        if settings.true_cfg_scale == 1:
            warn_unused(negative)
            return conditional
        away = self._encode_text(match_prompts(negative, prompts))
        unconditional = Velocity(self._net(cache), away, **parts)
        return sampler.guided(conditional, unconditional, settings.true_cfg_scale)

    def _net(self, cache: StepCache | None) -> KontextTransformer | CachedTransformer:
        return CachedTransformer(self.transformer, cache) if cache else self.transformer

    def _encode_text(self, prompts: list[str]) -> TextFeatures:
        """Encode each different prompt once: batch copies cost nothing."""
        unique = list(dict.fromkeys(prompts))
        features = self.text_encoder.encode(unique).to(self.device, self.dtype)
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        return TextFeatures(features.tokens[rows], features.pooled[rows])

    def _provenance(
        self,
        prompts: list[str],
        negative: str | Sequence[str] | None,
        seeds: list[int],
        settings: Defaults,
        cache: StepCache | None,
    ) -> list[Provenance]:
        scales = {"guidance": settings.guidance_scale, "true_cfg": settings.true_cfg_scale}
        shared = {
            "steps": f"{settings.num_inference_steps}{cache.mark if cache else ''}",
            "guidance": ", ".join(f"{k} {v:g}" for k, v in scales.items() if v is not None),
            "weights": " + ".join([self.name, *map(str, self.loras)]),
            "weights_sha256": self.weights_sha256,
        }
        away = match_prompts(negative, prompts)
        rows = zip(prompts, away, map(str, seeds))
        return [Provenance(*row, **shared) for row in rows]


def output_sources(output: KontextOutput) -> tuple[Source, ...]:
    """What is known of the pictures of an output, whose latents are edited further."""
    made = output.provenance or [None] * len(output)
    return tuple(Source(provenance.checksum(i), m) for i, m in zip(output.images, made))


def carry_on(
    made: list[Provenance], contexts: Sequence[Context], pictures: list[Image.Image]
) -> list[Provenance]:
    """Put every edit behind the history of its pictures, and let its result carry it, too."""
    done = []
    for i, (edit, picture) in enumerate(zip(made, pictures, strict=True)):
        sources = [c.sources[i if len(c.sources) > 1 else 0] for c in contexts]
        edit = provenance.after(replace(edit, pixels=provenance.checksum(picture)), sources)
        provenance.attach(picture, edit)
        done.append(edit)
    return done


def split_by_area(x: Tensor, area: int = 1, limit: int = 2**22) -> tuple[Tensor, ...]:
    """Cut a batch so that a part has at most `limit` pixels: full-size pictures need the memory."""
    return x.split(max(1, limit // (x.shape[-2] * x.shape[-1] * area)))


def as_cache(given: StepCache | float | None) -> StepCache | None:
    """A cache as given, one for a threshold, or none."""
    return given if given is None or isinstance(given, StepCache) else StepCache(given)


def warn_resized(contexts: Sequence[ResizePlan], target: ResizePlan) -> None:
    """Say which pictures change their size inside the model, at the line that called it."""
    for plan in dict.fromkeys((*contexts, target)):
        plan.warn(stacklevel=4, undone=plan == target)  # warn_resized, __call__, no_grad
