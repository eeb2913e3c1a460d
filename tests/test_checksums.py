"""Checksums: whatever happens to a file is noticed and the file is named."""

import json
import os
import subprocess

import pytest

from soda_jax import checksums


@pytest.fixture
def folder(tmp_path):
    for name, content in {"a/one": b"1" * 1000, "a/deep/two": b"", "b/three": os.urandom(100_000)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loose").write_bytes(b"not listed")
    checksums.write(tmp_path, ("a", "b"), "40")
    return tmp_path


def damage(folder, parts=("a", "b"), name="40"):
    return checksums.damage(folder, parts, name)


def test_sound_until_changed(folder):
    assert damage(folder) is None
    (folder / "loose").write_bytes(b"changed")
    (folder / "a" / "new").write_bytes(b"nobody asked")
    assert damage(folder) is None


def test_digests_are_those_of_coreutils(folder):
    files = json.loads((folder / checksums.FILE).read_text())["files"]
    assert sorted(files) == ["a/deep/two", "a/one", "b/three"]
    for name, entry in files.items():
        found = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout
        assert found.split()[0] == entry["sha256"]


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_one_flipped_bit(folder, place):
    content = bytearray((folder / "b/three").read_bytes())
    content[place] ^= 4
    (folder / "b/three").write_bytes(content)
    assert damage(folder) == "b/three was changed after it was written"
    assert damage(folder, ("a",)) is None


def test_other_damage_is_named(folder):
    (folder / "a/one").write_bytes(b"1" * 999)
    assert damage(folder) == "a/one has 999 bytes, not 1,000"
    (folder / "a/one").unlink()
    assert damage(folder) == "a/one is missing"
    (folder / "a/one").mkdir()
    assert "a/one" in damage(folder)


def test_a_folder_in_the_place_of_another(folder):
    assert damage(folder, name="50") == "it was written as 40"


def test_a_part_that_was_never_written(folder):
    assert damage(folder, ("a", "c")) == f"{checksums.FILE} lists no file of c"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"files": {}}', "[" * 100_000, '{"digest": 1, "files": 2}', "\x00\xff"]
)
def test_a_damaged_list(folder, text):
    (folder / checksums.FILE).write_text(text)
    assert checksums.FILE in damage(folder)


def test_every_byte_of_the_list_counts(folder):
    """A changed list is noticed, or says the same (white space)."""
    path = folder / checksums.FILE
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = damage(folder)
        assert found or json.loads(path.read_text()) == json.loads(content)
    path.unlink()
    assert damage(folder) == f"{checksums.FILE} is missing"


def test_a_list_of_a_newer_release_is_no_damage(folder):
    path = folder / checksums.FILE
    content = json.loads(path.read_text()) | {"format_version": 9}
    del content["digest"]
    path.write_text(json.dumps(content | {"digest": checksums._digest(content)}))
    with pytest.raises(ValueError, match="newer"):
        damage(folder)
