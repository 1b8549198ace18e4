"""The one static server of tools and tests: it gives a folder, and ends with its block."""

from urllib.error import URLError
from urllib.request import urlopen

import pytest
from static_server import serving


def test_a_folder_is_given_until_the_block_ends_however_it_ends(tmp_path, capfd):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ZeroDivisionError), serving(tmp_path) as address:
        assert urlopen(f"{address}a.txt").read() == b"words"
        raise ZeroDivisionError
    with pytest.raises(URLError):
        urlopen(f"{address}a.txt", timeout=5)
    assert capfd.readouterr() == ("", "")
