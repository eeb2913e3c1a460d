"""Parts of a split: nothing is in two of them, nothing is left out, and every class is in each."""

import pickle

import numpy as np
import pytest
from PIL import Image

from soda_jax import build
from soda_jax.data.datasets import Labels
from soda_jax.data.datasets.base import class_ids_of, get_many
from soda_jax.data.datasets.parts import Part, parse_split
from tests import tiny


class Sorted:
    """Stored class by class: a hundred examples of each of five."""

    labels = {"label": Labels((5,), ("label",))}

    def __len__(self):
        return 500

    def __getitem__(self, index):
        return {"image": np.full((2, 2, 3), index % 256, np.uint8), "label": np.int32(index // 100), "index": index}


def places(part):
    return [example["index"] for example in get_many(part, np.arange(len(part)))]


def test_parts_are_disjoint_and_together_the_whole():
    parts = [Part(Sorted(), *bounds) for bounds in ((0, 90), (90, 99), (99, 100))]
    assert [len(part) for part in parts] == [450, 45, 5]
    assert sorted(sum((places(part) for part in parts), [])) == list(range(500))
    assert sorted(places(Part(Sorted(), 0, 50)) + places(Part(Sorted(), 50, 100))) == list(range(500))


def test_a_part_is_the_same_each_time_and_has_every_class():
    part = Part(Sorted(), 90, 100)
    assert places(part) == places(pickle.loads(pickle.dumps(part))) == places(Part(Sorted(), 90, 100))
    counts = np.bincount(class_ids_of(part), minlength=5)
    assert counts.sum() == 50 and counts.min() >= 3
    assert [part[i]["index"] for i in range(10)] == places(part)[:10]
    assert len(set(np.array(places(part)[:10]) // 100)) >= 3, (
        "the first ones, of a limited evaluation, are of all classes"
    )


def test_a_part_credits_the_whole_s_examples():
    assert Part(Sorted(), 0, 50).credit(3) == ""
    whole = Sorted()
    whole.credit = "by {}".format
    part = Part(whole, 0, 50)
    assert [part.credit(i) for i in range(5)] == [f"by {place}" for place in places(part)[:5]]


def test_names_of_parts():
    assert parse_split("train@0-90%") == ("train", (0, 90)) and parse_split("train+validation@99-100%")[1] == (99, 100)
    assert parse_split("train[:90%]") == ("train[:90%]", (0, 100))
    for name in ("train@", "train@90-80%", "train@0-101%", "@0-90%", "train@0-90", "train@10-10%"):
        with pytest.raises(ValueError, match=r"a part of a split is written as train@0-90% or train@90-100%"):
            parse_split(name)
    with pytest.raises(ValueError, match="0-1% of 50 examples are none; take a larger part"):
        Part(Few(), 0, 1)


class Few(Sorted):
    def __len__(self):
        return 50


def test_parts_of_a_folder_of_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, number, number)).save(tmp_path / "train" / name / f"{number}.png")
    config = tiny.get_config(data__name="folder", data__root=str(tmp_path))
    kept, held_out = (build.dataset(config, split) for split in ("train@0-80%", "train@80-100%"))
    assert (len(kept), len(held_out)) == (16, 4) and kept.labels == held_out.labels
    whole = build.dataset(config, "train")
    assert sorted([*kept.class_ids, *held_out.class_ids]) == sorted(whole.class_ids)
    assert [example["label"] for example in get_many(held_out, np.arange(4))] == held_out.class_ids.tolist()
    assert kept.bad_files.names() == []
