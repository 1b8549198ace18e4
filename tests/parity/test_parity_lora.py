"""A LoRA that peft made for diffusers' transformer, in ours; and ours in diffusers."""

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from reference import TINY, relative_error, transformers
from safetensors.torch import load_file, save_file
from test_parity_transformer import inputs, run

from minikontext.errors import WeightsWarning
from minikontext.pretrained import lora

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj",
           "to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "proj_mlp",
           "proj_out", "x_embedder", "norm.linear", "norm_out.linear"]  # fmt: skip


def test_a_lora_of_diffusers_gives_the_same_velocity(tmp_path):
    theirs, ours = transformers(TINY)
    theirs.add_adapter(
        LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False)
    )
    state = {f"transformer.{k}": v for k, v in get_peft_model_state_dict(theirs).items()}
    facts = {"lora_adapter_metadata": '{"transformer.lora_alpha": 8, "transformer.r": 4}'}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "x.safetensors", facts)
    plain, _ = run(theirs, ours, inputs(TINY))
    lora.load(tmp_path / "x.safetensors", ours).attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.1  # the LoRA does something
    assert relative_error(got, expected) < 2e-6


@pytest.mark.parametrize("more", [
    {"lora_alpha": 16},
    {"lora_alpha": 16, "use_rslora": True},
    {"alpha_pattern": {"to_q": 12, r"transformer_blocks\.0\.attn\.to_k": 1},
     "rank_pattern": {"to_v": 2}},
])  # fmt: skip
@pytest.mark.parametrize("by", ["peft", "diffusers"])
def test_a_lora_is_as_strong_as_in_peft(tmp_path, more, by):
    theirs, ours = transformers(TINY)
    config = LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, **more)
    plain, _ = run(theirs, ours, inputs(TINY))
    if by == "peft":
        get_peft_model(theirs, config).save_pretrained(tmp_path)  # the layers are inside of theirs
    else:
        theirs.add_adapter(config)
        theirs.save_lora_adapter(tmp_path)
    lora.load(tmp_path, ours).attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.1
    assert relative_error(got, expected) < 2e-6


KRON = {
    "LoKr": (LoKrConfig, {}),
    "LoKr, both thin": (LoKrConfig, {"decompose_both": True, "decompose_factor": 4}),
    "LoKr, full": (LoKrConfig, {"decompose_factor": 4, "r": 10_000, "alpha": 10_000}),
    "LoKr, patterns": (LoKrConfig, {"alpha_pattern": {"to_q": 12}, "rank_pattern": {"to_v": 1}}),
    "LoHa": (LoHaConfig, {}),
    "LoHa of a large rank": (LoHaConfig, {"r": 12, "alpha": 60}),
}


@pytest.mark.parametrize("how", KRON)
@pytest.mark.parametrize("name", ["adapter_model", "my-style"])
def test_lokr_and_loha_are_as_in_peft(tmp_path, how, name):
    """peft's own arithmetic, from its own file, under its own name or another."""
    theirs, ours = transformers(TINY)
    kind, more = KRON[how]
    config = kind(target_modules=TARGETS, init_weights=False, **({"r": 2, "alpha": 3} | more))
    plain, _ = run(theirs, ours, inputs(TINY))
    get_peft_model(theirs, config).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / f"{name}.safetensors")
    lora.load(tmp_path / f"{name}.safetensors", ours).attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.01
    assert relative_error(got, expected) < 5e-6


@pytest.mark.parametrize("name", ["adapter_model", "my-style"])
def test_an_adapter_under_another_name_keeps_its_alpha(tmp_path, name):
    theirs, ours = transformers(TINY)
    config = LoraConfig(r=4, lora_alpha=24, target_modules=TARGETS, init_lora_weights=False)
    get_peft_model(theirs, config).save_pretrained(tmp_path)
    path = (tmp_path / "adapter_model.safetensors").rename(tmp_path / f"{name}.safetensors")
    one = lora.load(path, ours).attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(got, expected) < 2e-6
    assert torch.equal(lora.load(tmp_path, ours).updates[0].up, one.updates[0].up)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.warns(WeightsWarning, match="alpha is not known"):
        lora.load(path, ours)


@pytest.mark.parametrize("by", ["peft", "diffusers"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_dora_is_as_in_peft(tmp_path, by, merged):
    theirs, ours = transformers(TINY)
    options = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "use_dora": True}
    config = LoraConfig(init_lora_weights=False, **options)
    plain, _ = run(theirs, ours, inputs(TINY))
    model = get_peft_model(theirs, config) if by == "peft" else theirs
    if by == "diffusers":
        theirs.add_adapter(config)
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:  # at first DoRA changes no length
            parameter.data *= torch.linspace(0.5, 2, len(parameter))
    model.save_pretrained(tmp_path) if by == "peft" else theirs.save_lora_adapter(tmp_path)
    one, before = lora.load(tmp_path, ours), ours.img_in.weight.clone()
    one.merge(ours) if merged else one.attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.1
    assert relative_error(got, expected) < 5e-6
    one.merge(ours, -1) if merged else one.detach()
    assert relative_error(run(theirs, ours, inputs(TINY))[0], plain) < 5e-6
    torch.testing.assert_close(ours.img_in.weight, before, atol=1e-6, rtol=0)


def test_our_lora_opens_in_diffusers(tmp_path):
    theirs, ours = transformers(TINY)
    made = lora.new(ours, rank=3, layers=".")
    torch.manual_seed(0)
    for thin in made.updates:
        torch.nn.init.normal_(thin.up, std=0.2)
    path = lora.save(made, ours, tmp_path / "x.safetensors")
    plain, _ = run(theirs, ours, inputs(TINY))
    theirs.load_lora_adapter(load_file(path), prefix="transformer")
    made.attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.1
    assert relative_error(got, expected) < 2e-6
