"""A file that matters is whole or absent, and a bad place is known before the work."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from minikontext.bench import mini
from minikontext.course import sepia
from minikontext.errors import OutputError
from minikontext.runtime import files
from minikontext.runtime.files import (
    check_writable,
    fingerprint,
    replacing,
    replacing_folder,
    updating_folder,
)

sys.path.insert(0, str(Path(__file__).parent))
from children import full_disk, snapshot


def test_the_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "file"
    for text in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left"), replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="no file can be kept small there")
@pytest.mark.parametrize("write", [mini.write, lambda folder: sepia.write(folder, 2, 1)])
def test_pictures_on_a_full_disk_are_told_and_none_is_left_half(tmp_path, write):
    with full_disk(1500), pytest.raises(OutputError, match=r"Cannot write .*png.*Make room"):
        write(tmp_path / "x")
    assert not any(snapshot(tmp_path / "x").values())


@pytest.mark.skipif(sys.platform == "win32", reason="no file can be kept small there")
def test_a_folder_is_called_by_its_own_name(tmp_path):
    told = pytest.raises(OutputError, match=f"^Cannot write {tmp_path}/x/deep/file: ")
    with full_disk(1), told, replacing_folder(tmp_path / "x") as new:
        files.write_bytes(new / "deep" / "file", b"more than one")
    assert not list(tmp_path.iterdir())


def test_the_file_has_ordinary_permissions(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("text")
    (tmp_path / "plain").write_text("text")
    modes = {(tmp_path / name).stat().st_mode for name in ("file", "plain")}
    assert len(modes) == 1


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_that_is_replaced_hands_on_its_permissions(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        temporary.write_text("new")
        during = temporary.stat().st_mode & 0o777
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == mode
    assert not during & ~mode  # a private file's new content is private while it is written


def test_temporary_names_cannot_be_guessed_and_writers_do_not_meet(tmp_path):
    path, names = tmp_path / "file", []
    with replacing(path) as first, replacing(path) as second:
        names += [first.name, second.name]
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the one that ended last; whole, as any of them
    with replacing(path) as third:
        third.write_text("third")
        names.append(third.name)
    assert len(set(names)) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("opened", [replacing, replacing_folder])
def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch, opened):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "guessed")
    (tmp_path / ".file.guessed.tmp").symlink_to(victim)
    with pytest.raises(OutputError, match="exists"), opened(tmp_path / "file") as temporary:
        temporary.write_text("evil")
    assert victim.read_text() == "precious"


def test_a_link_that_is_put_there_while_writing_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    with pytest.raises(OutputError, match="no ordinary file"), replacing(tmp_path / "x") as temp:
        temp.unlink()
        temp.symlink_to(victim)
    assert victim.stat().st_mode & 0o777 == 0o600 and not (tmp_path / "x").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none_that_came_meanwhile(tmp_path, monkeypatch, links):
    path = tmp_path / "file"
    if not links:  # as on a memory card

        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    with replacing(path, new=True) as temporary:
        temporary.write_text("first")
    with pytest.raises(OutputError, match="there already"), replacing(path, new=True) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.fixture(params=[True])
def synced(monkeypatch, request):
    """What was told to go to the disk, and renamed, in order: inodes, and "rename".

    Its parameter says whether a second name counts as a rename.
    """
    seen, fsync, replace, rename, link = [], os.fsync, os.replace, os.rename, os.link

    def watch(name, run):
        monkeypatch.setattr(os, name, lambda *given: (seen.append("rename"), run(*given)))

    monkeypatch.setattr(os, "fsync", lambda h: (seen.append(os.fstat(h).st_ino), fsync(h)))
    watch("replace", replace)
    watch("rename", rename)
    if request.param:
        watch("link", link)
    return seen


@pytest.mark.parametrize("new", [False, True])
def test_the_disk_has_a_file_before_its_name_and_then_the_name(tmp_path, synced, new):
    with replacing(tmp_path / "file", new) as temporary:
        temporary.write_text("text")
    inodes = [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
    assert synced == [inodes[0], "rename", inodes[1]]


def inode(path):
    return path.stat().st_ino


@pytest.mark.parametrize("write", [replacing_folder, updating_folder])
def test_the_disk_has_a_folder_and_its_files_before_its_name(tmp_path, synced, write):
    with write(tmp_path / "folder") as temporary:
        (temporary / "in").mkdir()
        (temporary / "in" / "file").write_text("text")
    file, inner = tmp_path / "folder" / "in" / "file", tmp_path / "folder" / "in"
    assert synced == [*map(inode, (file, inner, inner.parent)), "rename", inode(tmp_path)]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("synced", [False], indirect=True)
def test_the_disk_has_what_stays_of_a_folder_before_its_new_name(
    tmp_path, synced, links, monkeypatch
):
    def no_links(*_, **__):
        raise OSError("a disk that knows no second names")

    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "notes").write_text("stay")
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with updating_folder(folder) as temporary:
        (temporary / "config.json").write_text("{}")
    new = [folder / "config.json", *[folder / "deep" / "notes"] * (not links), folder / "deep"]
    first = synced.index("rename")
    assert synced[:first] == [*map(inode, new), inode(folder)]
    assert synced[first:] == ["rename", "rename", inode(tmp_path)]


def test_where_files_move_into_a_folder_the_disk_has_its_index_last(tmp_path, synced, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")  # so it cannot be renamed
    with updating_folder(tmp_path / "folder") as temporary:
        for name in ("in/file", "config.json"):
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text("text")
    here, inner = inode(tmp_path / "folder"), inode(tmp_path / "folder" / "in")
    *_, moved, index = [number for number, what in enumerate(synced) if what == "rename"]
    assert {here, inner} <= {*synced[moved:index]} and synced[index:] == ["rename", here]


def test_a_very_long_name_has_room_for_its_temporary_one(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    with replacing(path) as temporary:
        temporary.write_text("text")
    assert path.read_text() == "text"


def test_a_pipe_and_a_device_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OutputError, match="device or a pipe"):
            check_writable(place)


def test_a_read_only_file_is_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    path.chmod(0o444)
    with pytest.raises(OutputError, match="read-only"), replacing(path):
        pass
    assert path.read_text() == "precious"


def test_bad_places_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_writable(tmp_path / "file" / "result.png")
    check_writable(tmp_path / "not" / "there" / "yet.png")
    assert not (tmp_path / "not").exists()


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # The superuser may write anywhere, so the system's answer is put in its place.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="folder .* is read-only"):
        check_writable(tmp_path / "result.png")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_a_folder_that_may_not_be_looked_into_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o000)
    if not (child := os.fork()):
        if os.getuid() == 0:  # who may look into every folder
            os.setuid(65534)
        try:
            files.check_writable(tmp_path / "locked" / "deep" / "a.png")
        except OutputError as error:
            os._exit(7 if "is read-only" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_an_output_error_is_an_os_error():
    assert issubclass(OutputError, OSError)


def test_the_hash_covers_every_file_in_order(tmp_path):
    for name, text in {"a": "one", "b": "two"}.items():
        (tmp_path / name).write_text(text)
    assert fingerprint([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(b"onetwo").hexdigest()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError("disk full")])
def test_a_folder_is_whole_or_absent(tmp_path, error):
    path = tmp_path / "deep" / "folder"
    kind = OutputError if isinstance(error, OSError) else error
    with pytest.raises(kind), replacing_folder(path) as temporary:
        (temporary / "file").write_text("half")
        raise error
    assert not list(path.parent.iterdir())
    with replacing_folder(path) as temporary:
        (temporary / "file").write_text("whole")
    assert (path / "file").read_text() == "whole" and len(list(path.parent.iterdir())) == 1
    with pytest.raises(OutputError, match="is a folder"), replacing_folder(path):
        pass
    assert (path / "file").read_text() == "whole"
