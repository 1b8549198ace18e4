"""diffusers' models at tiny size with every tensor random, and ours with the same weights."""

import dataclasses

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.pretrained.key_mapping import from_diffusers
from minikontext.transformer import KontextTransformer, TransformerConfig

TINY = TransformerConfig(16, 16, 32, 48, 64, 4.0, 4, 2, 3, (4, 6, 6), 10_000, True, True)
TRANSFORMERS = {
    "tiny": TINY,
    "shallow": dataclasses.replace(TINY, depth=1, depth_single_blocks=1, num_heads=2,
                                   axes_dim=(8, 12, 12)),
    "toy": dataclasses.replace(TransformerConfig.toy(), depth=3, depth_single_blocks=2),
}  # fmt: skip
AUTOENCODERS = {
    "tiny": AutoEncoderConfig(64, 3, 32, 3, (1, 2, 4, 4), 2, 16, 0.3611, 0.1159),
    "shallow": AutoEncoderConfig(64, 3, 16, 3, (1, 3), 1, 4, 0.9, -0.3, norm_groups=8),
}


def relative_error(ours, theirs):
    """Length of the difference over length of the reference, as a float."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def randomise(model, seed=0):
    """Fill every tensor; matrices so that signals keep their size, norms' scales around one."""
    draw = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        values = torch.randn(p.shape, generator=draw)
        if p.dim() > 1:
            p.data = values / p[0].numel() ** 0.5
        else:
            p.data = 0.3 * values + ("norm" in name and name.endswith("weight"))
    return model.eval()


def transformers(config):
    """diffusers' FluxTransformer2DModel and our KontextTransformer."""
    theirs = FluxTransformer2DModel(
        patch_size=1,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        num_single_layers=config.depth_single_blocks,
        attention_head_dim=config.hidden_size // config.num_heads,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_in_dim,
        pooled_projection_dim=config.vec_in_dim,
        guidance_embeds=config.guidance_embed,
        axes_dims_rope=config.axes_dim,
    )
    ours = KontextTransformer(config).eval()
    ours.load_state_dict(from_diffusers(randomise(theirs).state_dict()))
    return theirs, ours


def autoencoders(config):
    """diffusers' AutoencoderKL and our AutoEncoder."""
    levels = len(config.ch_mult)
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.ch * m for m in config.ch_mult),
        layers_per_block=config.num_res_blocks,
        norm_num_groups=config.norm_groups,
        latent_channels=config.z_channels,
        scaling_factor=config.scale_factor,
        shift_factor=config.shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    ours = AutoEncoder(config).eval()
    ours.load_state_dict(from_diffusers(randomise(theirs).state_dict()))
    return theirs, ours
