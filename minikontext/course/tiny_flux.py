"""A whole FLUX.1 Kontext folder in diffusers' layout, at tiny size and with random weights.

Everything is there that the published folder has: a transformer, an autoencoder, CLIP and T5 with
real tokenizers. Only what it paints is noise. Needs transformers: pip install 'minikontext[flux]'.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained.text_encoders import FluxTextEncoder, import_transformers
from minikontext.transformer import KontextTransformer, TransformerConfig

SIZES = {"hidden_size": 64, "num_heads": 2, "axes_dim": (4, 14, 14), "depth": 2}
WIDTHS = {"depth_single_blocks": 3, "vec_in_dim": 32, "context_in_dim": 48}
SENTENCES = ("make the hat red", "write OPEN on the sign", "a small yellow lamp at night")


def config() -> TransformerConfig:
    """FLUX.1 Kontext's transformer with less of everything; the axes keep their shares."""
    return replace(TransformerConfig.flux_dev(), **SIZES, **WIDTHS)


def autoencoder_config() -> AutoEncoderConfig:
    """FLUX's autoencoder with fewer channels; a token is 16 × 16 pixels as in the real one."""
    return replace(AutoEncoderConfig.flux(), ch=16, num_res_blocks=1, norm_groups=8)


def transformer(seed: int = 0) -> KontextTransformer:
    """With random weights: norms' scales, too, so that a swapped tensor shows."""
    return _random(KontextTransformer(config()), seed)


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write the folder; returns its path. Raises MissingPackageError without transformers."""
    import_transformers().utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)  # of optional packages that are not needed here
    try:
        autoencoder = _random(AutoEncoder(autoencoder_config()), seed + 1)
        pipe = KontextPipeline(transformer(seed), autoencoder, text_encoder(seed))
        return pipe.save_pretrained(folder, layout="diffusers")
    finally:
        logging.disable(logging.NOTSET)


def text_encoder(seed: int = 0) -> FluxTextEncoder:
    """Tiny CLIP and T5, random, with tokenizers that know a few words."""
    hf = import_transformers()
    torch.manual_seed(seed)
    clip_words, t5_words = _clip_tokenizer(hf), _t5_tokenizer(hf)
    ends = {"bos_token_id": clip_words.bos_token_id, "eos_token_id": clip_words.eos_token_id}
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    clip = hf.CLIPTextConfig(
        vocab_size=len(clip_words), hidden_size=WIDTHS["vec_in_dim"], **small, **ends
    )
    t5 = hf.T5Config(
        vocab_size=len(t5_words), d_model=WIDTHS["context_in_dim"], d_kv=8, d_ff=64, num_layers=2,
        num_heads=2, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return FluxTextEncoder(hf.CLIPTextModel(clip), clip_words, hf.T5EncoderModel(t5), t5_words)


def _clip_tokenizer(hf: Any) -> Any:
    """Byte pairs with </w> at the end of a word, as CLIP has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    words = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    words.train_from_iterator(SENTENCES, trainer)
    model = json.loads(words.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return hf.CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=77)


def _t5_tokenizer(hf: Any) -> Any:
    """Sentencepiece's unigrams, as T5 has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    words.train_from_iterator(SENTENCES, trainer)
    vocab = [tuple(x) for x in json.loads(words.to_str())["model"]["vocab"]]
    return hf.T5TokenizerFast(vocab=vocab, extra_ids=0)


@torch.no_grad()
def _random(model: nn.Module, seed: int) -> Any:
    """Fill every tensor; matrices so that signals keep their size."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.normal_(std=p[0].numel() ** -0.5, generator=draw)
        else:
            p.normal_(std=0.3, generator=draw).add_("norm" in name and not name.endswith("bias"))
    return model.eval()
