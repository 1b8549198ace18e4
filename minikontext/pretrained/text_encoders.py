"""FLUX's text encoders, T5 and CLIP, loaded from local folders through `transformers`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.errors import OutputError, PromptWarning, WeightsError, shorten_list, warn
from minikontext.pretrained import safetensors_io
from minikontext.pretrained.transformers_io import (
    check_encoder,
    import_transformers,
    load_encoder,
    load_tokenizer,
    tokenize,
)
from minikontext.runtime import offload
from minikontext.text import TextFeatures, check_prompts, too_long

# --------------------------------------------------------------------------- FLUX encoder
CacheKey = tuple[str, torch.device, torch.dtype]  # a prompt, and where its features lie


class FluxTextEncoder(nn.Module):
    """T5 token features and CLIP's pooled output, as FLUX.1 uses them.

    T5: `max_length` tokens, padded to the full length, no attention mask. CLIP: 77 tokens. Encoded
    prompts are kept, so asking again costs nothing, until the weights move or change their dtype.
    Official names: `HFEmbedder`, twice.
    """

    CLIP_LENGTH = 77
    KEPT = 64

    def __init__(
        self,
        clip: nn.Module,
        clip_tokenizer: Any,
        t5: nn.Module,
        t5_tokenizer: Any,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.clip, self.t5 = clip.eval(), t5.eval()
        self.clip_tokenizer, self.t5_tokenizer = clip_tokenizer, t5_tokenizer
        self.max_length = max_length
        self.streamed_to: torch.device | None = None
        self._cache: OrderedDict[CacheKey, TextFeatures] = OrderedDict()

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = torch.bfloat16,
        max_length: int = 512,
        device: str | torch.device = "cpu",
    ) -> FluxTextEncoder:
        """Load from a local diffusers folder: tokenizer, tokenizer_2, text_encoder, text_encoder_2.

        Never touches the network, reads safetensors only, and runs no code of the folder. Raises
        WeightsError for what is missing or does not fit, and MissingPackageError without
        `transformers`.
        """
        folder = Path(folder)
        require_encoders(folder)
        hf, (clip_words, t5_words) = import_transformers(), load_tokenizers(folder)
        return cls(
            load_encoder(hf.CLIPTextModel, folder / "text_encoder", device, dtype),
            clip_words,
            load_encoder(hf.T5EncoderModel, folder / "text_encoder_2", device, dtype),
            t5_words,
            max_length,
        )

    def described(self) -> list[str]:
        """What decides its features beside the weights: sizes and vocabularies, as text."""
        configs = [str(model.config.to_json_string()) for model in (self.clip, self.t5)]
        words = (self.clip_tokenizer, self.t5_tokenizer)
        return [*configs, *(str(sorted(one.get_vocab().items())) for one in words)]

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write what `from_folder` reads, through transformers. Raises OutputError."""
        try:
            for module, name in ((self.clip, "text_encoder"), (self.t5, "text_encoder_2")):
                state = {key: value.to("cpu", dtype) for key, value in module.state_dict().items()}
                state.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
                module.save_pretrained(Path(folder) / name, state_dict=state)
            self.clip_tokenizer.save_pretrained(Path(folder) / "tokenizer")
            self.t5_tokenizer.save_pretrained(Path(folder) / "tokenizer_2")
        except Exception as error:  # tokenizers raise a bare one if the disk is full
            raise OutputError(f"Cannot write {folder}: {error}. Make room on the disk.") from error

    def stream(self, device: torch.device, dtype: torch.dtype) -> FluxTextEncoder:
        """Keep the weights on the host; each layer visits the device while it works."""
        t5 = self.t5
        layers = (self.clip, t5.shared, *t5.encoder.block, t5.encoder.final_layer_norm)
        offload.stream(layers, device, dtype)
        self.streamed_to = torch.device(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Prompts to T5 tokens (b, max_length, 4096) and CLIP pooled (b, 768); warns if cut."""
        found = [self._cached(prompt) for prompt in check_prompts(prompts)]
        tokens = torch.cat([features.tokens for features in found])
        return TextFeatures(tokens, torch.cat([features.pooled for features in found]))

    def report(self, prompt: str) -> list[PromptWarning]:
        """What is lost: letters that a tokenizer does not know, the end of a very long prompt.

        T5 knows no Chinese and no emoji, say. CLIP reads the first 77 tokens only.
        """
        check_prompts([prompt])
        pairs = (
            ("T5", self.t5_tokenizer, self.max_length),
            ("CLIP", self.clip_tokenizer, self.CLIP_LENGTH),
        )
        found = []
        for name, tokenizer, limit in pairs:
            batch = tokenize(tokenizer, prompt, verbose=False, return_offsets_mapping=True)
            ids, places = batch["input_ids"], batch["offset_mapping"]
            # Marks of beginning and end stand nowhere; one of them is CLIP's for the unknown, too.
            strange = [prompt[a:b].strip() for one, (a, b) in zip(ids, places)
                       if one == tokenizer.unk_token_id and a < b]  # fmt: skip
            if strange:
                found.append(PromptWarning(
                    f"{name} cannot read {shorten_list(dict.fromkeys(strange))}: for it, something "
                    "unknown stands there. Say it in other words."
                ))  # fmt: skip
            if len(ids) > limit:
                lost = tokenizer.decode(ids[limit - 1 : -1])
                found.append(PromptWarning(f"{name}: {too_long(len(ids), limit, [lost])}"))
        return found

    def complete(self, prompt: str, count: int = 8) -> list[str]:
        """Nothing to offer: every word is welcome."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FluxTextEncoder:
        """What `to`, `half` and others go through: features of the old place are let go."""
        self._cache.clear()
        return super()._apply(fn, recurse)

    def _cached(self, prompt: str) -> TextFeatures:
        # The parts may also be moved one by one, past `_apply`: features lie where theirs do.
        first = next(self.t5.parameters())
        key = (prompt, self.device, first.dtype)
        if key not in self._cache:
            for warning in self.report(prompt):
                warn(warning)
            self._cache[key] = self._encode(prompt)
        features = self._cache[key]
        self._cache.move_to_end(key)
        if len(self._cache) > self.KEPT:
            self._cache.popitem(last=False)
        return features

    def _encode(self, prompt: str) -> TextFeatures:
        # No attention mask: FLUX was trained with every padding token visible.
        tokens = self.t5(input_ids=self._ids(self.t5_tokenizer, prompt, self.max_length))[0]
        clip = self.clip(input_ids=self._ids(self.clip_tokenizer, prompt, self.CLIP_LENGTH))
        return TextFeatures(tokens, clip.pooler_output)

    def _ids(self, tokenizer: Any, prompt: str, length: int) -> Tensor:
        fit = {"truncation": True, "max_length": length, "padding": "max_length"}
        batch = tokenize(tokenizer, prompt, return_tensors="pt", **fit)
        return batch["input_ids"].to(self.device)

    @property
    def device(self) -> torch.device:
        """Where prompts are encoded: streamed weights visit another device than they lie on."""
        return self.streamed_to or next(self.t5.parameters()).device


def require_encoders(folder: Path) -> None:
    """Raise WeightsError if a folder lacks one of the four folders of FLUX's text encoders."""
    names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise WeightsError(
            f"{folder} lacks the folders {', '.join(missing)} of FLUX's text encoders. "
            "Copy them from a folder in the diffusers layout: the single files do not hold them."
        )


def encoder_widths(folder: Path) -> tuple[int, int]:
    """Channels of T5's features and of CLIP's vector, read off the embeddings' shapes.

    Raises WeightsError if a folder is missing or its weights have no embedding of words.
    """
    require_encoders(folder)
    marks = {
        "text_encoder_2": ("shared.weight", "embed_tokens.weight"),
        "text_encoder": ("token_embedding.weight",),
    }
    t5, clip = (_width(folder / name, ends) for name, ends in marks.items())
    return t5, clip


def _width(folder: Path, ends: tuple[str, ...]) -> int:
    header = safetensors_io.inspect(folder)
    shapes = [info.shape for name, info in header.items() if name.endswith(ends)]
    if not shapes or len(shapes[0]) != 2:
        raise WeightsError(
            f"{folder} has no embedding of words, no {' or '.join(ends)}. Use the text encoders of "
            "FLUX.1, completely downloaded."
        )
    return shapes[0][1]


def load_tokenizers(folder: Path) -> tuple[Any, Any]:
    """CLIP's and T5's, from the folder that holds `tokenizer` and `tokenizer_2`."""
    hf = import_transformers()
    return (
        load_tokenizer(hf.CLIPTokenizer, folder / "tokenizer"),
        load_tokenizer(hf.T5TokenizerFast, folder / "tokenizer_2"),
    )


def verify_encoder(folder: Path, reader: safetensors_io.Reader) -> None:
    """Check that a folder holds every tensor of its CLIP or T5. Raises WeightsError."""
    hf = import_transformers()
    clip = any("token_embedding" in name for name in reader.header)
    check_encoder(hf.CLIPTextModel if clip else hf.T5EncoderModel, folder, reader)
