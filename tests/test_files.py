"""A file that matters is whole or absent, and a bad place is known before the work."""

import hashlib
import os

import pytest

from minikontext.errors import OutputError
from minikontext.runtime.files import check_writable, fingerprint, replacing, replacing_folder


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


def test_the_file_has_ordinary_permissions(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("text")
    (tmp_path / "plain").write_text("text")
    modes = {(tmp_path / name).stat().st_mode for name in ("file", "plain")}
    assert len(modes) == 1


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
