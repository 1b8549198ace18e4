"""KontextBench's folder: loading, refusing, resuming, sharding, looking."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from minikontext.bench import kontext, mini
from minikontext.bench.similarity import Clip, Faces
from minikontext.errors import ConfigError, ImageError, WeightsError
from minikontext.images import provenance
from minikontext.pretrained import lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first cases of three categories of MiniKontextBench, in KontextBench's format."""
    folder = tmp_path_factory.mktemp("bench")
    path = mini.write(folder, more=True)
    lines = path.read_text().splitlines()
    chosen = [line for key in ("local-", "two-images-", "text-to-image-")
              for line in [x for x in lines if f'"key": "{key}' in x][:2]]  # fmt: skip
    path.write_text("\n".join(chosen) + "\n")
    return folder


def test_cases_come_with_their_pictures(folder):
    items = kontext.load(folder)
    assert [len(item.pictures) for item in items] == [1, 1, 2, 2, 0, 0]
    assert list(kontext.categories(items)) == [
        "Instruction Editing - Local",
        "Two Images",
        "Text to Image",
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the tiny pipeline knows seven words
def test_a_run_goes_on_and_any_share_gives_the_same(folder, tiny_pipe, tmp_path, caplog):
    items = kontext.load(folder)
    whole = kontext.run(tiny_pipe, items, tmp_path / "a")
    parts = [kontext.run(tiny_pipe, items, tmp_path / "b", rank=r, world=2) for r in (1, 0)]
    assert [len(part) for part in parts] == [3, 3]
    for path in whole:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert provenance.read(whole[0]).prompt == items[0].instruction
    before, cut = whole[0].stat().st_mtime_ns, whole[2].read_bytes()
    whole[1].unlink()
    whole[2].write_bytes(cut[: len(cut) // 2])
    kontext.run(tiny_pipe, items, tmp_path / "a")
    assert whole[0].stat().st_mtime_ns == before and whole[1].exists()
    assert whole[2].read_bytes() == cut and "is made again" in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_result_of_another_wish_is_not_taken_for_a_cases(folder, tiny_pipe, tmp_path):
    item = kontext.load(folder)[0]
    (path,) = kontext.run(tiny_pipe, [item], tmp_path, num_inference_steps=1)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "other.jpg")
    for change in ({"instruction": "the hat"}, {"pictures": (tmp_path / "other.jpg",)}):
        with pytest.raises(ConfigError, match="another instruction or picture"):
            kontext.run(tiny_pipe, [replace(item, **change)], tmp_path, num_inference_steps=1)
    path.unlink()
    other = replace(item, instruction="the hat")
    kontext.run(tiny_pipe, [other], tmp_path, num_inference_steps=1)
    kontext.run(tiny_pipe, [other], tmp_path, num_inference_steps=1)


def test_an_instruction_that_is_no_text_is_refused(tmp_path):
    row = {"file_name": "", "key": "a", "category": "c", "instruction": "don’t"}
    text = json.dumps(row, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode("cp1252"))
    with pytest.raises(ImageError, match="line 1: it is not UTF-8"):
        kontext.load(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode("utf-8-sig"))
    assert kontext.load(tmp_path)[0].instruction == "don’t"


def half(pipe):
    for module in pipe.modules.values():
        module.bfloat16()
    return pipe


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_belong_to_what_made_them(folder, tiny, tmp_path):
    pipe, items = tiny(), kontext.load(folder)[:1]
    kontext.run(pipe, items, tmp_path / "a", num_inference_steps=1)
    for change in ({"seed": 1}, {"num_inference_steps": 2}, {"true_cfg_scale": 2.0}):
        with pytest.raises(ConfigError, match="holds results of something else"):
            kontext.run(pipe, items, tmp_path / "a", **({"num_inference_steps": 1} | change))
    pipe.load_lora(lora.save(lora.new(pipe.transformer), pipe.transformer, tmp_path / "x"))
    with pytest.raises(ConfigError, match="weights was tiny, is tiny"):
        kontext.run(pipe, items, tmp_path / "a", num_inference_steps=1)
    kontext.run(tiny(), items, tmp_path / "a", num_inference_steps=1)
    with pytest.raises(ConfigError, match="computed was float32 on cpu, is bfloat16 on cpu"):
        kontext.run(half(tiny()), items, tmp_path / "a", num_inference_steps=1)
    note = tmp_path / "a" / "settings.json"
    before = json.loads(note.read_text())
    before.pop("computed")
    note.write_text(json.dumps(before))  # of before it was noted
    kontext.run(tiny(), items, tmp_path / "a", num_inference_steps=1)
    (tmp_path / "a" / "settings.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        kontext.run(tiny(), items, tmp_path / "a", num_inference_steps=1)
    (tmp_path / "a" / "settings.json").unlink()
    with pytest.raises(ConfigError, match="weights was unknown"):
        kontext.run(tiny(), items, tmp_path / "a", num_inference_steps=1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "Local"), ("b", "local!")], "would be one page"),
        ([("a", "Local"), ("local-sheet", "Local")], "name of a category's sheet"),
        ([("a", "Local"), ("A", "Local")], "comes twice"),
    ],
)
def test_nothing_of_a_bench_overwrites_another_part(tmp_path, rows, said):
    named = [{"file_name": "", "key": k, "category": c, "instruction": "x"} for k, c in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, named)))
    with pytest.raises(ImageError, match=said):
        kontext.load(tmp_path)


def test_a_contact_sheet_shows_pictures_and_escapes_words(folder, tmp_path):
    items = kontext.load(folder)[:2]
    for item in items:
        Image.new("RGB", (400, 300)).save(tmp_path / f"{item.key}.png")
    evil = kontext.Item("x", items[0].category, "<script>alert(1)</script>\u202e\x1b", ())
    page = kontext.contact_sheet([*items, evil], tmp_path, items[0].category).read_text()
    assert page.count("<img ") == 4 and items[1].instruction in page
    assert "<script>" not in page and "\u202e" not in page and "\x1b" not in page


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny random CLIP in transformers' layout, with the alphabet as its words."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{x}</w>" for x in "abcdefghijklmnopqrstuvwxyz")]
    words = {word: i for i, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")
                               ).save_pretrained(folder)  # fmt: skip
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "projection_dim": 8}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(words)}
    config = transformers.CLIPConfig(
        text_config={**size, **ends, "max_position_embeddings": 24},
        vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_from_a_folder_compares_results_with_words_and_pictures(folder, tmp_path, clip_folder):
    items = kontext.load(folder)[:3]
    copy, other = items[0], items[1]
    Image.open(copy.pictures[0]).save(tmp_path / f"{copy.key}.png")
    clip = Clip(clip_folder)
    found = kontext.measure(items, tmp_path, clip)
    assert found[copy.category]["results"] == 1 and found["Two Images"] == {"results": 0}
    assert found[copy.category]["clip_input"] == pytest.approx(1, abs=1e-4)
    assert -1 <= found[copy.category]["clip_words"] < 0.999
    a, b = clip.words(["make the hat red " * 20, "b"])
    assert a.norm() == pytest.approx(1) and not torch.allclose(a, b)
    Image.new("RGB", (64, 64), "red").save(tmp_path / f"{other.key}.png")
    assert kontext.measure(items, tmp_path, clip)[copy.category]["clip_input"] < 1 - 1e-4
    paths = kontext.write_pages(items, tmp_path, clip)
    assert all(path.stat().st_size > 0 for path in paths) and len(paths) == 6
    assert "| Instruction Editing - Local | 2 |" in (tmp_path / "kontext.md").read_text()


@pytest.mark.parametrize("names", ["a class of its own", "a kernel", "a kernel of a part"])
def test_a_clip_runs_and_fetches_nothing(tmp_path, clip_folder, names, monkeypatch):
    """Also for a user who says yes to all questions."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    place = shutil.copytree(clip_folder, tmp_path / "clip")
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass")
    facts = json.loads((place / "config.json").read_text())
    if names == "a class of its own":
        classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "evil.C")
        (place / "config.json").write_text(json.dumps(facts | {"auto_map": classes}))
        said = json.loads((place / "tokenizer_config.json").read_text())
        said |= {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}
        (place / "tokenizer_config.json").write_text(json.dumps(said))
        assert Clip(place).words(["b"]).isfinite().all()  # its own classes do
    else:
        part = facts if names == "a kernel" else facts["vision_config"]
        part["attn_implementation"] = "somebody/some-kernel"
        (place / "config.json").write_text(json.dumps(facts))
        with pytest.raises(WeightsError, match="neither fetched nor run"):
            Clip(place)
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Clip(tmp_path)
    with pytest.raises(WeightsError, match="ONNX"):
        Faces(tmp_path / "none.onnx")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_last_process_to_finish_writes_the_pages(folder, tiny_pipe, tmp_path, monkeypatch):
    weights = tiny_pipe.save_pretrained(tmp_path / "weights", name="tiny")
    command = [folder, "--weights", weights, "--output", tmp_path / "out", "--steps", 1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, pages in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        kontext.main([str(part) for part in command])
        assert (tmp_path / "out" / "kontext.json").exists() == pages


def test_torchrun_says_whose_share(monkeypatch):
    assert kontext.share() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert kontext.share() == (3, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_name": "../secret.png"}, "outside"),
        ({"file_name": "/etc/passwd"}, "outside"),
        ({"file_name": "images/none.png"}, "no picture"),
        ({"key": "../x"}, "file's name"),
        ({"key": ".hidden"}, "file's name"),
        ({"key": "a"}, "twice"),
        (None, "expected a JSON object"),
    ],
)
def test_bad_lines_are_named(tmp_path, change, words):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    good = {"file_name": "a.png", "key": "a", "category": "Local", "instruction": "x"}
    bad = json.dumps(good | {"key": "b"} | change) if change else "[1, 2"
    (tmp_path / "metadata.jsonl").write_text(json.dumps(good) + "\n" + bad + "\n")
    with pytest.raises(ImageError, match=f"line 2.*{words}"):
        kontext.load(tmp_path)


def test_a_folder_without_metadata_is_refused(tmp_path):
    with pytest.raises(ImageError, match="metadata.jsonl"):
        kontext.load(tmp_path)
