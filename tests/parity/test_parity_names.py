"""The name maps against diffusers' own state dicts, both ways, bit for bit."""

import dataclasses

import pytest
import torch
from reference import AUTOENCODERS, TRANSFORMERS, autoencoders, transformers

from minikontext.pretrained import key_mapping, safetensors_io


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_names(name, guidance):
    theirs, ours = transformers(dataclasses.replace(TRANSFORMERS[name], guidance_embed=guidance))
    assert same(key_mapping.to_diffusers(ours.state_dict()), theirs.state_dict())
    assert same(key_mapping.from_diffusers(theirs.state_dict()), ours.state_dict())


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_names(name):
    theirs, ours = autoencoders(AUTOENCODERS[name])
    assert same(key_mapping.to_diffusers(ours.state_dict()), theirs.state_dict())
    assert same(key_mapping.from_diffusers(theirs.state_dict()), ours.state_dict())


def test_a_folder_that_diffusers_saved_loads(tmp_path):
    theirs, ours = transformers(TRANSFORMERS["tiny"])
    theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with torch.device("meta"):
        model = type(ours)(ours.config)
    assert same(safetensors_io.load_into(model, tmp_path).state_dict(), ours.state_dict())


def test_a_file_that_we_saved_loads_in_diffusers(tmp_path):
    theirs, ours = autoencoders(AUTOENCODERS["tiny"])
    theirs.save_config(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    safetensors_io.save(key_mapping.to_diffusers(ours.state_dict()), path)
    assert same(type(theirs).from_pretrained(tmp_path).state_dict(), theirs.state_dict())
