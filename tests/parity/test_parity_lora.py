"""A LoRA that peft made for diffusers' transformer, in ours; and ours in diffusers."""

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from reference import TINY, relative_error, transformers
from safetensors.torch import load_file, save_file
from test_parity_transformer import inputs, run

from minikontext import lora

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


def test_our_lora_opens_in_diffusers(tmp_path):
    theirs, ours = transformers(TINY)
    made = lora.new(ours, rank=3, layers=".")
    torch.manual_seed(0)
    for thin in made.thin:
        torch.nn.init.normal_(thin.up, std=0.2)
    path = lora.save(made, ours, tmp_path / "x.safetensors")
    plain, _ = run(theirs, ours, inputs(TINY))
    theirs.load_lora_adapter(load_file(path), prefix="transformer")
    made.attach(ours)
    got, expected = run(theirs, ours, inputs(TINY))
    assert relative_error(plain, expected) > 0.1
    assert relative_error(got, expected) < 2e-6
