"""prepare_data on miniature archives whose checksums and counts the tests put into the catalogue."""

import dataclasses
import fcntl
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
import requests
import tensorflow_datasets as tfds

from soda_jax import data
from soda_jax.data.builders import BUILDERS, archives, catalogue
from soda_jax.tools import prepare_data
from tests.data.builders import miniatures


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "manual").mkdir()
    return tmp_path / "manual", tmp_path / "data"


@pytest.fixture
def expect(monkeypatch):
    """expect(name, counts, checksum=None): replaces the official numbers by the miniature's."""

    def change(name, counts, checksum=None):
        entry = catalogue.DATASETS[name]
        files = tuple(dataclasses.replace(file, checksum=checksum or "") for file in entry.files)
        monkeypatch.setitem(catalogue.DATASETS, name, dataclasses.replace(entry, counts=counts, files=files))

    return change


def _zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_from_the_archive_to_a_source(tmp_path, folders, expect):
    manual, prepared = folders
    known = miniatures.tiny_imagenet(tmp_path / "unpacked" / "tiny-imagenet-200")
    checksum = _zip(tmp_path / "unpacked", manual / "tiny-imagenet-200.zip")
    expect("tiny_imagenet", {"train": 6, "validation": 3}, checksum)
    message = prepare_data.prepare("tiny_imagenet", manual, prepared)
    assert message.startswith("tiny_imagenet is prepared: train 6, validation 3 in ")
    assert (manual / "tiny-imagenet-200" / "words.txt").exists() and not (manual / ".unpacking").exists()
    dataset = data.load_dataset("tiny_imagenet", prepared, "validation")
    assert known[dataset[1]["image"].tobytes()] == ("validation", int(dataset[1]["label"]))
    # The archive is not needed again.
    (manual / "tiny-imagenet-200.zip").unlink()
    assert "is already prepared" in prepare_data.prepare("tiny_imagenet", manual, prepared)


def test_an_archive_that_is_unpacked_goes_into_its_own_folder(tmp_path, folders, expect):
    manual, prepared = folders
    miniatures.afhq(tmp_path / "unpacked")
    _zip(tmp_path / "unpacked", manual / "afhq_v2.zip")
    expect("afhq/v2", {"train": 9, "test": 6})
    prepare_data.prepare("afhq", manual, prepared)
    assert sorted(p.name for p in (manual / "afhq_v2").iterdir()) == ["test", "train"]


def test_a_missing_file_is_named_with_its_source(folders):
    with pytest.raises(ValueError) as error:
        prepare_data.prepare("cub", *folders)
    for part in (
        str(folders[0]),
        "CUB_200_2011.tgz",
        "https://data.caltech.edu",
        "1,150,585,339 bytes",
        "sha256 0c685d",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"(?s)ILSVRC2012_img_train.tar.*ILSVRC2012_img_val.tar.*md5 29b22e"):
        prepare_data._check_tfds_files(catalogue.find("imagenet"), folders[0])
    with pytest.raises(ValueError, match="'cifar' is unknown; choose one of imagenet2012, "):
        prepare_data.prepare("cifar", *folders)


def test_an_unpacked_archive_that_is_not_complete(folders):
    miniatures.tiny_imagenet(folders[0] / "tiny-imagenet-200")
    (folders[0] / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(ValueError, match=r"(?s)tiny-imagenet-200.zip.*So far: .*val_annotations.txt is missing"):
        prepare_data.prepare("tiny_imagenet", *folders)


def test_a_damaged_archive_is_refused(folders):
    (folders[0] / "tiny-imagenet-200.zip").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="has the md5 checksum .* expected 90528d7ca1a48142e341f4ef8d21d0de"):
        prepare_data.prepare("tiny_imagenet", *folders)
    (folders[0] / "afhq_v2.zip").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="afhq_v2.zip cannot be unpacked"):
        prepare_data.prepare("afhq/v2", *folders)


def test_counts_that_are_not_official(folders, expect):
    manual, prepared = folders
    miniatures.afhq(manual)
    with pytest.raises(ValueError, match="has 9 images of 'train', the official dataset has 14,336. Unpack"):
        prepare_data.prepare("afhq/v2", manual, prepared)
    expect("afhq/v2", {"train": 9, "test": 6})
    prepare_data.prepare("afhq/v2", manual, prepared)
    expect("afhq/v2", {"train": 9, "test": 7})
    with pytest.raises(ValueError, match="1.0.0 has 6 images of 'test', .* has 7. Remove that folder"):
        prepare_data.prepare("afhq/v2", manual, prepared)


def test_two_runs_at_once(folders, expect):
    manual, prepared = folders
    (prepared / "afhq").mkdir(parents=True)
    with open(prepared / "afhq" / ".prepare_data.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is preparing it"):
            prepare_data.prepare("afhq/v2", manual, prepared)


def test_what_a_killed_run_left_is_removed(folders, expect):
    manual, prepared = folders
    miniatures.afhq(manual / "afhq_v2")
    expect("afhq/v2", {"train": 9, "test": 6})
    old, new = (prepared / "afhq" / "v2" / f"incomplete.{name}_1.0.0" for name in ("AAAAAA", "BBBBBB"))
    for folder in (old, new):
        miniatures.write(folder / "bucket.tmp", b"")
    an_hour_ago = time.time() - 4000
    for path in (old, old / "bucket.tmp"):
        os.utime(path, (an_hour_ago, an_hour_ago))
    prepare_data.prepare("afhq/v2", manual, prepared)
    assert not old.exists() and new.exists()


def test_tensorflow_is_asked_for_where_it_is_needed(folders, monkeypatch):
    find = importlib.util.find_spec
    absent = ("tensorflow", "h5py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    with pytest.raises(ValueError, match="needs tensorflow, h5py .*(?s:.)*pip install 'tensorflow-cpu.*' h5py"):
        prepare_data.prepare("shapes3d", *folders)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "smallnorb", "shapes3d", "oxford_flowers102"])
def test_a_download_that_fails_says_what_to_get(folders, monkeypatch, name):
    """Sizes and checksums are TFDS's own for the files that its builder fetches."""
    monkeypatch.setattr(prepare_data, "_check_packages", lambda entry: None)

    class Unreachable:
        data_path = folders[1] / name / "1.0.0"

        def download_and_prepare(self, **_):
            raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(prepare_data, "_builder", lambda *_: Unreachable())
    with pytest.raises(ValueError, match="no route to host") as error:
        prepare_data.prepare(name, *folders)
    known = tfds.builder_cls(name).url_infos
    downloads = catalogue.DATASETS[name].downloads
    assert {file.url for file in downloads} == known.keys()
    for file in downloads:
        assert (file.size, file.checksum) == (known[file.url].size, f"sha256:{known[file.url].checksum}")
        assert file.name == known[file.url].filename and file.name in str(error.value) and file.url in str(error.value)


def _tar(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))


def _file(name, content=b"x"):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def _link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "..\\outside"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_no_name_leads_out_of_the_folder(tmp_path, name, kind):
    path = tmp_path / f"archive.{kind}"
    if kind == "tar":
        _tar(path, _file("first"), _file(name))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("first", "x")
            archive.writestr(zipfile.ZipInfo(name), "x")
    if kind == "zip" and zipfile.ZipFile(path).namelist()[1] != name:
        pytest.skip("zipfile itself has changed the name")
    with pytest.raises(ValueError, match="leads out of the folder"):
        archives.unpack(path, tmp_path / "into" / "here")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [path.name]


def test_links_are_refused(tmp_path):
    _tar(tmp_path / "a.tgz", _link("there", "/etc"), _file("there/passwd"))
    with pytest.raises(ValueError, match="'there' is a link or a device"):
        archives.unpack(tmp_path / "a.tgz", tmp_path / "into")
    info = zipfile.ZipInfo("there")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(ValueError, match="'there' is a link"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "into")


def test_unpacking_is_all_or_nothing(tmp_path):
    _tar(tmp_path / "a.tgz", _file("set/one"), _file("set/two"), _file("readme"))
    (tmp_path / "into" / ".unpacking" / "rest").mkdir(parents=True)
    archives.unpack(tmp_path / "a.tgz", tmp_path / "into")
    assert sorted(p.relative_to(tmp_path / "into").as_posix() for p in (tmp_path / "into").rglob("*")) == [
        "readme",
        "set",
        "set/one",
        "set/two",
    ]
    with pytest.raises(ValueError, match="readme exists, but is incomplete; move it away"):
        archives.unpack(tmp_path / "a.tgz", tmp_path / "into")
    content = (tmp_path / "a.tgz").read_bytes()
    (tmp_path / "b.tgz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="b.tgz cannot be unpacked"):
        archives.unpack(tmp_path / "b.tgz", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_every_dataset_of_the_catalogue_has_a_builder():
    for entry in catalogue.DATASETS.values():
        base, _, config = entry.name.partition("/")
        if entry.own:
            assert not config or config in BUILDERS[base].builder_configs
            assert entry.files
        else:
            assert tfds.builder_cls(base)
        assert entry.name in prepare_data.table()
    assert catalogue.find("lsun/church").name == "lsun/church_outdoor" and catalogue.find("toy") is None
    assert catalogue.find("mpi3d/toy:1.0.0").counts == {"train": 829_440, "validation": 103_680, "test": 103_680}
    assert sum(catalogue.find("mpi3d/complex").counts.values()) == 4 * 4 * 2 * 3 * 3 * 40 * 40


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "soda_jax.tools.prepare_data", "--dataset=nmr", f"--data_dir={tmp_path}"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert f"error: nmr needs, in {tmp_path}/downloads/manual:" in failed.stderr
