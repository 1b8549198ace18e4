"""A folder of triplets: nothing is mis-paired, lost in silence, or changed by who reads it."""

import io
import json
import os
import shutil
import tarfile
import time
from collections import Counter

import pytest
import torch
from PIL import Image, ImageOps

from minikontext import images, training
from minikontext.errors import ConfigError, MetadataWarning, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.training.folders import (
    Ahead,
    Encoded,
    FolderLossConfig,
    Order,
    _noise,
    buckets,
    encode_folder,
    folder_loss,
)
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.sources import Bad, Reading, triplets
from minikontext.training.workload import workload
from minikontext.transformer import KontextTransformer, TransformerConfig

SIZES = ((64, 64), (96, 48), (64, 64), (48, 96), (64, 64))
COUNT = 14


def picture(i, back=0):
    """A picture whose colour is its number."""
    return Image.new("RGB", SIZES[i % 5], (10 * i, 250 - 10 * i, 40 + 60 * back))


def prompt(i):
    return f"make the hat {('red', 'blue', 'green')[i % 3]}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Fourteen good triplets, every fourth without a context, and four bad ones."""
    folder = tmp_path_factory.mktemp("source")
    lines = []
    for i in range(COUNT):
        picture(i).save(folder / f"{i}.png")
        picture(i, back=1).save(folder / f"{i}-before.png")
        contexts = [f"{i}-before.png"] if i % 4 else []
        lines.append({"file_name": f"{i}.png", "contexts": contexts, "prompt": prompt(i)})
    (folder / "broken.png").write_bytes(b"no picture")
    lines.insert(3, {"file_name": "broken.png", "prompt": "x"})
    lines.insert(5, {"file_name": "missing.png", "prompt": "x"})
    lines.insert(7, dict(lines[1]))  # once more
    text = [json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join([*text[:9], "{no json", *text[9:]]))
    return folder


@pytest.fixture(scope="module")
def pipe():
    return KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def cache(source, pipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    encode_folder(source, place, pipe, side=64, shard=4)
    return place


def test_every_sample_is_its_own_in_any_order(cache, source, pipe):
    samples = Encoded(cache)
    order = Order(samples, batch=3, seed=1)
    seen = [row for step in range(2 * order.length) for row in order.rows(step)]
    assert set(seen) == set(range(COUNT)) == set(range(len(samples)))
    for row in dict.fromkeys(seen):
        key, made = samples.places[row][0], samples.sample(row)
        i = int(key.removesuffix(".png"))
        assert samples.prompts[row] == prompt(i)
        words = pipe.text_encoder.encode([prompt(i)])
        assert torch.equal(made["tokens"], words.tokens[0].bfloat16())
        for name, back in (("0", 0), ("1", 1))[: 1 + bool(i % 4)]:
            sized = images.plan(SIZES[i % 5], sizes=buckets(64)).apply(picture(i, back))
            assert torch.equal(made[name], pipe.encode(sized)[0].bfloat16())
            assert samples.shapes[row][int(name)] == made[name].shape
        assert len(samples.shapes[row]) == (2 if i % 4 else 1)


def test_batches_are_of_one_shape_and_a_function_of_the_step(cache):
    samples = Encoded(cache)
    order = Order(samples, batch=3, seed=1)
    epoch = [order.rows(step) for step in range(order.length)]
    assert all(len({samples.shapes[row] for row in rows}) == 1 for rows in epoch)
    assert [Order(samples, 3, 1).rows(s) for s in (4, 0)] == [epoch[4], epoch[0]]  # from anywhere
    assert [order.rows(s + order.length) for s in range(order.length)] != epoch


def test_threads_in_two_epochs_do_not_take_each_others_batches(cache):
    class Interrupted(Order):
        """Another thread asks for the next epoch as soon as this one has its own."""

        @property
        def _epoch(self):
            return self.kept

        @_epoch.setter
        def _epoch(self, found):
            self.kept = found
            if found[0] == 0:
                self.rows(self.length)

    samples = Encoded(cache)
    assert Interrupted(samples, 3, 1).rows(2) == Order(samples, 3, 1).rows(2)


@pytest.mark.parametrize("seed", [2**40, -(2**40), 1_764_000_000])
def test_noise_is_drawn_for_every_seed_that_a_config_may_name(seed):
    like = torch.zeros(4, 1, 2, 2)
    whole = _noise(seed, 3, WHOLE, like)
    parts = [_noise(seed, 3, Microbatch(i, 2), like[:2]) for i in range(2)]
    assert torch.equal(whole, torch.cat(parts)) and len({*whole[:, 0, 0, 0].tolist()}) == 4


def test_the_order_does_not_depend_on_the_number_of_workers(cache):
    samples = Encoded(cache)
    order = Order(samples, batch=3, seed=1)

    def slow_at_first(step):
        time.sleep(0.02 * (step % 3 == 0))
        return order.rows(step)

    runs = [[Ahead(slow_at_first, n)(step) for step in range(8)] for n in (1, 2, 5)]
    ahead = Ahead(slow_at_first, 3)
    assert runs[0] == runs[1] == runs[2] == [ahead(step) for step in range(8)]
    assert ahead(2) == runs[0][2]  # and back again


def test_what_is_bad_is_left_out_counted_and_reported(cache):
    samples = Encoded(cache)
    why = {bad.key: bad.why for bad in samples.skipped}
    assert why.keys() == {"broken.png", "missing.png", "1.png", "line 10"}
    assert "damaged" in why["broken.png"] and "before" in why["1.png"]
    told = samples.report()
    counts = Counter(len(shapes) - 1 for shapes in samples.shapes)
    assert told.startswith(f"{COUNT} samples (") and "), 4 left out" in told
    assert all(f"{n} with {k or 'no'} context(s)" in told for k, n in counts.items())
    assert f"1 × like broken.png: {why['broken.png']:.160}" in told


def test_encoding_goes_on_and_damage_is_found(cache, source, pipe, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in cache.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    whole = sorted(copy.glob("*.safetensors"))
    shard, other = copy / "triplets-000001.safetensors", copy / "triplets-000002.safetensors"
    before, kept = shard.read_bytes(), other.stat().st_mtime_ns
    shard.unlink()
    encode_folder(source, copy, pipe, side=64, shard=4)
    assert sorted(copy.glob("*.safetensors")) == whole and shard.read_bytes() == before
    assert other.stat().st_mtime_ns == kept
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    lines = (source / "metadata.jsonl").read_text().splitlines()[:6]
    (shorter / "metadata.jsonl").write_text("\n".join(lines))
    shutil.copy(source / "0.png", shorter)
    encode_folder(shorter, tmp_path / "short", pipe, side=64, shard=4)
    encode_folder(source, tmp_path / "short", pipe, side=64, shard=4)
    encode_folder(shorter, tmp_path / "short", pipe, side=64, shard=4)
    assert len(list((tmp_path / "short").glob("triplets-*.json"))) == 2  # nothing of the longer one
    shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(TrainingError, match="damaged"):
        [Encoded(copy).sample(row) for row in range(COUNT)]
    with pytest.raises(TrainingError, match="remove it"):
        encode_folder(source, copy, pipe, side=128, shard=4)


def test_tar_shards_hold_the_same(source, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for i in range(4 * number, 4 * number + 4):
                files = {"image.png": f"{i}.png", "context1.png": f"{i}-before.png"}
                parts = {end: (source / name).read_bytes() for end, name in files.items()}
                parts = parts if i != 2 else {"image.png": b"alone"}
                for end, data in (parts | ({"txt": prompt(i).encode()} if i != 2 else {})).items():
                    info = tarfile.TarInfo(f"{i:03d}.{end}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    found = list(triplets(tmp_path))
    assert [one.key for one in found] == [f"{i:03d}" for i in range(8)]
    assert isinstance(found[2], Bad) and "txt" in found[2].why
    assert found[5].prompt == prompt(5) and found[5].image == (source / "5.png").read_bytes()
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:1500])
    cut = list(triplets(tmp_path))
    assert isinstance(cut[-1], Bad) and [one.key for one in cut[:4]] == ["000", "001", "002", "003"]
    with pytest.raises(ConfigError, match="is no folder"):
        list(triplets(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither"):
        list(triplets(tmp_path / "empty"))


def test_a_picture_that_changed_is_encoded_again(pipe, tmp_path):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    line = {"contexts": ["b.png"], "prompt": prompt(0)}
    lines = [{"file_name": f"{i}.png", **line} for i in range(3)]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("0.png", "1.png", "b.png"):
        picture(3).save(source / name)
    (source / "2.png").write_bytes(b"half a picture")
    encode_folder(source, cache, pipe, side=64, shard=1)
    before, kept = Encoded(cache), (cache / "triplets-000001.json").stat().st_mtime_ns
    assert len(before) == 2
    first = before.sample(0)
    picture(8).save(source / "0.png")
    picture(3).save(source / "2.png")
    encode_folder(source, cache, pipe, side=64, shard=1)
    after = Encoded(cache)
    assert [key for key, _ in after.places] == ["0.png", "1.png", "2.png"]
    assert not torch.equal(after.sample(0)["0"], first["0"])
    assert (cache / "triplets-000001.json").stat().st_mtime_ns == kept
    second = after.sample(1)
    picture(5).save(source / "b.png")  # the context of all
    encode_folder(source, cache, pipe, side=64, shard=1)
    assert not torch.equal(Encoded(cache).sample(1)["1"], second["1"])


def test_a_picture_of_the_same_size_and_time_is_another_one(pipe, tmp_path):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    path, told = source / "0.bmp", cache / "triplets-000000.json"
    picture(3).save(path)
    (source / "0.txt").write_text(prompt(0))
    encode_folder(source, cache, pipe, side=64)
    before, sample, kept = path.stat(), Encoded(cache).sample(0), told.stat().st_mtime_ns
    path.touch()  # nothing but its time has changed
    encode_folder(source, cache, pipe, side=64)
    assert told.stat().st_mtime_ns == kept
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    encode_folder(source, cache, pipe, side=64)
    assert told.stat().st_mtime_ns == kept
    picture(8).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    encode_folder(source, cache, pipe, side=64)
    assert not torch.equal(Encoded(cache).sample(0)["0"], sample["0"])


@pytest.fixture
def odd_shapes(tmp_path):
    """A sound sample, one with a stretched context, and one with a tiny picture."""
    for name, size in (("a", (64, 64)), ("wide", (640, 64)), ("tiny", (4, 4))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    rows = [{"file_name": f"{n}.png", "contexts": [f"{c}.png"], "prompt": "make the hat red"}
            for n, c in (("a", "a"), ("a", "wide"), ("tiny", "tiny"))]  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_stretched_and_enlarged_pictures_are_told_and_can_be_left_out(odd_shapes, pipe):
    cache = odd_shapes / "cache"
    encode_folder(odd_shapes, cache, pipe, side=64)
    told = Encoded(cache).report()
    assert "3 samples" in told and "1 have pictures that are stretched" in told
    assert "(a.png#2); max_aspect" in told and "at most by 16 (tiny.png); upscale" in told
    encode_folder(odd_shapes, cache, pipe, side=64, how=Reading(max_aspect=2.0, upscale=4.0))
    samples = Encoded(cache)
    why = {bad.key: bad.why for bad in samples.skipped}
    assert [key for key, _ in samples.places] == ["a.png"]
    assert "beyond max_aspect = 2: by 5" in why["a.png#2"] and "640×64" in why["a.png#2"]
    assert "beyond upscale = 4: by 16" in why["tiny.png"]


def test_colours_that_no_profile_names_are_told_in_a_cache(pipe, tmp_path):
    """Adobe RGB, as cameras write it: by EXIF alone."""
    exif = Image.Exif()
    exif[0x8769] = {0xA005: {1: "R03"}}
    for name, how in (("a", {}), ("b", {"exif": exif})):
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"{name}.jpg", **how)
        (tmp_path / f"{name}.txt").write_text("make the hat red")
    with pytest.warns(MetadataWarning, match="not sRGB"):
        encode_folder(tmp_path, tmp_path / "cache", pipe, side=64)
    assert "1 have colours that are taken for sRGB (b.jpg)" in Encoded(tmp_path / "cache").report()


def test_a_mirrored_sample_is_mirrored_in_all_its_pictures(pipe, tmp_path):
    half = picture(3)
    half.paste((255, 0, 0), (0, 0, 20, 48))
    half.save(tmp_path / "a.png")
    line = {"file_name": "a.png", "contexts": ["a.png"], "prompt": "make the hat red"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    encode_folder(tmp_path, tmp_path / "cache", pipe, side=64, how=Reading(flips=True))
    samples = Encoded(tmp_path / "cache")
    assert [key for key, _ in samples.places] == ["a.png", "a.png~"]
    plan = images.plan(half.size, sizes=buckets(64))
    right = pipe.encode(ImageOps.mirror(plan.apply(half)))[0].bfloat16()
    for name in ("0", "1"):
        assert torch.equal(samples.sample(1)[name], right)
        assert not torch.equal(samples.sample(0)[name], right)


def test_repeats_show_some_samples_more_often(cache):
    samples = Encoded(cache, {"1": 3, "10": 5, "": 2})
    order = Order(samples, batch=1, seed=0)
    seen = Counter(row for step in range(order.length) for row in order.rows(step))
    keys = [key for key, _ in samples.places]
    right = {k: 5 if k.startswith("10") else 3 if k.startswith("1") else 2 for k in keys}
    assert {keys[row]: count for row, count in seen.items()} == right
    with pytest.raises(ConfigError, match="'style/': no sample's name begins so"):
        Encoded(cache, {"style/": 2})


def test_a_tar_with_many_contexts_and_an_endless_prompt(tmp_path):
    names = [f"context{n}" for n in (10, 9, 2, 1)]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key, text in (("a", b"x" * 60_000), ("b", b"fine")):
            parts = {f"{name}.png": name.encode() for name in ("image", *names)} | {"txt": text}
            for end, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    bad, good = triplets(tmp_path)
    assert isinstance(bad, Bad) and bad.key == "a" and "60,000 characters" in bad.why
    assert good.contexts == (b"context1", b"context2", b"context9", b"context10")


def test_a_prompt_that_is_no_text_is_left_out(tmp_path):
    picture(1).save(tmp_path / "1.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "prompt": null}')
    (bad,) = triplets(tmp_path)
    assert isinstance(bad, Bad) and "PromptError" in bad.why


def test_parts_of_a_batch_make_up_its_loss(cache):
    samples = Encoded(cache)
    torch.manual_seed(0)
    model = KontextTransformer(TransformerConfig.toy())
    dials = FolderLossConfig(batch=4, bf16=False, empty_prompts=0.5)
    loss = folder_loss(model, samples, dials, torch.device("cpu"))
    for step in range(3):
        one = loss(step, WHOLE)[0]
        two = sum(loss(step, Microbatch(i, 2))[0] for i in range(2)) / 2
        assert torch.allclose(one, two, atol=1e-5)
    assert torch.equal(loss(1)[0], loss(1)[0]) and not torch.equal(loss(1)[0], loss(2)[0])


def test_the_toy_is_fine_tuned_on_a_folder(source, tmp_path):
    text = f"""
        kind = "folder"
        name = "mine"
        parts = "toy"
        start = "toy"
        run = '{tmp_path / "run"}'
        output = '{tmp_path / "weights"}'
        data = {{ source = '{source}', side = 64, validation = '{source}' }}
        training = {{ batch = 3, bf16 = false }}
        [loop]
        steps = 4
        warmup = 1
        ema = 0.0
        log_every = 1
        validate_every = 2
    """
    (tmp_path / "mine.toml").write_text(text)
    training.main(tmp_path / "mine.toml")
    before, after = (
        KontextPipeline.from_pretrained(name, device="cpu")
        for name in ("toy", tmp_path / "weights")
    )
    assert after.name == "mine"
    moved = (before.transformer.img_in.weight - after.transformer.img_in.weight).abs().max()
    assert moved > 1e-4
    assert torch.equal(before.text_encoder.position, after.text_encoder.position)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert ["validation" in line for line in lines] == [False, True, False, True]
    assert workload(training.read_job(tmp_path / "mine.toml")).target == 16
