"""A whole FLUX model at tiny size, made by diffusers, transformers and trained tokenizers."""

import dataclasses
import json

import torch
import transformers as hf
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from reference import AUTOENCODERS, TINY, autoencoders, randomise, transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

# Heads of 32 channels, so that the rotary axes have FLUX's shares: 1/8 and twice 7/16.
CONFIG = dataclasses.replace(
    TINY, in_channels=64, out_channels=64, num_heads=2, axes_dim=(4, 14, 14)
)
PIXELS = dataclasses.replace(AUTOENCODERS["tiny"], ch_mult=(1, 1, 1, 1), num_res_blocks=1)
SENTENCES = (
    "make the hat red and keep everything else as it is",
    "put a small yellow lamp on the table, at night",
    "write OPEN on the sign over the door",
)


def clip_tokenizer():
    """Byte-level BPE with </w> at the end of a word, as CLIP has it."""
    ends = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=ends, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    content = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in content["merges"]]
    return hf.CLIPTokenizer(vocab=content["vocab"], merges=merges, model_max_length=77)


def t5_tokenizer():
    """Sentencepiece's unigram model, as T5 has it."""
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    content = json.loads(tokenizer.to_str())["model"]
    return hf.T5TokenizerFast(vocab=[tuple(x) for x in content["vocab"]], extra_ids=0)


def text_encoders(clip, t5):
    """CLIP and T5 of the widths that CONFIG wants, random."""
    torch.manual_seed(3)
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    clip_config = hf.CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=CONFIG.vec_in_dim,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
        **small,
    )
    t5_config = hf.T5Config(
        vocab_size=len(t5),
        d_model=CONFIG.context_in_dim,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return randomise(hf.CLIPTextModel(clip_config)), hf.T5EncoderModel(t5_config).eval()


def scheduler(shifted=True):
    """As in the published FLUX.1 Kontext [dev]; [schnell] has no shift."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0 if shifted else 1.0,
        use_dynamic_shifting=shifted,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def build(config=CONFIG, kind=FluxKontextPipeline, shifted=True):
    """The pipeline of diffusers, and our transformer and autoencoder with the same weights."""
    clip_words, t5_words = clip_tokenizer(), t5_tokenizer()
    clip, t5 = text_encoders(clip_words, t5_words)
    their_transformer, transformer = transformers(config)
    their_autoencoder, autoencoder = autoencoders(PIXELS)
    theirs = kind(
        scheduler=scheduler(shifted),
        vae=their_autoencoder,
        text_encoder=clip,
        tokenizer=clip_words,
        text_encoder_2=t5,
        tokenizer_2=t5_words,
        transformer=their_transformer,
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs, transformer, autoencoder
