"""Checksums: whatever happens to a file is noticed and the file is named."""

import hashlib
import json
import os
import subprocess

import pytest

from soda_jax.workdir import checksums


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


def made_up(folder, **changes):
    """The list with other fields, and a digest that fits it: by somebody who means it."""
    path = folder / checksums.FILE
    content = json.loads(path.read_text()) | changes
    del content["digest"]
    path.write_text(json.dumps(content | {"digest": checksums._digest(content)}))


SOUND = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": None},
        {"files": {}},
        {"files": {"a/one": 5, "b/three": 5}},
        {"files": {"a/one": None}},
        {"files": {"a/one": SOUND | {"size": "0"}}},
        {"files": {"a/one": SOUND | {"size": True}}},
        {"files": {"a/one": SOUND | {"size": -1}}},
        {"files": {"a/one": SOUND | {"size": 1e400}}},
        {"files": {"a/one": SOUND | {"sha256": 0}}},
        {"files": {"a/one": {"size": 0}}},
        {"files": {"a/../../../../../../../../dev/zero": SOUND}},
        {"files": {"/dev/zero": SOUND}},
        {"files": {"a//dev/zero": SOUND}},
        {"files": {"": SOUND, "a/one": 5, "b/three": 5}},
        {"files": {"a/\0": SOUND}},
        {"files": {"a/\ud800": SOUND}},
        {"format_version": "1"},
        {"format_version": None},
        {"format_version": [9]},
    ],
    ids=str,
)
def test_a_list_that_was_made_up(folder, changes):
    made_up(folder, **changes)
    assert checksums.FILE in damage(folder)


def test_a_name_that_was_made_up(folder):
    made_up(folder, name=["40"])
    assert "was written as" in damage(folder)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder that is a link"])
def test_what_never_ends(folder, kind, listed):
    """Neither hashed for ever nor left to those who read the files."""
    odd = folder / "a/deep/odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if kind == "link to a device" else "/dev")
    if listed:
        files = json.loads((folder / checksums.FILE).read_text())["files"]
        made_up(folder, files=files | {f"a/deep/odd{'/zero' if kind.startswith('folder') else ''}": SOUND})
    assert damage(folder) == "a/deep/odd is no regular file"
    assert damage(folder, ("b",)) is None


def test_links_to_files_serve_as_files_do(folder):
    """As in the caches of download programs."""
    path = folder / "a/one"
    path.rename(folder.parent / "kept")
    path.symlink_to(folder.parent / "kept")
    assert damage(folder) is None
    with open(folder.parent / "kept", "ab") as file:
        file.write(b"x")
    assert "a/one has" in damage(folder)


def test_a_list_that_never_ends(folder):
    (folder / checksums.FILE).unlink()
    os.mkfifo(folder / checksums.FILE)
    assert damage(folder) == f"{checksums.FILE} is no regular file"
