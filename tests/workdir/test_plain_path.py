"""Folders of names that libraries would take for patterns or addresses."""

import pathlib
import tempfile

import pytest

from soda_jax.workdir.plain_path import is_plain, plain_path


def test_plain_names_stay():
    for name in ("/runs/a-b_c.1", "/läufe/lr=0.1,seed=2", "/sp ace/50%/x+y@z"):
        with plain_path(pathlib.Path(name)) as path:
            assert path == pathlib.Path(name)


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?", "a\\b", "gs:", "a\nb", "a{b}", "$A", "a|b", "a#b", "a'b", 'a"b'])
def test_others_get_a_link_for_as_long_as_it_is_used(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    with plain_path(folder) as path:
        assert is_plain(path) and path.resolve() == folder
        (path / "file").write_text("content")
    assert not path.parent.exists() and (folder / "file").read_text() == "content"


def test_no_place_for_a_link(tmp_path, monkeypatch):
    odd = tmp_path / "[tmp]"
    odd.mkdir()
    for place in (odd, tmp_path / "missing"):
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with pytest.raises(ValueError, match="use another --workdir, or set TMPDIR"), plain_path(tmp_path / "a[b]"):
            pass
