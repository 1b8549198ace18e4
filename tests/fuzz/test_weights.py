"""Weights of every kind: files, shards, LoRAs, folders of ours and of diffusers."""

import json

import pytest
import torch
from mutate import DEEP, broken_bytes, broken_json, broken_safetensors
from PIL import Image

from minikontext.course import tiny_flux
from minikontext.errors import WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import (
    config_mapping,
    convert,
    lora,
    lora_files,
    safetensors_io,
    summary,
)
from minikontext.transformer import KontextTransformer


@pytest.fixture(scope="module")
def own(tiny_pipe, tmp_path_factory):
    """A folder in our layout; its parts are small enough to be written again for each input."""
    return tiny_pipe.save_pretrained(tmp_path_factory.mktemp("own") / "tiny")


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A tiny folder in diffusers' layout."""
    pytest.importorskip("transformers")
    return tiny_flux.write(tmp_path_factory.mktemp("flux") / "tiny")


@pytest.fixture(scope="module")
def singles(own, flux, tmp_path_factory):
    """Sound files of one part each: official, diffusers' and a LoRA's names."""
    folder = tmp_path_factory.mktemp("singles")
    parts = [own / f"{part}.safetensors" for part in ("transformer", "autoencoder", "text_encoder")]
    vae, net = (next((flux / part).glob("*.safetensors")) for part in ("vae", "transformer"))
    official = convert.rewrite(net, folder / "official.safetensors")[0]
    return [file.read_bytes() for file in (*parts, vae, official, net)]


def use_file(given, out):
    """Every way to look into one file; the way belongs to the input."""
    path, way, model = given
    with torch.device("meta"):
        empty = KontextTransformer(model.config)
    ways = (
        lambda: safetensors_io.inspect(path),
        lambda: safetensors_io.load(path),
        lambda: safetensors_io.load_into(empty, path),
        lambda: safetensors_io.official_sketch(path),
        lambda: (str(summary.summarise(path)), safetensors_io.fingerprint(path)),
        lambda: summary.verify(path),
        lambda: convert.convert(path, out / "made.safetensors"),
        lambda: convert.convert(path, out / "made"),
        lambda: config_mapping.transformer_config(path),
        lambda: config_mapping.autoencoder_config(path),
        lambda: KontextPipeline.from_pretrained(path, "cpu", "float32"),
    )
    ways[way % len(ways)]()


def test_a_weights_file(feed, singles, tiny_pipe):
    def make(rng, folder):
        path = folder / "model.safetensors"
        path.write_bytes(broken_safetensors(rng, rng.choice(singles)))
        return path, rng.randrange(11), tiny_pipe.transformer

    feed("safetensors", make, use_file)


def test_an_index_of_shards(feed, flux):
    """Shards that are sound, and an index that may say anything of them."""
    shards, homes = {}, {}
    state = safetensors_io.load(next((flux / "transformer").glob("*.safetensors")))
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        shards[f"part-{number}.safetensors"] = {name: state[name][:1].clone() for name in names}
        homes |= dict.fromkeys(names, f"part-{number}.safetensors")

    def make(rng, folder):
        for name, tensors in shards.items():
            safetensors_io.save(tensors, folder / name)
        index = folder / "part.safetensors.index.json"
        told = {"metadata": {}, "weight_map": homes}
        sound = json.dumps(told | {"metadata": {"a": 1}}).encode()
        index.write_bytes(broken_json(rng, told) if rng.random() < 0.95 else sound)
        return folder

    feed("shard index", make, lambda folder, out: safetensors_io.inspect(folder))


def test_a_lora(feed, tiny_pipe, tmp_path_factory):
    model = tiny_pipe.transformer
    made = lora.new(model, 2)
    place = lora.save(made, model, tmp_path_factory.mktemp("lora") / "sound.safetensors")
    peft = safetensors_io.load(place)
    kohya = {f"{weights_name(key)}": value for key, value in peft.items()}
    kohya |= {f"{lora_files.KOHYA}double_blocks_0_img_attn_proj.alpha": torch.tensor(2.0)}
    other = safetensors_io.save(kohya, place.with_name("kohya.safetensors"), metadata={"a": "b"})
    sound = [place.read_bytes(), other.read_bytes()]

    def make(rng, folder):
        path = folder / "style.safetensors"
        path.write_bytes(broken_safetensors(rng, rng.choice(sound)))
        return folder if rng.random() < 0.05 else path

    feed("lora", make, lambda path, out: lora.load(path, model))


def weights_name(key):
    """kohya's name of one of peft's tensors."""
    layer, leaf = key.removeprefix("transformer.").split(".lora_")
    leaf = {"A": "down", "B": "up"}[leaf[0]]
    return f"{lora_files.KOHYA}{layer.replace('.', '_')}.lora_{leaf}.weight"


PICTURE = Image.new("RGB", (64, 64), "teal")


def open_and_edit(folder, out):
    pipe = KontextPipeline.from_pretrained(folder, "cpu", "float32")
    pipe("make the hat red", PICTURE, seed=0, num_inference_steps=1, progress=False)
    for part in summary.parts(folder):
        summary.summarise(part), summary.verify(part)


def test_a_folder_of_our_own(feed, own):
    """Mostly its config.json; what loads must also draw, or say why it cannot."""
    files = {path.name: path.read_bytes() for path in own.iterdir()}
    config = json.loads(files["config.json"])

    def make(rng, folder):
        told = broken_json(rng, config, whole=0.9) if rng.random() < 0.9 else files["config.json"]
        for name, content in {**files, "config.json": told}.items():
            if name == "config.json" or rng.random() < 0.97:
                (folder / name).write_bytes(content)
        if rng.random() < 0.1:
            name = rng.choice([*files])
            (folder / name).write_bytes(broken_bytes(rng, files[name]))
        return folder

    feed("own folder", make, open_and_edit)


def test_a_folder_in_diffusers_layout(feed, flux):
    """Its configs may say anything; headers and sizes are checked before memory is used."""
    files = {p.relative_to(flux): p.read_bytes() for p in flux.rglob("*") if p.is_file()}
    configs = [name for name in files if name.name.endswith("config.json")]
    configs += [name for name in files if name.name == "model_index.json"]
    other = [name for name in files if name.suffix == ".safetensors"]

    def make(rng, folder):
        chosen = rng.choice(configs if rng.random() < 0.9 else other)
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            if name == chosen and name.suffix == ".json":
                data = broken_json(rng, json.loads(data), whole=0.9)
            elif name == chosen:
                data = broken_safetensors(rng, data)
            (folder / name).write_bytes(data)
        return folder, rng.random() < 0.25

    def run(given, out):
        folder, whole = given
        for part in summary.parts(folder):
            summary.summarise(part), summary.verify(part)
        if whole:
            KontextPipeline.from_pretrained(folder, "cpu", "float32")

    feed("diffusers folder", make, run)


def test_a_folder_of_a_tokenizer(feed, flux):
    import transformers

    from minikontext.pretrained.transformers_io import load_tokenizer

    kinds = {"tokenizer": transformers.CLIPTokenizer, "tokenizer_2": transformers.T5TokenizerFast}
    files = {name: {p.name: p.read_bytes() for p in (flux / name).iterdir()} for name in kinds}

    def make(rng, folder):
        name = rng.choice(sorted(kinds))
        chosen = rng.choice(sorted(files[name]))
        for file, data in files[name].items():
            if file == chosen and file.endswith(".json"):
                data = broken_json(rng, json.loads(data))
            elif file == chosen:
                data = broken_bytes(rng, data)
            (folder / file).write_bytes(data)
        return kinds[name], folder

    feed("tokenizer folder", make, lambda given, out: load_tokenizer(*given))


# ------------------------------------------------------------------------------------- regressions


def test_one_name_cannot_ask_for_a_billion_blocks(tmp_path):
    """The number in a name was once taken for the number of blocks."""
    path = tmp_path / "model.safetensors"
    for name in ("transformer_blocks.99999999999.attn.to_q.weight", "encoder.down.².block.0.x"):
        safetensors_io.save({name: torch.zeros(2, 2)}, path)
        with pytest.raises(WeightsError):
            summary.verify(path)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("transformer", "depth", 10**9),
        ("transformer", "num_heads", 0),
        ("transformer", "hidden_size", "32"),
        ("transformer", "context_in_dim", 2**60),
        ("autoencoder", "norm_groups", 0),
        ("autoencoder", "ch_mult", []),
        ("text_encoder", "vocabulary", [1, 2]),
        ("defaults", "width", 10**9),
        ("defaults", "multiple", 0),
    ],
)
def test_sizes_of_no_sense_are_refused_at_once(own, tmp_path, part, field, value):
    config = json.loads((own / "config.json").read_text())
    config[part][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in own.glob("*.safetensors"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(WeightsError):
        KontextPipeline.from_pretrained(tmp_path, "cpu", "float32")


def test_a_config_nested_without_end_is_refused(own, tmp_path):
    (tmp_path / "config.json").write_text('{"a": ' + DEEP)
    with pytest.raises(WeightsError, match="nested too deeply"):
        KontextPipeline.from_pretrained(tmp_path)


def test_a_lora_of_nan_is_refused(tiny_pipe, tmp_path):
    made = lora.new(tiny_pipe.transformer, 2)
    made.updates[0].up.data.fill_(float("nan"))
    path = lora.save(made, tiny_pipe.transformer, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="NaN"):
        lora.load(path, tiny_pipe.transformer)
