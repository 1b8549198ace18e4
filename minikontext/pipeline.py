"""Prompt and pictures in, pictures out; one path for the toy and for FLUX.1 Kontext.

pixels -> latents -> tokens -> transformer -> velocity -> sampler -> latents -> pixels
One edit is ten numbered steps: `KontextPipeline.__call__`. What they need lies in the wings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from minikontext import pretrained, sampler
from minikontext.autoencoder import AutoEncoder
from minikontext.denoiser import Denoiser, grid_ids
from minikontext.editing.codec import Codec
from minikontext.editing.contexts import Context, ContextReader
from minikontext.editing.defaults import Defaults
from minikontext.editing.output import KontextOutput, finish, forget
from minikontext.editing.request import Request, advise, check_request
from minikontext.editing.tables import parts
from minikontext.pretrained import lora
from minikontext.runtime import files, offload, quantization
from minikontext.runtime.isolated import sampling_net
from minikontext.runtime.step_cache import StepCache
from minikontext.safety.filters import Safety
from minikontext.sampler import StepInfo
from minikontext.text import TextFeatures
from minikontext.transformer import KontextTransformer


class KontextPipeline:
    """Text, autoencoder, transformer and sampler as one call: prompt + image(s) -> image(s)."""

    _repr_html_ = parts

    def __init__(
        self, transformer: KontextTransformer, autoencoder: AutoEncoder, text_encoder: nn.Module,
        defaults: Defaults | None = None, name: str = "untitled", folder: Path | None = None,
        weight_files: Sequence[Path] = (), safety: Safety | None = None,
    ) -> None:  # fmt: skip
        self.transformer = transformer.eval()
        # Convolutions are up to twice as fast with the channels of a pixel side by side.
        self.autoencoder = autoencoder.eval().to(memory_format=torch.channels_last)  # type: ignore
        self.text_encoder: Any = text_encoder.eval()
        self.defaults = defaults or Defaults()
        self.name, self.folder, self.safety = name, folder, safety
        self.weight_files = list(weight_files)
        # 64 hex digits, see `files.fingerprint`, of what is loaded now; empty if nothing is.
        self.weights_fingerprint = files.fingerprint(weight_files) if weight_files else ""
        self.loras: list[lora.Lora] = []

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "toy",
        device: str | torch.device | None = None, dtype: str | torch.dtype | None = None,
        offload: str = "auto", safety: Safety | str | Path | None = None,
    ) -> KontextPipeline:  # fmt: skip
        """Load weights: a shipped name, or a folder or file in any layout that `pretrained` knows.

        offload: which plan of `runtime.memory_plan` FLUX's weights follow; "auto": the first that
        fits. safety: filters, or their name or folder; "none": without; None: as the weights ask.
        Nothing touches the network. Raises WeightsError and NotEnoughMemoryError.
        """
        return cls(**pretrained.load(name, device, dtype, offload, safety))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str], image: Any = None,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None, height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None, true_cfg_scale: float | None = None,
        num_images_per_prompt: int = 1, seed: int | Sequence[int] | None = None,
        context_layout: str | None = None, resize: str = "kontext",
        step_cache: StepCache | float | None = None,
        callback: Callable[[StepInfo], object] | None = None, progress: bool = True,
    ) -> KontextOutput:  # fmt: skip
        """Edit `image` as `prompt` says; with no image, paint what the prompt describes.

        image: a picture (PIL, path, uint8 array); a KontextOutput, or latents, to go on without a
            round trip through pixels; or a list of these: several context images.
            A list of such lists has one for each prompt.
        width, height: pixels of the result; by default those of the first context image.
        guidance_scale: for [dev] weights. context_layout: see `tokens.context_ids`.
        true_cfg_scale: above 1, classifier-free guidance against `negative_prompt` (or "").
        seed: one int (image i gets seed + i) or one for each image. None draws them.
        resize: "kontext" brings pictures to a trained size (`images.plan`), "none" to whole tokens.
        step_cache: a `StepCache` or its threshold, see `runtime.step_cache`. Not exact.
        callback: gets a StepInfo after each step, before any filter has looked; False stops.
        Raises PromptError, ImageError, SizeError, ConfigError, SafetyError, Cancelled, and
        NonFiniteError with the step at which the numbers broke.
        """
        # 1. Check the request.
        scales = (num_inference_steps, guidance_scale, true_cfg_scale)
        request = check_request(
            prompt, negative_prompt, num_images_per_prompt, seed, scales, step_cache,
            self.defaults, self.transformer.config.guidance_embed,
        )  # fmt: skip
        # 2. Filter the prompt. Who exchanges the filters meanwhile does so for the next edit.
        safety, was = self.safety, lora.names(self)
        if safety:
            safety.refuse("prompt", request.unique)
        # 3. Read, filter and encode the contexts; plan the size of the result.
        reader = ContextReader(self.codec, self.defaults, safety, self.name)
        contexts = reader.read(image, request.count, num_images_per_prompt, resize, (width, height))
        plan = reader.target_plan(width, height, contexts)
        advise(request.settings, [one.plan for one in contexts], plan, context_layout)
        # 4. Encode the text.
        denoiser = self._denoiser(request, contexts, context_layout)
        # 5. Draw the noise.
        z = self.codec.noise(request.seeds, *plan.working)
        # 6. Choose the times: mu follows the target's tokens, never the contexts'.
        n, (steps, shifted, mu_16) = len(grid_ids(z)), request.settings.schedule
        times = sampler.schedule(steps, n, shifted=shifted, mu_16=mu_16)
        # 7. Sample: from noise to latents.
        z = sampler.sample(denoiser, z, times, callback, progress)
        # 8. Decode.
        images = self.codec.decode(z)
        # 9. Filter the output; what was withheld must not stay in the latents.
        images, verdicts = safety.filter_outputs(images) if safety else (images, [])
        z = forget(z, images, verdicts, self.codec)
        # 10. Undo the resize, attach the provenance.
        by = (lora.names(self, was), self.weights_fingerprint, *pretrained.computed(self))
        return finish(request, contexts, plan, z, images, verdicts, by, (context_layout, resize))

    def encode(self, images: Image.Image | list[Image.Image]) -> Tensor:
        """RGB images of one size, divisible by `defaults.multiple`, to latents (b, c, h, w)."""
        return self.codec.encode(images)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents (b, c, h, w) to RGB images; works for the estimate that a callback gets, too."""
        return self.codec.decode(latents)

    def noise(self, seeds: Sequence[int], width: int, height: int) -> Tensor:
        """The noise (b, c, h, w) of seeds, for a result of width × height pixels."""
        return self.codec.noise(seeds, width, height)

    def encode_text(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of prompts. Each different one is encoded once: batch copies cost nothing."""
        unique = list(dict.fromkeys(prompts))
        features = self.text_encoder.encode(unique).to(self.device, self.dtype)
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        return TextFeatures(features.tokens[rows], features.pooled[rows])

    def _denoiser(
        self, request: Request, contexts: Sequence[Context], layout: str | None
    ) -> sampler.Predict:
        """The velocity for the prompts; with a scale, guided away from the negative ones."""
        settings, latents = request.settings, [context.latents for context in contexts]
        layout = settings.context_layout if layout is None else layout

        def conditioned(prompts: list[str]) -> Denoiser:
            net = sampling_net(self.transformer, request.cache, settings.isolated)
            text = self.encode_text(prompts)
            return Denoiser(net, text, latents, layout, settings.guidance_scale)

        positive = conditioned(request.prompts)
        if settings.true_cfg_scale == 1:
            return positive
        return sampler.guided(positive, conditioned(request.negatives), settings.true_cfg_scale)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Transformer, autoencoder and text encoder by name."""
        return {name: getattr(self, name) for name in pretrained.PARTS}

    @property
    def codec(self) -> Codec:
        """The autoencoder as a call uses it: large pictures in tiles; and the noise of seeds."""
        return Codec(self.autoencoder, self.device)

    @property
    def device(self) -> torch.device:
        """Where the transformer lives, and so all of the work."""
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's number format. The sampler itself always works in float32."""
        return next(self.transformer.parameters()).dtype

    def to(self, device: str | torch.device) -> KontextPipeline:
        """Move all parts to a device, and return self. Raises ConfigError for streamed weights."""
        offload.move([*self.modules.values(), *self.loras], device)
        return self

    def compile(self, **options: Any) -> KontextPipeline:
        """Compile the two kinds of blocks, once for all their copies; see `offload`."""
        offload.compile_blocks(self.transformer, **options)
        return self

    def use_float8(self) -> KontextPipeline:
        """Multiply the blocks' matrices in float8 from now on; see `runtime.quantization`."""
        quantization.use_float8(self.transformer)
        return self

    def load_lora(
        self, path: str | Path, scale: float = 1.0, merge: bool = False
    ) -> KontextPipeline:
        """Add a LoRA file of any naming, see `pretrained.lora`; `merge`: into the weights.

        Several add up; turn one by `pipe.loras[i].scale`. Raises WeightsError, with its keys.
        """
        one = lora.distinct(lora.load(path, self.transformer, scale), self.loras)
        if merge:
            self.name = f"{self.name} + {one.merge(self.transformer)}"
        else:
            self.loras.append(one.attach(self.transformer))
        return self

    def unload_lora(self, name: str | None = None) -> KontextPipeline:
        """Take away the LoRA of a name (its file's stem), or all that are not merged."""
        for one in lora.named(self.loras, name):
            self.loras.remove(one.detach())
        return self

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write a folder that `from_pretrained` reads; options as in `pretrained.save`."""
        return pretrained.save(self, folder, **options)
