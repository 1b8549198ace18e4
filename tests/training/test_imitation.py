"""Another text encoder for an editor that stays as it is: learned from sentences alone."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minikontext import training
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError, OutputError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import grammar, vocabulary, wishes
from minikontext.toyworld.edits import SECOND_EDITION
from minikontext.training import words
from minikontext.training.optimizer import MuonAdamW
from minikontext.transformer import KontextTransformer, TransformerConfig

TEXT = {"heads": 2, "depth": 1, "max_length": 20, "width": 16, "pooled": 16}
LOOP = {"steps": 3, "warmup": 1, "log_every": 1, "ema": 0.5}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A tiny editor's folder."""
    torch.manual_seed(0)
    sizes = replace(
        TransformerConfig.toy(), hidden_size=32, num_heads=2, depth=1, depth_single_blocks=1,
        axes_dim=(4, 6, 6), context_in_dim=16, vec_in_dim=16,
    )  # fmt: skip
    net = KontextTransformer(sizes).init_weights()
    small = replace(AutoEncoderConfig.toy(), ch=4, ch_mult=(1, 1, 1, 2), num_res_blocks=1,
                    norm_groups=2)  # fmt: skip
    images = AutoEncoder(small)
    text = ToyTextEncoder(ToyTextConfig(tuple(sorted(vocabulary())), **TEXT))
    pipe = KontextPipeline(net, images, text, Defaults(sizes=((64, 64),)), "tiny")
    return pipe.save_pretrained(tmp_path_factory.mktemp("teacher") / "tiny")


def config(folder, teacher, **more):
    return {
        "kind": "world_imitation", "name": "talkative", "teacher": str(teacher), "text": TEXT,
        "run": str(folder / "run"), "output": str(folder / "out"),
        "training": {"cases": 40, "batch": 8}, "loop": LOOP, **more,
    }  # fmt: skip


def train(values, **more):
    return training.run_job(training.build_job(values), **more)


def test_the_editor_gets_an_encoder_that_knows_more_words_and_keeps_all_else(teacher, tmp_path):
    folder = train(config(tmp_path, teacher))
    for part in ("transformer", "autoencoder"):
        mine, its = (load_file(Path(one) / f"{part}.safetensors") for one in (folder, teacher))
        assert mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in mine)
    before, after = (KontextPipeline.from_pretrained(one) for one in (teacher, folder))
    assert after.name == "talkative" and after.defaults == before.defaults
    assert before.text_encoder.report("a crimson hat")
    assert not after.text_encoder.report("a crimson hat")
    assert after.text_encoder.config.ngrams
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"tokens", "pooled"} <= log[0].keys()


def test_it_learns_to_answer_any_words_as_the_teacher_answers_plain_ones():
    teacher = KontextPipeline.from_pretrained("toy").text_encoder
    torch.manual_seed(0)
    dials = words.WordsTraining(cases=12, batch=16)
    cases = words.single_cases(dials)
    text = ToyTextEncoder(ToyTextConfig(grammar.vocabulary(), max_length=20, ngrams=64, depth=1))
    loss, optimizer = words.imitation_loss(text, teacher, cases, dials), MuonAdamW(text, 3e-3, 1e-2)
    for step in range(100):
        loss(step)[0].backward()
        optimizer.step(1.0)
    assert all(p.grad is None for p in teacher.parameters())
    right = words.plain_features(teacher, cases)
    said = [wishes.ask(case, random.Random(1)) for case in cases]
    with torch.no_grad():
        found = text(text.tokenize(said))
    for name in ("tokens", "pooled"):
        mine, its = (getattr(one, name).flatten(1) for one in (found, right))
        nearest = torch.cdist(mine, its).argmin(dim=1)
        assert (nearest == torch.arange(len(cases))).float().mean() >= 0.6


def test_sentences_of_one_operation_are_plain_in_one_way_and_open_colours_are_red():
    cases = words.single_cases(words.WordsTraining(cases=600))
    assert {case.split for case in cases} == {"train"}
    assert not {case.operation for case in cases} & {*SECOND_EDITION}
    moved = {words.plain(c).replace(c.words["species"], "X").replace(c.words["place"], "Y")
             for c in cases if c.operation == "move_character"}  # fmt: skip
    assert len(moved) == 1
    hats = [c for c in cases if c.operation == "add_accessory" and "colour" not in c.words]
    assert hats and all("red" in words.plain(case) for case in hats)


def test_templates_come_as_often_as_the_config_says():
    cases, rng = words.single_cases(words.WordsTraining(cases=100)), random.Random(0)
    known = ToyTextEncoder(ToyTextConfig(tuple(sorted(vocabulary())), **TEXT)).report

    def strange(templates):
        return sum(bool(known(words._worded(case, rng, templates))) for case in cases) / len(cases)

    assert strange(1.0) == 0 < strange(0.5) < strange(0.0)


@pytest.mark.parametrize("name, value", [("max_length", 32), ("width", 32), ("pooled", 8)])
def test_features_of_another_shape_are_refused_before_the_work(teacher, tmp_path, name, value):
    values = config(tmp_path, teacher, text=TEXT | {name: value})
    with pytest.raises(ConfigError, match=rf"{name} = {value}; the teacher has"):
        train(values)


def test_a_run_is_tied_to_the_encoder_that_it_imitates(teacher, tmp_path):
    def stop(facts):
        if facts["step"] == 2:
            raise KeyboardInterrupt

    values = config(tmp_path, teacher)
    with pytest.raises(KeyboardInterrupt):
        train(values, on_log=stop)
    path = Path(teacher) / "text_encoder.safetensors"
    mine = path.read_bytes()
    pipe = KontextPipeline.from_pretrained(teacher)
    with torch.no_grad():
        pipe.text_encoder.embedding.weight.add_(1.0)
    other = pipe.save_pretrained(tmp_path / "other")
    path.write_bytes((other / "text_encoder.safetensors").read_bytes())
    try:
        with pytest.raises(TrainingError, match="taught was"):
            train(values)
    finally:
        path.write_bytes(mine)


def test_the_teacher_is_never_replaced(teacher, tmp_path):
    with pytest.raises(OutputError, match="output is what teacher names"):
        train(config(tmp_path, teacher) | {"output": str(teacher)})
