"""Contexts that an editor made: its answers, in the right place, and of training scenes."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case
from minikontext.toyworld.scene import level
from minikontext.training import jobs, recipes
from minikontext.training.chains import Chains, build_chains, chain, with_chains
from minikontext.training.data import encode, load_cache
from minikontext.training.parallel import ALONE

TOY = Path(__file__).parents[2] / "data" / "weights" / "toy"
FEW = Chains(editor=str(TOY), count=3, turns=3, steps=4, seed=5)


@pytest.fixture(scope="module")
def toy():
    return KontextPipeline.from_pretrained(TOY, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    place = tmp_path_factory.mktemp("chains")
    build_chains(place, FEW, 4, toy.autoencoder)
    return place


def test_a_chain_goes_on_where_it_was_and_shows_nothing_held_out():
    for index in range(20):
        cases: list[Case] = chain(index, 4, 5)
        assert cases == chain(index, 4, 5) and len(cases) == 5
        for before, case in itertools.pairwise(cases):
            assert case.contexts == (before.target,)
        assert not any(case.unseen for case in cases)
    assert chain(0, 4, 5) != chain(0, 4, 5, seed=1) and chain(0, 4, 5) != chain(1, 4, 5)


def test_a_level_has_its_own_edits_or_none():
    names = {case.operation for i in range(10) for case in chain(i, 2, 3)}
    assert names <= set(level(2).operations)
    with pytest.raises(ConfigError, match="level 1 has no edits"):
        chain(0, 1, 3)


def test_contexts_are_answers_and_targets_are_right(toy, folder):
    pairs = load_cache(folder, toy.text_encoder)
    assert 0 < len(pairs) <= 6 and (pairs.count == 1).all()
    # The second edit of every chain whose first answer was kept comes first, in order.
    seconds = [chain(i, 4, 3, seed=5)[1] for i in range(3)]
    exact = encode(seconds, toy.autoencoder, 0)
    row = next(
        i for i, case in enumerate(seconds) if torch.equal(exact["target"][i], pairs.target[0])
    )
    words = toy.text_encoder.tokenize([seconds[row].prompt])[0]
    assert torch.equal(pairs.tokens[0, 0], words)
    apart = (
        (pairs.contexts[0, 0].float() - exact["contexts"][row, 0].float()).square().mean().sqrt()
    )
    assert 0.01 < apart < 0.6  # of latents of about unit variance: close to right, and not right
    assert not pairs.contexts[:, 1].any()


def test_some_answers_are_handed_on_as_pictures(toy, folder, tmp_path):
    build_chains(tmp_path, replace(FEW, pictures=1.0), 4, toy.autoencoder)
    straight, shown = (load_cache(p, toy.text_encoder) for p in (folder, tmp_path))
    assert torch.equal(straight.target[0], shown.target[0])
    latents = [pairs.contexts[:1, 0].float() for pairs in (straight, shown)]
    # The first answer is the same in both; here it was decoded and encoded again.
    again = toy.encode(toy.decode(latents[0]))
    assert torch.allclose(latents[1], again, atol=0.05)
    assert (latents[1] - latents[0]).abs().max() > 0.1


def test_other_characters_change_a_chains_context_as_they_change_the_right_one(toy, tmp_path):
    build_chains(tmp_path, FEW, 4, toy.autoencoder, mistakes=True)
    pairs = load_cache(tmp_path, toy.text_encoder)
    change = pairs.between.float()
    assert change.flatten(2).any(-1).all()
    # Context and target differ by an edit; what another character changes is nearly the same.
    alike = torch.cosine_similarity(change[:, 0].flatten(1), change[:, 1].flatten(1))
    assert alike.median() > 0.5


def test_what_is_there_is_kept_and_another_editor_is_refused(toy, folder):
    file = folder / "pairs-00000000.safetensors"
    before = file.stat().st_mtime_ns
    build_chains(folder, replace(FEW, share=0.5), 4, toy.autoencoder)
    assert file.stat().st_mtime_ns == before
    for other in ({"steps": 5}, {"pictures": 0.5}):
        with pytest.raises(TrainingError, match="remove it first"):
            build_chains(folder, replace(FEW, **other), 4, toy.autoencoder)
    other = AutoEncoder(toy.autoencoder.config)
    with pytest.raises(ConfigError, match="another encoder"):
        build_chains(folder, FEW, 4, other)


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_chains_make_their_share(toy, folder, share):
    chained = load_cache(folder, toy.text_encoder)
    plain = chained.take(torch.zeros(12, dtype=torch.long))
    mixed = with_chains(plain, folder, share, toy.text_encoder)
    assert len(mixed) == round(12 / (1 - share))
    assert torch.equal(mixed.index[:12], plain.index)
    assert torch.equal(mixed.target[12], chained.target[0])


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"share": 1.0}, {"turns": 1}, {"count": 0}, {"pictures": 1.5}]
)
def test_chains_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="chains: "):
        replace(FEW, **wrong)


def test_an_editor_that_keeps_nobody_is_refused(toy, tmp_path):
    spoiled = KontextPipeline.from_pretrained(TOY, device="cpu", dtype="float32")
    torch.nn.init.normal_(spoiled.transformer.final_layer.linear.weight)
    spoiled.save_pretrained(tmp_path / "spoiled")
    chains = replace(FEW, editor=str(tmp_path / "spoiled"))
    with pytest.raises(TrainingError, match="keeps no character"):
        build_chains(tmp_path / "chains", chains, 4, toy.autoencoder)


def test_a_training_takes_its_chains_from_the_config(toy, folder, tmp_path):
    plain = load_cache(folder, toy.text_encoder)
    data = {"level": 4, "count": len(plain)}
    more = (tmp_path, toy.text_encoder, toy.autoencoder, False, ALONE)

    def read():
        values = {"kind": "editor", "autoencoder": "toy", "run": "r", "output": "o", "data": data}
        return jobs.build_job(values | {"loop": {"steps": 1}}).data

    assert recipes.add_chains(plain, read(), *more) is plain
    told = {"editor": FEW.editor, "count": 3, "turns": 3, "seed": 5, "folder": str(folder)}
    data["chains"] = told | {"share": 0.5}
    assert len(recipes.add_chains(plain, read(), *more)) == 2 * len(plain)
    data["chains"] = told | {"shares": 0.5}
    with pytest.raises(ConfigError, match="shares"):
        read()
