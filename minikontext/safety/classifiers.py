"""Safety filters for full-size weights: local classifiers of `transformers`, for text and images.

Any folder of an image classifier or a text classifier will do. You say which of its labels are
forbidden and from which probability on. A classifier's author states what its labels mean and how
often it errs; choose the threshold on pictures of your own, where a miss costs more than a false
alarm: 0.5 is only the point where the classifier itself changes its mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from minikontext.errors import WeightsError
from minikontext.pretrained.transformers_io import (
    import_transformers,
    read_local,
    read_model,
    read_tokenizer,
    tokenize,
)
from minikontext.safety.filters import Safety, read_threshold

BATCH = 16
SHORTEST = 8  # tokens at once: two are the ends, and pieces overlap


class Classifier:
    """What both kinds share: a model, the forbidden labels, and the score.

    The score is the summed probability of the forbidden labels, or, where the model gives labels
    independently (`problem_type` "multi_label_classification"), the largest of them.
    """

    def __init__(
        self, model: nn.Module, forbidden: Sequence[str], threshold: float, where: str = "model"
    ) -> None:
        labels = {str(name): int(i) for i, name in model.config.id2label.items()}
        if not forbidden or (unknown := sorted(set(forbidden) - set(labels))):
            named = f"{unknown} are" if forbidden else "nothing is"
            raise WeightsError(f"{where}: {named} forbidden; its labels are {', '.join(labels)}.")
        self.model, self.threshold = model.eval(), threshold
        self.columns = [labels[name] for name in forbidden]
        self.reason = " or ".join(forbidden)

    @torch.no_grad()
    def score(self, items: Sequence[Any]) -> list[float]:
        """How likely each item has a forbidden label, 0 to 1."""
        batches = [list(items[i : i + BATCH]) for i in range(0, len(items), BATCH)]
        return [number for part in batches for number in self._shares(self._logits(part)).tolist()]

    def _shares(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.model.config.problem_type == "multi_label_classification":
            return logits.sigmoid()[:, self.columns].amax(1)
        return logits.softmax(-1)[:, self.columns].sum(1)

    def _logits(self, items: list[Any]) -> Tensor:
        raise NotImplementedError


class ImageClassifier(Classifier):
    """A local image-classification model of transformers as an image filter."""

    def __init__(self, model: nn.Module, processor: Any, *rest: Any, **more: Any) -> None:
        super().__init__(model, *rest, **more)
        self.processor = processor

    @classmethod
    def from_folder(
        cls, folder: str | Path, forbidden: Sequence[str], threshold: float = 0.5
    ) -> ImageClassifier:
        """Load a folder; safetensors only, no code from it, never the network.

        Raises WeightsError for what is missing or does not fit, and MissingPackageError without
        `transformers`.
        """
        folder, hf = checked(folder), import_transformers()
        model = read_model(hf.AutoModelForImageClassification, folder)
        processor = read_local(hf.AutoImageProcessor, folder)
        return cls(model, processor, forbidden, threshold, where=str(folder))

    def _logits(self, items: list[Image.Image]) -> Tensor:
        pictures = [picture.convert("RGB") for picture in items]
        return self.model(**self.processor(images=pictures, return_tensors="pt")).logits


class TextClassifier(Classifier):
    """A local text-classification model of transformers as a prompt filter.

    Prompts longer than the model reads are scored in overlapping pieces, and the worst piece
    counts: a long harmless beginning hides nothing. The tokenizer cuts, by its own overflow and
    stride. `transformers.pipeline` would not do: of a prompt in pieces it returns the score of the
    first one only (`TextClassificationPipeline.postprocess` takes `logits[0]`).
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *rest: Any, **more: Any) -> None:
        super().__init__(model, *rest, **more)
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "is_fast", False) or self.max_length < SHORTEST:
            raise WeightsError(
                f"A tokenizer of {type(tokenizer).__name__} and {self.max_length} tokens at once: "
                f"expected a tokenizer.json and at least {SHORTEST} tokens, to cut long prompts."
            )

    @classmethod
    def from_folder(
        cls, folder: str | Path, forbidden: Sequence[str], threshold: float = 0.5
    ) -> TextClassifier:
        """Load a folder; as `ImageClassifier.from_folder`."""
        folder, hf = checked(folder), import_transformers()
        model = read_model(hf.AutoModelForSequenceClassification, folder)
        tokenizer = read_tokenizer(hf.AutoTokenizer, folder)
        return cls(model, tokenizer, forbidden, threshold, where=str(folder))

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or 512
        return int(min(limit - 2, self.tokenizer.model_max_length, 512))  # some count from 2

    @torch.no_grad()
    def score(self, items: Sequence[str]) -> list[float]:
        """How likely each prompt has a forbidden label: that of its worst piece."""
        pieces, owners = self._pieces(items)
        scores = super().score(pieces)
        return [
            max(score for score, owner in zip(scores, owners, strict=True) if owner == number)
            for number in range(len(items))
        ]

    def _pieces(self, prompts: Sequence[str]) -> tuple[list[dict[str, Any]], list[int]]:
        """Encoded pieces that the model can read, and the number of the prompt each is from."""
        if not prompts:
            return [], []
        batch = tokenize(
            self.tokenizer, list(prompts), truncation=True, max_length=self.max_length,
            stride=self.max_length // 4, return_overflowing_tokens=True,
        )  # fmt: skip
        owners = batch.pop("overflow_to_sample_mapping")
        names = [name for name in self.tokenizer.model_input_names if name in batch]
        return [{name: batch[name][i] for name in names} for i in range(len(owners))], owners

    def _logits(self, items: list[dict[str, Any]]) -> Tensor:
        if self.tokenizer.pad_token is None:  # pieces of one length only share a batch with padding
            return torch.cat([self.model(**_tensors([item])).logits for item in items])
        return self.model(**self.tokenizer.pad(items, return_tensors="pt")).logits


def _tensors(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([item[name] for item in items]) for name in items[0]}


def checked(folder: str | Path) -> Path:
    """A local folder with a config and safetensors; raises WeightsError otherwise."""
    folder = Path(folder)
    missing = [what for what in ("config.json", "*.safetensors") if not [*folder.glob(what)]]
    if missing:
        raise WeightsError(
            f"{folder} is no classifier's folder: it lacks {', '.join(missing)}. Pickled weights "
            "(.bin, .pt) are not read; save them as safetensors."
        )
    return folder


def load_safety(folder: Path, config: dict[str, Any]) -> Safety:
    """The filters that a config names: "prompt" and "image", each optional, not both missing.

    Each has a `folder` (relative to the config's), the `forbidden` labels and a `threshold`.
    Raises WeightsError for anything else, and for a folder outside of the config's own.
    """
    kinds = {"prompt": TextClassifier, "image": ImageClassifier}
    filters = {
        name: _from_section(kind, folder, name, config[name])
        for name, kind in kinds.items()
        if name in config
    }
    if not filters:
        raise WeightsError(f"{folder}/config.json names neither a 'prompt' nor an 'image' filter.")
    return Safety(**filters, name=folder.name)


def _from_section(kind: Any, folder: Path, name: str, section: Any) -> Classifier:
    place = f"{folder}/config.json, {name}"
    values = section if isinstance(section, dict) else {}
    inner, forbidden = values.get("folder"), values.get("forbidden")
    labels = isinstance(forbidden, list) and all(isinstance(label, str) for label in forbidden)
    if not isinstance(inner, str) or not labels:
        raise WeightsError(f"{place}: expected 'folder', 'forbidden' (a list) and 'threshold'.")
    path = (folder / inner).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise WeightsError(f"{place}: {inner!r} leads out of {folder}. Put the classifier in it.")
    return kind.from_folder(path, forbidden, read_threshold(values.get("threshold"), place))
