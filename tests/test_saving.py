"""A folder of weights is the old one or the new one, whatever happens while it is written."""

import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minikontext.course import tiny_flux
from minikontext.errors import ConfigError, OutputError, WeightsError
from minikontext.page import build, command
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import convert, native, safetensors_io, summary
from minikontext.runtime import files
from minikontext.training.models import (
    find_autoencoder,
    load_autoencoder,
    save_part,
)

sys.path.insert(0, str(Path(__file__).parent))
from children import NOBODY, full_disk, in_child, open_folder, snapshot

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
    pytest.mark.usefixtures("two_threads"),  # which a fork does not have
]


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A tiny FLUX pipeline."""
    pytest.importorskip("transformers")
    return KontextPipeline.from_pretrained(
        tiny_flux.write(tmp_path_factory.mktemp("flux") / "flux"), "cpu", "float32"
    )


def other(pipe):
    """The same with other weights everywhere."""
    with torch.no_grad():
        for part in pipe.modules.values():
            for parameter in part.parameters():
                parameter.add_(1)
    return pipe


def killed_everywhere(folder, save, step):
    """Kill a save before each change of a file; yields what is left each time."""
    old, number = snapshot(folder), 0
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    while True:
        died, said = in_child(save, kill_at=number)
        assert not said
        yield old, snapshot(folder), bool(died)
        if not died:
            return
        number += step
        for path in folder.parent.iterdir():
            if path != copy:
                shutil.rmtree(path)
        shutil.copytree(copy, folder)


@pytest.mark.parametrize("layout", ["minikontext", "diffusers"])
def test_a_save_that_is_killed_leaves_the_old_folder_or_the_new_one(tiny, flux, tmp_path, layout):
    pipe, step = (tiny(), 1) if layout == "minikontext" else (flux, 5)
    folder = tmp_path / "weights"
    pipe.save_pretrained(folder)
    (folder / "README.md").write_text("a card")
    other(pipe)
    seen, new = [], None
    for old, left, died in killed_everywhere(folder, lambda: pipe.save_pretrained(folder), step):
        seen.append(left)
        if left is None:  # between two renames: nothing is lost, and the next save goes on
            with pytest.raises(WeightsError, match="before-update is what was there"):
                KontextPipeline.from_pretrained(folder)
            assert snapshot(files.set_aside_name(folder)) == old
            files.put_back(folder)
            assert snapshot(folder) == old
        elif not died:
            new = left
    assert new and new["README.md"] == b"a card" and new != old
    assert all(left in (None, old, new) for left in seen)
    assert seen.count(old) > 3 and len(seen) > 8


@pytest.mark.parametrize("theirs", ["card", "weights", "link"])
@pytest.mark.parametrize("there", [False, True])
def test_what_lies_at_the_name_for_a_moment_is_never_deleted_and_told(
    tiny, tmp_path, caplog, there, theirs
):
    pipe, folder = tiny(), tmp_path / "weights"
    aside = files.set_aside_name(folder)
    if theirs == "link":
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim/card").write_text("theirs")
        aside.symlink_to("victim")
    else:
        aside.mkdir()
        (aside / ("card" if theirs == "card" else "config.json")).write_text("theirs")
    if there:
        aside.rename(tmp_path / "planted")
        pipe.save_pretrained(folder)
        (tmp_path / "planted").rename(aside)
    pipe.save_pretrained(folder)
    KontextPipeline.from_pretrained(folder)
    (lies,) = tmp_path.glob(".weights.before-update*") if there or theirs != "weights" else (None,)
    if lies:  # theirs, and nothing of it among ours
        assert [one.read_text() for one in lies.iterdir()] == ["theirs"]
        assert not (folder / "card").exists() and ("in the way" in caplog.text) == there
    else:  # anybody's that looks like what a killed save leaves is taken for it, and told
        assert "It is taken for the folder of before" in caplog.text


@pytest.mark.parametrize("layout", ["minikontext", "diffusers"])
@pytest.mark.parametrize("room", [0, 300, 3000, 12_000])
def test_a_full_disk_is_told_and_costs_nothing(tiny, flux, tmp_path, layout, room):
    pipe = tiny() if layout == "minikontext" else flux
    folder = tmp_path / "weights"
    pipe.save_pretrained(folder)
    before = snapshot(folder)
    with pytest.raises(OutputError, match=r"Cannot write .*weights.*Make room"), full_disk(room):
        pipe.save_pretrained(folder)
    assert snapshot(folder) == before and os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("room", [3000, 100_000])
def test_a_page_on_a_full_disk_is_told_and_the_old_page_stays(tiny_pipe, tmp_path, room):
    pytest.importorskip("onnxscript")
    for name in build.RUNTIME:
        (tmp_path / name).write_bytes(bytes(50_000))
    page = tmp_path / "page"
    page.mkdir()
    (page / "editor.json").write_text("{}")
    with full_disk(room), pytest.raises(OutputError, match=r"Cannot write .*/page.*Make room"):
        build.build(tiny_pipe, page, tmp_path)
    assert snapshot(page) == {"editor.json": b"{}"}
    assert not list(tmp_path.glob(".*"))


def test_what_a_page_cannot_do_is_told_before_it_is_built(tiny, tmp_path):
    for name in build.RUNTIME:
        (tmp_path / name).touch()
    for defaults in ({"isolated": True}, {"context_layout": "offset"}, {"true_cfg_scale": 2.0}):
        pipe = tiny()
        pipe.defaults = replace(pipe.defaults, **defaults)
        with pytest.raises(ConfigError, match="the page has no "):
            build.build(pipe, tmp_path / "page", tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in (taken.getsockname()[1], 70_000, -1):
            with pytest.raises(ConfigError, match="Cannot serve at port"):
                command.listen(str(tmp_path / "page"), port)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("layout", ["minikontext", "diffusers"])
@pytest.mark.parametrize("place", ["sealed/new", "sealed", "sealed/file"])
def test_a_place_without_rights_is_told(tiny, flux, layout, place):
    pipe = tiny() if layout == "minikontext" else flux
    with open_folder() as box:
        (box / "sealed").mkdir()
        (box / "sealed" / "file").write_text("precious")
        (box / "sealed").chmod(0o555)
        before = snapshot(box)
        died, said = in_child(lambda: pipe.save_pretrained(box / place), user=NOBODY)
        assert not died and said.startswith("OutputError: Cannot write")
        assert snapshot(box) == before


def test_a_folder_that_cannot_be_renamed_is_still_never_mixed(tiny):
    pipe = tiny()
    with open_folder() as box:
        folder = box / "sealed" / "weights"
        pipe.save_pretrained(folder)
        old = snapshot(folder)
        (folder / "note.txt").write_text("mine")
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY) if os.geteuid() == 0 else None
        folder.parent.chmod(0o555)
        other(pipe)
        for number in range(0, 60, 2):
            died, said = in_child(lambda: pipe.save_pretrained(folder), NOBODY, kill_at=number)
            left = {n: d for n, d in snapshot(folder).items() if n in old}
            assert not said
            if "config.json" in left and died:
                assert left == old
            if not died:
                break
        assert not died and left["transformer.safetensors"] != old["transformer.safetensors"]
        assert (folder / "note.txt").read_text() == "mine"
        assert KontextPipeline.from_pretrained(folder, "cpu").name == "tiny"


@pytest.mark.parametrize("name", [".", ".."])
def test_the_folder_that_we_stand_in_stays_the_same_folder(tiny, tmp_path, monkeypatch, name):
    folder = tmp_path / "weights"
    tiny().save_pretrained(folder)
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner" if name == ".." else folder)
    before = os.stat(name).st_ino
    other(tiny()).save_pretrained(name)
    assert os.stat(name).st_ino == before == folder.stat().st_ino
    assert KontextPipeline.from_pretrained(name, "cpu").name == "tiny"


def test_new_weights_leave_no_older_shards_behind(flux, tmp_path):
    folder = tmp_path / "weights"
    flux.save_pretrained(folder)
    place = folder / "transformer"
    (place / "diffusion_pytorch_model.safetensors").unlink()
    state = {name: p.detach() + 1 for name, p in flux.transformer.state_dict().items()}
    shards = safetensors_io.save_shards(state, place / "diffusion_pytorch_model", limit=100_000)
    (place / "mine.safetensors").write_bytes(b"of the user")
    assert len(shards) > 1
    flux.save_pretrained(folder)
    names = {path.name for path in place.iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors", "mine.safetensors"}


def test_our_layout_over_diffusers_is_what_is_opened(tiny, flux, tmp_path):
    flux.save_pretrained(tmp_path / "x")
    tiny().save_pretrained(tmp_path / "x")
    assert KontextPipeline.from_pretrained(tmp_path / "x", "cpu").name == "tiny"


def test_modes_and_links_are_kept(tiny, tmp_path):
    folder, link = tmp_path / "weights", tmp_path / "link"
    tiny().save_pretrained(folder)
    (folder / "config.json").chmod(0o600)
    folder.chmod(0o750)
    link.symlink_to(folder)
    (folder / "card").symlink_to("config.json")
    pipe = other(tiny())
    pipe.save_pretrained(link)
    assert link.is_symlink() and (folder / "card").is_symlink()
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "config.json").stat().st_mode & 0o777 == 0o600
    got = KontextPipeline.from_pretrained(link, "cpu", "float32").transformer.img_in.weight
    assert torch.allclose(got, pipe.transformer.img_in.weight, rtol=0.01)


def test_an_autoencoder_and_its_config_come_together(tiny, tmp_path):
    model = tiny().autoencoder
    x = tmp_path / "x"
    save_part(model, "autoencoder", x)
    model.load_state_dict({n: p + 1 for n, p in model.state_dict().items()})
    every = [*killed_everywhere(x, lambda: save_part(model, "autoencoder", x), 1)]
    old, new, _ = every[-1]
    assert new != old and new.keys() == old.keys()
    assert all(left in (None, old, new) for _, left, _ in every) and len(every) > 8


# ------------------------------------------------------------------ weights that share a part


def test_an_autoencoder_goes_by_a_shipped_name(tiny, tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.chdir(tmp_path)
    assert load_autoencoder(find_autoencoder("toy"), cpu).config.z_channels == 16
    save_part(tiny().autoencoder, "autoencoder", Path("toy"))  # what lies here comes first
    assert load_autoencoder(find_autoencoder("toy"), cpu).config.z_channels == 4
    with pytest.raises(ConfigError, match="none is shipped under that name"):
        find_autoencoder("tyo")


def test_only_the_same_file_is_shared(tiny, tmp_path):
    tiny().save_pretrained(tmp_path / "first")
    other(tiny()).save_pretrained(tmp_path / "second")
    with pytest.raises(WeightsError, match="another file"):
        native.share(tmp_path / "second", "autoencoder", "first")
    KontextPipeline.from_pretrained(tmp_path / "second")


def test_a_folder_does_not_share_with_itself(tiny, tmp_path):
    tiny().save_pretrained(tmp_path / "first")
    with pytest.raises(WeightsError, match="would be lost"):
        native.share(tmp_path / "first", "autoencoder", "first")
    KontextPipeline.from_pretrained(tmp_path / "first")


@pytest.fixture
def sharing(tiny, tmp_path):
    """Two folders of the same autoencoder: `first` holds it, `second` names it."""
    pipe = tiny()
    for name in ("first", "second"):
        pipe.save_pretrained(tmp_path / name)
    native.share(tmp_path / "second", "autoencoder", "first")
    return tmp_path / "second"


def test_weights_that_share_their_autoencoder_are_the_same_weights(sharing):
    first, second = map(KontextPipeline.from_pretrained, (sharing.with_name("first"), sharing))
    assert not (sharing / "autoencoder.safetensors").exists()
    assert first.weights_fingerprint == second.weights_fingerprint
    trained_on = load_autoencoder(find_autoencoder(sharing), torch.device("cpu")).state_dict()
    for name, values in first.autoencoder.state_dict().items():
        assert torch.equal(values, second.autoencoder.state_dict()[name])
        assert torch.equal(values, trained_on[name])
    assert sharing.with_name("first") / "autoencoder.safetensors" in summary.parts(sharing)


def test_a_copy_elsewhere_finds_the_shipped_file(sharing, tmp_path_factory, monkeypatch):
    alone = shutil.copytree(sharing, tmp_path_factory.mktemp("elsewhere") / "second")
    with pytest.raises(WeightsError, match="shares its autoencoder with 'first'.*is not there"):
        KontextPipeline.from_pretrained(alone)
    monkeypatch.setenv("MINIKONTEXT_WEIGHTS", str(sharing.parent))
    KontextPipeline.from_pretrained(alone)


def test_a_save_makes_sharing_weights_whole(sharing, tmp_path):
    KontextPipeline.from_pretrained(sharing).save_pretrained(tmp_path / "whole" / "third")
    KontextPipeline.from_pretrained(tmp_path / "whole" / "third")
    KontextPipeline.from_pretrained(sharing).save_pretrained(sharing)
    shutil.rmtree(sharing.with_name("first"))
    KontextPipeline.from_pretrained(sharing)


def test_another_file_under_the_shared_name_is_refused(sharing):
    file = sharing.with_name("first") / "autoencoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="is another file than when it was saved"):
        KontextPipeline.from_pretrained(sharing)


@pytest.mark.parametrize(
    "said",
    [{"with": "../first", "fingerprint": ""}, {"with": "/etc", "fingerprint": ""},
     {"with": "..", "fingerprint": ""}, {"with": "first"}, "first", None, 7],
)  # fmt: skip
def test_a_share_names_a_folder_beside_and_no_path(sharing, said):
    config = json.loads((sharing / "config.json").read_text())
    config["shares"] = {"autoencoder": said}
    (sharing / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="expected the name of another folder beside it"):
        KontextPipeline.from_pretrained(sharing)


@pytest.mark.parametrize("entry", ["saftey", "default"])
def test_a_misspelt_entry_is_refused_and_not_passed_over(tiny_pipe, tmp_path, entry):
    path = tiny_pipe.save_pretrained(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: "strict"}))
    with pytest.raises(WeightsError, match=f"has {entry}, which is nothing of ours"):
        KontextPipeline.from_pretrained(tmp_path)


def test_a_folder_that_may_not_be_read_is_told_and_not_called_absent():
    with open_folder() as place:
        (place / "sealed").mkdir(mode=0o000)
        died, said = in_child(lambda: files.is_folder(place / "sealed"), NOBODY)
        assert not died and said.startswith("ConfigError: You may not read the folder")
        assert in_child(lambda: files.is_folder(place / "sealed/x"), NOBODY) == (0, "")


def test_one_part_is_converted_whole_or_not_at_all(flux, tmp_path):
    flux.save_pretrained(tmp_path / "flux", layout="diffusers")
    source, target = tmp_path / "flux" / "transformer", tmp_path / "made" / "net"
    for room in (0, 5000):
        with full_disk(room), pytest.raises(OutputError, match="Cannot write.*net"):
            convert.convert(source, target)
        assert not target.exists()
    written = convert.convert(source, target)
    assert all(path.exists() for path in written) and (target / "config.json").exists()
    with pytest.raises(OutputError):  # no file of an older one is mixed with the new one
        convert.convert(source, target)
