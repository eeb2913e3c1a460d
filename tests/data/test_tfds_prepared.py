"""Prepared sets of other versions, cut and damaged: each has an error that names the file and the remedy."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from soda_jax import data
from soda_jax.data import builders
from soda_jax.data.datasets import tfds_prepared
from tests.data.test_tfds_dataset import _image, _png


class ToyPrepared(tfds.core.GeneratorBasedBuilder):
    """In two shards; TFDS knows its version 1.0.0."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

    def _generate_examples(self, size):
        for n in range(size):
            yield n, {"image": _png(_image(n, (12 + n, 14, 3))), "label": n % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=2)
    ToyPrepared(data_dir=folder, file_format="array_record").download_and_prepare(download_config=config)
    return folder


@pytest.fixture
def root(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root"


def _move(root, version):
    """Makes the set one of another version."""
    old, new = (root / "toy_prepared" / number for number in ("1.0.0", version))
    old.rename(new)
    info = new / "dataset_info.json"
    info.write_text(info.read_text().replace('"1.0.0"', f'"{version}"'))
    return new


def _read_all(dataset):
    return [np.asarray(example["image"]) for example in dataset.get_many(np.arange(len(dataset)))]


def test_a_sound_set_is_read(root):
    assert len(_read_all(data.load_dataset("toy_prepared", root, "train"))) == 12
    assert len(_read_all(data.load_dataset("toy_prepared:1.0.0", root, "train+test"))) == 15


def test_another_version_is_named_and_can_be_asked_for(root):
    _move(root, "0.9.0")
    with pytest.raises(ValueError, match=r"there is toy_prepared:0.9.0; set config.data.name='toy_prepared:0.9.0'"):
        data.load_dataset("toy_prepared", root, "train")
    with pytest.raises(ValueError, match=r"version 2.0.0 is not prepared .* there is toy_prepared:0.9.0"):
        data.load_dataset("toy_prepared:2.0.0", root, "train")
    assert len(_read_all(data.load_dataset("toy_prepared:0.9.0", root, "train"))) == 12
    shutil.rmtree(root / "toy_prepared")
    with pytest.raises(ValueError, match="Prepare it once"):
        data.load_dataset("toy_prepared", root, "train")


def test_versions_of_a_set_that_tfds_does_not_know(root):
    folder = _move(root, "1.2.0")
    unknown = root / "stranger"
    (root / "toy_prepared").rename(unknown)
    for file in (unknown / "1.2.0").iterdir():
        if "toy_prepared" in file.name:
            file.rename(file.with_name(file.name.replace("toy_prepared", "stranger")))
    info = unknown / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("toy_prepared", "stranger"))
    assert len(_read_all(data.load_dataset("stranger", root, "train"))) == 12
    with pytest.raises(ValueError, match=r"there is stranger:1.2.0; set"):
        data.load_dataset("stranger:1.0.0", root, "train")
    assert not folder.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "\N{BOM}{", b"\xff\xfe\x00", None])
@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("name", ["toy_prepared", "toy_prepared:1.0.0"])
def test_damaged_descriptions(root, file, content, name):
    path = root / "toy_prepared" / "1.0.0" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"is damaged: .*{file} .*prepare it again") as caught:
        data.load_dataset(name, root, "train")
    assert str(path) in str(caught.value)


def test_a_description_without_splits(root):
    path = root / "toy_prepared" / "1.0.0" / "dataset_info.json"
    content = json.loads(path.read_text())
    del content["splits"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks splits"):
        data.load_dataset("toy_prepared", root, "train")


@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.5, 0.75, 0.99])
def test_cut_shards(root, share):
    shard = root / "toy_prepared" / "1.0.0" / "toy_prepared-train.array_record-00001-of-00002"
    if share is None:
        shard.unlink()
    else:
        os.truncate(shard, int(shard.stat().st_size * share))
    with pytest.raises(
        tfds_prepared.RecordsError, match=r"00001-of-00002 in .* cannot be read .* prepare the dataset again"
    ):
        data.load_dataset("toy_prepared", root, "train")
    assert len(_read_all(data.load_dataset("toy_prepared", root, "test"))) == 3  # which is whole


@pytest.fixture(scope="module")
def prepared_names(tmp_path_factory):
    """A set whose names of splits begin with one another."""

    class ToyNames(ToyPrepared):
        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(4) for name in ("test", "test2", "contest")}

    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=2)
    ToyNames(data_dir=folder, file_format="array_record").download_and_prepare(download_config=config)
    return folder


@pytest.mark.parametrize(
    ("split", "read"),
    [
        ("test", {("test", 0), ("test", 1)}),
        ("test2", {("test2", 0), ("test2", 1)}),
        ("contest", {("contest", 0), ("contest", 1)}),
        ("test2[:50%]", {("test2", 0)}),
        ("test2[3:]+contest[:1]", {("test2", 1), ("contest", 0)}),
        ("all", {(name, shard) for name in ("test", "test2", "contest") for shard in (0, 1)}),
    ],
)
def test_the_shards_that_a_split_reads_are_checked_and_no_other(prepared_names, tmp_path, split, read):
    shutil.copytree(prepared_names, tmp_path / "root")
    for name, number in {(name, shard) for name in ("test", "test2", "contest") for shard in (0, 1)}:
        shard = tmp_path / "root" / "toy_names" / "1.0.0" / f"toy_names-{name}.array_record-0000{number}-of-00002"
        aside = shard.rename(tmp_path / "aside")
        if (name, number) in read:
            with pytest.raises(tfds_prepared.RecordsError, match=f"{name}.array_record-0000{number}.*it is missing"):
                data.load_dataset("toy_names", tmp_path / "root", split)
        else:
            data.load_dataset("toy_names", tmp_path / "root", split)
        aside.rename(shard)


def test_a_shard_of_other_records(root):
    folder = root / "toy_prepared" / "1.0.0"
    shutil.copy(
        folder / "toy_prepared-test.array_record-00000-of-00002",
        folder / "toy_prepared-train.array_record-00000-of-00002",
    )
    with pytest.raises(tfds_prepared.RecordsError, match="it has [12] of 6 records"):
        data.load_dataset("toy_prepared", root, "train[:50%]")


def test_damage_that_shows_in_reading(root):
    dataset = data.load_dataset("toy_prepared", root, "train")
    shard = root / "toy_prepared" / "1.0.0" / "toy_prepared-train.array_record-00000-of-00002"
    content = bytearray(shard.read_bytes())
    content[80:400] = bytes(320)
    shard.write_bytes(content)
    with pytest.raises(tfds_prepared.RecordsError, match="a record of split 'train' .* Check the disk") as caught:
        _read_all(dataset)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_our_own_sets_say_our_own_command(tmp_path):
    name = sorted(builders.BUILDERS)[0]
    with pytest.raises(ValueError, match=rf"prepare_data --dataset={name}"):
        data.load_dataset(name, tmp_path, "train")
