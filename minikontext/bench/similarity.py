"""How alike are two pictures, or a picture and words, to a model that lies on this disk?

CLIP from a folder in transformers' layout, faces by an ONNX model; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minikontext import images
from minikontext.errors import MissingPackageError, WeightsError
from minikontext.pretrained.transformers_io import (
    import_transformers,
    read_model,
    read_tokenizer,
    tokenize,
)

# What CLIP's training subtracted and divided by, for red, green and blue.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """CLIP's embeddings of pictures and words as unit vectors: their products are cosines.

    Raises WeightsError if the folder holds no CLIP, MissingPackageError without transformers.
    """

    def __init__(self, folder: str | Path) -> None:
        hf = import_transformers()
        if not (Path(folder) / "model.safetensors").is_file():
            raise WeightsError(f"{folder} holds no model.safetensors: give a CLIP folder")
        self.model = read_model(hf.CLIPModel, Path(folder)).eval()
        self.tokenizer = read_tokenizer(hf.AutoTokenizer, Path(folder))

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(n, d), of whole pictures brought to CLIP's square."""
        side = self.model.config.vision_config.image_size
        x = (images.to_tensor([p.resize((side, side), Image.BICUBIC) for p in pictures]) + 1) / 2
        x = (x - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]
        pooled = self.model.vision_model(pixel_values=x).pooler_output
        return torch.nn.functional.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def words(self, prompts: Sequence[str]) -> Tensor:
        """(n, d), cut off at CLIP's length."""
        length = self.model.config.text_config.max_position_embeddings
        fit = {"truncation": True, "max_length": length, "padding": True}
        inputs = tokenize(self.tokenizer, list(prompts), return_tensors="pt", **fit)
        pooled = self.model.text_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).pooler_output
        return torch.nn.functional.normalize(self.model.text_projection(pooled), dim=-1)


class Faces:
    """A face embedding from an ONNX model (ArcFace's way: RGB in [-1, 1], one vector a picture).

    There is no detector: the picture's largest central square counts as the face.
    Raises MissingPackageError without onnxruntime, WeightsError if there is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise WeightsError(f"There is no ONNX model {path}.")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("Face embeddings need: pip install onnxruntime") from error
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """(n, d) unit vectors."""
        inputs = self.session.get_inputs()[0]
        side = inputs.shape[-1] if isinstance(inputs.shape[-1], int) else 112
        x = images.to_tensor([_central(picture, side) for picture in pictures]).numpy()
        rows = [self.session.run(None, {inputs.name: one[None]})[0] for one in x.astype(np.float32)]
        vectors = torch.from_numpy(np.concatenate(rows)).flatten(1)
        return torch.nn.functional.normalize(vectors, dim=-1)


def _central(picture: Image.Image, side: int) -> Image.Image:
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    return picture.crop((left, top, left + short, top + short)).resize((side, side))
