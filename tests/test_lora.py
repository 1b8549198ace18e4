"""LoRA files of three namings are one update; attaching and merging agree; nothing is lost."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from minikontext.errors import ConfigError, WeightsError, WeightsWarning
from minikontext.pretrained import lora
from minikontext.runtime import quantization
from minikontext.training.store import file_sum


def random_lora(model, rank=3, seed=0):
    made = lora.new(model, rank, layers=".", seed=seed)
    torch.manual_seed(seed)
    for thin in made.updates:
        torch.nn.init.normal_(thin.up, std=0.1)
    return made.requires_grad_(False)


def inputs(model, seed=1):
    draw = torch.Generator().manual_seed(seed)
    c = model.config
    sizes = {
        "img": (2, 6, c.in_channels),
        "txt": (2, 4, c.context_in_dim),
        "pooled": (2, c.vec_in_dim),
    }
    made = {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
    ids = {"img_ids": torch.rand(6, 3, generator=draw).round(), "txt_ids": torch.zeros(4, 3)}
    return made | ids | {"timesteps": torch.tensor([0.2, 0.9])}


@pytest.fixture
def model(tiny):
    return tiny().transformer


@torch.no_grad()
def test_attached_and_merged_agree_and_both_can_be_undone(model):
    made, given = random_lora(model), inputs(model)
    before = model(**given)
    made.scale = 0.7
    attached = made.attach(model) and model(**given)
    assert (attached - before).abs().max() > 0.01
    assert torch.equal(made.detach() and model(**given), before)
    assert torch.allclose(made.merge(model) and model(**given), attached, atol=1e-4)
    assert torch.allclose(made.merge(model, -1) and model(**given), before, atol=1e-4)


@torch.no_grad()
def test_what_was_merged_is_taken_out_whatever_the_scale_is_now(model):
    made, before = random_lora(model), {k: v.clone() for k, v in model.state_dict().items()}
    made.scale = 0.7
    made.merge(model)
    made.scale = 0.2
    made.merge(model)
    made.scale = -3.0
    made.merge(model, -1).merge(model, -1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="not merged"):
        made.merge(model, -1)


@torch.no_grad()
def test_what_was_merged_in_part_is_taken_out_in_that_part(model):
    made, before = random_lora(model), {k: v.clone() for k, v in model.state_dict().items()}
    made.scale = 0.8
    made.merge(model, 0.5).merge(model, -0.5).merge(model, -1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
    made.merge(model, 0.5).merge(model, -1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


@torch.no_grad()
def test_two_loras_add_up(model):
    one, two, given = random_lora(model, seed=1), random_lora(model, 5, seed=2), inputs(model)
    one.attach(model), two.attach(model)
    together = model(**given)
    one.detach(), two.detach()
    one.merge(model), two.merge(model)
    assert torch.allclose(model(**given), together, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_passes_the_gradients_of_the_matrices_it_stands_for(tiny, bits):
    plain, quantised = tiny().transformer, tiny().transformer
    prepare = quantization.quantiser(bits)
    packed = {name: prepare(name, p.detach()) for name, p in quantised.named_parameters()}
    quantised.load_state_dict(packed, assign=True)
    for name, p in plain.named_parameters():
        p.requires_grad_(False)
        if quantization.is_quantised(name, p.shape):  # the same matrix at full width
            p.copy_(torch.nn.functional.linear(torch.eye(p.shape[1]), packed[name]).T)
    grads = []
    for model in (plain, quantised):
        made = random_lora(model).requires_grad_(True)
        made.attach(model.requires_grad_(False))
        model(**inputs(model)).square().mean().backward()
        grads.append([p.grad for p in made.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * one.abs().max())


def test_a_merge_that_is_refused_changes_nothing(model):
    prepare, made = quantization.quantiser(8), random_lora(model)
    last = "single_blocks.0.linear2.weight"  # far behind the first layers that the LoRA knows
    packed = prepare(last, model.get_parameter(last).detach())
    model.load_state_dict({last: packed}, strict=False, assign=True)
    before = {name: p.clone() for name, p in model.named_parameters() if name != last}
    with pytest.raises(ConfigError, match=r"linear2 is quantised"):
        made.merge(model)
    assert all(torch.equal(model.get_parameter(name), p) for name, p in before.items())


def test_compiled_blocks_see_loras_come_turn_and_go(tiny, tmp_path):
    pipe = tiny()
    path = lora.save(random_lora(pipe.transformer), pipe.transformer, tmp_path / "a.safetensors")
    picture = Image.new("RGB", (64, 64), "red")

    def edit():
        return pipe("the hat", image=picture, seed=0, num_inference_steps=2, progress=False).latents

    plain = edit()
    with pytest.warns(WeightsWarning, match="loaded already"):
        expected = [pipe.load_lora(path, scale) and edit() for scale in (1.0, -0.5)]
    pipe.unload_lora()
    pipe.compile(backend="eager")
    assert torch.allclose(edit(), plain, atol=1e-5)
    pipe.load_lora(path)
    one = edit()
    assert (one - plain).abs().max() > 0.01
    assert torch.allclose(one, expected[0], atol=1e-4)
    with pytest.warns(WeightsWarning, match="loaded already"):
        pipe.load_lora(path, -0.5)
    assert torch.allclose(edit(), expected[1], atol=1e-4)
    pipe.loras[1].scale = -1.0
    assert torch.allclose(edit(), plain, atol=1e-4)
    pipe.unload_lora()
    assert torch.allclose(edit(), plain, atol=1e-5)


def test_a_folder_without_a_lora_is_refused(model, tmp_path):
    with pytest.raises(WeightsError, match="folder without one of"):
        lora.load(tmp_path, model)


@pytest.mark.parametrize("settings", ["[1]", '{"lora_alpha": "x"}', '{"alpha_pattern": {"(": 1}}'])
def test_odd_settings_of_peft_are_refused(model, tmp_path, settings):
    lora.save(random_lora(model), model, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(WeightsError):
        lora.load(tmp_path, model)


def test_three_namings_are_one_update(model, tmp_path):
    made = random_lora(model)
    official = {f"{n}.lora_A.weight": t.down for n, t in made.layers.items()}
    official |= {f"{n}.lora_B.weight": t.up for n, t in made.layers.items()}
    kohya = {}
    for n, t in made.layers.items():
        stem = "lora_unet_" + n.replace(".", "_")
        kohya |= {f"{stem}.lora_down.weight": t.down, f"{stem}.lora_up.weight": 0.5 * t.up}
        kohya[f"{stem}.alpha"] = torch.tensor(6.0)  # twice the rank
    save_file(official, tmp_path / "official.safetensors")
    save_file(kohya, tmp_path / "kohya.safetensors")
    lora.save(made, model, tmp_path / "diffusers.safetensors")
    for name in ("official", "kohya", "diffusers"):
        read = lora.load(tmp_path / f"{name}.safetensors", model)
        assert read.names and set(read.names) == set(made.names)
        for layer, thin in made.layers.items():
            assert torch.allclose(read.layers[layer].delta, thin.delta, atol=1e-6), (name, layer)


def test_unknown_incomplete_and_foreign_keys_are_named(model, tmp_path):
    made, path = random_lora(model), tmp_path / "x.safetensors"

    def refuse(state, why, error=WeightsError):
        save_file(state, path)
        with pytest.raises(error, match=why):
            lora.load(path, model)

    good = {"img_in.lora_A.weight": made.layers["img_in"].down}
    up = {"img_in.lora_B.weight": made.layers["img_in"].up}
    refuse(good, "img_in has no lora_B")
    refuse({"lora_te1_layer.lora_A.weight": torch.zeros(1, 1)}, "text encoders .*lora_te1_layer")
    refuse(good | up | {"img_in.dora_scale": torch.zeros(1)}, "img_in is a DoRA with .1,. lengths")
    refuse(good | up | {"img_in.weight": torch.zeros(1)}, "img_in.weight")
    refuse(
        good | {"img_in.lora_B.weight": up["img_in.lora_B.weight"][:, :1].clone()}, "ranks 3 and 1"
    )
    refuse(
        good | {"img_in.lora_B.weight": up["img_in.lora_B.weight"][:-1].clone()}, "another model"
    )
    refuse({"img_in.lora_A.weight": torch.zeros(3, 5)} | up, "another model")
    with pytest.raises(ConfigError, match="no linear layer"):
        lora.new(model, layers="nothing")


def test_a_pipeline_takes_and_gives_back_loras(tiny, tmp_path):
    pipe, picture = tiny(), Image.new("RGB", (64, 64), "orange")

    def paint():
        return pipe("make the hat red", image=picture, seed=0, progress=False)

    before, made = paint(), random_lora(pipe.transformer)
    path = lora.save(made, pipe.transformer, tmp_path / "style.safetensors")
    pipe.load_lora(path, 0.5)
    with_it = paint()
    assert not torch.equal(with_it.latents, before.latents)
    assert with_it.provenance[0].weights == f"tiny + style 0.5 [{file_sum(path)[:12]}]"
    pipe.loras[0].scale = 0.0
    assert torch.equal(paint().latents, before.latents)
    with pytest.raises(ConfigError, match="'other'"):
        pipe.unload_lora("other")
    assert torch.equal(pipe.unload_lora("style") and paint().latents, before.latents)
    pipe.load_lora(path, 0.5, merge=True)
    assert torch.allclose(paint().latents, with_it.latents, atol=1e-3)
