"""What people have as data: read, or left out and told; nothing overwritten, nothing guessed."""

import csv
import gzip
import io
import json
import logging
import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from minikontext import training
from minikontext.errors import ConfigError, OutputError
from minikontext.training import shards
from minikontext.training.sources import Bad, Reading, Triplet, check_source, triplets

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import full_disk


def png(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def good(folder, **how):
    found = list(triplets(folder, Reading(**how)))
    assert all(isinstance(one, Triplet) for one in found), found
    return found


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def pictures(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path


def lines(folder, *rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------ captions


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_captions_are_decoded_by_their_marks(pictures, coding):
    data = "don’t".encode(coding)
    data = b"\xfe\xff" + data if coding == "utf-16-be" else data
    for name in ("a", "b", "c"):
        (pictures / f"{name}.txt").write_bytes(data)
    assert {one.prompt for one in good(pictures)} == {"don’t"}


def test_a_caption_in_another_coding_is_left_out_and_told(pictures):
    (pictures / "a.txt").write_bytes("don’t".encode("cp1252"))
    (pictures / "b.txt").write_text("fine")
    bad, fine, bare = triplets(pictures)
    assert isinstance(bad, Bad) and "0x92" in bad.why and 'encoding = "cp1252"' in bad.why
    assert fine.prompt == "fine" and "no caption" in bare.why
    write_tar(pictures / "0.tar", [("1.image.png", png()), ("1.txt", "é".encode("latin-1"))])
    (bad,) = triplets(pictures)
    assert "not UTF-8" in bad.why


def test_a_line_in_another_coding_is_left_out_and_the_file_may_be_utf16(pictures):
    row = json.dumps({"file_name": "a.png", "prompt": "é"}, ensure_ascii=False)
    path = pictures / "metadata.jsonl"
    path.write_bytes(row.encode("cp1252") + b"\n" + row.replace("a.png", "b.png").encode())
    bad, fine = triplets(pictures)
    assert isinstance(bad, Bad) and bad.key == "line 1" and fine.prompt == "é"
    path.write_bytes(row.encode("utf-16"))
    assert [one.prompt for one in good(pictures)] == ["é"]
    path.write_bytes(row.encode("utf-8-sig"))
    assert [one.prompt for one in good(pictures)] == ["é"]


def test_an_encoding_that_is_named_is_read_in_every_layout(pictures):
    told = "don’t".encode("cp1252")
    (pictures / "a.txt").write_bytes(told)
    (pictures / "b.txt").write_text("é", encoding="utf-8")  # Unicode is still seen first
    (pictures / "c.txt").write_bytes(b"\x81")  # no letter of Windows
    one, two, bad = triplets(pictures, Reading(encoding="cp1252"))
    assert (one.prompt, two.prompt) == ("don’t", "é")
    assert isinstance(bad, Bad) and "not cp1252" in bad.why
    (pictures / "metadata.csv").write_bytes(b"file_name,prompt\na.png," + told)
    assert [one.prompt for one in good(pictures, encoding="cp1252")] == ["don’t"]
    line = b'{"file_name": "a.png", "prompt": "' + told + b'"}'
    (pictures / "metadata.jsonl").write_bytes(line)
    assert [one.prompt for one in good(pictures, encoding="cp1252")] == ["don’t"]
    for name in ("metadata.csv", "metadata.jsonl"):
        (pictures / name).unlink()
    write_tar(pictures / "0.tar", [("1.image.png", png()), ("1.txt", told)])
    assert [one.prompt for one in good(pictures, encoding="cp1252")] == ["don’t"]


def test_a_trigger_word_stands_in_every_prompt_once(pictures):
    rows = ["[trigger] on a hill", "a SKS dog", "a mask", "", "desks"]
    lines(pictures, *({"file_name": "a.png", "prompt": prompt} for prompt in rows))
    expected = ["sks on a hill", "a SKS dog", "sks, a mask", "sks", "sks, desks"]
    assert [one.prompt for one in good(pictures, trigger="sks")] == expected
    bad, *others = triplets(pictures)
    assert isinstance(bad, Bad) and "names no trigger" in bad.why
    assert [one.prompt for one in others] == rows[1:]


def test_mirrored_samples_come_beside_their_own_and_sides_are_left_alone(pictures):
    rows = [{"file_name": "a.png", "prompt": p} for p in ("a tree", "the LEFT one", "a leftover")]
    rows += [{"file_name": "a.png", "prompt": "write HATS on the wall"}]  # letters have sides, too
    lines(pictures, *rows, {"file_name": "a.png~", "prompt": "x"})
    found = [(one.key, one.mirrored) for one in good(pictures, flips=True)][:6]
    assert found == [("a.png", False), ("a.png~", True), ("a.png#2", False),
                     ("a.png#3", False), ("a.png#4", False), ("a.png~#2", False)]  # fmt: skip


def test_no_two_samples_have_one_name(pictures):
    names = ["a.png", "a.png", "a.png#2", "a.png", "a.png~"]
    lines(pictures, *({"file_name": n, "prompt": f"{i}"} for i, n in enumerate(names)))
    keys = [one.key for one in good(pictures, flips=True)]
    assert len(keys) == len(set(keys)) == 10


# ------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("name", ["context", "conditioning_image"])
def test_unknown_columns_are_named_with_ours_and_can_be_mapped(pictures, name):
    lines(pictures, {"file_name": "a.png", "prompt": "x", name: "b.png"})
    with pytest.raises(ConfigError, match=f"'{name}' is no column of ours: file_name, contexts"):
        check_source(pictures)
    (one,) = good(pictures, columns={name: "contexts"})
    assert [path.name for path in one.contexts] == ["b.png"]
    (one,) = good(pictures, columns={name: ""})
    assert one.contexts == ()
    with pytest.raises(ConfigError, match="maps to"):
        check_source(pictures, Reading({name: "picture"}))


def test_a_config_maps_columns(pictures, tmp_path):
    lines(pictures, {"image": "a.png", "text": "make the hat red", "id": 3})
    columns = {"image": "file_name", "text": "prompt", "id": ""}
    values = {
        "kind": "lora", "parts": "toy", "run": str(tmp_path / "r"),
        "output": str(tmp_path / "x.safetensors"),
        "data": {"source": str(pictures), "side": 64, "columns": columns},
        "loop": {"steps": 1, "muon_lr": 0.0}, "training": {"batch": 1, "bf16": False},
    }  # fmt: skip
    path = training.run_job(training.build_job(values))
    assert path.exists()
    values |= {"run": str(tmp_path / "s"), "start": str(path), "lora": {"rank": 4}}
    values["output"] = str(tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match="has rank 8"):
        training.run_job(training.build_job(values))


def test_a_table_is_read(pictures):
    with open(pictures / "metadata.csv", "w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "prompt", "contexts"])
        table.writerows([["a.png", "one, two", "b.png"], ["b.png", "x", '["a.png", "c.png"]']])
        table.writerow(["c.png", "y", ""])
    found = [(one.prompt, len(one.contexts)) for one in good(pictures)]
    assert found == [("one, two", 1), ("x", 2), ("y", 0)]


def test_a_parquet_file_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {
        "file_name": [{"bytes": png(1), "path": "1.png"}, {"bytes": png(2), "path": None}],
        "contexts": [[{"bytes": png(3), "path": None}], []], "prompt": ["one", "two"],
    }  # fmt: skip
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet")
    one, two = good(tmp_path)
    assert one.image == png(1) and one.contexts == (png(3),) and two.prompt == "two"


@pytest.mark.parametrize("what", ["rows", "bytes"])
def test_a_parquet_file_beyond_all_measure_is_left_out_whole(pictures, what):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    many = {"rows": 30_000, "bytes": 1}[what]
    one = {"rows": "a.png", "bytes": bytes(1 << 25)}[what]
    same = pyarrow.array([0] * many, "int32")
    table = {
        "file_name": pyarrow.DictionaryArray.from_arrays(same, pyarrow.array([one])),
        "prompt": pyarrow.DictionaryArray.from_arrays(same, pyarrow.array(["the hat"])),
    }
    path = pictures / "train.parquet"
    parquet.write_table(pyarrow.table(table), path, compression="zstd")
    assert path.stat().st_size < 20_000
    (bad,) = triplets(pictures)
    assert isinstance(bad, Bad) and "more rows than bytes" in bad.why


def test_a_parquet_file_with_sums_is_checked_by_them(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"file_name": [png(1), png(2)], "prompt": ["make the hat red", "fine"]}
    path = tmp_path / "0.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    parquet.write_table(pyarrow.table(rows), path, write_page_checksum=True, **plain)
    good(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"hat red", b"cat red"))
    (bad,) = triplets(tmp_path)
    assert isinstance(bad, Bad) and "ends early" in bad.why


def test_several_prompts_and_several_inputs_of_one_picture(pictures):
    lines(
        pictures,
        {"file_name": "a.png", "contexts": ["b.png"], "prompt": ["one", "two"]},
        {"file_name": "a.png", "contexts": ["c.png"], "prompt": "one"},
        {"file_name": "a.png", "contexts": ["c.png"], "prompt": "one"},
    )
    *found, bad = triplets(pictures)
    assert [one.key for one in found] == ["a.png", "a.png#2", "a.png#3"]
    assert [one.prompt for one in found] == ["one", "two", "one"]
    assert isinstance(bad, Bad) and "before" in bad.why


# ------------------------------------------------------------------------------------- folders


def test_target_and_control_folders_are_read(tmp_path):
    for place in ("target", "control1", "control2"):
        (tmp_path / place).mkdir()
    for name in ("1", "2", "3"):
        (tmp_path / "target" / f"{name}.jpg").write_bytes(png())
        (tmp_path / "target" / f"{name}.txt").write_text(f"prompt {name}")
    (tmp_path / "control1" / "1.png").write_bytes(png())
    (tmp_path / "control2" / "1.webp").write_bytes(png())
    for i in range(3):
        (tmp_path / "control1" / f"2_{i}.png").write_bytes(png())
    (tmp_path / "control1" / "9.png").write_bytes(png())
    one, two, three, nine = triplets(tmp_path)
    assert [p.name for p in one.contexts] == ["1.png", "1.webp"] and one.prompt == "prompt 1"
    assert [p.name for p in two.contexts] == ["2_0.png", "2_1.png", "2_2.png"]
    assert isinstance(three, Bad) and "no picture of its name in control1/" in three.why
    assert isinstance(nine, Bad) and nine.key == "control1/9.png"


def test_controls_are_counted_and_none_takes_the_place_of_another(tmp_path):
    for number in (1, 2, 10):
        (tmp_path / f"control{number}").mkdir()
    (tmp_path / "target").mkdir()
    for name, numbers in {"1": (1, 2, 10), "2": (1, 2), "3": (2,), "4": (1, 10)}.items():
        (tmp_path / f"target/{name}.png").write_bytes(png())
        (tmp_path / f"target/{name}.txt").write_text("x")
        for number in numbers:
            (tmp_path / f"control{number}/{name}.png").write_bytes(png())
    one, two, three, four = triplets(tmp_path)
    assert [p.parent.name for p in one.contexts] == ["control1", "control2", "control10"]
    assert len(two.contexts) == 2
    assert "no picture of its name in control1/" in three.why and "in control2/" in four.why
    (tmp_path / "control1/1.jpg").write_bytes(png())
    assert "two pictures share" in next(triplets(tmp_path)).why


def put(folder, *names):
    """Pictures of their own, and captions that are their names."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode() if name.endswith("txt") else png(shade))


def test_a_series_of_inputs_with_a_gap_costs_its_sample(tmp_path):
    put(tmp_path, *(f"target/{n}.{end}" for n in "abcd" for end in ("png", "txt")))
    put(tmp_path, "control/a_0.png", "control/a_2.png", "control/b_1.png", "control/b_2.png",
        *(f"control/c_{i:02}.png" for i in range(11)), "control/d_2.png")  # fmt: skip
    found = {one.key: one for one in triplets(tmp_path)}
    assert [p.name for p in found["b.png"].contexts] == ["b_1.png", "b_2.png"]
    assert [p.name for p in found["c.png"].contexts] == [f"c_{i:02}.png" for i in range(11)]
    for key in ("a.png", "d.png"):
        assert "no picture of its name" in found[key].why
    assert all(isinstance(found[f"control/{key}.png"], Bad) for key in ("a_0", "a_2", "d_2"))


def test_an_input_is_that_of_the_target_of_its_whole_name(tmp_path):
    put(tmp_path, "target/1.png", "target/1.txt", "target/1_0.png", "target/1_0.txt")
    put(tmp_path, "control/1_0.png", "control/1_1.png")
    one, two = good(tmp_path)
    assert [p.name for p in one.contexts] == ["1_1.png"] and one.key == "1.png"
    assert [p.name for p in two.contexts] == ["1_0.png"]


def test_no_folder_of_masks_is_taken_for_a_control(tmp_path):
    put(tmp_path, "target/1.png", "target/1.txt", "control/1.png")
    for name in ("control_masks", "control.bak", "controls"):
        put(tmp_path, f"{name}/1.png")
        with pytest.raises(ConfigError, match=rf"{name}: inputs lie in control/, control1/"):
            check_source(tmp_path)
        shutil.rmtree(tmp_path / name)
    put(tmp_path, "Control_2/1.png", "control-3/1.png")
    (one,) = good(tmp_path)
    assert len(one.contexts) == 3


def test_several_splits_and_a_series_that_is_not_whole_are_told(tmp_path, caplog):
    for name in ("train-00000-of-00001", "test-00000-of-00002"):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}.png", png()), (f"{name}.txt", b"x")])
    good(tmp_path)
    assert "test and train are read together" in caplog.text
    assert "test has 1 of 2 files" in caplog.text and "train has" not in caplog.text
    caplog.clear()
    (tmp_path / "test-00000-of-00002.tar").rename(tmp_path / "trained.tar")
    good(tmp_path)
    assert not caplog.text


def test_cells_without_quotes_are_told_and_not_cut(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    rows = 'file_name,prompt\na.png,make it red, please\na.png\na.png,"red, please"\n'
    (tmp_path / "metadata.csv").write_text(rows)
    comma, short, fine = triplets(tmp_path)
    assert "quote" in comma.why and "quote" in short.why and fine.prompt == "red, please"


def test_two_columns_for_one_of_ours_are_refused(tmp_path):
    row = {"file_name": "a.png", "prompt": "x", "contexts": ["b.png"], "before": ["a.png"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match="'contexts', 'before' mean one column"):
        list(triplets(tmp_path, Reading(columns={"before": "contexts"})))


def test_two_pictures_with_one_caption_are_left_out(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "1.jpg").write_bytes(png())
    (tmp_path / "1.txt").write_text("x")
    assert all("two pictures share" in one.why for one in triplets(tmp_path))


# ---------------------------------------------------------------------------------- tar shards


def test_an_unsorted_packed_shard_with_other_files_is_read(tmp_path, caplog):
    members = [
        ("1.image.png", png(1)), ("2.image.png", png(2)), ("2.txt", b"two"), ("1.json", b"{}"),
        ("._1.image.png", b"mac"), ("1.context2.png", png(5)), ("1.context1.png", png(4)),
        ("1.depth.png", png(9)), ("1.txt", b"one"), ("__MACOSX/1.txt", b"no"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar.gz", members, "w:gz")
    with caplog.at_level(logging.WARNING):
        one, two = good(tmp_path)
    assert one.image == png(1) and one.contexts == (png(4), png(5)) and one.prompt == "one"
    assert two.prompt == "two" and two.contexts == ()
    assert "json × 1" in caplog.text and "depth.png × 1" in caplog.text


def test_no_file_of_a_sample_is_taken_for_another(tmp_path):
    write_tar(tmp_path / "0.tar", [
        ("1.image.png", png()), ("1.image.jpg", png(1)), ("1.txt", b"x"),
        ("2.image.png", png()), ("2.mask.png", png(1)), ("2.txt", b"x"),
    ])  # fmt: skip
    twice, masked = triplets(tmp_path)
    assert isinstance(twice, Bad) and "two files for image" in twice.why
    assert isinstance(masked, Bad) and "contexts are called context1.png" in masked.why


def test_a_packed_shard_that_ends_early_is_told(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"{i}.{e}", png() if e != "txt" else b"x")
                                   for i in range(9) for e in ("image.png", "txt")])  # fmt: skip
    packed = gzip.compress((tmp_path / "0.tar").read_bytes())
    (tmp_path / "0.tar").unlink()
    (tmp_path / "0.tar.gz").write_bytes(packed[: len(packed) // 2])
    assert isinstance(list(triplets(tmp_path))[-1], Bad)


def test_a_packed_shard_is_unpacked_once_and_not_beyond_measure(tmp_path, monkeypatch):
    members = [(f"{i}.image.png", png(i)) for i in range(9)]
    write_tar(tmp_path / "0.tar", members + [(f"{i}.txt", b"x") for i in range(9)])
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").unlink()
    opened = []

    def counted(file):
        opened.append(file)
        return gzip.open(file)

    monkeypatch.setattr(shards, "PACKED", {b"\x1f\x8b": counted})
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(data))
    assert [one.image for one in triplets(tmp_path)] == [png(i) for i in range(9)]
    assert len(opened) == 1
    with gzip.open(tmp_path / "0.tar.gz", "wb") as file:
        file.writelines(bytes(1 << 20) for _ in range(99))
    (bad,) = triplets(tmp_path)
    assert isinstance(bad, Bad) and "64 times its size" in bad.why


@pytest.mark.skipif(sys.platform == "win32", reason="no file can be kept small there")
@pytest.mark.parametrize("room", [0, 5000])
def test_no_room_to_unpack_a_shard_is_told_and_costs_no_sample(tmp_path, room):
    members = [("1.image.png", png(1)), ("1.txt", b"x")]
    write_tar(tmp_path / "0.tar.gz", members, "w:gz")
    with full_disk(room), pytest.raises(OutputError, match="Cannot unpack a shard .* TMPDIR"):
        list(triplets(tmp_path))
    (one,) = triplets(tmp_path)
    assert one.image == png(1)


def test_a_packed_shard_cut_where_a_sample_ends_is_told(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.image.png", png()), ("1.txt", b"x")])
    packer = zlib.compressobj(wbits=31)
    data = packer.compress((tmp_path / "0.tar").read_bytes()[:-1024].rstrip(b"\0"))
    (tmp_path / "0.tar").unlink()
    (tmp_path / "0.tar.gz").write_bytes(data + packer.flush(zlib.Z_SYNC_FLUSH))
    *_, bad = triplets(tmp_path)
    assert isinstance(bad, Bad) and "ends early" in bad.why


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.parquet"])
def test_pipes_and_devices_are_no_shards(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="no ordinary file"):
        check_source(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="no ordinary file"):
        check_source(tmp_path)


def test_one_bad_cell_costs_its_row_alone(pictures):
    table = 'file_name,contexts,prompt\na.png,"[""b.png",one\nb.png,,two\n'
    (pictures / "metadata.csv").write_text(table)
    bad, fine = triplets(pictures)
    assert isinstance(bad, Bad) and "JSON list" in bad.why and fine.prompt == "two"


def test_half_a_character_in_utf16_lines_costs_its_line_alone(pictures):
    rows = [json.dumps({"file_name": "a.png", "prompt": word}) + "\n" for word in ("one", "X")]
    data = "".join(rows).encode("utf-16")
    (pictures / "metadata.jsonl").write_bytes(data.replace(b"X\0", b"\0\xd8") + b"\n")
    fine, bad, *_ = triplets(pictures)
    assert fine.prompt == "one" and isinstance(bad, Bad)


def test_pictures_of_one_name_are_kept_apart(tmp_path):
    for shard in (1, 2, 3):  # the third is the first once more
        members = [("1.image.png", png(shard % 3 or 1)), ("1.txt", b"x")]
        write_tar(tmp_path / f"{shard}.tar", members)
    one, two, bad = triplets(tmp_path)
    assert (one.key, one.image, two.key, two.image) == ("1", png(1), "1#2", png(2))
    assert isinstance(bad, Bad) and "before" in bad.why


def test_a_picture_in_a_parquet_file_may_have_several_prompts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"file_name": [{"bytes": png(1), "path": "1.png"}], "prompt": [["one", "two"]]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet")
    assert [one.prompt for one in good(tmp_path)] == ["one", "two"]


MISREAD = ["don\ufffdt", "don\x92t", "\x1b$B@V", "a\0b", "donâ€™t", "caf+AOk- noir", "~{VPND~}"]


@pytest.mark.parametrize("broken", MISREAD)
def test_text_that_was_decoded_wrongly_is_left_out_in_every_layout(tmp_path, broken):
    for layout in ("txt", "csv", "jsonl", "tar"):
        folder = tmp_path / layout
        folder.mkdir()
        (folder / "a.png").write_bytes(png())
        if layout == "txt":
            (folder / "a.txt").write_text(broken, encoding="utf-8")
        elif layout == "csv":
            (folder / "metadata.csv").write_text(f"file_name,prompt\na.png,{broken}\n", "utf-8")
        elif layout == "jsonl":
            lines(folder, {"file_name": "a.png", "prompt": broken})
        else:
            write_tar(folder / "0.tar", [("1.png", png()), ("1.txt", broken.encode())])
        found = list(triplets(folder))
        assert found and all(isinstance(one, Bad) and one.why for one in found), (layout, found)


FOREIGN = ["version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5", "%PDF-1.7",
           "<!DOCTYPE html><p>404", r"{\rtf1\ansi red}", '{"caption": "a red hat"}', '["a", "b"]',
           "\u200b\u200e"]  # fmt: skip


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("layout", ["txt", "jsonl", "tar"])
def test_a_file_of_another_kind_is_no_caption(tmp_path, foreign, layout):
    (tmp_path / "a.png").write_bytes(png())
    if layout == "txt":
        (tmp_path / "a.txt").write_text(foreign, encoding="utf-8")
    elif layout == "jsonl":
        lines(tmp_path, {"file_name": "a.png", "prompt": foreign})
    else:
        write_tar(tmp_path / "0.tar", [("1.png", png()), ("1.txt", foreign.encode())])
    (bad,) = triplets(tmp_path, Reading(trigger="sks"))
    assert isinstance(bad, Bad) and ("of another kind" in bad.why or "empty cell" in bad.why)


def test_a_sample_has_no_more_contexts_than_a_call_may_have(pictures):
    lines(pictures, *({"file_name": "a.png", "prompt": "x", "contexts": ["b.png"] * n}
                      for n in (64, 65)))  # fmt: skip
    fine, bad = triplets(pictures)
    assert len(fine.contexts) == 64 and "65 contexts; expected at most 64" in bad.why


FINE = [
    "a {red|blue} hat",
    "<red> hat",
    "[trigger, a hat",
    "version 2",
    "2 + 2",
    "+-5, a+b-c",
    "a door+window seat",
    "~/home ~~",
    "café à la 5€",
    "Ã",
    "don’t",
]


@pytest.mark.parametrize("fine", FINE)
def test_sums_and_accents_are_no_sign_of_wrong_decoding(pictures, fine):
    lines(pictures, {"file_name": "a.png", "prompt": fine})
    assert [one.prompt for one in good(pictures)] == [fine]


@pytest.mark.parametrize("coding", ["utf-7", "hz", "utf-16-le", "utf-32", "iso2022_jp", "gb18030"])
def test_codings_that_look_like_plain_text_are_read_where_they_are_named(pictures, coding):
    (pictures / "a.txt").write_bytes("中文".encode(coding))
    (pictures / "b.txt").write_text("fine")
    one, two, _ = triplets(pictures, Reading(encoding=coding))
    assert (one.prompt, two.prompt) == ("中文", "fine")


def test_what_else_lies_in_a_folder_is_named(tmp_path, caplog):
    """A sample that lies where nobody looks is not left out in silence."""

    def told(name, files):
        caplog.clear()
        for path in files:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(b"x" if path.endswith("txt") else png())
        found = good(tmp_path / name)
        return found, "".join(one.message.partition("not read: ")[2] for one in caplog.records)

    pair = ["target/1.png", "target/1.txt"]
    (one,), rest = told("capital", [*pair, "Control/1.png"])
    assert len(one.contexts) == 1 and not rest
    _, rest = told("folders", [*pair, "source/1.png", "target/2.avif", "control", "7.png"])
    assert rest == "7.png, control, source, target/2.avif"
    _, rest = told("pictures", ["1.png", "1.txt", "2.txt", "1.caption", "10_more/3.png", ".a"])
    assert rest == "1.caption, 10_more, 2.txt"
    write_tar(tmp_path / "pictures/0.tar.xz", [("9.png", png()), ("9.txt", b"z")], "w:xz")
    (one,), rest = told("pictures", [])
    assert one.key == "9" and "1.png" in rest
    lines(tmp_path / "pictures", {"file_name": "1.png", "prompt": "x"})
    (one,), rest = told("pictures", ["metadata.tsv"])
    assert one.key == "1.png" and rest == "0.tar.xz, 1.caption, metadata.tsv"


def test_a_context_that_is_a_link_or_of_another_format_costs_its_sample(tmp_path):
    members = [("1.image.png", png()), ("1.txt", b"x"), ("1.context1.png", png(1))]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name, data in (*members, ("2.image.png", png()), ("2.txt", b"y")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("2.context1.png")
            link.type, link.linkname = kind, "1.context1.png"
            tar.addfile(link)
        fine, bad = triplets(tmp_path)
        assert len(fine.contexts) == 1 and "is a link" in bad.why
    for name in ("1.context2.avif", "1.control.exr"):
        write_tar(tmp_path / "0.tar", [*members, (name, png())])
        (bad,) = triplets(tmp_path)
        assert isinstance(bad, Bad) and name[2:] in bad.why


def test_cells_hold_lists_under_any_name_of_a_column(pictures):
    (pictures / "metadata.csv").write_text(
        'file_name,before,text\na.png,"[""b.png"", ""c.png""]","[""one"", ""two""]"\n'
        'b.png,c.png,"[trigger], three"\n'
    )
    found = good(pictures, columns={"before": "contexts", "text": "prompt"}, trigger="sks")
    assert [one.prompt for one in found] == ["sks, one", "sks, two", "sks, three"]
    assert [len(one.contexts) for one in found] == [2, 2, 1]


def test_text_in_another_coding_in_a_parquet_file_costs_its_row_alone(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    words = pyarrow.array([b"don\x92t", b"fine"])
    words = pyarrow.Array.from_buffers(pyarrow.string(), 2, words.buffers())
    rows = {"file_name": [png(1), png(2)], "prompt": words}
    parquet.write_table(pyarrow.table(rows), tmp_path / "0.parquet")
    bad, fine = triplets(tmp_path)
    assert isinstance(bad, Bad) and "0x92" in bad.why and fine.prompt == "fine"
