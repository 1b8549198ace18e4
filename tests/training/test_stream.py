"""The lineage's data: buckets, constant tokens, steps that can be made again."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import ConfigError, TrainingError
from minikontext.text import SPECIAL, UNKNOWN, split_prompt
from minikontext.toyworld.sizes import TRAINED, UNSEEN
from minikontext.toyworld.split import scene_keys, split_of_all
from minikontext.training import jobs
from minikontext.training.pictures import (
    PictureTraining,
    picture_error,
    picture_loss,
    pixels,
    step_scenes,
)
from minikontext.training.stream import Bucket, Stream, StreamConfig


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    sizes = AutoEncoderConfig(64, 3, 4, 3, (1, 1, 1, 1), 1, 16, 1.0, 0.0, norm_groups=2)
    return AutoEncoder(sizes).eval()


def test_batches_hold_about_as_many_tokens_whatever_their_size(autoencoder):
    stream = Stream(StreamConfig(tokens=768), autoencoder)
    for number in range(60):
        each = stream.text_tokens + stream.bucket(number).tokens
        assert 768 - each < len(stream.cases(number)) * each <= 768


def test_buckets_are_of_trained_sizes_and_a_quarter_has_contexts_of_another(autoencoder):
    stream = Stream(StreamConfig(), autoencoder)
    buckets = [stream.bucket(number) for number in range(2000)]
    seen = Counter(bucket.target for bucket in buckets)
    assert set(seen) == set(TRAINED) and min(seen.values()) > 50
    assert not {s for b in buckets for s in (b.target, *b.contexts)} & set(UNSEEN)
    given = [bucket for bucket in buckets if bucket.contexts]
    others = [bucket for bucket in given if set(bucket.contexts) != {bucket.target}]
    assert 0.19 < len(others) / len(given) < 0.29
    assert {len(bucket.contexts) for bucket in buckets} == {0, 1, 2, 3, 4}


def test_a_batch_has_the_shapes_of_its_bucket(autoencoder):
    stream = Stream(StreamConfig(tokens=300), autoencoder)
    for step in range(12):
        bucket, batch = stream.bucket(step), stream.batch(step)
        found = [tuple(z.shape[:1:-1]) for z in (batch.target, *batch.contexts)]
        assert found == [(w // 8, h // 8) for w, h in (bucket.target, *bucket.contexts)]
        assert {len(z) for z in (batch.target, *batch.contexts)} == {len(batch.prompts)}


def same(one, two) -> bool:
    latents = zip((one.target, *one.contexts), (two.target, *two.contexts), strict=True)
    return one.prompts == two.prompts and all(itertools.starmap(torch.equal, latents))


def test_any_step_can_be_made_again_with_or_without_a_folder(autoencoder, tmp_path):
    config = StreamConfig(tokens=300, batches=4)
    first, later = Stream(config, autoencoder, tmp_path), Stream(config, autoencoder, tmp_path)
    batches = [first.batch(step) for step in range(8)]
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert all(same(later.batch(step), batches[step]) for step in (7, 2, 5))
    kept_nowhere = Stream(config, autoencoder)
    assert same(kept_nowhere.batch(6), batches[6])


def test_a_batch_that_changed_on_the_disk_is_told(autoencoder, tmp_path):
    stream = Stream(StreamConfig(tokens=300, batches=1), autoencoder, tmp_path)
    stream.batch(0)
    (path,) = tmp_path.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match="is damaged.*Remove it, it is made anew"):
        stream.batch(0)


def test_processes_that_draw_ahead_draw_the_same(autoencoder, tmp_path, monkeypatch):
    config = StreamConfig(tokens=300, batches=3, contexts=(0, 1), sizes=((64, 64), (96, 64)))
    alone = Stream(config, autoencoder, tmp_path / "alone")
    ahead = Stream(replace(config, workers=2), autoencoder, tmp_path / "ahead")
    steps = (0, 1, 2, 3, 4, 9, 10)
    batches = [alone.batch(step) for step in steps]
    monkeypatch.delattr(Stream, "_encode")  # this process draws nothing any more
    assert all(same(ahead.batch(step), one) for step, one in zip(steps, batches, strict=True))
    names = {path.name for path in (tmp_path / "ahead").iterdir()}
    assert names == {path.name for path in (tmp_path / "alone").iterdir()} != set()
    assert ahead.facts == alone.facts  # what they kept is of one stream


def test_an_epoch_sees_every_batch_once_in_other_words(autoencoder):
    stream = Stream(StreamConfig(tokens=400, batches=5), autoencoder)
    epochs = [[stream.number(step) for step in range(5 * e, 5 * e + 5)] for e in range(6)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    again = 5 + epochs[1].index(epochs[0][0])
    one, two = stream.batch(0), stream.batch(again)
    assert torch.equal(one.target, two.target) and one.prompts != two.prompts


def test_nothing_held_out_is_drawn(autoencoder):
    stream = Stream(StreamConfig(tokens=2000), autoencoder)
    for case in (case for number in range(25) for case in stream.cases(number)):
        assert case.split == "train" and not case.phrasing_held_out
    drawn = [s for step in range(25) for s in step_scenes(step, PictureTraining())[1]]
    assert {split_of_all(scene_keys(scene)) for scene in drawn} == {"train"}
    assert {scene.style for scene in drawn} >= {"comic", "neon", "plain"}


@pytest.mark.parametrize(
    ("words", "two"), [("grammar", True), ("plain", False), ("templates", False)]
)
def test_prompts_are_of_words_that_the_encoder_knows(autoencoder, words, two):
    stream = Stream(StreamConfig(tokens=2000, words=words), autoencoder)
    known = {*SPECIAL, *stream.words.encoder().vocabulary}
    batches = [(stream.cases(number), stream.batch(number).prompts) for number in range(8)]
    pieces = [p.token for _, said in batches for one in said for p in split_prompt(one, known)]
    assert pieces.count(UNKNOWN) < 0.04 * len(pieces)  # typos
    assert any(case.wishes for cases, _ in batches for case in cases) == two


def test_text_to_image_takes_the_share_that_is_asked_for(autoencoder, tmp_path):
    config = StreamConfig(batches=400, text_to_image=0.4)
    stream = Stream(config, autoencoder, tmp_path)
    counts = [len(stream.bucket(number).contexts) for number in range(400)]
    assert 0.33 < counts.count(0) / 400 < 0.47 and max(counts) == 4
    with pytest.raises(TrainingError, match="remove it first"):
        Stream(replace(config, text_to_image=0.5), autoencoder, tmp_path)
    for contexts in ((0,), (1, 2)):
        with pytest.raises(ConfigError, match="text_to_image=0.4"):
            Stream(replace(config, contexts=contexts), autoencoder)


def test_several_pictures_take_the_share_that_is_asked_for(autoencoder):
    stream = Stream(StreamConfig(text_to_image=0.2, several=0.6), autoencoder)
    found = Counter(len(stream.bucket(number).contexts) for number in range(1500))
    assert 0.16 < found[0] / 1500 < 0.24 and 0.28 < found[1] / 1500 < 0.36  # 0.8 x 0.4
    assert found[2] > found[3] > found[4] > 50  # among themselves as the level has them
    with pytest.raises(ConfigError, match="several=0.6"):
        Stream(StreamConfig(several=0.6, contexts=(0, 1)), autoencoder)


def test_batches_of_another_stream_are_refused(autoencoder, tmp_path):
    Stream(StreamConfig(batches=2), autoencoder, tmp_path)
    with pytest.raises(TrainingError, match="remove it first"):
        Stream(StreamConfig(batches=2, seed=1), autoencoder, tmp_path)


@pytest.mark.parametrize(
    "values",
    [{"sizes": ((64, 60),)}, {"sizes": ()}, {"other_size": 1.5}, {"words": "latin"},
     {"text_to_image": 1.5}, {"several": -0.1}],
    ids=str,
)
def test_configs_that_cannot_be(values):
    with pytest.raises(ConfigError):
        StreamConfig(**values)


def test_a_bucket_counts_all_of_its_tokens():
    assert Bucket((64, 64), ((96, 64), (128, 128))).tokens == 16 + 24 + 64


def test_pictures_of_a_step_have_one_size_and_about_as_many_pixels():
    config = PictureTraining(pixels=40_000)
    for step in range(30):
        (width, height), scenes = step_scenes(step, config)
        assert (width, height) in TRAINED and len(scenes) == 40_000 // (width * height)
    assert step_scenes(3, config) == step_scenes(3, config)
    with pytest.raises(ConfigError, match="no batch holds"):
        PictureTraining(pixels=9000)


def test_the_picture_loss_is_a_function_of_its_step_and_learns(autoencoder):
    config = PictureTraining(pixels=16_384, sizes=((64, 64), (96, 64)), bf16=False, level=2)
    model = AutoEncoder(autoencoder.config)
    loss = picture_loss(model, config, torch.device("cpu"))
    (one, _), (two, _) = loss(0), loss(0)
    assert torch.equal(one, two)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(30):
        value, facts = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert float(loss(0)[0].detach()) < 0.5 * float(one.detach()) and facts["psnr"] > 12


def test_a_decoder_alone_learns_from_the_means_and_leaves_the_encoder(autoencoder):
    model = AutoEncoder(autoencoder.config)
    config = PictureTraining(
        pixels=8192, sizes=((64, 64),), bf16=False, level=2, kl=0.0, decoder_only=True
    )
    value, _ = picture_loss(model, config, torch.device("cpu"))(0)
    value.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    size, scenes = step_scenes(0, config)
    x = pixels(scenes, size)
    again = picture_error(model.decoder(model.moments(x)[0]), x, config)
    assert float(value.detach()) == pytest.approx(float(again.detach()), rel=1e-5)


def test_a_size_that_is_named_twice_comes_twice_as_often_and_is_told_once(tiny):
    config = StreamConfig(tokens=512, sizes=((64, 64), (64, 64), (96, 64)), other_size=0.0)
    stream = Stream(config, tiny().autoencoder)
    square = sum(stream.bucket(i).target == (64, 64) for i in range(600))
    assert 350 < square < 450
    assert jobs.stream_defaults(config).sizes == ((64, 64), (96, 64))
