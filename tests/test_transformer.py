"""The transformer and its layers: sizes, names, streams, conditioning, numbers."""

import dataclasses
import json

import pytest
import torch

from minikontext import layers, tokens
from minikontext.denoiser import Denoiser
from minikontext.errors import ConfigError
from minikontext.runtime.config import build_config
from minikontext.text import TextFeatures
from minikontext.transformer import KontextTransformer, TransformerConfig

TINY = TransformerConfig(
    in_channels=16,
    out_channels=16,
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=32,
    mlp_ratio=2.0,
    num_heads=2,
    depth=2,
    depth_single_blocks=2,
    axes_dim=(4, 6, 6),
    theta=10_000,
    qkv_bias=True,
    guidance_embed=True,
)


def build(config=TINY):
    """A model with every tensor random."""
    torch.manual_seed(0)
    model = KontextTransformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(config=TINY, batch=2):
    """An edit with two context images of different sizes."""
    draw = torch.Generator().manual_seed(1)
    grids = [(2, 3), (2, 2), (1, 3)]
    images = [torch.randn(batch, r * c, config.in_channels, generator=draw) for r, c in grids]
    ids = tokens.context_ids(grids[1:])
    img, img_ids = tokens.join_context(images[0], tokens.position_ids(2, 3), images[1:], ids)
    return {
        "img": img,
        "img_ids": img_ids,
        "txt": torch.randn(batch, 5, config.context_in_dim, generator=draw),
        "txt_ids": torch.zeros(5, 3),
        "timesteps": torch.rand(batch, generator=draw),
        "pooled": torch.randn(batch, config.vec_in_dim, generator=draw),
        "guidance": torch.tensor([2.5, 4.0])[:batch] if config.guidance_embed else None,
    }


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def velocity(model):
    with torch.no_grad():
        return model(**inputs())


def meta(config):
    with torch.device("meta"):
        return KontextTransformer(config)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_full_size_is_that_of_flux():
    dev = meta(TransformerConfig.flux_dev())
    assert count(dev) == 11_901_408_320
    assert len(dev.state_dict()) == 780
    assert count(dev.double_blocks[0]) == 339_831_296
    assert count(dev.single_blocks[0]) == 141_591_808
    assert count(meta(TransformerConfig.flux_schnell())) == 11_891_178_560


def test_modulation_is_a_quarter_of_the_model():
    dev = meta(TransformerConfig.flux_dev())
    share = sum(count(m) for m in dev.modules() if isinstance(m, layers.Modulation)) / count(dev)
    assert round(100 * share) == 27


def test_names_are_official():
    shapes = {k: tuple(v.shape) for k, v in meta(TransformerConfig.flux_dev()).state_dict().items()}
    assert shapes["double_blocks.18.img_attn.qkv.weight"] == (9216, 3072)
    assert shapes["double_blocks.0.txt_attn.norm.key_norm.scale"] == (128,)
    assert shapes["double_blocks.0.img_mod.lin.weight"] == (18432, 3072)
    assert shapes["double_blocks.0.txt_mlp.2.weight"] == (3072, 12288)
    assert shapes["double_blocks.0.img_attn.proj.bias"] == (3072,)
    assert shapes["single_blocks.37.linear1.weight"] == (21504, 3072)
    assert shapes["single_blocks.0.linear2.weight"] == (3072, 15360)
    assert shapes["single_blocks.0.modulation.lin.bias"] == (9216,)
    assert shapes["single_blocks.0.norm.query_norm.scale"] == (128,)
    assert shapes["final_layer.adaLN_modulation.1.weight"] == (6144, 3072)
    assert shapes["final_layer.linear.weight"] == (64, 3072)
    assert shapes["guidance_in.out_layer.weight"] == (3072, 3072)
    assert shapes["time_in.in_layer.weight"] == (3072, 256)
    assert shapes["vector_in.in_layer.weight"] == (3072, 768)
    assert shapes["txt_in.weight"] == (3072, 4096)
    assert shapes["img_in.weight"] == (3072, 64)


def test_qkv_bias_can_be_left_out():
    names = meta(dataclasses.replace(TINY, qkv_bias=False)).state_dict()
    assert "double_blocks.0.img_attn.qkv.bias" not in names


def test_a_velocity_for_every_image_token(velocity):
    assert velocity.shape == (2, 6 + 4 + 3, 16)
    assert velocity.isfinite().all()


@pytest.mark.parametrize("name", ["img", "txt", "timesteps", "pooled", "guidance"])
def test_every_input_reaches_the_target(model, velocity, name):
    changed = inputs()
    changed[name] = changed[name] + 0.5
    if name == "img":  # the context alone is changed
        changed[name] = torch.cat((inputs()["img"][:, :6], changed[name][:, 6:]), dim=1)
    with torch.no_grad():
        other = model(**changed)
    assert (tokens.cut_target(other, 6) - tokens.cut_target(velocity, 6)).abs().max() > 1e-3


def test_positions_of_the_context_reach_the_target(model, velocity):
    changed = inputs()
    changed["img_ids"] = changed["img_ids"].clone()
    changed["img_ids"][6:, 0] = 0  # as if the context were part of the target
    with torch.no_grad():
        assert (model(**changed) - velocity)[:, :6].abs().max() > 1e-3


def test_samples_of_a_batch_do_not_mix(model, velocity):
    alone = {k: v[1:] if k not in ("img_ids", "txt_ids") else v for k, v in inputs().items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**alone), velocity[1:], rtol=1e-4, atol=1e-5)


def test_context_images_may_be_given_in_any_order(model, velocity):
    order = torch.tensor([*range(6), 10, 11, 12, 6, 7, 8, 9])
    changed = inputs()
    changed["img"], changed["img_ids"] = changed["img"][:, order], changed["img_ids"][order]
    with torch.no_grad():
        moved = model(**changed)
    torch.testing.assert_close(moved, velocity[:, order], rtol=1e-4, atol=1e-5)


def test_ids_may_have_a_batch_dimension(model, velocity):
    changed = inputs()
    changed["img_ids"] = changed["img_ids"].expand(2, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(**changed), velocity)


def test_guidance_is_required_where_it_was_trained(model):
    with pytest.raises(ConfigError, match="guidance"):
        model(**{**inputs(), "guidance": None})


def test_guidance_is_ignored_where_it_was_not():
    config = dataclasses.replace(TINY, guidance_embed=False)
    other = build(config)
    with torch.no_grad():
        plain = other(**inputs(config))
        assert torch.equal(other(**{**inputs(config), "guidance": torch.ones(2)}), plain)


@pytest.mark.parametrize("change", [{"axes_dim": (4, 6, 8)}, {"num_heads": 3}])
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError, match="axes_dim"):
        dataclasses.replace(TINY, **change)


def test_config_survives_json():
    saved = json.loads(json.dumps(dataclasses.asdict(TINY)))
    assert build_config(TransformerConfig, saved) == TINY


def test_timestep_embedding_is_cosines_of_a_thousand_t_then_sines():
    t = torch.tensor([0.0, 0.5])
    out = layers.timestep_embedding(t, dim=4, max_period=100)
    angle = torch.tensor([500.0, 50.0])  # frequencies 1 and 100^(-1/2)
    expected = torch.stack((torch.tensor([1.0, 1, 0, 0]), torch.cat((angle.cos(), angle.sin()))))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_modulate_normalises_then_scales_and_shifts():
    x, shift, scale = torch.randn(2, 3, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    plain = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layers.modulate(x, shift, scale), plain * (1 + scale) + shift)


def test_rms_norm_by_hand_in_float32():
    norm = layers.RMSNorm(8)
    torch.nn.init.normal_(norm.scale)
    x = 1e-3 * torch.randn(3, 8)  # so small that eps matters
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.scale
    torch.testing.assert_close(norm(x), expected)
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.float32


def test_initial_weights_predict_zero_and_every_block_passes_on():
    model = KontextTransformer(TINY).init_weights(torch.Generator().manual_seed(0))
    assert model(**inputs()).abs().max() == 0
    x, vec = torch.randn(1, 4, 32), torch.randn(1, 32)
    turns = torch.tensor([1.0, 0.0]).expand(4, 8, 2)  # no rotation
    assert torch.equal(model.single_blocks[0](x, vec, turns), x)
    assert model.single_blocks[0].linear1.weight.std() > 0.05


def test_initial_weights_follow_the_generator():
    a, b, c = (
        KontextTransformer(TINY).init_weights(torch.Generator().manual_seed(seed)).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["img_in.weight"], c["img_in.weight"])


def test_it_learns_from_its_initial_weights():
    torch.manual_seed(0)
    model = KontextTransformer(TINY).init_weights()
    optimizer, target = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.randn(2, 13, 16)
    losses = []
    for _ in range(30):
        loss = (model(**inputs()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_gets_a_gradient():
    model = build()
    model(**inputs()).square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert idle == []


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_stays_close(model, velocity, how):
    if how == "autocast":
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            out = model(**inputs())
    else:
        given = {
            k: v.bfloat16() if k in ("img", "txt", "pooled") else v for k, v in inputs().items()
        }
        with torch.no_grad():
            out = build().bfloat16()(**given)
    assert out.dtype == torch.bfloat16
    assert ((out.float() - velocity).norm() / velocity.norm()) < 0.05


def test_it_compiles_as_one_graph():
    small = build(dataclasses.replace(TINY, depth=1, depth_single_blocks=1))
    with torch.no_grad():
        out = torch.compile(small, backend="aot_eager", fullgraph=True)(**inputs())
        torch.testing.assert_close(out, small(**inputs()), rtol=1e-4, atol=1e-5)


def test_rotations_are_computed_once_for_all_steps_and_anew_for_another_size(monkeypatch):
    model, draw = build(), torch.Generator().manual_seed(2)
    text = TextFeatures(torch.randn(1, 3, 20, generator=draw), torch.randn(1, 12, generator=draw))
    wide, high = (torch.randn(1, 4, *s, generator=draw) for s in ((4, 8), (8, 4)))

    def velocity():
        return Denoiser(model, text, [torch.ones(1, 4, 4, 4)], guidance_scale=2.0)

    steps = [(z, torch.tensor([t])) for z in (wide, high) for t in (1.0, 0.5, 0.2)]
    fresh = [velocity()(*step) for step in steps]
    calls, real = [], KontextTransformer.rotations
    monkeypatch.setattr(KontextTransformer, "rotations", lambda *a: calls.append(1) or real(*a))
    kept = velocity()
    assert all(torch.equal(kept(*step), right) for step, right in zip(steps, fresh))
    assert len(calls) == 2
