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
from minikontext.pretrained import text_encoders
from minikontext.safety.filters import Safety, read_threshold

BATCH = 16


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
        parts = [list(items[i : i + BATCH]) for i in range(0, len(items), BATCH)]
        return [number for part in parts for number in self._shares(self._logits(part)).tolist()]

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
        folder, hf = checked(folder), text_encoders.import_transformers()
        model = _read(hf.AutoModelForImageClassification, folder, use_safetensors=True)
        processor = _read(hf.AutoImageProcessor, folder)
        return cls(model, processor, forbidden, threshold, where=str(folder))

    def _logits(self, items: list[Image.Image]) -> Tensor:
        pictures = [picture.convert("RGB") for picture in items]
        return self.model(**self.processor(images=pictures, return_tensors="pt")).logits


class TextClassifier(Classifier):
    """A local text-classification model of transformers as a prompt filter.

    Prompts longer than the model reads are scored in pieces, and the worst piece counts: a long
    harmless beginning hides nothing.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *rest: Any, **more: Any) -> None:
        super().__init__(model, *rest, **more)
        self.tokenizer = tokenizer

    @classmethod
    def from_folder(
        cls, folder: str | Path, forbidden: Sequence[str], threshold: float = 0.5
    ) -> TextClassifier:
        """Load a folder; as `ImageClassifier.from_folder`."""
        folder, hf = checked(folder), text_encoders.import_transformers()
        model = _read(hf.AutoModelForSequenceClassification, folder, use_safetensors=True)
        tokenizer = _read(hf.AutoTokenizer, folder)
        return cls(model, tokenizer, forbidden, threshold, where=str(folder))

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or 512
        return min(limit - 2, self.tokenizer.model_max_length, 512)  # some count from 2

    @torch.no_grad()
    def score(self, items: Sequence[str]) -> list[float]:
        """How likely each prompt has a forbidden label: that of its worst piece."""
        return [max(super(TextClassifier, self).score(self._pieces(prompt))) for prompt in items]

    def _pieces(self, prompt: str) -> list[str]:
        """A prompt in overlapping runs of words that fit; nearly always it is one."""
        words, fits = prompt.split(" "), self.max_length
        if self._length(prompt) <= fits:
            return [prompt]
        if len(words) == 1:  # no spaces: halve it until it fits
            half = len(prompt) // 2
            return [*self._pieces(prompt[: half + 8]), *self._pieces(prompt[half - 8 :])]
        half = len(words) // 2
        ahead = min(8, half // 2)
        parts = (words[: half + ahead], words[max(1, half - ahead) :])
        return [piece for part in parts for piece in self._pieces(" ".join(part))]

    def _length(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, truncation=False, verbose=False)["input_ids"])

    def _logits(self, items: list[str]) -> Tensor:
        batch = self.tokenizer(
            items, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        return self.model(**batch).logits


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


def _read(kind: Any, folder: Path, **more: Any) -> Any:
    try:
        return kind.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **more
        )
    except Exception as error:  # transformers raises nearly anything on a damaged folder
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise WeightsError(
            f"Cannot read {kind.__name__} from {folder}: {reason}. Complete the download."
        ) from error


def load_safety(folder: Path, config: dict[str, Any]) -> Safety:
    """The filters that a config names: "prompt" and "image", each optional, not both missing.

    Each has a `folder` (relative to the config's), the `forbidden` labels and a `threshold`.
    Raises WeightsError for anything else, and for a folder outside of the config's own.
    """
    kinds = {"prompt": TextClassifier, "image": ImageClassifier}
    made = {
        name: _from_section(kind, folder, name, config[name])
        for name, kind in kinds.items()
        if name in config
    }
    if not made:
        raise WeightsError(f"{folder}/config.json names neither a 'prompt' nor an 'image' filter.")
    return Safety(**made, name=folder.name)


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
